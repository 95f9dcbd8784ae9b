"""The machine for small programs: every elementwise instruction against NumPy, on ordinary and on special values."""

from __future__ import annotations

import numpy as np
import pytest

from pullback.kernels import machine
from pullback.kernels.emitter import lanes
from pullback.program.memory import aligned

ROOM = lanes("float32")

REFERENCE = {name: getattr(np, name) for name in [*machine.UNARY, *machine.BINARY] if name != "sigmoid"}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-30, 80.0, -80.0, 1e30]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.abs(x))) * np.where(x >= 0, 1.0, np.exp(-np.abs(x)))


def arena_of(dtype, *parts):
    """An arena with these arrays, each from a multiple of `ROOM` on, and the offsets of the arrays."""
    offsets = np.cumsum([0, *(-(-np.size(part) // ROOM) * ROOM for part in parts)])
    arena = aligned((int(offsets[-1]) + machine.SPARE,), np.dtype(dtype))
    arena[:] = np.nan  # what must not count
    for offset, part in zip(offsets, parts, strict=False):
        arena[offset : offset + np.size(part)] = np.ravel(part)
    return arena, [int(offset) for offset in offsets[:-1]]


def instructions(*rows):
    code = np.zeros((len(rows), machine.WIDTH), np.int64)
    for line, (name, *fields) in zip(code, rows, strict=True):
        line[: len(fields) + 1] = [machine.CODES[name], *fields]
    return code


def execute(name, out_size, *inputs, dtype):
    """One elementwise instruction on inputs of `out_size` elements, or of one."""
    arena, (out, *offsets) = arena_of(dtype, np.zeros(out_size), *inputs)
    operands = [part for x, offset in zip(inputs, offsets, strict=True) for part in (offset, int(np.size(x) > 1))]
    machine.run(dtype)(instructions((name, out_size, out, *operands)), arena)
    return arena[out : out + out_size]


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
@pytest.mark.parametrize("name", machine.BINARY)
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


SHAPES = [(1, 1, 1), (2, 3, 4), (5, 9, 1), (3, 6, 5), (1, 20, 20), (20, 1, 20), (6, 5, 16), (7, 3, 33), (9, 40, 70)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adding", [False, True])
def test_matrix_product(shape, dtype, adding):
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
    before = rng.normal(size=(rows, columns)).astype(dtype)
    behind = rng.normal(size=ROOM)
    together = np.concatenate([before.ravel(), behind])  # what follows the result at once is left as it is
    arena, (left, right, out) = arena_of(dtype, a.T, b, together)
    name = "matmul_add" if adding else "matmul"
    machine.run(dtype)(instructions((name, out, left, right, rows, inner, columns, 1, rows, columns)), arena)
    tolerance = 50 * np.finfo(dtype).eps
    expected = a @ b + before if adding else a @ b
    got = arena[out : out + before.size].reshape(rows, columns)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(arena[out + before.size : out + before.size + ROOM], behind.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 1), (3, 33, 1), (1, 4, 20), (2, 3, 4), (3, 5, 17)])
@pytest.mark.parametrize("name", ["sum", "max"])
def test_reductions(shape, dtype, name):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    behind = np.arange(ROOM)
    expected = getattr(x, name)(1).ravel()
    arena, (source, out) = arena_of(dtype, x, np.concatenate([0 * expected, behind]))
    machine.run(dtype)(instructions((name, out, source, *shape)), arena)
    np.testing.assert_allclose(arena[out : out + expected.size], expected, rtol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(arena[out + expected.size : out + expected.size + ROOM], behind)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_largest_of_numbers_with_a_nan_is_a_nan(axis):
    x = np.array([[1.0, np.nan, 2.0], [-np.inf, -np.inf, -np.inf]])
    shape = (1, 2, 3) if axis == 0 else (2, 3, 1)
    arena, (source, out) = arena_of(np.float64, x, np.zeros(3))
    machine.run(np.float64)(instructions(("max", out, source, *shape)), arena)
    expected = x.max(axis)
    np.testing.assert_array_equal(arena[out : out + expected.size], expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["copy", "copy_add"])
@pytest.mark.parametrize("row", [1, 3, 20, 41])
def test_copies_between_strides(name, dtype, row):
    rng = np.random.default_rng(0)
    source, before = rng.normal(size=(row, 4)).astype(dtype), rng.normal(size=(4, 2 * row)).astype(dtype)
    arena, (at, to) = arena_of(dtype, source, before)
    for dense in (False, True):
        arena[to : to + before.size] = before.ravel()
        steps = (row, 1) if dense else (1, 4)
        fields = (1, 1, 4, row, 0, 0, 2 * row, 1, 0, 0, *steps)
        machine.run(dtype)(instructions((name, to, at, *fields)), arena)
        expected = before.copy()
        part = source.reshape(4, row) if dense else source.T
        expected[:, :row] = part if name == "copy" else before[:, :row] + part
        np.testing.assert_array_equal(arena[to : to + before.size].reshape(before.shape), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["fill", "add", "sum", "max", "matmul", "copy"])
def test_a_single_number_leaves_its_neighbours_alone(name, dtype):
    behind = np.arange(ROOM)
    arena, (x, y, out) = arena_of(dtype, [2.0], [3.0], np.concatenate([[0.0], behind]))
    ones, zeros = (1, 1, 1, 1), (0, 0, 0, 0)
    fields = {
        "fill": (1, out, x), "add": (1, out, x, 0, y, 0), "sum": (out, x, 1, 1, 1), "max": (out, x, 1, 1, 1),
        "matmul": (out, x, y, 1, 1, 1, 1, 1, 1), "copy": (out, x, *ones, *zeros, *zeros),
    }[name]  # fmt: skip
    machine.run(dtype)(instructions((name, *fields)), arena)
    assert arena[out] == {"add": 5.0, "matmul": 6.0}.get(name, 2.0)
    np.testing.assert_array_equal(arena[out + 1 : out + 1 + ROOM], behind)
