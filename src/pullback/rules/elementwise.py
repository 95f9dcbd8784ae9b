"""Elementwise functions: NumPy's real ufuncs, each with the partial derivative of each argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pullback.core.primitive import Elementwise, Linear, Untracked, implements, unbroadcast
from pullback.core.tensor import Array, plain_value

_ufunc: Any
LN2, LN10 = math.log(2.0), math.log(10.0)


def ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0: a length's derivative at the origin."""
    zero = b == 0
    return np.where(zero, 0.0, a / np.where(zero, 1.0, b))


def _share(mine: Array, y: Array, other: Array) -> Array:
    """1 where this argument was selected, 1/2 where both were: ties share equally. A NaN is followed to where it came
    from."""
    chosen = (mine == y) | (mine != mine)
    return np.where(chosen & ((other == y) | (other != other)), 0.5, chosen)


# -- arithmetic ------------------------------------------------------------------------------------------------------
Elementwise(np.add, 1, 1)
Elementwise(np.subtract, 1, -1)
Elementwise(np.multiply, lambda x2: x2, lambda x1: x1)
Elementwise(np.divide, lambda x2: 1 / x2, lambda x2, y: -y / x2, domain=(0.5, 2.0))
Elementwise(np.negative, -1)
Elementwise(np.positive, 1)
Elementwise(np.absolute, lambda x: np.sign(x))
Elementwise(np.fabs, lambda x: np.sign(x))
Elementwise(np.square, lambda x: 2 * x)
Elementwise(np.sqrt, lambda y: 0.5 / y, domain=(0.2, 3.0))
Elementwise(np.cbrt, lambda y: 1 / (3 * np.square(y)), domain=(0.2, 3.0))
Elementwise(np.reciprocal, lambda y: -np.square(y), domain=(0.5, 2.0))
Elementwise(np.remainder, 1, lambda x1, x2: -np.floor(x1 / x2), domain=(0.6, 2.0))
Elementwise(np.fmod, 1, lambda x1, x2: -np.trunc(x1 / x2), domain=(0.6, 2.0))
Elementwise(np.hypot, lambda x1, y: ratio(x1, y), lambda x2, y: ratio(x2, y), domain=(0.5, 2.0))
Elementwise(np.float_power, lambda x1, x2: _power_base(x1, x2), lambda x1, y: _power_exponent(x1, y), domain=(0.5, 2.0))
Elementwise(np.ldexp, lambda x1, x2: np.ldexp(np.ones_like(x1), x2), 0)
Elementwise(np.copysign, lambda x1, x2: np.copysign(1.0, x1) * np.copysign(1.0, x2), 0, domain=(0.3, 2.0))
Elementwise(np.nextafter, 1, 0)


def _power_base(x1: Array, x2: Array) -> Array:
    """x2 x1^(x2 - 1), and 0 for an exponent of 0 whatever the base."""
    zero = x2 == 0
    return np.where(zero, 0.0, x2) * np.power(x1, np.where(zero, 1.0, x2 - 1))


def _power_exponent(x1: Array, y: Array) -> Array:
    """x1^x2 log x1, and its limit 0 at x1 = 0."""
    return y * np.log(np.where(x1 == 0, 1.0, x1))


def _power_constant(x: Array, *, exponent: float) -> Array:
    return np.power(x, exponent)


power = Elementwise(
    np.power, lambda x1, x2: _power_base(x1, x2), lambda x1, y: _power_exponent(x1, y), domain=(0.5, 2.0)
)
power_constant = Elementwise(
    _power_constant, lambda x, exponent: exponent * np.power(x, exponent - 1), name="power_constant", domain=(0.5, 2.0)
)


@implements(np.power)
def _power(x1: Array, x2: Array) -> Array:
    """Constant exponents, by far the commonest, have a rule that never takes a logarithm."""
    if isinstance(x2, int | float) and x2 not in (0, 1):
        return np.square(x1) if x2 == 2 else power_constant(x1, exponent=x2)
    return power(x1, x2)


@implements(np.divmod)
def _divmod(x1: Array, x2: Array) -> tuple[Array, Array]:
    return np.floor_divide(x1, x2), np.remainder(x1, x2)


@implements(np.modf)
def _modf(x: Array) -> tuple[Array, Array]:
    whole = np.trunc(x)
    return x - whole, whole


@implements(np.frexp)
def _frexp(x: Array) -> tuple[Array, Any]:
    exponent = np.frexp(plain_value(x))[1]
    return np.ldexp(x, -exponent), exponent


# -- exponentials and logarithms -------------------------------------------------------------------------------------
Elementwise(np.exp, lambda y: y)
Elementwise(np.exp2, lambda y: y * LN2)
Elementwise(np.expm1, lambda x: np.exp(x))
Elementwise(np.log, lambda x: 1 / x, domain=(0.2, 3.0))
Elementwise(np.log2, lambda x: 1 / (x * LN2), domain=(0.2, 3.0))
Elementwise(np.log10, lambda x: 1 / (x * LN10), domain=(0.2, 3.0))
Elementwise(np.log1p, lambda x: 1 / (1 + x), domain=(-0.5, 3.0))
Elementwise(
    np.logaddexp,
    lambda x1, y: np.exp(np.where(x1 == y, 0.0, x1 - y)),
    lambda x2, y: np.exp(np.where(x2 == y, 0.0, x2 - y)),
)
Elementwise(
    np.logaddexp2,
    lambda x1, y: np.exp2(np.where(x1 == y, 0.0, x1 - y)),
    lambda x2, y: np.exp2(np.where(x2 == y, 0.0, x2 - y)),
)

# -- trigonometry ----------------------------------------------------------------------------------------------------
Elementwise(np.sin, lambda x: np.cos(x))
Elementwise(np.cos, lambda x: -np.sin(x))
Elementwise(np.tan, lambda y: 1 + np.square(y), domain=(-1.0, 1.0))
Elementwise(np.arcsin, lambda x: 1 / np.sqrt(1 - np.square(x)), domain=(-0.8, 0.8))
Elementwise(np.arccos, lambda x: -1 / np.sqrt(1 - np.square(x)), domain=(-0.8, 0.8))
Elementwise(np.arctan, lambda x: 1 / (1 + np.square(x)))
Elementwise(
    np.arctan2,
    lambda x1, x2: x2 / (np.square(x1) + np.square(x2)),
    lambda x1, x2: -x1 / (np.square(x1) + np.square(x2)),
    domain=(0.5, 2.0),
)
Elementwise(np.sinh, lambda x: np.cosh(x))
Elementwise(np.cosh, lambda x: np.sinh(x))
Elementwise(np.tanh, lambda y: 1 - np.square(y))
Elementwise(np.arcsinh, lambda x: 1 / np.sqrt(np.square(x) + 1))
Elementwise(np.arccosh, lambda x: 1 / np.sqrt(np.square(x) - 1), domain=(1.5, 3.0))
Elementwise(np.arctanh, lambda x: 1 / (1 - np.square(x)), domain=(-0.8, 0.8))
for _ufunc in (np.degrees, np.rad2deg):
    Elementwise(_ufunc, 180 / math.pi)
for _ufunc in (np.radians, np.deg2rad):
    Elementwise(_ufunc, math.pi / 180)

# -- selections between two arguments, and steps ---------------------------------------------------------------------
for _ufunc in (np.maximum, np.minimum):
    Elementwise(_ufunc, lambda x1, x2, y: _share(x1, y, x2), lambda x1, x2, y: _share(x2, y, x1))
for _ufunc in (np.fmax, np.fmin):  # these pass over a NaN
    Elementwise(
        _ufunc,
        lambda x1, x2, y: np.where((x1 == y) & (x2 == y), 0.5, x1 == y),
        lambda x1, x2, y: np.where((x1 == y) & (x2 == y), 0.5, x2 == y),
    )
for _ufunc in (np.floor, np.ceil, np.trunc, np.rint, np.sign, np.spacing):
    Elementwise(_ufunc, 0)
Elementwise(np.floor_divide, 0, 0, domain=(0.6, 2.0))
Elementwise(np.heaviside, 0, lambda x1: x1 == 0)

where = Linear(
    lambda condition, x1, x2: np.where(condition, x1, x2),
    None,
    lambda g, condition, shape: unbroadcast(np.where(condition, g, 0.0), shape),
    lambda g, condition, shape: unbroadcast(np.where(condition, 0.0, g), shape),
    name="where",
)


@implements(np.where)
def _where(condition: Array, *branches: Array) -> Any:
    if not branches:
        return np.nonzero(plain_value(condition))
    return where(condition, *branches)


@implements(np.clip)
def _clip(a: Array, a_min: Array = None, a_max: Array = None, *, min: Array = None, max: Array = None) -> Array:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    if low is not None:
        a = np.maximum(a, low)
    return a if high is None else np.minimum(a, high)


@implements(np.round, np.around)
def _round(a: Array, decimals: int = 0) -> Array:
    return np.rint(a) if decimals == 0 else np.rint(a * 10.0**decimals) / 10.0**decimals


# -- comparisons, predicates and logic: results without a derivative -------------------------------------------------
for _ufunc in (
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    np.logical_and, np.logical_or, np.logical_xor, np.logical_not,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert,
    np.isfinite, np.isinf, np.isnan, np.signbit,
):  # fmt: skip
    Untracked(_ufunc)
