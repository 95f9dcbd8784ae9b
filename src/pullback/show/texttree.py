"""The graph of a run as a tree of text: the operations in order, in the modules and functions that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pullback.show.svg import Part, counted, saved_bytes, size
from pullback.show.traced import Box, Operation, Traced


def text_tree(run: Traced, part: Part, opened: set[int]) -> str:
    """The tree, with the boxes that are not open as one line each."""
    parts = []
    if part != "backward":
        arguments = [f"  {v.name}  {v.type}{'' if v.tracked else '  held'}" for v in run.arguments]
        made = ", ".join(f"{y.label} {y.type}" for y in run.outputs)
        tree = _tree(run.operations, opened, _forward)
        parts.append("\n".join([f"{run.name}: forward", *arguments, *tree, f"  result {made}"]))
    if part != "forward":
        gradients = [f"  gradient of {v.name}  {v.type}" for v in run.arguments if v.adjoint is not None]
        tree = _tree(run.backward(), opened, _backward)
        parts.append("\n".join([f"{run.name}: backward", *tree, *gradients]))
    return "\n\n".join(parts)


def _forward(operation: Operation) -> str:
    made = ", ".join(y.label for y in operation.outputs)
    return f"{made} = {operation}  {', '.join(y.type for y in operation.outputs)}"


def _backward(operation: Operation) -> str:
    names = ", ".join(f"∂{y.label}" for y in operation.outputs if y.adjoint is not None)
    into = ", ".join(f"∂{v.label}" for v in dict.fromkeys(operation.values) if v.adjoint is not None)
    kept = ", ".join(f"{name} {size(x.nbytes)}" for name, x in operation.saved)
    return f"{operation.name}: {names} -> {into}  saved: {kept or 'nothing'}"


def _tree(operations: list[Operation], opened: set[int], line: Callable[[Operation], str]) -> Iterator[str]:
    """A line for each operation and box, indented by depth."""
    inside: dict[int, list[Operation]] = {}
    for operation in operations:
        for box in operation.scope:
            inside.setdefault(box.number, []).append(operation)
    entered: set[int] = set()
    for operation in operations:
        indent = "  "
        for box in operation.scope:
            if box.number not in entered:
                entered.add(box.number)
                yield indent + _heading(box, inside[box.number], box.number in opened)
            if box.number not in opened:
                break
            indent += "  "
        else:
            yield indent + line(operation)


def _heading(box: Box, inside: list[Operation], is_open: bool) -> str:
    name = f"{box.name}()" if box.kind == "function" else f"{box.name}  {box.kind}"
    if is_open:
        return name
    return f"{name}  [{counted(len(inside), 'operation')}, saves {size(saved_bytes(inside))}]"
