"""The picture of a run as an SVG file that needs nothing else: light or dark as the reader's system is."""

from __future__ import annotations

from html import escape
from typing import Literal

from pullback.show.layers import Key, sheets
from pullback.show.placement import Placed, Point, Rectangle, place
from pullback.show.traced import Box, Operation, Traced, Value

Part = Literal["forward", "backward", "both"]

CHARACTER = 6.7  # the width of a character of the titles, pixels
SHIFT = 5.0  # between the way of a value and that of its adjoint

STYLE = """
.pb{--paper:#fff;--ink:#1b1f24;--soft:#6a737d;--line:#8c959f;--card:#f3f5f7;--box:#00000008;--edge:#c9d1d9;
--forward:#2563eb;--backward:#c2410c;--argument:#e8f0fe;--result:#e7f6ec}
@media (prefers-color-scheme:dark){.pb{--paper:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#6e7681;--card:#1b222b;
--box:#ffffff0a;--edge:#3d444d;--forward:#6ea8fe;--backward:#fb923c;--argument:#152238;--result:#12281b}}
.pb text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:var(--ink)}
.pb .paper{fill:var(--paper)}
.pb .card{fill:var(--card);stroke:var(--edge)}
.pb .argument{fill:var(--argument);stroke:var(--edge)}.pb .result{fill:var(--result);stroke:var(--edge)}
.pb .box{fill:var(--box);stroke:var(--edge);stroke-dasharray:4 3}
.pb .folded{fill:var(--card);stroke:var(--line);stroke-width:1.6}
.pb .small{font-size:10px;fill:var(--soft)}
.pb .way{fill:none;stroke:var(--forward);stroke-width:1.3}.pb .way.back{stroke:var(--backward)}
.pb .way.fixed{stroke:var(--line);stroke-dasharray:3 3}
.pb .head{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.pb .back-text{fill:var(--backward)}
.pb .tip{fill:var(--forward)}.pb .tip.back{fill:var(--backward)}.pb .tip.fixed{fill:var(--line)}
""".strip()


def draw(run: Traced, part: Part, opened: set[int]) -> str:
    """The SVG text."""
    placed = place(sheets(run, backward=part == "backward"), opened, sizes(run, part))
    things = Things(run)
    body = [_frame(placed.shapes["box", number]) for number in placed.open]
    body += [*_edges(things, placed, part), *_beside(things, placed, part)]
    body += [_heading(things.boxes[number], placed) for number in placed.open]
    for key, spot in placed.shapes.items():
        if not (key[0] == "box" and key[1] in opened):
            body.append(_card(things, key, spot, part))
    width, height = round(placed.width), round(placed.height)
    title = f"{part} graph of {run.name}" if part != "both" else f"forward and backward graph of {run.name}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pb" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(body)}</svg>\n'
    )


class Things:
    """What the keys of a layout stand for."""

    def __init__(self, run: Traced) -> None:
        self.run = run
        self.operations: dict[int, Operation] = {each.number: each for each in run.operations}
        self.values: dict[int, Value] = {each.number: each for each in run.values()}
        self.boxes: dict[int, Box] = {each.number: each for each in run.boxes}
        self.inside: dict[int, list[Operation]] = {box.number: [] for box in run.boxes}
        for operation in run.operations:
            for box in operation.scope:
                self.inside[box.number].append(operation)

    def lines(self, key: Key, part: Part) -> tuple[str, str]:
        """The title and the small print of a card."""
        kind, number = key
        if kind == "op":
            operation = self.operations[number]
            return title(operation), _saves(operation) if part != "forward" else ""
        if kind == "box":
            box, inside = self.boxes[number], self.inside[number]
            held = f", saves {size(saved_bytes(inside))}" if part != "forward" else ""
            name = f"{box.name} {box.kind}" if box.kind != "function" else f"{box.name}()"
            return f"▸ {name}", f"{counted(len(inside), 'operation')}{held}"
        value = self.values[number] if kind == "value" else self.run.outputs[number]
        name = value.name or ("constant" if kind == "value" else "result")
        if kind == "value" and value.users and all(op.scope for op in value.users):
            name = name.removeprefix(f"{value.users[0].scope[-1].path}.")
        return name if len(name) <= 40 else f"…{name[-39:]}", shape(value)


def title(operation: Operation) -> str:
    """The name of the primitive with the numbers among its inputs, such as `power 2`."""
    numbers = [f"{x:.4g}" if isinstance(x, float) else str(x) for x in operation.inputs if not isinstance(x, Value)]
    return " ".join([operation.name, *numbers])[:40]


def _saves(operation: Operation) -> str:
    if not operation.reached:
        return "no gradient"
    names = list(dict.fromkeys(name.partition("[")[0] for name, _ in operation.saved))
    return f"saves {', '.join(names)}" if names else "saves nothing"


def saved_bytes(operations: list[Operation]) -> int:
    """The bytes of the arrays that operations save, each array once."""
    arrays = {id(x): x.nbytes for operation in operations for _, x in operation.saved}
    return sum(arrays.values())


def size(count: float) -> str:
    """Bytes for people: 512 B, 1.5 kB, 12.0 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def counted(count: int, what: str) -> str:
    """A number of things in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def shape(value: Value) -> str:
    """The shape for people: 8×10, or scalar."""
    return "×".join(map(str, value.array.shape)) or "scalar"


def sizes(run: Traced, part: Part) -> dict[Key, tuple[float, float]]:
    """The width and height of every card."""
    things = Things(run)
    keys: list[Key] = [("op", k) for k in things.operations] + [("box", k) for k in things.boxes]
    keys += [("value", k) for k in things.values] + [("result", k) for k in range(len(run.outputs))]
    found: dict[Key, tuple[float, float]] = {}
    for key in keys:
        first, second = things.lines(key, part)
        width = max(len(first) * CHARACTER * 1.08, len(second) * CHARACTER * 0.9) + 18
        found[key] = (round(max(width, 44.0), 1), 38.0 if second else 26.0)
    return found


def _card(things: Things, key: Key, spot: Rectangle, part: Part) -> str:
    kind = {"op": "card", "box": "folded", "value": "argument", "result": "result"}[key[0]]
    first, second = things.lines(key, part)
    middle, radius = spot.x + spot.width / 2, 13 if kind in ("argument", "result") else 5
    text = _text(middle, spot.y + 17, first)
    if second:
        text += _text(middle, spot.y + 31, second, "small back-text" if second.startswith("saves ") else "small")
    return (
        f'<g><title>{escape(_hint(things, key))}</title><rect class="{kind}" x="{spot.x:.1f}" y="{spot.y:.1f}" '
        f'width="{spot.width:.1f}" height="{spot.height:.1f}" rx="{radius}"/>{text}</g>'
    )


def _hint(things: Things, key: Key) -> str:
    """What a pointer that rests on a card shows."""
    kind, number = key
    if kind == "op":
        operation = things.operations[number]
        made = ", ".join(f"{y.label} {y.type}" for y in operation.outputs)
        return f"{made} = {operation}\n{operation.source}"
    if kind == "box":
        return f"{things.boxes[number].path or things.boxes[number].name}"
    value = things.values[number] if kind == "value" else things.run.outputs[number]
    return f"{value.label} {value.type}"


def _frame(spot: Rectangle) -> str:
    return (
        f'<rect class="box" x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}" '
        f'rx="8"/>'
    )


def _heading(box: Box, placed: Placed) -> str:
    spot = placed.shapes["box", box.number]
    name = f"{box.name} {box.kind}" if box.kind != "function" else f"{box.name}()"
    return _text(spot.x + 8, spot.y + 15, f"▾ {name}", "small head", "start")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _edges(things: Things, placed: Placed, part: Part) -> list[str]:
    drawn = []
    labels: dict[Point, list[str]] = {}
    for piece in placed.pieces:
        value = things.values[piece.value]
        back = value.adjoint is not None and part != "forward"
        shift = SHIFT if back and part == "both" else 0.0
        if part != "backward":
            drawn.append(_way(piece.start, piece.end, -shift, "" if value.tracked else " fixed", tip=piece.arrives))
        if back:
            drawn.append(_way(piece.end, piece.start, shift, " back", tip=piece.labelled))
        if piece.labelled:
            texts = labels.setdefault(Point(piece.start.x + shift, piece.start.y), [])
            if shape(value) not in texts:
                texts.append(shape(value))
    drawn += [_text(at.x + 6, at.y + 13, ", ".join(texts), "small", "start") for at, texts in labels.items()]
    return drawn


def _beside(things: Things, placed: Placed, part: Part) -> list[str]:
    """The short ways of parameters and constants, across."""
    drawn = []
    for source, target in placed.beside:
        value, spot, taker = things.values[source[1]], placed.shapes[source], placed.shapes[target]
        x, end, y = spot.x, taker.x + taker.width, spot.y + spot.height / 2
        middle = min(max(y, taker.y + 6), taker.y + taker.height - 6)
        back = value.adjoint is not None and part != "forward"
        shift = 3.0 if back and part == "both" else 0.0
        if part != "backward":
            drawn.append(_across(Point(x, y - shift), Point(end, middle - shift), "" if value.tracked else " fixed"))
        if back:
            drawn.append(_across(Point(end, middle + shift), Point(x, y + shift), " back"))
    return drawn


def _across(start: Point, end: Point, kind: str) -> str:
    side = 1 if end.x > start.x else -1
    stop = end.x - 6 * side
    return (
        f'<path class="way{kind}" d="M{start.x:.1f} {start.y:.1f}L{stop:.1f} {end.y:.1f}"/>'
        f'<path class="tip{kind}" d="M{stop:.1f} {end.y - 3:.1f}v6L{end.x:.1f} {end.y:.1f}z"/>'
    )


def _way(start: Point, end: Point, shift: float, kind: str, tip: bool) -> str:
    """A curve that leaves and arrives upright, with a tip where it ends at a card."""
    x1, x2 = start.x + shift, end.x + shift
    down = 1 if end.y > start.y else -1
    stop = end.y - 6 * down if tip else end.y
    bend = (stop - start.y) / 2
    curve = f"M{x1:.1f} {start.y:.1f}C{x1:.1f} {start.y + bend:.1f} {x2:.1f} {stop - bend:.1f} {x2:.1f} {stop:.1f}"
    path = f'<path class="way{kind}" d="{curve}"/>'
    if tip:
        path += f'<path class="tip{kind}" d="M{x2 - 3.5:.1f} {stop:.1f}h7L{x2:.1f} {end.y:.1f}z"/>'
    return path
