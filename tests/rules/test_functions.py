"""NumPy's functions as users call them: the value is NumPy's own, the gradient agrees with differences and with HIPS
autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import pullback as pb
from pullback.core.tensor import RULES

A = np.random.default_rng(0).uniform(0.4, 2.0, (3, 4))
B = np.random.default_rng(1).uniform(0.4, 2.0, (4, 3))
V = np.random.default_rng(2).uniform(0.4, 2.0, 4)
T = np.random.default_rng(3).uniform(0.4, 2.0, (2, 3, 4))

# Each is called with NumPy's namespace (or autograd's) and the tracked array.
CALLS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "sum": (lambda np, x: np.sum(x, axis=-1, keepdims=True), A),
    "sum of bool mask": (lambda np, x: np.sum(x * (x > 1)), A),
    "add.reduce": (lambda np, x: np.add.reduce(x, axis=1), A),
    "mean": (lambda np, x: np.mean(x, axis=(0, 1)), A),
    "var": (lambda np, x: np.var(x, axis=0, ddof=1), A),
    "std": (lambda np, x: x.std(axis=1, keepdims=True), A),
    "prod": (lambda np, x: np.prod(x, axis=1), A),
    "prod of all": (lambda np, x: np.prod(x[:, :1] - A[0, 0]), A),
    "prod keepdims": (lambda np, x: np.prod(x, axis=(0, 2), keepdims=True), T),
    "cumprod": (lambda np, x: np.cumprod(x, axis=1), A),
    "cumsum flat": (lambda np, x: np.cumsum(x), A),
    "add.accumulate": (lambda np, x: np.add.accumulate(x, axis=0), A),
    "multiply.accumulate": (lambda np, x: np.multiply.accumulate(x, axis=1), A),
    "multiply.reduce": (lambda np, x: np.multiply.reduce(x, axis=0), A),
    "logsumexp": (lambda np, x: np.logaddexp.reduce(x, axis=1), A),
    "logsumexp keepdims": (lambda np, x: np.logaddexp.reduce(x, axis=0, keepdims=True), A),
    "maximum.reduce": (lambda np, x: np.maximum.reduce(x, axis=0), A),
    "minimum.reduce": (lambda np, x: np.minimum.reduce(x, axis=1), A),
    "max": (lambda np, x: x.max(axis=1), A),
    "min": (lambda np, x: x.min(), A),
    "ptp": (lambda np, x: np.ptp(x, axis=0), A),
    "diff": (lambda np, x: np.diff(x, n=2, axis=1), A),
    "sort": (lambda np, x: np.sort(x, axis=0), A),
    "sort flat": (lambda np, x: np.sort(x, axis=None), A),
    "partition": (lambda np, x: np.sort(np.partition(x, 2, axis=1)[:, :2], axis=1), A),
    "reshape": (lambda np, x: np.reshape(x, (2, -1)), A),
    "reshape F": (lambda np, x: np.reshape(x, (2, 6), order="F"), A),
    "method reshape": (lambda np, x: x.reshape(2, 6), A),
    "ravel": (lambda np, x: x.ravel(), A),
    "ravel F": (lambda np, x: np.ravel(x, order="F"), A),
    "flatten": (lambda np, x: x.flatten(), A),
    "transpose": (lambda np, x: x.transpose(2, 0, 1), T),
    "T": (lambda np, x: x.T, A),
    "mT": (lambda np, x: x.mT, T),
    "swapaxes": (lambda np, x: np.swapaxes(x, 0, -1), T),
    "moveaxis": (lambda np, x: np.moveaxis(x, (0, 1), (-1, 0)), T),
    "rollaxis": (lambda np, x: np.rollaxis(x, 2, 0), T),
    "expand_dims": (lambda np, x: np.expand_dims(x, (0, 2)), A),
    "squeeze": (lambda np, x: np.squeeze(x[:, :1], axis=1), A),
    "broadcast_to": (lambda np, x: np.broadcast_to(x, (2, 3, 4)), A),
    "concatenate": (lambda np, x: np.concatenate([x, np.ones((1, 4)), x * 2], axis=0), A),
    "concatenate flat": (lambda np, x: np.concatenate((x, x), axis=None), A),
    "stack": (lambda np, x: np.stack([x, x**2], axis=1), A),
    "vstack": (lambda np, x: np.vstack([x, x[0]]), A),
    "hstack": (lambda np, x: np.hstack([x, x[:, :1]]), A),
    "dstack": (lambda np, x: np.dstack([x, x]), A),
    "column_stack": (lambda np, x: np.column_stack([x[:, 0], x]), A),
    "append": (lambda np, x: np.append(x, x[0]), A),
    "split": (lambda np, x: np.split(x, 2, axis=1)[1] * np.split(x, 2, axis=1)[0], A),
    "array_split": (lambda np, x: np.array_split(x, 3, axis=1)[0], A),
    "tile": (lambda np, x: np.tile(x, (2, 1, 3)), A),
    "repeat": (lambda np, x: np.repeat(x, 3, axis=1), A),
    "repeat each": (lambda np, x: np.repeat(x, [1, 0, 2], axis=0), A),
    "repeat flat": (lambda np, x: np.repeat(x, 2), A),
    "flip": (lambda np, x: np.flip(x, 0), A),
    "fliplr": (lambda np, x: np.fliplr(x), A),
    "flipud": (lambda np, x: np.flipud(x), A),
    "roll": (lambda np, x: np.roll(x, 2, axis=1), A),
    "roll flat": (lambda np, x: np.roll(x, -1), A),
    "pad": (lambda np, x: np.pad(x, ((1, 2), (0, 3))), A),
    "pad value": (lambda np, x: np.pad(x, 1, constant_values=5.0), A),
    "pad reflect": (lambda np, x: np.pad(x, ((1, 1), (2, 1)), mode="reflect"), A),
    "pad edge": (lambda np, x: np.pad(x, 1, mode="edge"), A),
    "pad wrap": (lambda np, x: np.pad(x, 2, mode="wrap"), A),
    "getitem slice": (lambda np, x: x[1:, ::-2], A),
    "getitem mixed": (lambda np, x: x[[0, 2, 0], 1:3], A),
    "getitem repeated": (lambda np, x: x[:, [1, 1, 1]], A),
    "getitem separated": (lambda np, x: x[[0, 1], :, [1, 2]], T),
    "getitem bool": (lambda np, x: x[A > 1], A),
    "getitem bool rows": (lambda np, x: x[np.array([True, False, True])], A),
    "getitem scalar": (lambda np, x: x[1, 2], A),
    "getitem newaxis": (lambda np, x: x[:, None, 0], A),
    "take": (lambda np, x: np.take(x, [[0, 2], [1, 1]], axis=1), A),
    "take flat": (lambda np, x: x.take([3, 3, 5]), A),
    "take_along_axis": (lambda np, x: np.take_along_axis(x, np.argsort(A, axis=1), axis=1), A),
    "where": (lambda np, x: np.where(A > 1, x, -x), A),
    "clip": (lambda np, x: np.clip(x, 0.8, 1.5), A),
    "method clip": (lambda np, x: x.clip(0.8), A),
    "round": (lambda np, x: x + np.round(x, 1), A),
    "diagonal": (lambda np, x: np.diagonal(x, 1), A),
    "trace": (lambda np, x: np.trace(x), A),
    "diag of vector": (lambda np, x: np.diag(x, 1), V),
    "diag of matrix": (lambda np, x: np.diag(x), A),
    "tril": (lambda np, x: np.tril(x), A),
    "triu": (lambda np, x: np.triu(x, 1), A),
    "dot": (lambda np, x: np.dot(x, B), A),
    "dot vector": (lambda np, x: np.dot(x, V) + np.dot(V, x.T), A),
    "dot nd": (lambda np, x: np.dot(x, T.transpose(0, 2, 1)), A),
    "inner": (lambda np, x: np.inner(x, x), A),
    "outer": (lambda np, x: np.outer(x, V), A),
    "matmul operator": (lambda np, x: x @ B @ x, A),
    "rmatmul": (lambda np, x: B @ x, A),
    "matmul vectors": (lambda np, x: x @ x, V),
    "matmul batch": (lambda np, x: x @ T.transpose(0, 2, 1), T),
    "tensordot": (lambda np, x: np.tensordot(x, T, axes=([0, 1], [1, 2])), A),
    "tensordot int": (lambda np, x: np.tensordot(x, B, axes=1), A),
    "einsum": (lambda np, x: np.einsum("ij,jk,k->i", x, B, x[:, 0]), A),
    "einsum trace": (lambda np, x: np.einsum("ii->i", x[:, :3]), A),
    "einsum implicit": (lambda np, x: np.einsum("ij,jk", x, B), A),
    "einsum ellipsis": (lambda np, x: np.einsum("...ij,...j->...i", x, V), T),
    "kron": (lambda np, x: np.kron(x, B), A),
    "vdot": (lambda np, x: np.vdot(x, A), A),
    "norm": (lambda np, x: np.linalg.norm(x), A),
    "norm axis": (lambda np, x: np.linalg.norm(x, axis=1), A),
    "norm 1": (lambda np, x: np.linalg.norm(x[0], 1), A),
    "norm inf": (lambda np, x: np.linalg.norm(x[0], np.inf), A),
    "norm 3": (lambda np, x: np.linalg.norm(x, 3, axis=0), A),
    "modf": (lambda np, x: np.modf(x)[0], A),
    "frexp": (lambda np, x: np.frexp(x)[0] * 3.0, A),
    "divmod": (lambda np, x: divmod(x, 0.3)[1], A),
    "power": (lambda np, x: x**2 + x**0.5 + x**-1 + 2.0**x + x**x, A),
    "power 0 and 1": (lambda np, x: x**1 + x**0, A),
    "reflected": (lambda np, x: (1 - x) + (2 / x) + (3 * x) + (4 % x) - (-x) + abs(-x), A),
    "atleast_3d": (lambda np, x: np.atleast_3d(x), A),
    "meshed": (lambda np, x: x[:, None] * x[None, :], V),
    "full_like": (lambda np, x: np.full_like(x, 2.0) * x, A),
}
# What autograd 1.9 has no rule for, or fails on.
NOT_IN_AUTOGRAD = {
    "method clip", "mT", "add.reduce", "add.accumulate", "multiply.accumulate", "multiply.reduce", "logsumexp",
    "logsumexp keepdims", "maximum.reduce", "minimum.reduce", "ptp", "cumprod", "rollaxis", "modf", "frexp",
    "divmod", "tril", "triu", "round", "diag of vector", "pad reflect", "pad edge", "pad wrap", "partition",
    "dstack", "vdot", "take_along_axis", "prod of all", "norm 1", "norm inf", "power 0 and 1", "full_like",
    "transpose", "broadcast_to", "pad", "diagonal", "diag of matrix", "outer", "einsum trace", "sort flat",
    "concatenate flat", "take flat", "norm axis", "add", "reshape F", "ravel F", "append", "sum of bool mask",
    "reflected", "kron", "pad value", "take", "expand_dims", "flip", "repeat each", "var", "sort",
    "prod keepdims",
}  # fmt: skip
every_call = pytest.mark.parametrize("name", CALLS)


@every_call
def test_value_and_gradient(name: str) -> None:
    call, x = CALLS[name]
    value, pullback = pb.vjp(lambda x: call(np, x), x)
    np.testing.assert_allclose(value, call(np, x), rtol=1e-13)
    assert np.shape(value) == np.shape(call(np, x))
    u = np.random.default_rng(7).normal(size=np.shape(value))
    v = np.random.default_rng(8).normal(size=x.shape)
    h = 1e-4

    def at(t: float) -> Any:
        return np.sum(u * call(np, x + t * v))

    expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    np.testing.assert_allclose(np.sum(pullback(u)[0] * v), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.sum(u * pb.jvp(lambda x: call(np, x), (x,), (v,))[1]), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in NOT_IN_AUTOGRAD])
def test_gradient_is_that_of_autograd(name: str) -> None:
    call, x = CALLS[name]
    ours = pb.grad(lambda x: np.sum(np.sin(call(np, x))))(x)
    theirs = autograd.grad(lambda x: anp.sum(anp.sin(call(anp, x))))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@every_call
def test_functions_keep_float32(name: str) -> None:
    call, x = CALLS[name]
    plain = call(np, x.astype(np.float32))
    value, pullback = pb.vjp(lambda x: call(np, x), x.astype(np.float32))
    assert value.dtype == plain.dtype
    assert pullback(np.ones(value.shape, value.dtype))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: np.max(x), [0.5, 0.5, 0.0]),
        (lambda x: np.min(x), [0.0, 0.0, 1.0]),
        (lambda x: np.maximum(x, 2.0).sum(), [0.5, 0.5, 0.0]),
        (lambda x: np.clip(x, 1.0, 2.0).sum(), [0.5, 0.5, 0.5]),
        (lambda x: np.abs(x - 2.0).sum(), [0.0, 0.0, -1.0]),
        (lambda x: np.fmax(x, 2.0).sum(), [0.5, 0.5, 0.0]),
    ],
)
def test_ties_share_equally(call: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(pb.grad(call)(np.array([2.0, 2.0, 1.0])), expected)


def test_norm_at_zero_has_gradient_zero() -> None:
    np.testing.assert_array_equal(pb.grad(np.linalg.norm)(np.zeros(3)), np.zeros(3))
    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(pb.grad(lambda x: np.sum(np.linalg.norm(x, axis=1)))(x), [[0, 0], [0.6, 0.8]])
    assert np.isfinite(pb.hessian(np.linalg.norm)(np.array([3.0, 4.0]))).all()


def test_products_with_zeros_have_all_their_derivatives() -> None:
    x = np.array([2.0, 0.0, 3.0])
    np.testing.assert_allclose(pb.grad(np.prod)(x), [0.0, 6.0, 0.0])
    np.testing.assert_allclose(pb.hessian(np.prod)(x), [[0, 3, 0], [3, 0, 2], [0, 2, 0]])


def test_power_at_zero() -> None:
    assert pb.grad(lambda x: x**2)(0.0) == 0.0
    assert pb.grad(lambda x: np.power(x, np.float64(0.0)))(0.0) == 0.0
    assert pb.grad(lambda p: np.power(0.0, p))(2.0) == 0.0


def test_where_keeps_the_other_branch_out() -> None:
    x = np.array([0.0, 4.0])
    with np.errstate(divide="ignore"):
        g = pb.grad(lambda x: np.sum(np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), 0.0)))(x)
    np.testing.assert_allclose(g, [0.0, 0.25])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.argmax(x), lambda x: np.argsort(x, axis=0), lambda x: np.any(x > 1), lambda x: np.nonzero(x)[0],
        lambda x: np.isclose(x, 1.0), lambda x: np.allclose(x, x), lambda x: np.searchsorted(np.ravel(x), 1.0),
        lambda x: x > 1, lambda x: np.shape(x), lambda x: np.count_nonzero(x), lambda x: x.argmin(axis=1),
        lambda x: np.array_equal(x, x), lambda x: x == x, lambda x: np.isnan(x),
    ],
)  # fmt: skip
def test_answers_without_a_derivative_are_plain(call: Any) -> None:
    seen = []

    def f(x: Any) -> Any:
        seen.append(call(x))
        return np.sum(x)

    pb.grad(f)(A)
    assert not isinstance(seen[0], pb.Tensor)
    np.testing.assert_array_equal(seen[0], call(A))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: np.convolve(x, x), "numpy.convolve"),
        (lambda x: np.add.reduceat(x, [0, 1]), "np.add.reduceat"),
        (lambda x: np.gcd(x, x), "np.gcd"),
        (lambda x: np.sum(x, where=x > 1), "where"),
        (lambda x: np.add(x, x, where=np.array([True, False, True, True])), "where"),
        (lambda x: np.pad(x, 1, mode="mean"), "mean"),
    ],
)
def test_a_function_without_a_rule_says_so(call: Any, name: str) -> None:
    with pytest.raises(pb.NoRuleError, match=name):
        pb.grad(lambda x: np.sum(call(x)))(V)


def test_every_rule_is_for_a_callable() -> None:
    assert all(callable(function) and callable(rule) for function, rule in RULES.items())
