"""The graph of a run in DOT, the language of Graphviz: boxes are clusters, what is saved is a dashed edge."""

from __future__ import annotations

from collections.abc import Iterator

from pullback.show.svg import Part, shape, title
from pullback.show.traced import Box, Operation, Traced, Value


def dot(run: Traced, part: Part) -> str:
    """The whole graph, all boxes open."""
    body: list[str] = []
    if part != "backward":
        body += _forward(run)
    if part != "forward":
        body += _backward(run, joined=part == "both")
    head = [
        "  rankdir=TB;",
        '  node [shape=box, style=rounded, fontname="monospace"];',
        '  edge [fontname="monospace"];',
    ]
    return "\n".join([f"digraph {_quoted(run.name)} {{", *head, *body, "}"]) + "\n"


def _forward(run: Traced) -> Iterator[str]:
    for value in run.values():
        if value.maker is None and (value.users or value in run.arguments):
            yield f"  v{value.number} [label={_quoted(_named(value, 'constant'))}, shape=ellipse];"
    yield from _clusters(run, run.operations, "")
    for operation in run.operations:
        for value in operation.values:
            yield f"  {_made(value)} -> o{operation.number} [label={_quoted(shape(value))}];"
    for k, y in enumerate(run.outputs):
        yield f"  r{k} [label={_quoted(_named(y, 'result'))}, shape=ellipse];"
        yield f"  {_made(y)} -> r{k} [label={_quoted(shape(y))}];"


def _backward(run: Traced, joined: bool) -> Iterator[str]:
    colour = 'color="#c2410c", fontcolor="#c2410c"'
    yield from _clusters(run, run.backward(), "b")
    for value in run.arguments:
        if value.adjoint is not None:
            yield f"  g{value.number} [label={_quoted(f'∂{value.name} {shape(value)}')}, shape=ellipse, {colour}];"
    for k, y in enumerate(run.outputs):
        if y.adjoint is not None and y.maker is not None:
            yield f"  s{k} [label={_quoted('∂' + _named(y, 'result'))}, shape=ellipse, {colour}];"
            yield f"  s{k} -> bo{y.maker.number} [label={_quoted(shape(y))}, {colour}];"
    for operation in run.backward():
        for value in dict.fromkeys(operation.values):
            if value.adjoint is not None:
                end = f"g{value.number}" if value.maker is None else f"bo{value.maker.number}"
                yield f"  bo{operation.number} -> {end} [label={_quoted(shape(value))}, {colour}];"
        if joined and operation.saved:
            kept = ", ".join(name for name, _ in operation.saved)
            ends = f"o{operation.number} -> bo{operation.number}"
            yield f"  {ends} [label={_quoted(kept)}, style=dashed, constraint=false];"


def _clusters(run: Traced, operations: list[Operation], prefix: str) -> Iterator[str]:
    """The operations, each in the clusters of its boxes."""

    def inside(box: Box | None, indent: str) -> Iterator[str]:
        for operation in operations:
            if (operation.scope[-1] if operation.scope else None) is box:
                label = _quoted(("∂" if prefix else "") + title(operation))
                yield f"{indent}{prefix}o{operation.number} [label={label}, tooltip={_quoted(str(operation.source))}];"
        for part in run.boxes:
            if part.parent is box and any(part in operation.scope for operation in operations):
                yield f"{indent}subgraph cluster_{prefix}{part.number} {{ label={_quoted(f'{part.name} {part.kind}')};"
                yield from inside(part, indent + "  ")
                yield f"{indent}}}"

    return inside(None, "  ")


def _made(value: Value) -> str:
    return f"v{value.number}" if value.maker is None else f"o{value.maker.number}"


def _named(value: Value, otherwise: str) -> str:
    return f"{value.name or otherwise} {shape(value)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
