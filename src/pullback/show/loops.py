"""Patterns that a run repeats: the steps of a recurrent network, the levels of a deep one. Found in the steps of the
run, so that each can be written once with an index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pullback.show.algebra import renamed_symbols
from pullback.show.expression import At, Expression, Symbol
from pullback.show.running import Run, Step, Variable

_FAR = 1 << 20  # so that moving places are equal as seen from each iteration, and differ from fixed ones
LONGEST = 80
"""Steps of one iteration, at most."""


@dataclass(eq=False)
class Loop:
    """Iterations of equal steps: `start`, `start + period`, ... The index counts from 1."""

    start: int
    period: int
    count: int
    letter: str = "t"
    places: dict[Variable, tuple[int, int]] = field(default_factory=dict)  # offset and iteration of each value
    carried: dict[Variable, tuple[int, int]] = field(default_factory=dict)  # what comes in, as of an iteration before
    families: dict[Variable, tuple[str, int, int]] = field(default_factory=dict)  # inputs: pattern, shift, iteration
    positions: dict[int, int] = field(default_factory=dict)  # indices that move with the iterations: how far ahead
    bases: dict[int, str] = field(default_factory=dict)  # the name of what is at an offset

    @property
    def stop(self) -> int:
        return self.start + self.period * self.count

    def index(self, ahead: int) -> str:
        """The index of an iteration some way ahead of the current one."""
        return self.letter + (f"+{ahead}" if ahead > 0 else f"−{-ahead}" if ahead else "")

    def iteration_of(self, variable: Variable) -> int | None:
        """The iteration that a value, or an input of one iteration alone, belongs to."""
        if variable in self.places:
            return self.places[variable][1]
        return self.families[variable][2] if variable in self.families else None

    def row_of(self, variable: Variable) -> Any:
        """What is equal for the values that one line writes."""
        return self.places[variable][0] if variable in self.places else self.families[variable][0]

    def seen_from(self, iteration: int, names: Mapping[str, Variable]) -> Seen:
        """How values are called from within an iteration."""
        return Seen(self, iteration, names)


@dataclass
class Seen:
    """The names of values as seen from one iteration of a loop."""

    loop: Loop
    iteration: int
    names: Mapping[str, Variable]

    def template(self, e: Expression) -> Expression:
        """The expression with indexed names in the place of those of this iteration and its neighbours."""
        moves = {at + self.iteration: self.loop.index(ahead) for at, ahead in self.loop.positions.items()}

        def place(at: At) -> At:
            return At(_FAR + at.position - self.iteration, moves[at.position]) if at.position in moves else at

        return renamed_symbols(e, self.symbol, place)

    def symbol(self, symbol: Symbol) -> Symbol:
        """A variable by its indexed name."""
        variable = self.names.get(symbol.name)
        name = self.name(variable) if variable is not None else None
        return symbol if name is None else Symbol(name, symbol.shape, symbol.role)

    def name(self, variable: Variable) -> str | None:
        """The indexed name of a variable of the loop; None for any other."""
        loop = self.loop
        place = loop.places.get(variable) or (loop.carried.get(variable) if self.iteration == 0 else None)
        if place is not None:
            return f"{loop.bases[place[0]]}_{loop.index(place[1] - self.iteration)}"
        if variable in loop.families:
            pattern, shift, r = loop.families[variable]
            return pattern.format(loop.index(shift + r - self.iteration))
        return None


def find_loops(run: Run) -> list[Loop]:
    """The patterns that repeat at least three times, longest stretches first come."""
    steps, place = run.steps, {v: n for n, step in enumerate(run.steps) for v in step.outputs}
    loops: list[Loop] = []
    at = 0
    letters = iter("tlijmnpq")
    while at < len(steps):
        found = _longest_at(at, steps, place)
        if found is None:
            at += 1
            continue
        found = _naturally(found, steps, place)
        found.letter = next(letters, "t")
        _describe(found, steps, place)
        loops.append(found)
        at = found.stop
    return loops


def _longest_at(at: int, steps: Sequence[Step], place: Mapping[Variable, int]) -> Loop | None:
    best: Loop | None = None
    for period in range(1, min(LONGEST, (len(steps) - at) // 3) + 1):
        if steps[at].primitive is not steps[at + period].primitive:
            continue
        count = 1
        while at + (count + 1) * period <= len(steps) and _iteration_matches(at, period, count, steps, place):
            count += 1
        if count >= 3 and (best is None or count * period > best.count * best.period):
            best = Loop(at, period, count)
    return best if best is not None and best.period > 1 else None


def _naturally(loop: Loop, steps: Sequence[Step], place: Mapping[Variable, int]) -> Loop:
    """The same loop from where the least comes into it from outside, within its first iteration."""
    best, fewest = loop, _coming_in(loop, steps, place)
    for start in range(loop.start + 1, min(loop.start + loop.period, len(steps))):
        other = _longest_at(start, steps, place)
        if other is None or other.period != loop.period or other.count < loop.count - 1:
            continue
        coming = _coming_in(other, steps, place)
        if coming < fewest:
            best, fewest = other, coming
    return best


def _coming_in(loop: Loop, steps: Sequence[Step], place: Mapping[Variable, int]) -> int:
    """How many inputs of the first iteration are from before it where those of the next are from the first."""
    pairs = [(steps[loop.start + k], steps[loop.start + loop.period + k]) for k in range(loop.period)]
    every = [(x, y) for a, b in pairs for x, y in zip(a.inputs, b.inputs, strict=True)]
    return len(
        {
            id(x)
            for x, y in every
            if isinstance(y, Variable)
            and loop.start <= place.get(y, -1) < loop.start + loop.period
            and place.get(x, -1) < loop.start
        }
    )


def _iteration_matches(at: int, period: int, count: int, steps: Sequence[Step], place: Mapping[Variable, int]) -> bool:
    before, after = at + (count - 1) * period, at + count * period
    return all(
        _matches(steps[before + k], steps[after + k], before + k, after + k, before if count == 1 else -1, place)
        for k in range(period)
    )


def _matches(a: Step, b: Step, at_a: int, at_b: int, first: int, place: Mapping[Variable, int]) -> bool:
    """Whether two steps are one step of two iterations. In the `first`, what comes in is from before."""
    if a.primitive is not b.primitive or len(a.inputs) != len(b.inputs) or not _alike(a.params, b.params):
        return False
    if [v.shape for v in a.outputs] != [v.shape for v in b.outputs]:
        return False
    for x, y in zip(a.inputs, b.inputs, strict=True):
        if not isinstance(x, Variable) or not isinstance(y, Variable):
            if isinstance(x, Variable) or isinstance(y, Variable) or x != y:
                return False
            continue
        if x is y:
            continue
        near = x in place and y in place and at_a - place[x] == at_b - place[y]
        came_in = first >= 0 and y in place and place[y] >= first and (x not in place or place[x] < first)
        family = x not in place and y not in place and x.shape == y.shape and x.kind == y.kind
        if not near and not came_in and not family:
            return False
    return True


def _alike(a: Any, b: Any) -> bool:
    """Options that are equal but for whole numbers in an index, which may count the iterations."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) if k == "template" else a[k] == b[k] for k in a)
    same = len(a) == len(b)
    return same and all(x == y or (_is_whole(x) and _is_whole(y)) for x, y in zip(a, b, strict=True))


def _is_whole(x: Any) -> bool:
    return isinstance(x, int | np.integer)


def _describe(loop: Loop, steps: Sequence[Step], place: Mapping[Variable, int]) -> None:
    """Notes what the values of the loop are to it."""
    for r in range(loop.count):
        for k in range(loop.period):
            for v in steps[loop.start + r * loop.period + k].outputs:
                loop.places[v] = (k, r)
    for k in range(loop.period):
        a, b = (steps[loop.start + r * loop.period + k] for r in (0, 1))
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if isinstance(x, Variable) and x is not y and x not in loop.places and y in loop.places:
                loop.carried[x] = (loop.places[y][0], -1)
        _note_families(loop, k, steps)
        if a.primitive.name in ("getitem", "index_add"):
            for x, y in zip(a.params["template"], b.params["template"], strict=True):
                if _is_whole(x) and y == x + 1:
                    loop.positions[int(x)] = int(x) - 1


def _note_families(loop: Loop, k: int, steps: Sequence[Step]) -> None:
    rows = [steps[loop.start + r * loop.period + k].inputs for r in range(loop.count)]
    for column in zip(*rows, strict=True):
        members = [v for v in column if isinstance(v, Variable) and v.kind == "input"]
        if len(members) < loop.count or len(set(members)) < loop.count:
            continue
        pattern = _pattern([v.name for v in members])
        if pattern is not None:
            loop.families |= {v: (*pattern, r) for r, v in enumerate(members)}


def _pattern(names: Sequence[str]) -> tuple[str, int] | None:
    """`w0`, `w1`, ... as `w{}`, and how far its number is from the iteration's, which counts from 1."""
    numbers = [[int(n) for n in re.findall(r"\d+", name)] for name in names]
    texts = {re.sub(r"\d+", "\0", name) for name in names}
    if len(texts) != 1:
        return None
    columns = list(zip(*numbers, strict=True))
    moving = [n for n, column in enumerate(columns) if len(set(column)) > 1]
    counting = [n for n in moving if all(b == a + 1 for a, b in zip(columns[n], columns[n][1:], strict=False))]
    if len(moving) != 1 or moving != counting:
        return None
    parts = re.split(r"\d+", names[0])
    place = "{}" if parts[moving[0]].endswith("[") else "({})"
    filled = "".join(
        part.replace("{", "{{") + ("" if n == len(columns) else place if n == moving[0] else str(columns[n][0]))
        for n, part in enumerate(parts)
    )
    return filled, columns[moving[0]][0] - 1
