"""What each primitive means as an expression. Sums, products, powers and changes of shape have a place in the normal
form; every other primitive stays a function of its arguments, by its own name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pullback.core.primitive import PRIMITIVES, Elementwise, Params, Primitive
from pullback.show.algebra import (
    applied,
    broadcast,
    constant,
    contracted,
    expression,
    mapped,
    plus,
    power,
    put_at,
    read_at,
    replaced,
    reshaped,
    scaled,
    summed,
    times,
    transposed,
)
from pullback.show.expression import Applied, At, Expression, Term

Meaning = Callable[..., Expression | None]
MEANINGS: dict[str, Meaning] = {}
"""By name of the primitive: `meaning(*arguments, **params) -> expression`, or None where the general form must do."""


def meaning(
    primitive: Primitive, arguments: Sequence[Expression], params: Params, shape: tuple[int, ...]
) -> Expression:
    """The expression that a primitive makes of its arguments."""
    known = MEANINGS.get(primitive.name)
    found = known(*arguments, **params) if known else None
    if found is not None:
        return found
    return applied(primitive, arguments, params, shape, is_elementwise(primitive))


def is_elementwise(primitive: Primitive) -> bool:
    """Whether each element of the output depends on those at its place alone."""
    return isinstance(primitive, Elementwise) or isinstance(primitive.fn, np.ufunc) or primitive.name == "where"


def means(*names: str) -> Callable[[Meaning], Meaning]:
    """Declares the meaning of the primitives of these names."""

    def declare(function: Meaning) -> Meaning:
        MEANINGS.update(dict.fromkeys(names, function))
        return function

    return declare


MEANINGS["add"] = plus
MEANINGS["multiply"] = times
MEANINGS["negative"] = lambda x: scaled(x, -1)
MEANINGS["subtract"] = lambda a, b: plus(a, scaled(b, -1))
MEANINGS["divide"] = lambda a, b: times(a, power(b, Fraction(-1)))
MEANINGS["reciprocal"] = lambda x: power(x, Fraction(-1))
MEANINGS["square"] = lambda x: power(x, Fraction(2))
MEANINGS["sqrt"] = lambda x: power(x, Fraction(1, 2))
means("positive", "copy", "astype")(lambda x, **options: x)
MEANINGS["power_constant"] = lambda x, exponent: _constant_power(x, exponent)
MEANINGS["transpose"] = lambda x, axes: transposed(x, axes)
MEANINGS["broadcast_to"] = lambda x, new_shape: broadcast(x, new_shape)


@means("power", "float_power")
def _power(base: Expression, exponent: Expression) -> Expression | None:
    return None if exponent.number is None else _constant_power(broadcast_pair(base, exponent), float(exponent.number))


def broadcast_pair(a: Expression, b: Expression) -> Expression:
    """The first in the shape of both."""
    return broadcast(a, np.broadcast_shapes(a.shape, b.shape))


@means("where")
def _where(condition: Expression, x1: Expression, x2: Expression) -> Expression | None:
    """A choice of which one side is 0 is a product with the indicator of the condition."""
    if condition.number is not None:
        return broadcast_pair(x1, x2) if condition.number else broadcast_pair(x2, x1)
    if x1.number == 0 and _name_of_lone(condition) == "equal" and x2 == _difference(condition):
        return x2  # which is 0 there
    if x2.number == 0:
        return times(condition, x1)
    if x1.number == 0:
        return times(negated(condition), x2)
    return None


def _name_of_lone(e: Expression) -> str:
    return _name_of(e.terms[0]) if len(e.terms) == 1 else ""


def _difference(condition: Expression) -> Expression:
    """a - b of a condition that compares a and b."""
    [f] = condition.terms[0].factors
    a, b = f.atom.parts()
    difference = plus(a, scaled(b, -1))
    spread = [
        replaced(Term(Fraction(1)), f, Expression(difference.shape, (t,)), condition.rank) for t in difference.terms
    ]
    return expression(condition.shape, spread)


@means("logaddexp")
def _logaddexp(a: Expression, b: Expression) -> Expression:
    total = plus(exponential(a), exponential(b))
    return applied(PRIMITIVES["log"], [total], {}, total.shape, True)


_OPPOSITE = {"greater": "less_equal", "less": "greater_equal", "equal": "not_equal"}
_OPPOSITE |= {value: key for key, value in _OPPOSITE.items()}


def negated(condition: Expression) -> Expression:
    """Where a condition does not hold. A NaN is on neither side, but a derivation has none."""
    [term] = condition.terms if len(condition.terms) == 1 else (None,)
    lone = term.factors[0] if term and term.coefficient == 1 and len(term.factors) == 1 else None
    if lone is not None and isinstance(lone.atom, Applied) and lone.atom.function.name in _OPPOSITE:
        opposite = PRIMITIVES[_OPPOSITE[lone.atom.function.name]]
        atom = applied(opposite, lone.atom.arguments, {}, lone.atom.shape, True)
        return mapped(condition, lambda a: atom if a == lone.atom else None, {})
    return plus(constant(1), scaled(condition, -1))


@means("equal")
def _equal(a: Expression, b: Expression) -> Expression | None:
    return constant(1, a.shape) if a == b else None


@means("not_equal")
def _not_equal(a: Expression, b: Expression) -> Expression | None:
    """Nothing differs from itself but a NaN, which a derivation has none of."""
    return constant(0, a.shape) if a == b else None


@means("bitwise_and", "logical_and")
def _and(a: Expression, b: Expression) -> Expression | None:
    known = [e for e in (a, b) if e.number is not None]
    return None if not known else (b if known[0] is a else a) if known[0].number else constant(0)


@means("bitwise_or", "logical_or")
def _or(a: Expression, b: Expression) -> Expression | None:
    known = [e for e in (a, b) if e.number is not None]
    return None if not known else constant(1) if known[0].number else (b if known[0] is a else a)


@means("exp")
def _exp(x: Expression) -> Expression | None:
    """exp(a + log b) is exp(a) b; and exp(a - max(a)) is exp(a) / exp(max(a)), so that softmax loses its shift."""
    split = [t for t in x.terms if _name_of(t) in ("log", "max", "finite_top") and t.coefficient.denominator == 1]
    if not split or (len(split) == len(x.terms) and _name_of(split[0]) != "log"):
        return None
    factors = [exponential(Expression(x.shape, tuple(t for t in x.terms if t not in split)))]
    for t in split:
        [f] = t.factors
        base = expression(x.shape, [Term(Fraction(1), (f,))])
        if isinstance(f.atom, Applied) and f.atom.function.name == "log":
            base = expression(x.shape, [replaced(Term(Fraction(1)), f, f.atom.arguments[0], x.rank)])
        else:
            base = exponential(base)
        factors.append(power(base, t.coefficient))
    return times(*factors)


def exponential(x: Expression) -> Expression:
    """exp of an expression, as it is."""
    if x.number == 0:
        return constant(1, x.shape)
    return applied(PRIMITIVES["exp"], [x], {}, x.shape, True) if x.terms else constant(1, x.shape)


def _name_of(t: Term) -> str:
    """The name of the function that a term is a multiple of."""
    lone = t.factors[0].atom if len(t.factors) == 1 and not t.bound and t.factors[0].power == 1 else None
    return lone.function.name if isinstance(lone, Applied) else ""


@means("log")
def _log(x: Expression) -> Expression | None:
    """log(exp(a) b) is a + log(b)."""
    [t] = x.terms if len(x.terms) == 1 else (None,)
    if t is None:
        return None
    powers = [f for f in t.factors if _is_exp(f.atom) and all(i < x.rank for i in f.labels)]
    if not powers:
        return None
    rest = expression(x.shape, [Term(t.coefficient, tuple(f for f in t.factors if f not in powers), t.bound)])
    exponents = [
        scaled(expression(x.shape, [replaced(Term(Fraction(1)), f._replace(power=Fraction(1)), e, x.rank)]), f.power)
        for f in powers
        for e in f.atom.parts()
    ]
    logarithm = applied(PRIMITIVES["log"], [rest], {}, x.shape, True) if rest.number != 1 else constant(0, x.shape)
    return plus(*exponents, logarithm)


def _is_exp(atom: object) -> bool:
    return isinstance(atom, Applied) and atom.function.name == "exp"


def _constant_power(x: Expression, exponent: float) -> Expression | None:
    fraction = Fraction(repr(float(exponent))).limit_denominator(1000)
    return power(x, fraction) if float(fraction) == exponent else None


@means("sum")
def _sum(x: Expression, *, axis: tuple[int, ...], keepdims: bool = False) -> Expression:
    return summed(x, axis, keepdims)


@means("mean")
def _mean(x: Expression, *, axis: tuple[int, ...], keepdims: bool = False) -> Expression:
    count = int(np.prod([x.shape[k] for k in axis], dtype=int))
    return scaled(summed(x, axis, keepdims), Fraction(1, count)) if count else constant(float("nan"))


@means("reshape")
def _reshape(x: Expression, *, new_shape: tuple[int, ...]) -> Expression | None:
    size = int(np.prod(x.shape, dtype=int))
    known = int(np.prod([n for n in new_shape if n != -1], dtype=int))
    shape = [n if n != -1 else size // max(known, 1) for n in new_shape]
    if [n for n in shape if n != 1] == [n for n in x.shape if n != 1]:
        return reshaped(x, shape)
    if not x.labels:  # the same everywhere
        return broadcast(reshaped(read_at(x, [At(0)] * x.rank), ()), tuple(shape))
    return None


@means("matmul")
def _matmul(a: Expression, b: Expression) -> Expression:
    letters = "abcdefgh"
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    lead = letters[: len(batch)]
    a, b = (broadcast(e, (*batch, *e.shape[-2:])) for e in (a, b))
    return contracted(a, b, [f"{lead}xy", f"{lead}yz"], f"{lead}xz")


@means("einsum")
def _einsum(*operands: Expression, inputs: tuple[str, ...], output: str) -> Expression | None:
    if any(len(set(names)) != len(names) for names in inputs):
        return None
    first, names = operands[0], inputs[0]
    for other, its in zip(operands[1:], inputs[1:], strict=True):  # sums are left to the last step
        joined = names + "".join(c for c in its if c not in names)
        first, names = contracted(first, other, [names, its], joined), joined
    missing = [k for k, c in enumerate(names) if c not in output]
    kept = [c for c in names if c in output]
    return transposed(summed(first, missing), [kept.index(c) for c in output])


@means("getitem")
def _getitem(x: Expression, *positions: Expression, template: tuple[Any, ...]) -> Expression | None:
    places = _places(template, x.rank, positions)
    return None if places is None else read_at(x, _within(places, x.shape))


@means("index_add")
def _index_add(v: Expression, *positions: Expression, template: Any, size: tuple[int, ...]) -> Expression | None:
    places = _places(template, len(size), positions)
    return None if places is None else put_at(v, _within(places, size), size)


def _places(template: tuple[Any, ...], rank: int, positions: Sequence[Expression]) -> list[At | None] | None:
    """The fixed places of an index that is made of whole numbers and whole axes."""
    if positions or any(part is None for part in template):
        return None
    parts = list(template)
    if any(part is ... for part in parts):
        at = next(n for n, part in enumerate(parts) if part is ...)
        parts[at : at + 1] = [slice(None)] * (rank - len(parts) + 1)
    parts += [slice(None)] * (rank - len(parts))
    if not all(part == slice(None) or isinstance(part, int | np.integer) for part in parts):
        return None
    return [None if isinstance(p, slice) else At(int(p), getattr(p, "name", "")) for p in parts]


def _within(places: Sequence[At | None], shape: Sequence[int]) -> list[At | None]:
    """The places counted from the start of each axis."""
    return [at and At(at.position % n, at.name) for at, n in zip(places, shape, strict=True)]
