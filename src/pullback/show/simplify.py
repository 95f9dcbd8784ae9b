"""Exact rewrite rules that bring what the chain rule gives to the form that textbooks print.

They are few: products are multiplied out, equal terms meet, what the program has a name for takes that name, sums that
the definitions say are 0 or 1 go, and what is left is put in brackets again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from pullback.core.primitive import PRIMITIVES
from pullback.show.algebra import atomic, expression, grouped, mapped, plus, replaced, scaled, substituted, summed
from pullback.show.expression import ONLY, TRUTHS, Applied, Atom, Expression, Factor, Group, Index, Symbol, Term
from pullback.show.meaning import meaning


class Definitions(NamedTuple):
    """What the program's variables are, in terms of those before them."""

    of: dict[str, Expression]
    first: dict[str, str]  # by what is computed: the first variable that holds it
    named: dict[str, None]  # those that the program itself names
    patterns: dict[str, Expression]  # of fused functions: what their references say
    sums: dict[tuple[str, tuple[int, ...]], Fraction | None]  # the sum of a variable over axes, as far as asked for
    occurs: Callable[[Expression], bool] = lambda condition: True  # whether a condition holds anywhere in the run

    @classmethod
    def none(cls) -> Definitions:
        """No definitions yet."""
        return cls({}, {}, {}, {}, {})

    def add(self, name: str, e: Expression, named: bool) -> None:
        """One more variable."""
        e = renamed(e, self)
        self.of[name] = e
        self.first.setdefault(f"{e.key}{e.shape}", name)
        if named:
            self.named[name] = None

    @property
    def unnamed(self) -> dict[str, Expression]:
        """The variables that the program has no name for, in terms of those that it has one for, and of those that are
        too long to spell out."""
        full: dict[str, Expression] = {}
        for name, e in self.of.items():
            if name not in self.named:
                whole = substituted(e, full)
                if whole.cost <= SPELT_OUT:
                    full[name] = whole
        return full

    def made(self, e: Expression) -> Applied | None:
        """The function application that a variable is defined as."""
        atom = lone_atom(e)
        made = lone_atom(self.of[atom.name]) if isinstance(atom, Symbol) and atom.name in self.of else None
        return made if isinstance(made, Applied) else None


SPELT_OUT = 200
"""An unnamed variable that costs more keeps its name where others are spelt out."""
MOST_TERMS = 60
"""Beyond that many terms a product is left in brackets."""


def simplify(e: Expression, definitions: Definitions | None = None) -> Expression:
    """The shortest of the forms that the rules find. With definitions, the program's own names are used."""
    known = definitions or Definitions.none()
    e = renamed(e, known)
    opened = _settled(expand(e), known)
    return min((e, opened, factor(opened), factor(e)), key=lambda form: form.cost)


def same(a: Expression, b: Expression, definitions: Definitions) -> bool:
    """Whether two expressions have one normal form, in terms of the inputs and of what the program has a name for."""
    return _plainest(a, definitions) == _plainest(b, definitions)


def _plainest(e: Expression, definitions: Definitions) -> Expression:
    whole = substituted(renamed(e, definitions), definitions.unnamed)
    return _settled(expand(whole), definitions)


# -- multiplying out, and putting in brackets ------------------------------------------------------------------------
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
        if isinstance(f.atom, Group) and f.power in (1, 2):
            rest = t.factors[:n] + t.factors[n + 1 :]
            once = f._replace(power=Fraction(1))
            kept = Term(t.coefficient, rest if f.power == 1 else (*rest, once), t.bound)
            inside = f.atom.inside
            return [replaced(kept, once, Expression(inside.shape, (part,)), rank) for part in inside.terms]
    return None


def factor(e: Expression) -> Expression:
    """Factors that several terms share, taken out: a b + a c is a (b + c)."""
    if len(e.terms) < 2:
        return e
    shared = Counter(part for t in e.terms for part in _free(t, e.rank))
    best, count = max(shared.items(), key=_worth, default=(None, 0))
    if best is None or count < 2:
        return e
    having = [(t, f) for t in e.terms for f in t.factors if (f.atom, f.indices, f.power > 0) == best]
    low = min((f.power for _, f in having), key=abs)
    inside = factor(expression(e.shape, [_without(t, f, low) for t, f in having]))
    taken = Factor(best[0], best[1], low)
    if len(inside.terms) == 1:
        [only] = inside.terms
        product = Term(only.coefficient, (*only.factors, taken), only.bound)
    else:
        scale, group = grouped(inside)
        product = Term(scale, (group, taken))
    others = factor(expression(e.shape, [t for t in e.terms if all(t is not u for u, _ in having)]))
    return expression(e.shape, [product, *others.terms])


Part = tuple[Atom, tuple[Index, ...], bool]


def _worth(pair: tuple[Part, int]) -> tuple[int, int, str]:
    (atom, indices, _), count = pair
    return count, len(indices), atom.key


def _free(t: Term, rank: int) -> set[Part]:
    """The factors of a term that do not depend on an index it is summed over."""
    return {(f.atom, f.indices, f.power > 0) for f in t.factors if all(i < rank for i in f.labels)}


def _without(t: Term, taken: Factor, power: Fraction) -> Term:
    left = taken._replace(power=taken.power - power)
    return Term(t.coefficient, (*[f for f in t.factors if f is not taken], *([left] if left.power else [])), t.bound)


# -- what the program has a name for ---------------------------------------------------------------------------------
def renamed(e: Expression, definitions: Definitions) -> Expression:
    """Values that were computed twice under one name, and conditions in terms of what they depend on."""

    def change(atom: Atom) -> Expression | None:
        if isinstance(atom, Symbol):
            made = definitions.of.get(atom.identifier)
            earlier = definitions.first.get(f"{made.key}{made.shape}") if made is not None else None
            return None if earlier in (None, atom.identifier) else atomic(Symbol(str(earlier), atom.shape))
        if isinstance(atom, Applied):
            inner = [mapped(part, change, known) for part in atom.arguments]
            return _condition(atom, inner, definitions)
        return None

    known: dict[str, Expression] = {}
    return mapped(e, change, known)


def _condition(atom: Applied, inner: list[Expression], definitions: Definitions) -> Expression:
    """A condition on a result as one on what it was computed from: relu(x) > 0 is x > 0, max(a, b) = a is a >= b."""
    name, shape = atom.function.name, atom.shape
    if name == "greater" and inner[1].number == 0:
        made = definitions.made(inner[0])
        if made is not None and made.function.name == "relu":
            return _related("greater", made.arguments[0], inner[1], shape)
        truth = _truth_of(inner[0])
        if truth is not None:
            return truth
    if name == "equal":
        for value, other in (inner, inner[::-1]):
            made = definitions.made(value)
            if made is not None and made.function.name in ("maximum", "minimum") and other in made.arguments:
                [rest] = [e for e in made.arguments if e != other] or [other]
                return _related(
                    "greater_equal" if made.function.name == "maximum" else "less_equal", other, rest, shape
                )
    if name == "bitwise_and":
        pair = _both_ways(inner)
        if pair is not None:
            return _related("equal", *pair, shape)
    if name == "where" and inner[1].number is not None:
        halved = _halved(inner, shape, definitions)
        if halved is not None:
            return halved
    return meaning(atom.function, inner, dict(atom.params), shape)


def _related(name: str, a: Expression, b: Expression, shape: tuple[int, ...]) -> Expression:
    return meaning(PRIMITIVES[name], [a, b], {}, shape)


def lone_atom(e: Expression) -> Atom | None:
    """The atom that an expression is, where it is nothing else."""
    [t] = e.terms if len(e.terms) == 1 else (None,)
    if t is None or t.coefficient != 1 or t.bound or len(t.factors) != 1 or t.factors[0].power != 1:
        return None
    return t.factors[0].atom


def _truth_of(e: Expression) -> Expression | None:
    """The condition that a product of a condition with positive numbers is positive."""
    [t] = e.terms if len(e.terms) == 1 else (None,)
    if t is None or t.coefficient <= 0 or t.bound:
        return None
    truths = [f for f in t.factors if _is_truth(f.atom)]
    counts = [f for f in t.factors if isinstance(f.atom, Group) and _is_count(f.atom.inside)]
    if not truths or len(truths) + len(counts) != len(t.factors):
        return None
    return expression(e.shape, [Term(Fraction(1), tuple(truths))])


def _is_truth(atom: Atom) -> bool:
    return isinstance(atom, Applied) and atom.function.name in TRUTHS


def _is_count(e: Expression) -> bool:
    return all(t.coefficient > 0 and all(_is_truth(f.atom) for f in t.factors) for t in e.terms)


def _both_ways(pair: list[Expression]) -> tuple[Expression, Expression] | None:
    """a, b where the conditions are a >= b and b >= a."""
    one, other = (lone_atom(e) for e in pair)
    if isinstance(one, Applied) and isinstance(other, Applied) and one.function is other.function:
        if one.function.name in ("greater_equal", "less_equal") and one.arguments == other.arguments[::-1]:
            return one.arguments[0], one.arguments[1]
        number = [e.number for e in (*one.arguments, *other.arguments)]
        if any(n is not None for n in number) and _same_pair(one, other):
            return one.arguments[0], one.arguments[1]
    return None


def _same_pair(one: Applied, other: Applied) -> bool:
    """Whether two conditions compare the same two things in the two orders; numbers compare by value."""

    def alike(a: Expression, b: Expression) -> bool:
        return a == b or (a.number is not None and a.number == b.number)

    return alike(one.arguments[0], other.arguments[1]) and alike(one.arguments[1], other.arguments[0])


def _halved(inner: list[Expression], shape: tuple[int, ...], definitions: Definitions) -> Expression | None:
    """where(a = b, n, a >= b) is (a > b) + n (a = b): the two share where they tie; where they nowhere do, a > b."""
    tie, otherwise = lone_atom(inner[0]), lone_atom(inner[2])
    if not isinstance(tie, Applied) or not isinstance(otherwise, Applied) or tie.function.name != "equal":
        return None
    strict = {"greater_equal": "greater", "less_equal": "less"}.get(otherwise.function.name)
    if strict is None:
        return None
    above = _related(strict, otherwise.arguments[0], otherwise.arguments[1], shape)
    return plus(above, scaled(inner[0], inner[1].number or Fraction(0))) if definitions.occurs(inner[0]) else above


# -- what follows from the definitions -------------------------------------------------------------------------------
def _settled(e: Expression, definitions: Definitions) -> Expression:
    """Products that the program has a name for, by that name; sums that are numbers by definition gone."""
    while definitions.of:
        terms = [_summed_up(_named(t, definitions, e.rank), definitions, e.rank) for t in e.terms]
        new = expression(e.shape, terms)
        if new == e:
            return e
        e = new
    return e


def _named(t: Term, definitions: Definitions, rank: int) -> Term:
    """The term with a variable in the place of the product that defines it."""
    for name in definitions.named:
        definition = definitions.patterns.get(name, definitions.of[name])
        if len(definition.terms) != 1 or definition.terms[0].bound or len(definition.terms[0].factors) < 2:
            continue
        pattern = definition.terms[0]
        for places in _matches(pattern, t):
            factors = list(t.factors)
            for f in pattern.factors:
                place = next(n for n, g in enumerate(factors) if g.atom == f.atom and g.indices == _placed(f, places))
                left = factors[place].power - f.power
                factors[place : place + 1] = [factors[place]._replace(power=left)] if left else []
            whole = Factor(
                Symbol(name, definition.shape), tuple(places.get(k, ONLY) for k in range(len(definition.shape)))
            )
            return Term(t.coefficient / pattern.coefficient, (*factors, whole), t.bound)
    return t


def _matches(pattern: Term, t: Term) -> list[dict[int, Index]]:
    """The indices with which all factors of the pattern are among those of the term, with at least their powers."""
    found: list[dict[int, Index]] = [{}]
    for f in pattern.factors:
        longer = []
        for places in found:
            for g in t.factors:
                if g.atom == f.atom and g.power / f.power >= 1:
                    more = dict(places)
                    fits = all(
                        (more.setdefault(i, j) == j) if isinstance(i, int) else i == j
                        for i, j in zip(f.indices, g.indices, strict=True)
                    )
                    longer += [more] if fits else []
        found = longer
    return found


def _placed(f: Factor, places: Mapping[int, Index]) -> tuple[Index, ...]:
    return tuple(places[i] if isinstance(i, int) else i for i in f.indices)


def _summed_up(t: Term, definitions: Definitions, rank: int) -> Term:
    """The term without a sum of a single variable, where that sum is a number: 0 for x - mean(x), 1 for a softmax."""
    for f in t.factors:
        others = set().union(*[g.labels for g in t.factors if g is not f])
        axes = tuple(k for k, i in enumerate(f.indices) if isinstance(i, int) and i >= rank and i not in others)
        if not axes or f.power != 1 or not isinstance(f.atom, Symbol) or len({f.indices[k] for k in axes}) < len(axes):
            continue
        key = (f.atom.identifier, axes)
        if key not in definitions.sums:
            definitions.sums[key] = known_sum(f.atom, axes, definitions)
        number = definitions.sums[key]
        if number is not None:
            # The sizes of the indices that nothing uses any more become factors, which are taken back here.
            number /= math.prod(f.atom.shape[k] for k in axes)
            return Term(t.coefficient * number, tuple(g for g in t.factors if g is not f), t.bound)
    return t


def known_sum(variable: Symbol, axes: Sequence[int], definitions: Definitions, depth: int = 12) -> Fraction | None:
    """What the sum of a variable over axes is by the definitions, where that is the same number in every place."""
    e = summed(atomic(variable), axes)
    order = {name: n for n, name in enumerate(definitions.of)}
    for _ in range(depth):
        e = _cancelled(e)
        latest = max((name for name in e.symbols if name in order), key=order.__getitem__, default=None)
        if e.number is not None or latest is None or len(e.terms) > MOST_TERMS:
            return e.number
        e = expand(substituted(e, {latest: definitions.of[latest]}))
    return None


def _cancelled(e: Expression) -> Expression:
    """A sum over the same sum is 1."""
    for t in e.terms if len(e.terms) == 1 else ():
        for f in t.factors:
            if isinstance(f.atom, Group) and f.power == -1:
                rest = Term(Fraction(1), tuple(g for g in t.factors if g is not f), t.bound)
                whole = replaced(Term(Fraction(1)), f._replace(power=Fraction(1)), f.atom.inside, e.rank)
                if expression(e.shape, [rest]) == expression(e.shape, [whole]):
                    return expression(e.shape, [Term(t.coefficient)])
    return e
