"""The machine for small programs: every elementwise instruction against NumPy, on ordinary and on special values."""

from __future__ import annotations

import numpy as np
import pytest

from pullback.kernels import machine

REFERENCE = {
    name: getattr(np, name) for name in [*machine.UNARY, *machine.ARITHMETIC, *machine.CHOICES] if name != "sigmoid"
}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-30, 80.0, -80.0, 1e30]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.abs(x))) * np.where(x >= 0, 1.0, np.exp(-np.abs(x)))


def execute(name, out_size, *inputs, dtype):
    """One elementwise instruction on inputs of `out_size` elements, or of one."""
    arena = np.concatenate([np.zeros(out_size, dtype), *[np.ravel(x).astype(dtype) for x in inputs]])
    code = np.zeros((1, machine.WIDTH), np.int64)
    row, offset = [machine.CODES[name], out_size, 0], out_size
    for x in inputs:
        row += [offset, int(np.size(x) > 1)]
        offset += np.size(x)
    code[0, : len(row)] = row
    machine.run(dtype)(code, arena)
    return arena[:out_size]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", machine.UNARY)
def test_functions(name, dtype):
    x = np.concatenate([np.random.default_rng(0).normal(size=100) * 5, SPECIAL, np.linspace(-90, 90, 50)]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = REFERENCE.get(name, sigmoid)(x.astype(np.float64))
        if name in ("exp", "sigmoid"):  # what is too small for float32 is rounded like everything else
            expected = expected.astype(dtype)
    got = execute(name, x.size, x, dtype=dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    tiny = np.finfo(dtype).tiny
    np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps, atol=0 if name == "sqrt" else 2 * tiny)
    assert execute(name, 1, x[:1], dtype=dtype) == got[:1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", [*machine.ARITHMETIC, *machine.CHOICES])
def test_functions_of_two_with_broadcasting(name, dtype):
    x = np.repeat(SPECIAL, len(SPECIAL)).astype(dtype)
    y = np.tile(SPECIAL, len(SPECIAL)).astype(dtype)
    with np.errstate(all="ignore"):
        for a, b in ((x, y), (x, y[3]), (x[5], y), (x[7], y[7])):
            expected = np.broadcast_to(REFERENCE[name](a, b).astype(dtype), np.broadcast_shapes(a.shape, b.shape))
            got = execute(name, expected.size, a, b, dtype=dtype).reshape(expected.shape)
            np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)


def test_where():
    got = execute("where", 3, np.array([1.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.array(9.0), dtype=np.float64)
    np.testing.assert_array_equal(got, [1.0, 9.0, 3.0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 9, 1), (3, 6, 5)])
def test_matrix_product_and_sums(shape, dtype):
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
    arena = np.concatenate([np.ravel(a.T), np.ravel(b), np.zeros(rows * columns, dtype), np.zeros(columns, dtype)])
    product = a.size + b.size
    code = np.zeros((2, machine.WIDTH), np.int64)
    code[0, :10] = [machine.CODES["matmul"], product, 0, a.size, rows, inner, columns, 1, rows, columns]
    code[1, :6] = [machine.CODES["sum"], product + rows * columns, product, 1, rows, columns]
    machine.run(dtype)(code, arena)
    tolerance = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        arena[product : product + rows * columns].reshape(rows, columns), a @ b, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(arena[product + rows * columns :], (a @ b).sum(0), rtol=tolerance, atol=tolerance)
