"""Exact rewrite rules that bring what the chain rule gives to the form that textbooks print."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

from pullback.show.expression import (
    Atom,
    Expression,
    Factor,
    Group,
    Index,
    Term,
    _times_factor,
    expression,
    grouped,
)

if TYPE_CHECKING:
    from pullback.show.walk import Walk

MOST_TERMS = 200
"""Beyond that many terms a product is left in brackets."""


def simplify(e: Expression, walk: Walk | None = None, level: int = 2) -> Expression:
    """The shortest of the forms that the rules find."""
    candidates = [e]
    opened = expand(e)
    candidates += [opened, factor(opened), factor(e)]
    return min(candidates, key=lambda c: c.cost)


def expand(e: Expression) -> Expression:
    """Products of sums multiplied out, up to a size."""
    while True:
        terms: list[Term] = []
        changed = False
        for t in e.terms:
            found = _opened_once(t, e.rank)
            changed = changed or found is not None
            terms += found or [t]
        if not changed or len(terms) > MOST_TERMS:
            return e
        e = expression(e.shape, terms)


def _opened_once(t: Term, rank: int) -> list[Term] | None:
    for n, f in enumerate(t.factors):
        if isinstance(f.atom, Group) and f.power.denominator == 1 and 1 <= f.power <= 2:
            rest = Term(t.coefficient, t.factors[:n] + t.factors[n + 1 :], t.bound)
            once = f._replace(power=Fraction(1))
            if f.power == 2:
                rest = Term(t.coefficient, (*rest.factors, once), t.bound)
            inside = f.atom.inside
            return [_times_factor(rest, once, Expression(inside.shape, (part,)), rank) for part in inside.terms]
    return None


def factor(e: Expression) -> Expression:
    """Factors that several terms share, taken out: a b + a c is a (b + c)."""
    if len(e.terms) < 2:
        return e
    shared = Counter(f for t in e.terms for f in _free(t, e.rank))
    if not shared:
        return e
    best, count = max(shared.items(), key=lambda pair: (pair[1], len(pair[0][1]), pair[0][0].key))
    if count < 2:
        return e
    inside, rest = [], []
    for t in e.terms:
        match = next((f for f in t.factors if (f.atom, f.indices) == best[:2] and (f.power > 0) == best[2]), None)
        if match is None:
            rest.append(t)
            continue
        inside.append((t, match))
    low = min((f.power for _, f in inside), key=abs)
    taken = Factor(best[0], best[1], low)
    within = expression(
        e.shape,
        [
            Term(
                t.coefficient,
                tuple(f for f in t.factors if f is not m)
                + ((m._replace(power=m.power - low),) if m.power != low else ()),
                t.bound,
            )
            for t, m in inside
        ],
    )
    within = factor(within)
    if len(within.terms) == 1:
        [only] = within.terms
        product = Term(only.coefficient, (*only.factors, taken), only.bound)
    else:
        scale, group = grouped(within)
        product = Term(scale, (group, taken))
    others = factor(expression(e.shape, rest))
    result = expression(e.shape, [product, *others.terms])
    return result if len(result.terms) < len(e.terms) else e


def _free(t: Term, rank: int) -> set[tuple[Atom, tuple[Index, ...], bool]]:
    """The factors of a term that do not depend on an index it is summed over."""
    return {(f.atom, f.indices, f.power > 0) for f in t.factors if all(i < rank for i in f.labels)}
