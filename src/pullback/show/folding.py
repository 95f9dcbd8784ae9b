"""Lines that repeat are written once, with an index; sums over the iterations of a loop get a sign of summation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pullback.show.algebra import expression
from pullback.show.expression import Expression, Symbol, Term
from pullback.show.layout import Style
from pullback.show.lines import Entry, Shown
from pullback.show.loops import Loop
from pullback.show.running import Variable
from pullback.show.simplify import simplify
from pullback.show.walk import Walk
from pullback.show.writers import Text

FEWEST = 3
"""So many lines, or terms, are worth an index."""


def fold(entries: Sequence[Entry], walk: Walk, backward: bool) -> list[Entry]:
    """The entries with each loop's written once."""
    names = {v.name: v for v in walk.run.variables()}
    result: list[Entry] = []
    done: set[int] = set()
    for entry in entries:
        if id(entry) in done:
            continue
        loop = next((each for each in walk.loops if each.iteration_of(entry.variable) is not None), None)
        if loop is None:
            result.append(_with_sums(entry, walk, names))
            continue
        family = entry.variable in loop.families
        mine = [e for e in entries if (e.variable in loop.families if family else e.variable in loop.places)]
        done |= {id(e) for e in mine}
        result += _folded(mine, loop, names, backward)
    return result


def _folded(entries: Sequence[Entry], loop: Loop, names: dict[str, Variable], backward: bool) -> list[Entry]:
    rows: dict[Any, list[tuple[int, Entry, Entry]]] = defaultdict(list)
    for entry in entries:
        r = loop.iteration_of(entry.variable)
        assert r is not None
        seen = loop.seen_from(r, names)
        template = replace(entry, left=seen.template(entry.left), expression=seen.template(entry.expression))
        rows[loop.row_of(entry.variable), template.left.key].append((r, entry, template))
    before: list[Entry] = []
    within: list[Entry] = []
    after: list[Entry] = []
    for row in rows.values():
        middle = sorted(row, key=lambda item: item[0])[len(row) // 2]
        alike = [item for item in row if (item[2].left, item[2].expression) == (middle[2].left, middle[2].expression)]
        if len(alike) < FEWEST:
            within += [entry for _, entry, _ in row]
            continue
        first, last = (choose(r for r, _, _ in alike) + 1 for choose in (min, max))
        ends = (last, first) if backward else (first, last)
        span = f"{loop.letter} = {ends[0]}, …, {ends[1]}{'' if backward else _start(loop, middle[2].expression)}"
        error = max(entry.error for _, entry, _ in alike)
        within.append(replace(middle[2], error=error, span=span, count=len(alike)))
        for r, entry, _ in row:
            if all(r != other for other, _, _ in alike):
                (before if (r > middle[0]) == backward else after).append(entry)
    return before + within + after


def _start(loop: Loop, template: Expression) -> str:
    """What comes into the first iteration, where a line uses it."""
    starts = {f"{loop.bases[k]}_{loop.index(r)}": (loop.bases[k], v.name) for v, (k, r) in loop.carried.items()}
    called = Text(Style()).name
    used = [pair for key, pair in starts.items() if key in template.symbols]
    return "".join(f", {called(f'{base}_0')} = {called(name)}" for base, name in used)


def _with_sums(entry: Entry, walk: Walk, names: dict[str, Variable]) -> Entry:
    """An entry with terms that differ only by the iteration they come from under a sign of summation."""
    parts: list[tuple[str, Expression]] = []
    rest = list(entry.expression.terms)
    for loop in walk.loops:
        groups: dict[str, list[tuple[int, Expression, Any]]] = defaultdict(list)
        for term in rest:
            single = Expression(entry.expression.shape, (term,))
            r = _iteration(single, loop, names)
            if r is not None:
                template = loop.seen_from(r, names).template(single)
                groups[template.key].append((r, template, term))
        for group in groups.values():
            iterations = sorted(r for r, _, _ in group)
            if len(group) >= FEWEST and iterations == list(range(iterations[0], iterations[-1] + 1)):
                span = f"{loop.letter}={iterations[0] + 1}..{iterations[-1] + 1}"
                parts.append((span, simplify(group[0][1])))
                rest = [t for t in rest if all(t is not term for _, _, term in group)]
    if not parts:
        return entry
    if rest:
        parts.insert(0, ("", simplify(Expression(entry.expression.shape, tuple(rest)))))
    return replace(entry, shown=Shown(tuple(parts)))


def _iteration(e: Expression, loop: Loop, names: dict[str, Variable]) -> int | None:
    """The iteration that a term comes from: the first whose adjoints, or else whose values, it has."""
    found = [(s.role, loop.iteration_of(names[s.name])) for s in e.symbols.values() if s.name in names]
    adjoint = [r for role, r in found if r is not None and role == "adjoint"]
    return min(adjoint, default=None)


# -- across iterations -----------------------------------------------------------------------------------------------
def carried_offsets(walk: Walk) -> dict[Loop, set[int]]:
    """For each loop, the offsets of the values whose adjoints come from the next iteration."""
    names = {v.name: v for v in walk.run.variables()}
    found: dict[Loop, set[int]] = {}
    for loop in walk.loops:
        found[loop] = set()
        for v, (k, r) in loop.places.items():
            if v in walk.adjoint and v not in walk.hidden:
                roles = [s for s in walk.adjoint[v].symbols.values() if s.role == "adjoint" and s.name in names]
                if any(loop.iteration_of(names[s.name]) not in (r, None) for s in roles):
                    found[loop].add(k)
    return found


def is_adjoint(s: Symbol) -> bool:
    """Whether a symbol stands for an adjoint."""
    return s.role == "adjoint"


def product_of_jacobians(recurrence: Expression, adjoint: Callable[[Symbol], bool]) -> Expression | None:
    """The matrix that a recurrence of adjoints applies at each step, where it is one term that has the adjoint once."""
    if len(recurrence.terms) != 1 or recurrence.rank != 1:
        return None
    [term] = recurrence.terms
    mine = [f for f in term.factors if isinstance(f.atom, Symbol) and adjoint(f.atom)]
    if len(mine) != 1 or mine[0].power != 1 or not isinstance(mine[0].indices[0], int) or mine[0].indices[0] == 0:
        return None
    at = mine[0].indices[0]  # summed: now the second axis
    factors = tuple(
        f.moved(lambda i: 1 if i == at else i + (1 if 0 < i < at else 0)) for f in term.factors if f is not mine[0]
    )
    bound = tuple(size for n, size in enumerate(term.bound) if n != at - 1)
    shape = (recurrence.shape[0], mine[0].atom.shape[0])

    return expression(shape, [Term(term.coefficient, factors, bound)])
