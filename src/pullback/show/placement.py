"""Where everything of a picture stands, in pixels, for one choice of open boxes.

`explore.js` does the same in the browser, so that boxes open and close there: a change here belongs there too."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

from pullback.show.layers import TOP, Key, Link, Sheet

ROW_GAP = 34.0  # between rows: room for the label of an edge
COLUMN_GAP = 22.0
PADDING = 14.0  # inside an open box
HEAD = 24.0  # of an open box, for its name
BESIDE = 6.0  # between two parameters beside an operation
MINIMUM = 8.0  # the width that the corner of a long edge takes


class Point(NamedTuple):
    x: float
    y: float


class Rectangle(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> Point:
        return Point(self.x + self.width / 2, self.y + self.height)


class Piece(NamedTuple):
    """A piece of the way of a value; labelled where it leaves what made it."""

    value: int
    start: Point
    end: Point
    labelled: bool
    arrives: bool  # at something that takes the value


@dataclass
class Placed:
    """A picture: rectangles by what they are, and the pieces of the edges."""

    width: float = 0.0
    height: float = 0.0
    shapes: dict[Key, Rectangle] = field(default_factory=dict)
    open: list[int] = field(default_factory=list)  # the boxes that are open, outer ones first
    pieces: list[Piece] = field(default_factory=list)
    beside: list[tuple[Key, Key]] = field(default_factory=list)  # parameters, and what uses them, in one row


class _Extent(NamedTuple):
    """How far something reaches from the line on which its values come and go."""

    left: float
    right: float
    height: float
    own: float  # the width without what stands beside it


def place(sheets: dict[int, Sheet], opened: set[int], sizes: dict[Key, tuple[float, float]]) -> Placed:
    """The picture with these boxes open. `sizes` has the width and height of everything closed."""
    placing = _Placing(sheets, opened, sizes)
    size = placing.measure(TOP)
    placed = Placed(size.left + size.right, size.height)
    placing.put(TOP, Point(0.0, 0.0), placed)
    return placed


class _Placing:
    """One placement: the sheets are measured from the inside out, and then put from the outside in."""

    def __init__(self, sheets: dict[int, Sheet], opened: set[int], sizes: dict[Key, tuple[float, float]]) -> None:
        self.sheets, self.opened, self.sizes = sheets, opened, sizes
        self.spots: dict[int, dict[Key, Rectangle]] = {}  # by sheet, from its own corner
        self.lines: dict[int, dict[Key, float]] = {}  # where values come and go, likewise

    def measure(self, number: int) -> _Extent:
        """The size of a sheet, after those of the boxes that are open on it."""
        sheet = self.sheets[number]
        own = {key: self._extent(key, sheet) for key in sheet.rows}
        lines = _lines(sheet, own)
        heights: dict[int, float] = {}
        for key, row in sheet.rows.items():
            heights[row] = max(heights.get(row, 0.0), own[key].height)
        tops, y = {}, PADDING if number == TOP else HEAD
        for row in sorted(heights):
            tops[row] = y
            y += heights[row] + (ROW_GAP if heights[row] else ROW_GAP / 4)
        spots: dict[Key, Rectangle] = {}
        for key, row in sheet.rows.items():
            height = self.sizes.get(key, (0.0, 0.0))[1] if not self._is_open(key) else own[key].height
            rest = heights[row] - height
            down = rest if key[0] == "value" else rest / 2
            spots[key] = Rectangle(lines[key] - own[key].left, tops[row] + down, own[key].own, height)
            self._put_beside(key, sheet, spots, tops[row], heights[row])
        self.spots[number], self.lines[number] = spots, lines
        right = max((spot.x + spot.width for spot in spots.values()), default=0.0) + PADDING
        bottom = max((spot.y + spot.height for spot in spots.values()), default=0.0) + PADDING
        if number == TOP:
            return _Extent(0.0, right, bottom, right)
        ports = [key for key in sheet.rows if key[0] in ("in", "out")]
        line = lines[min(ports)] if ports else right / 2
        width = max(right, line + self.sizes["box", number][0])
        return _Extent(line, width - line, bottom, width)

    def _extent(self, key: Key, sheet: Sheet) -> _Extent:
        if self._is_open(key):
            found = self.measure(key[1])
        else:
            width, height = self.sizes.get(key, (MINIMUM, 0.0))
            found = _Extent(width / 2, width / 2, height, width)
        beside = [self.sizes[each] for each in sheet.beside.get(key, [])]
        if not beside:
            return found
        wide = max(width for width, _ in beside)
        tall = sum(height for _, height in beside) + BESIDE * (len(beside) - 1)
        return found._replace(right=found.right + COLUMN_GAP + wide, height=max(found.height, tall))

    def _is_open(self, key: Key) -> bool:
        return key[0] == "box" and key[1] in self.opened

    def _put_beside(self, key: Key, sheet: Sheet, spots: dict[Key, Rectangle], top: float, height: float) -> None:
        """Parameters and constants in a column at the right of what uses them."""
        beside = sheet.beside.get(key, [])
        y = top + (height - sum(self.sizes[each][1] for each in beside) - BESIDE * (len(beside) - 1)) / 2
        for each in beside:
            width, tall = self.sizes[each]
            spots[each] = Rectangle(spots[key].x + spots[key].width + COLUMN_GAP, y, width, tall)
            y += tall + BESIDE

    def put(self, number: int, corner: Point, placed: Placed) -> None:
        """Moves a sheet to where its box stands, and everything on it."""
        sheet = self.sheets[number]
        spots = {key: r._replace(x=r.x + corner.x, y=r.y + corner.y) for key, r in self.spots[number].items()}
        for key, spot in spots.items():
            if key[0] in ("op", "value", "result", "box"):
                placed.shapes[key] = spot
            if self._is_open(key):
                placed.open.append(key[1])
                self.put(key[1], Point(spot.x, spot.y), placed)
        for target, sources in sheet.beside.items():
            for source in sources:
                placed.beside.append((source, target))
        for link in sheet.links:
            placed.pieces.append(self._piece(link, number, corner, spots, placed))

    def _piece(self, link: Link, number: int, corner: Point, spots: dict[Key, Rectangle], placed: Placed) -> Piece:
        def line(key: Key, port: Key) -> float:
            if self._is_open(key):
                return spots[key].x + self.lines[key[1]][port]
            return corner.x + self.lines[number][key]

        source, target = link.source, link.target
        start = Point(line(source, ("out", link.value)), spots[source].bottom.y)
        end = Point(line(target, ("in", link.value)), spots[target].y)
        if source[0] == "in":
            start = Point(start.x, corner.y)
        if target[0] == "out":
            end = Point(end.x, corner.y + placed.shapes["box", number].height)
        leaves = source[0] in ("op", "value") or (source[0] == "box" and not self._is_open(source))
        arrives = target[0] in ("op", "result") or (target[0] == "box" and not self._is_open(target))
        return Piece(link.value, start, end, leaves, arrives)


def _lines(sheet: Sheet, extents: dict[Key, _Extent]) -> dict[Key, float]:
    """Columns in pixels: those of one column stay above each other, and neighbours in a row keep a distance."""
    by_row: dict[int, list[Key]] = {}
    for key in sorted(sheet.rows, key=lambda key: sheet.columns[key]):
        by_row.setdefault(sheet.rows[key], []).append(key)
    bounds: dict[float, list[tuple[float, float]]] = {column: [] for column in sheet.columns.values()}
    for keys in by_row.values():
        for left, right in itertools.pairwise(keys):
            distance = extents[left].right + extents[right].left + COLUMN_GAP
            bounds[sheet.columns[right]].append((sheet.columns[left], distance))
    reach = dict.fromkeys(bounds, 0.0)
    for key, column in sheet.columns.items():
        reach[column] = max(reach[column], extents[key].left)
    x: dict[float, float] = {}
    previous = 0.0
    for column in sorted(bounds):
        least = max(previous, PADDING + reach[column])
        x[column] = max([least, *(x[left] + distance for left, distance in bounds[column])])
        previous = x[column] + MINIMUM
    return {key: x[column] for key, column in sheet.columns.items()}
