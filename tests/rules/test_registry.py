"""Every primitive in the registry: value, first and second derivatives in both modes, dtypes, sizes. Judged by
differences."""

from __future__ import annotations

from typing import Any

import differences
import numpy as np
import primitive_cases as table
import pytest

import pullback as pb
from pullback.core.primitive import PRIMITIVES, Elementwise

CASES = list(table.cases())
every_case = pytest.mark.parametrize("case", CASES, ids=table.identifier)


def directions(case: Any, seed: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=x.shape) for x in case.floats]


def cotangent(y: Any) -> Any:
    return np.random.default_rng(99).normal(size=np.shape(y))


@every_case
def test_value_is_that_of_the_plain_function(case: Any) -> None:
    plain = case.run(*case.floats)
    tracked, _ = pb.vjp(case.run, *case.floats)
    np.testing.assert_allclose(tracked, plain, rtol=1e-14)
    if case.primitive.name in table.NUMPY:
        np.testing.assert_array_equal(plain, table.NUMPY[case.primitive.name](*case.args))


@every_case
def test_first_derivatives(case: Any) -> None:
    vs = directions(case, 1)
    expected = differences.directional(case.run, case.floats, vs)
    y, tangent = pb.jvp(case.run, tuple(case.floats), tuple(vs))
    np.testing.assert_allclose(tangent, expected, rtol=1e-8, atol=1e-9)
    u = cotangent(y)
    gradients = pb.vjp(case.run, *case.floats)[1](u)
    total = sum(np.sum(g * v) for g, v in zip(gradients, vs, strict=True))
    np.testing.assert_allclose(total, np.sum(u * expected), rtol=1e-8, atol=1e-8)
    for g, x in zip(gradients, case.floats, strict=True):
        assert np.shape(g) == x.shape


@every_case
@pytest.mark.filterwarnings("ignore::pullback.IndependentWarning")  # as of a sum, whose gradient is constant
def test_second_derivatives_in_every_mixture_of_modes(case: Any) -> None:
    vs, ws = directions(case, 2), directions(case, 3)
    u = cotangent(case.run(*case.floats))

    def scalar(*xs: Any) -> Any:
        return np.sum(u * case.run(*xs))

    expected = differences.second_directional(scalar, case.floats, vs, ws)
    numbers = tuple(range(len(case.floats)))

    def slope(*xs: Any) -> Any:  # forward inside
        return pb.jvp(scalar, xs, tuple(vs))[1]

    def dot(*xs: Any) -> Any:  # reverse inside
        return sum(np.sum(g * v) for g, v in zip(pb.grad(scalar, numbers)(*xs), vs, strict=True))

    def total(gradients: Any) -> Any:
        return sum(np.sum(g * w) for g, w in zip(gradients, ws, strict=True))

    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(pb.jvp(slope, tuple(case.floats), tuple(ws))[1], expected, **close)
    np.testing.assert_allclose(pb.jvp(dot, tuple(case.floats), tuple(ws))[1], expected, **close)
    np.testing.assert_allclose(total(pb.grad(slope, numbers)(*case.floats)), expected, **close)
    np.testing.assert_allclose(total(pb.grad(dot, numbers)(*case.floats)), expected, **close)


# astype changes the dtype on purpose; np.float_power computes in float64 by definition.
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.primitive.name not in ("astype", "float_power")], ids=table.identifier
)
def test_float32_stays_float32(case: Any) -> None:
    floats = [x.astype(np.float32) for x in case.floats]
    y, pullback = pb.vjp(case.run, *floats)
    assert y.dtype == np.float32
    assert [g.dtype for g in pullback(np.ones(y.shape, np.float32))] == [np.float32] * len(floats)
    _, tangent = pb.jvp(case.run, tuple(floats), tuple(np.ones_like(x) for x in floats))
    assert tangent.dtype == np.float32


@pytest.mark.parametrize(
    "primitive", [p for p in PRIMITIVES.values() if isinstance(p, Elementwise) and p.name not in table.TABLE], ids=str
)
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (1,), (1, 1)])
def test_elementwise_on_zero_size_and_one_element(primitive: Any, shape: tuple[int, ...]) -> None:
    low, high = primitive.domain or (-2.0, 2.0)
    xs = [table.draw(shape, low, high, k) for k in range(len(primitive.partials))]
    y, pullback = pb.vjp(primitive, *xs)
    assert np.shape(y) == shape
    assert [np.shape(g) for g in pullback(np.ones(shape))] == [shape] * len(xs)


@pytest.mark.parametrize(
    "primitive", [p for p in PRIMITIVES.values() if isinstance(p, Elementwise) and p.name not in table.TABLE], ids=str
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_elementwise_keeps_bad_values_to_their_own_element(primitive: Any, bad: float) -> None:
    low, high = primitive.domain or (-2.0, 2.0)
    xs = [table.draw((4,), low, high, k) for k in range(len(primitive.partials))]
    clean = pb.vjp(primitive, *xs)[1](np.ones(4))
    spoilt = [x.copy() for x in xs]
    for x in spoilt:
        x[2] = bad
    y, pullback = pb.vjp(primitive, *spoilt)
    np.testing.assert_array_equal(y, primitive(*spoilt))
    keep = np.array([0, 1, 3])
    for g, expected in zip(pullback(np.ones(4)), clean, strict=True):
        np.testing.assert_array_equal(g[keep], expected[keep])


def test_every_real_ufunc_of_numpy_has_a_rule() -> None:
    """What NumPy has and pullback has not is listed here, so that a new ufunc in NumPy is noticed."""
    from pullback.core.tensor import RULES

    ufuncs = {name: f for name in dir(np) if isinstance(f := getattr(np, name), np.ufunc)}
    integer_only = {
        "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "invert", "bitwise_invert", "bitwise_count",
        "left_shift", "right_shift", "bitwise_left_shift", "bitwise_right_shift", "gcd", "lcm", "isnat",
    }  # fmt: skip
    missing = {name for name, f in ufuncs.items() if f not in RULES} - integer_only
    assert missing == set()


def test_a_name_can_be_declared_only_once() -> None:
    from pullback.core.primitive import Elementwise

    with pytest.raises(pb.PullbackError, match="already declared"):
        Elementwise(np.sin, lambda x: np.cos(x))
