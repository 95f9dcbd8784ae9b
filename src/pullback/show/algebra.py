"""The algebra of expressions: making them, adding, multiplying and summing them, putting one into another; and the
normal form that all of it ends in."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pullback.show.expression import (
    ONLY,
    TRUTHS,
    Applied,
    At,
    Atom,
    Expression,
    Factor,
    Group,
    Index,
    Partial,
    Shape,
    Symbol,
    Term,
    Unit,
)


# -- making them -----------------------------------------------------------------------------------------------------
def _own_indices(shape: Shape) -> tuple[Index, ...]:
    return tuple(ONLY if size == 1 else k for k, size in enumerate(shape))


def atomic(atom: Atom) -> Expression:
    """An atom by itself."""
    return expression(atom.shape, [Term(Fraction(1), (Factor(atom, _own_indices(atom.shape)),))])


def symbol(name: str, shape: Shape = (), role: str = "value") -> Expression:
    """A named array."""
    return atomic(Symbol(name, tuple(shape), role))


def constant(value: float | Fraction, shape: Shape = ()) -> Expression:
    """A number, in every place of an array. 0.333... to the last digit is 1/3."""
    if not isinstance(value, Fraction):
        simple = Fraction(float(value)).limit_denominator(1000)
        value = simple if float(simple) == value else Fraction(repr(float(value)))
    return expression(shape, [Term(value)])


def applied(
    function: Any, arguments: Sequence[Expression], params: dict[str, Any], shape: Shape, elementwise: bool
) -> Expression:
    """A function applied to expressions. Elementwise, it depends only on the axes that its arguments depend on."""
    options = tuple(sorted(params.items()))
    if not elementwise:
        return atomic(Applied(function, tuple(arguments), options, shape, False))
    spread = [broadcast(e, shape) for e in arguments]
    used = sorted(set().union(*[e.labels for e in spread]))
    inner = tuple(_on_axes(e, used) for e in spread)
    atom = Applied(function, inner, options, tuple(shape[k] for k in used), True)
    return expression(shape, [Term(Fraction(1), (Factor(atom, tuple(used)),))])


def _on_axes(e: Expression, used: Sequence[int]) -> Expression:
    """The expression on only those of its axes that it depends on."""
    place = {k: new for new, k in enumerate(used)}
    shape = tuple(e.shape[k] for k in used)
    return _rebuilt(e, shape, lambda i: place[i])


def _rebuilt(e: Expression, shape: Shape, move: Callable[[int], Index]) -> Expression:
    """With its free indices moved to the axes of another shape; summed ones keep out of their way."""
    shift = len(shape) - e.rank

    def of_any(i: int) -> Index:
        return move(i) if i < e.rank else i + shift

    terms = [Term(t.coefficient, tuple(f.moved(of_any) for f in t.factors), t.bound) for t in e.terms]
    return expression(shape, terms)


def grouped(e: Expression, power: Fraction = Fraction(1)) -> tuple[Fraction, Factor]:
    """The expression as a number times one factor, raised to a power."""
    used = sorted(e.labels)
    inside = _on_axes(e, used)
    scale = Fraction(1)
    if power.denominator == 1:  # the leading number comes out, so that 2a + 2b and a + b are powers of one thing
        scale = _content(inside)
        inside = times(inside, constant(1 / scale)) if scale != 1 else inside
    return Fraction(scale**power), Factor(Group(inside), tuple(used), power)


def _content(e: Expression) -> Fraction:
    """The greatest number that divides all coefficients, with the sign of the simplest term."""
    numbers = [t.coefficient for t in e.terms]
    varying = [t for t in e.terms if t.factors]
    if varying and max(map(abs, numbers)) > 1000 * min(map(abs, numbers)):  # s + 1e-5, and not (100000 s + 1) / 100000
        return min(varying, key=lambda t: (len(t.factors), t.key)).coefficient
    shared = Fraction(np.gcd.reduce([abs(n.numerator) for n in numbers]).item()) if _small(numbers) else abs(numbers[0])
    bottom = Fraction(np.lcm.reduce([n.denominator for n in numbers]).item()) if _small(numbers) else Fraction(1)
    if any(abs(n) == 1 for n in numbers) and any(_has_truth(t) for t in e.terms):
        shared = bottom = Fraction(1)  # 1 where it holds, and a half where it ties, is read best as it is
    simplest = min(e.terms, key=lambda t: (len(t.factors), t.key))
    return shared / bottom * (1 if simplest.coefficient > 0 else -1)


def _has_truth(t: Term) -> bool:
    return any(isinstance(f.atom, Applied) and f.atom.function.name in TRUTHS for f in t.factors)


def _small(numbers: Sequence[Fraction]) -> bool:
    return all(abs(n.numerator) < 1 << 20 and n.denominator < 1 << 20 for n in numbers)


# -- algebra ---------------------------------------------------------------------------------------------------------
def broadcast(e: Expression, shape: Shape) -> Expression:
    """The same in a larger shape, by NumPy's rules."""
    if e.shape == tuple(shape):
        return e
    shift = len(shape) - e.rank
    return _rebuilt(e, tuple(shape), lambda i: i + shift)


def _common_shape(parts: Sequence[Expression]) -> Shape:
    return np.broadcast_shapes(*[e.shape for e in parts])


def plus(*parts: Expression) -> Expression:
    """The sum, with broadcasting."""
    shape = _common_shape(parts)
    return expression(shape, [t for e in parts for t in broadcast(e, shape).terms])


def scaled(e: Expression, number: float | Fraction) -> Expression:
    """A number times an expression."""
    return times(e, constant(number))


def times(*parts: Expression) -> Expression:
    """The elementwise product, with broadcasting. Sums stay in brackets; `simplify.expand` multiplies them out."""
    shape = _common_shape(parts)
    product = Term(Fraction(1))
    several = [e for e in parts if len(e.terms) > 1]
    if len(several) == 1 and all(e.number is not None for e in parts if e is not several[0]):
        number = math.prod([e.number or Fraction(0) for e in parts if e is not several[0]], start=Fraction(1))
        only = broadcast(several[0], shape)
        return expression(shape, [Term(t.coefficient * number, t.factors, t.bound) for t in only.terms])
    for e in parts:
        e = broadcast(e, shape)
        if not e.terms:
            return Expression(shape, ())
        if len(e.terms) == 1:
            product = _product(product, e.terms[0], len(shape))
        else:
            scale, factor = grouped(e)
            product = _product(product, Term(scale, (factor,)), len(shape))
    return expression(shape, [product])


def _product(a: Term, b: Term, rank: int) -> Term:
    """The product of two terms; the summed indices of the second come after those of the first."""
    shift = len(a.bound)
    moved = [f.moved(lambda i: i + shift if i >= rank else i) for f in b.factors]
    return Term(a.coefficient * b.coefficient, (*a.factors, *moved), a.bound + b.bound)


def power(e: Expression, exponent: Fraction) -> Expression:
    """Each element to a power. Powers of products are taken apart only where that is right for every sign."""
    number = e.number
    if exponent == 1:
        return e
    if number is not None and exponent.denominator == 1 and (number or exponent > 0):
        return constant(number**exponent.numerator, e.shape)
    term = e.terms[0] if len(e.terms) == 1 else None
    if term is not None and term.bound and exponent.denominator == 1:
        outside = tuple(f for f in term.factors if all(i < e.rank for i in f.labels))
        if outside:
            inside = tuple(f for f in term.factors if f not in outside)
            parts = (Term(term.coefficient, outside), Term(Fraction(1), inside, term.bound))
            return times(*[power(expression(e.shape, [part]), exponent) for part in parts])
    if term is None or term.bound or not _may_split(term, exponent):
        scale, factor = grouped(e, exponent)
        return expression(e.shape, [Term(scale, (factor,))])
    factors = tuple(f._replace(power=f.power * exponent) for f in term.factors)
    return expression(
        e.shape, [Term(term.coefficient ** int(exponent) if exponent.denominator == 1 else Fraction(1), factors)]
    )


def _may_split(term: Term, exponent: Fraction) -> bool:
    """(a b)^n for whole n; roots only of a single factor, and of a power only where that is a root itself."""
    if exponent.denominator == 1:
        return True
    return (
        term.coefficient == 1
        and len(term.factors) == 1
        and (term.factors[0].power == 1 or term.factors[0].power.denominator != 1)
    )


def transposed(e: Expression, axes: Sequence[int]) -> Expression:
    """Its axes in another order."""
    place = {old: new for new, old in enumerate(axes)}
    return _rebuilt(e, tuple(e.shape[k] for k in axes), lambda i: place[i])


def summed(e: Expression, axes: Iterable[int], keepdims: bool = False) -> Expression:
    """The sum over axes."""
    axes = sorted(axes)
    kept = [k for k in range(e.rank) if k not in axes]
    shape = tuple(e.shape[k] for k in kept)
    place = {k: new for new, k in enumerate(kept)} | {k: len(kept) + n for n, k in enumerate(axes)}
    terms = []
    for t in e.terms:
        factors = tuple(f.moved(lambda i: place[i] if i < e.rank else i) for f in t.factors)
        terms.append(Term(t.coefficient, factors, (*[e.shape[k] for k in axes], *t.bound)))
    result = expression(shape, terms)
    return reshaped(result, [1 if k in axes else n for k, n in enumerate(e.shape)]) if keepdims else result


def reshaped(e: Expression, shape: Sequence[int]) -> Expression:
    """Another shape that differs only by axes of size one."""
    before = [k for k, size in enumerate(e.shape) if size != 1]
    after = [k for k, size in enumerate(shape) if size != 1]
    place = dict(zip(before, after, strict=True))
    return _rebuilt(e, tuple(shape), lambda i: place[i])


def contracted(a: Expression, b: Expression, inputs: Sequence[str], output: str) -> Expression:
    """The sum of products with axes named by letters, as in `np.einsum`."""
    letters = [*output, *sorted(set("".join(inputs)) - set(output))]
    sizes: dict[str, int] = {}
    spread = []
    for e, names in zip((a, b), inputs, strict=True):
        sizes |= dict(zip(names, e.shape, strict=True))
    full = tuple(sizes[c] for c in letters)
    for e, names in zip((a, b), inputs, strict=True):
        place = {k: letters.index(c) for k, c in enumerate(names)}
        spread.append(_rebuilt(e, full, lambda i, place=place: place[i]))  # type: ignore[misc]
    return summed(times(*spread), range(len(output), len(letters)))


def read_at(e: Expression, places: Sequence[At | None]) -> Expression:
    """The part of an expression at fixed places of some axes."""
    kept = [k for k, at in enumerate(places) if at is None]
    place: dict[int, Index] = {k: new for new, k in enumerate(kept)}
    place |= {k: at for k, at in enumerate(places) if at is not None}
    return _rebuilt(e, tuple(e.shape[k] for k in kept), lambda i: place[i])


def put_at(e: Expression, places: Sequence[At | None], shape: Shape) -> Expression:
    """Zeros with an expression at fixed places of some axes: the adjoint of `read_at`."""
    kept = [k for k, at in enumerate(places) if at is None]
    spread = _rebuilt(e, tuple(shape), lambda i: kept[i])
    units = [Factor(Unit(at, shape[k]), (k,)) for k, at in enumerate(places) if at is not None and shape[k] != 1]
    unit = Term(Fraction(1), tuple(units))
    return expression(shape, [_product(unit, t, len(shape)) for t in spread.terms])


def substituted(e: Expression, replace: Mapping[str, Expression]) -> Expression:
    """With expressions in the place of the symbols of these identifiers, everywhere."""
    return mapped(e, lambda atom: replace.get(atom.identifier) if isinstance(atom, Symbol) else None, {})


def mapped(e: Expression, change: Callable[[Atom], Expression | None], known: dict[str, Expression]) -> Expression:
    """With what `change` makes of each atom in its place, from the outside in; atoms for which it is None stay."""
    key = f"{e.key}{e.shape}"
    if key in known:
        return known[key]
    terms: list[Term] = []
    for t in e.terms:
        product = Term(t.coefficient, (), t.bound)
        for f in t.factors:
            new = change(f.atom)
            if new is None and f.atom.parts():
                parts = [mapped(part, change, known) for part in f.atom.parts()]
                same = all(a is b for a, b in zip(parts, f.atom.parts(), strict=True))
                new = None if same else _of_parts(f.atom, parts)
            product = replaced(product, f, new, e.rank)
        terms.append(product)
    result = expression(e.shape, terms)
    known[key] = e if result == e else result
    return known[key]


def _of_parts(atom: Atom, parts: Sequence[Expression]) -> Expression:
    """The same function, or bracket, of other expressions."""
    if isinstance(atom, Applied):
        return applied(atom.function, parts, dict(atom.params), atom.shape, atom.elementwise)
    return parts[0]


def replaced(product: Term, factor: Factor, new: Expression | None, rank: int) -> Term:
    """A product times a factor whose atom has become another expression."""
    if new is None:
        return Term(product.coefficient, (*product.factors, factor), product.bound)
    raised = power(new, factor.power)
    if len(raised.terms) != 1:
        if not raised.terms:
            return Term(Fraction(0))
        scale, group = grouped(raised)
        raised = Expression(raised.shape, (Term(scale, (group,)),))
    inner = raised.terms[0]
    start = rank + len(product.bound)

    def place(i: int) -> Index:
        return factor.indices[i] if i < raised.rank else start + i - raised.rank

    moved = tuple(f.moved(place) for f in inner.factors)
    return Term(product.coefficient * inner.coefficient, (*product.factors, *moved), product.bound + inner.bound)


# -- the normal form -------------------------------------------------------------------------------------------------
def expression(shape: Sequence[int], terms: Iterable[Term]) -> Expression:
    """An expression in normal form: like factors and like terms collected, in a fixed order."""
    shape = tuple(shape)
    collected: dict[str, Term] = {}
    pending = list(terms)[::-1]
    while pending:
        term = _normal(pending.pop(), shape)
        opened = _opened(term, len(shape))
        if opened is not None:
            pending.extend(opened[::-1])
            continue
        same = collected.get(term.key)
        number = term.coefficient + (same.coefficient if same else 0)
        collected[term.key] = Term(number, term.factors, term.bound)
    kept = [t for t in collected.values() if t.coefficient]
    return Expression(shape, tuple(sorted(kept, key=lambda t: t.key)))


def _opened(term: Term, rank: int) -> list[Term] | None:
    """The terms of a bracket that is the whole product, or the product in a bracket that holds a single one."""
    for n, factor in enumerate(term.factors):
        if not isinstance(factor.atom, Group) or factor.power.denominator != 1:
            continue
        inside = factor.atom.inside
        alone = len(term.factors) == 1 and factor.power == 1
        if alone or not inside.terms or (len(inside.terms) == 1 and (factor.power == 1 or not inside.terms[0].bound)):
            rest = Term(term.coefficient, term.factors[:n] + term.factors[n + 1 :], term.bound)
            whole = factor._replace(power=Fraction(1))
            raised = power(inside, factor.power)
            return [replaced(rest, whole, Expression(raised.shape, (t,)), rank) for t in raised.terms]
    return None


def _normal(term: Term, shape: Shape) -> Term:
    """A product with like factors collected; summed indices that nothing uses have become numbers."""
    rank, sizes = len(shape), (*shape, *term.bound)
    factors = [f.moved(lambda i: ONLY if sizes[i] == 1 else i) for f in term.factors]
    picked = {f.indices[0]: f.atom.place for f in factors if isinstance(f.atom, Unit) and isinstance(f.indices[0], int)}
    factors = _at_units(factors, picked, rank)
    powers: dict[tuple[Atom, tuple[Index, ...]], Fraction] = {}
    for f in factors:
        once = isinstance(f.atom, Unit) or (isinstance(f.atom, Applied) and f.atom.function.name in TRUTHS)
        before = powers.get((f.atom, f.indices), Fraction(0))
        powers[f.atom, f.indices] = f.power if once else before + f.power  # 0 and 1 are their own powers
    merged = [Factor(atom, indices, p) for (atom, indices), p in powers.items() if p]
    used = set().union(*[f.labels for f in merged])
    kept = [n for n in range(len(term.bound)) if rank + n in used]
    idle = [size for n, size in enumerate(term.bound) if n not in kept and rank + n not in picked]
    vanishes = any(
        isinstance(f.atom, Unit) and f.indices[0] not in (ONLY, f.atom.place) and not f.labels for f in merged
    )
    coefficient = Fraction(0) if vanishes else term.coefficient * math.prod(idle)
    merged = [f for f in merged if not isinstance(f.atom, Unit) or f.labels]
    place = {rank + n: rank + new for new, n in enumerate(kept)}
    merged = [f.moved(lambda i: place.get(i, i)) for f in merged]
    return Term(coefficient, *_ordered(merged, tuple(term.bound[n] for n in kept), rank))


def _at_units(factors: list[Factor], picked: Mapping[int, At], rank: int) -> list[Factor]:
    """Where a unit vector picks one place of an index, everything with that index is read there. A unit vector that is
    read at a place is 1 or 0; it stays where the index is an axis of the result."""
    kept = [
        Factor(Unit(at, f.atom.size), (i,))
        for i, at in picked.items()
        if isinstance(i, int) and i < rank
        for f in factors
        if isinstance(f.atom, Unit) and f.indices == (i,) and f.atom.place == at
    ]
    return kept + [f.moved(lambda i: picked.get(i, i)) for f in factors] if picked else factors


def _ordered(factors: list[Factor], bound: Shape, rank: int) -> tuple[tuple[Factor, ...], Shape]:
    """The factors in order, with the summed indices numbered so that equal products look equal."""
    labels = [rank + n for n in range(len(bound))]
    if not labels:
        return tuple(sorted(factors, key=lambda f: f.key)), bound
    colour = {i: f"{bound[i - rank]}" for i in labels}
    for _ in labels:
        colour = {i: _seen_from(i, factors, colour, rank) for i in labels}
    classes = [list(g) for _, g in itertools.groupby(sorted(labels, key=lambda i: colour[i]), key=lambda i: colour[i])]
    if sum(len(c) for c in classes if len(c) > 1) > 5:
        orders: Iterable[Any] = [classes]
    else:
        orders = itertools.product(*[itertools.permutations(c) for c in classes])
    best: Any = None
    for order in orders:
        flat = [i for group in order for i in group]
        place = {i: rank + n for n, i in enumerate(flat)}
        moved = tuple(sorted((f.moved(_via(place)) for f in factors), key=lambda f: f.key))
        key = [f.key for f in moved]
        if best is None or key < best[0]:
            best = key, moved, tuple(bound[i - rank] for i in flat)
    return best[1], best[2]


def _via(place: dict[int, int]) -> Callable[[int], int]:
    return lambda i: place.get(i, i)


def _seen_from(i: int, factors: list[Factor], colour: dict[int, str], rank: int) -> str:
    """What an index looks like from its neighbours: a step of colour refinement."""
    views = []
    for f in factors:
        if i in f.indices:
            names = ["*" if j == i else colour.get(j, str(j)) if isinstance(j, int) else f"@{j}" for j in f.indices]
            views.append(f"{f.atom.key}^{f.power}[{','.join(names)}]")
    return hashlib.blake2b(f"{colour[i]}<{';'.join(sorted(views))}>".encode(), digest_size=8).hexdigest()


def renamed_symbols(e: Expression, symbol: Callable[[Symbol], Symbol], place: Callable[[At], At]) -> Expression:
    """With other names for symbols and for fixed places."""

    def factor(f: Factor) -> Factor:
        indices = tuple(i if isinstance(i, int) or i is ONLY else place(i) for i in f.indices)
        atom: Atom = f.atom
        if isinstance(atom, Symbol):
            atom = symbol(atom)
        elif isinstance(atom, Partial):
            atom = Partial(symbol(atom.of), symbol(atom.by))
        elif isinstance(atom, Unit):
            atom = Unit(place(atom.place), atom.size)
        elif isinstance(atom, Group):
            atom = Group(renamed_symbols(atom.inside, symbol, place))
        elif isinstance(atom, Applied):
            inner = tuple(renamed_symbols(part, symbol, place) for part in atom.arguments)
            atom = Applied(atom.function, inner, atom.params, atom.shape, atom.elementwise)
        return Factor(atom, indices, f.power)

    return expression(e.shape, [Term(t.coefficient, tuple(map(factor, t.factors)), t.bound) for t in e.terms])
