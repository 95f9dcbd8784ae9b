"""The layered layout of a run: one sheet for each box, on which operations, folded boxes and the corners of long edges
stand in rows. igraph orders each row so that few edges cross, and gives the columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pullback.show.traced import Box, Traced, Value

Key = tuple[str, int]
"""What stands on a sheet: ("op", number), ("box", number), ("value", number) for an argument or a constant, ("result",
place), ("in", number of the value) and ("out", ...) where a value enters and leaves the box, ("via", ...) a corner."""


class Link(NamedTuple):
    """A piece of the way of a value, from one row to the next."""

    value: int
    source: Key
    target: Key


@dataclass
class Sheet:
    """The inside of a box, or the whole."""

    rows: dict[Key, int] = field(default_factory=dict)
    columns: dict[Key, float] = field(default_factory=dict)
    beside: dict[Key, list[Key]] = field(
        default_factory=dict
    )  # parameters and constants, by the only thing that uses them
    links: list[Link] = field(default_factory=list)


TOP = -1
"""The number of the sheet that is the whole."""


def sheets(run: Traced, backward: bool = False) -> dict[int, Sheet]:
    """The sheets by the number of their box; with `backward`, only of what the backward pass reaches."""
    wiring = _Wiring(run, backward)
    return {
        number: _laid_out(links, wiring.alone.get(number, []), wiring.minor) for number, links in wiring.links.items()
    }


class _Wiring:
    """Which things on which sheet are linked by which value."""

    def __init__(self, run: Traced, backward: bool) -> None:
        self.links: dict[int, dict[Link, None]] = {TOP: {}, **{box.number: {} for box in run.boxes}}
        self.alone: dict[int, list[Key]] = {}
        self.minor: set[Key] = set()  # parameters inside of modules, and constants
        for value in run.values():
            if backward and value.adjoint is None:
                continue
            users = [operation for operation in value.users if operation.reached or not backward]
            ends: list[tuple[tuple[Box, ...], Key]] = [(each.scope, ("op", each.number)) for each in users]
            ends += [((), ("result", k)) for k, y in enumerate(run.outputs) if y is value]
            if value.maker is not None:
                start, key = value.maker.scope, ("op", value.maker.number)
            else:
                start, key = _home(value, common([scope for scope, _ in ends])), ("value", value.number)
                if value.constant or start:
                    self.minor.add(key)
            if not ends:
                self.alone.setdefault(_number(start), []).append(key)
            for scope, target in ends:
                self._connect(value.number, start, key, scope, target)

    def _connect(self, value: int, start: tuple[Box, ...], source: Key, stop: tuple[Box, ...], target: Key) -> None:
        """Links from the sheet of the source, out of its boxes and into those of the target."""
        shared = len(common([start, stop]))
        for depth in range(len(start), shared, -1):
            self.links[start[depth - 1].number][Link(value, source, ("out", value))] = None
            source = ("box", start[depth - 1].number)
        for depth in range(len(stop), shared, -1):
            self.links[stop[depth - 1].number][Link(value, ("in", value), target)] = None
            target = ("box", stop[depth - 1].number)
        self.links[_number(start[:shared])][Link(value, source, target)] = None


def _home(value: Value, shared: tuple[Box, ...]) -> tuple[Box, ...]:
    """Where a value that nothing made is shown: a parameter in its module, a constant where it is used, and any other
    argument outside of all boxes."""
    if value.constant:
        return shared
    inside = [
        k + 1 for k, box in enumerate(shared) if box.path and value.name.startswith((f"{box.path}.", f"{box.path}["))
    ]
    return shared[: max(inside, default=0)]


def common(scopes: Sequence[tuple[Box, ...]]) -> tuple[Box, ...]:
    """The boxes that all have in common, outermost first."""
    if not scopes:
        return ()
    shared = 0
    for boxes in zip(*scopes, strict=False):
        if any(box is not boxes[0] for box in boxes):
            break
        shared += 1
    return scopes[0][:shared]


def _number(scope: tuple[Box, ...]) -> int:
    return scope[-1].number if scope else TOP


def _laid_out(every: Iterable[Link], alone: Sequence[Key], minor: set[Key]) -> Sheet:
    every = list(every)
    used = Counter(link.source for link in every)
    aside = [link for link in every if link.source in minor and used[link.source] == 1]
    links = [link for link in every if link not in aside]
    rows = _rows(links, [*alone, *(link.target for link in aside)])
    sheet = Sheet(dict(rows))
    for link in aside:
        sheet.beside.setdefault(link.target, []).append(link.source)
    corners: dict[tuple[int, Key, int], Key] = {}  # a value goes down one way, however many take it
    for link in links:
        before = link.source
        for row in range(rows[link.source] + 1, rows[link.target]):
            corner = corners.get((link.value, link.source, row))
            if corner is None:
                corner = corners[link.value, link.source, row] = ("via", len(corners))
                sheet.rows[corner] = row
                sheet.links.append(Link(link.value, before, corner))
            before = corner
        sheet.links.append(Link(link.value, before, link.target))
    sheet.columns = _columns(sheet)
    return sheet


def _rows(links: list[Link], alone: Sequence[Key]) -> dict[Key, int]:
    """The row of each key: below all that it takes, arguments just above what takes them, the ways in and out last."""
    before: dict[Key, list[Key]] = {key: [] for key in alone}
    after: dict[Key, list[Key]] = {}
    for link in links:
        before.setdefault(link.source, [])
        before.setdefault(link.target, []).append(link.source)
        after.setdefault(link.source, []).append(link.target)
    rows: dict[Key, int] = {}
    waiting = {key: len(sources) for key, sources in before.items()}
    ready = [key for key, count in waiting.items() if count == 0]
    while ready:
        key = ready.pop()
        rows[key] = max((rows[source] + 1 for source in before[key]), default=0)
        for target in after.get(key, ()):
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    for key in rows:
        if key[0] == "value" and key in after:
            rows[key] = min(rows[target] for target in after[key]) - 1
    last = max(rows.values(), default=0)
    for key in rows:
        if key[0] == "out":
            rows[key] = last
    return rows


def _columns(sheet: Sheet) -> dict[Key, float]:
    """The column of each key, by igraph's layout after Sugiyama."""
    import igraph

    keys = list(sheet.rows)
    numbers = {key: k for k, key in enumerate(keys)}
    edges = [(numbers[link.source], numbers[link.target]) for link in sheet.links]
    graph: Any = igraph.Graph(n=len(keys), edges=edges, directed=True)
    places = graph.layout_sugiyama(layers=[sheet.rows[key] for key in keys], hgap=1)
    places = places[0] if isinstance(places, tuple) else places
    return {key: round(float(places[k][0]), 3) for k, key in enumerate(keys)}
