"""`pb.explore`: one HTML page that steps through a run, forward and backward, and shows every value on the way.

The page needs no network and nothing else beside it; `explorer/` holds its parts."""

from __future__ import annotations

import json
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from pullback import files
from pullback.show import placement
from pullback.show.graph import Graph
from pullback.show.heat import heat, local_jacobians
from pullback.show.layers import sheets
from pullback.show.rule_text import jacobian_text, name_of, rule_text
from pullback.show.svg import Things, saved_bytes, size, sizes
from pullback.show.traced import Box, Operation, Traced, Value, traced

SECONDS = 20.0  # for all local Jacobians together
CONTEXT = 2  # lines of the program before and after that of an operation


@dataclass(frozen=True)
class Page:
    """An explorer of one run."""

    html: str
    """The whole page."""

    def save(self, path: str | Path) -> Path:
        """Writes the page to an `.html` file."""
        path = Path(path)
        files.replace(path, self.html.encode())
        return path


def explore(
    f: Callable[..., Any], *args: Any, title: str = "", on_progress: Callable[[int, int], None] | None = None
) -> Page:
    """The explorer of `f(*args)`: the graph, a slider through both passes, and for each operation its values, adjoints
    and local Jacobians as heat maps, its rule in mathematics, what it saves, and its line of the program.

    Args:
        f: a function of pytrees, or a module.
        args: its arguments; floating-point leaves are differentiated, others are held.
        title: of the page; by default the name of f.
        on_progress: told of the operations done and of all.

    Raises:
        DtypeError: no argument is of a floating-point type.
    """
    run = traced(f, args)
    content = _content(run, on_progress or (lambda done, every: None))
    return Page(_page(title or run.name, content))


def _page(title: str, content: dict[str, Any]) -> str:
    parts = {part: resources.files("pullback.show").joinpath("explorer", part).read_text("utf-8") for part in _PARTS}
    # In JSON, "<" can only stand in strings; written so, no string can end the script that it travels in.
    data = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    script = parts["place.js"] + parts["page.js"]
    fields = {"title": escape(title), "style": parts["page.css"], "script": script, "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], parts["page.html"])


_PARTS = ("page.html", "page.css", "place.js", "page.js")


def _content(run: Traced, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """All that the page shows, as JSON."""
    things = Things(run)
    measured = sizes(run, "both")
    operations = []
    seconds = SECONDS / max(1, len(run.operations))
    for operation in run.operations:
        operations.append(_operation(operation, seconds))
        on_progress(len(operations), len(run.operations))
    return {
        "name": run.name,
        "gaps": [placement.ROW_GAP, placement.COLUMN_GAP, placement.PADDING, placement.HEAD, placement.BESIDE,
                 placement.MINIMUM],
        "sheets": {
            str(number): {
                "rows": [[*key, row, sheet.columns[key]] for key, row in sheet.rows.items()],
                "beside": [[list(key), [list(each) for each in others]] for key, others in sheet.beside.items()],
                "links": [[link.value, list(link.source), list(link.target)] for link in sheet.links],
            }
            for number, sheet in sheets(run).items()
        },
        "cards": [[*key, *measured[key], *things.lines(key, "both")] for key in measured],
        "boxes": [_box(box, things.inside[box.number]) for box in run.boxes],
        "opened": sorted(Graph(run, "both", None).opened()),
        "values": {str(number): _value(value) for number, value in things.values.items()},
        "operations": operations,
        "arguments": [value.number for value in run.arguments],
        "outputs": [value.number for value in run.outputs],
        "backward": [operation.number for operation in run.backward()],
    }  # fmt: skip


def _box(box: Box, inside: list[Operation]) -> dict[str, Any]:
    return {
        "number": box.number,
        "name": box.name,
        "kind": box.kind,
        "path": box.path,
        "parent": None if box.parent is None else box.parent.number,
        "operations": len(inside),
        "saved": size(saved_bytes(inside)),
    }


def _value(value: Value) -> dict[str, Any]:
    adjoint = None if value.adjoint is None else heat(value.adjoint)
    maker = None if value.maker is None else value.maker.number
    users = [operation.number for operation in value.users]
    return {
        "name": value.name, "label": value.label, "maker": maker, "users": users, "tracked": value.tracked,
        "constant": value.constant, "value": heat(value.array), "adjoint": adjoint,
    }  # fmt: skip


def _operation(operation: Operation, seconds: float) -> dict[str, Any]:
    primitive, source = operation.primitive, operation.source
    first = max(1, source.line - CONTEXT)
    lines = [(k, linecache.getline(source.file, k).rstrip("\n")) for k in range(first, source.line + CONTEXT + 1)]
    blocks = local_jacobians(operation, seconds) if operation.reached else {}
    rules = rule_text(operation)
    return {
        "number": operation.number,
        "name": operation.name,
        "kind": primitive.kind,
        "text": str(operation),
        "scope": [box.number for box in operation.scope],
        "inputs": [x.number if isinstance(x, Value) else None for x in operation.inputs],
        "outputs": [y.number for y in operation.outputs],
        "called": [name_of(primitive, i) for i in range(len(operation.inputs))],
        "milliseconds": round(operation.seconds * 1e3, 3),
        "rules": [[i, text] for i, text in rules.items()],
        "structure": jacobian_text(primitive),
        "jacobians": [[i, block] for i, block in blocks.items()],
        "saved": [[name, size(x.nbytes), list(x.shape)] for name, x in operation.saved],
        "reached": operation.reached,
        "source": {"file": Path(source.file).name, "line": source.line, "function": source.function,
                   "lines": [[k, text] for k, text in lines if text or k == source.line]},
    }  # fmt: skip
