"""Generated loops: the same numbers as NumPy's to a few units in the last place, and groups that keep the order."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback.kernels import cache

FUNCTIONS = {
    "exp": np.exp, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "log": np.log, "sin": np.sin,
    "cos": np.cos, "sqrt": np.sqrt, "sign": np.sign, "absolute": np.abs, "negative": np.negative, "square": np.square,
    "power": lambda x: x**1.5, "reciprocal": np.reciprocal, "fabs": np.fabs,
    "maximum": lambda x: np.maximum(x, 1), "minimum": lambda x: np.minimum(1, x),
}  # fmt: skip
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-40, 88.7, -87.3, -104.0, 710.0, -746.0, 4e-4, 7.91]


def steps_of(compiled, *args):
    return [step.primitive.name for step in compiled.explain(*args).after.steps]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_within_a_few_units_in_the_last_place(name, dtype):
    f = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([SPECIAL, rng.normal(size=3000), 30 * rng.normal(size=2000)]).astype(dtype)
    compiled = pb.compile(lambda x: f(x) * 2.0)
    with np.errstate(all="ignore"):
        y, plain, exact = compiled(x), f(x) * dtype(2), (f(x.astype(np.longdouble)) * 2).astype(dtype)
        assert [each for each in steps_of(compiled, x) if each.startswith("loop[")]
        np.testing.assert_array_equal(np.isnan(y), np.isnan(plain))
        np.testing.assert_array_equal(np.isinf(y), np.isinf(plain))
        normal = np.isfinite(plain) & (np.abs(plain) >= 4 * np.finfo(dtype).tiny)
        assert np.max(np.abs(y[normal] - exact[normal]) / np.spacing(np.abs(exact[normal]))) <= 4
        assert np.all(np.abs((y - plain)[np.isfinite(plain) & ~normal]) <= 4 * np.finfo(dtype).tiny)
        np.testing.assert_array_equal(np.signbit(y[normal]), np.signbit(plain[normal]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=12),
    st.sampled_from([(70, 67), (5000,), (3, 40, 41), (1, 4999)]),
    st.sampled_from([np.float32, np.float64]),
)
def test_random_chains_equal_the_function(choices, shape, dtype):
    table = [
        np.add, np.subtract, np.multiply, np.maximum, lambda x, y: np.where(x > y, x, y * 0.5),
        lambda x, y: np.tanh(x) * y, lambda x, y: (x < y) * x, lambda x, y: x / (1.0 + np.abs(y)),
        lambda x, y: np.where((x > 0) & ~(y >= 0), -x, y), lambda x, y: np.flip(x) * 0.01 + y,
    ]  # fmt: skip

    def f(x, row, number):
        values = [x, row, number, np.sqrt(np.abs(x))]
        for which, first, second in choices:
            values.append(table[which](values[-1 - first % len(values)], values[-1 - second % len(values)]))
        return values[-1], sum(np.sum(value) for value in values)

    rng = np.random.default_rng(1)
    arguments = rng.normal(size=shape).astype(dtype), rng.normal(size=shape[-1:]).astype(dtype), dtype(0.3)
    with np.errstate(all="ignore"):
        for got, expected in zip(pb.compile(f)(*arguments), f(*arguments), strict=True):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            tolerance = 1e-11 if dtype is np.float64 else 2e-4
            scale = np.max(np.abs(expected))
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)


def test_steps_on_one_shape_are_one_pass():
    def f(x, bias, g):
        y = np.maximum(x @ x + bias, 0.0)
        return y, g * (y > 0), np.sum(y)

    x, bias, g = (np.random.default_rng(0).normal(size=size).astype(np.float32) for size in ((80, 80), 80, (80, 80)))
    compiled = pb.compile(f)
    made = [each for each in steps_of(compiled, x, bias, g) if each.startswith("loop[")]
    assert made == ["loop[add, maximum, greater, multiply]"]
    for got, expected in zip(compiled(x, bias, g), f(x, bias, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_step_outside_that_takes_a_value_closes_the_group():
    def f(x):
        y = np.exp(x) * 2.0
        ordered = np.sort(y, axis=0)  # between two groups
        return y * 3.0 + ordered

    x = np.random.default_rng(0).normal(size=(100, 60))
    compiled = pb.compile(f)
    assert sum(each.startswith("loop[") for each in steps_of(compiled, x)) == 2
    np.testing.assert_allclose(compiled(x), f(x), rtol=1e-12)


def test_arrays_that_are_given_away_are_updated_in_place():
    step = pb.compile(lambda p, g: (p - 0.1 * g, np.sum(g)), donate=(0,))
    p, g = np.ones((90, 90), np.float32), np.full((90, 90), 2.0, np.float32)
    first, _ = step(p, g)
    second, _ = step(first, g)
    assert np.shares_memory(first, second)
    np.testing.assert_allclose(second, 0.6, rtol=1e-6)
    np.testing.assert_array_equal(p, 1.0)


def test_inputs_in_any_layout_and_offset():
    f = pb.compile(lambda x, y: np.tanh(x) - y * 2.0)
    x, y = np.random.default_rng(0).normal(size=(2, 130, 70))
    for a, b in ((x.T, y.T), (x[::-1, 1:], y[:, 1:]), (np.asfortranarray(x), y), (x[1:, ::2], y[1:, ::2])):
        np.testing.assert_allclose(f(a, b), np.tanh(a) - b * 2.0, rtol=1e-13, atol=1e-14)


def test_a_damaged_file_is_written_again(tmp_path):
    program = (
        "import numpy as np, pullback as pb; x = np.linspace(0, 1, 5000);"
        "assert np.allclose(pb.compile(lambda x: np.exp(x) * 2.0)(x), np.exp(x) * 2.0)"
    )
    environment = {"PULLBACK_CACHE": str(tmp_path)}
    run = [sys.executable, "-c", program]
    subprocess.run(run, env={**os.environ, **environment}, check=True)
    (file,) = tmp_path.rglob("loop_*.o")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    subprocess.run(run, env={**os.environ, **environment}, check=True)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_survived(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(cache, "folder", lambda: blocked / "kernels")
    monkeypatch.setattr(cache, "_warned", [])
    x = np.linspace(0, 1, 5000)
    with pytest.warns(UserWarning, match="cannot be written"):
        np.testing.assert_allclose(pb.compile(lambda x: np.exp(x) * 2.125)(x), np.exp(x) * 2.125)


def test_a_constant_is_not_the_value_of_that_number_nor_a_zero_that_of_the_other_sign():
    """Loops that differ in nothing else are told apart: numbers would be equal."""
    x = np.linspace(0, 1, 5000)
    for f in (lambda x: np.exp(x) + np.exp(x), lambda x: np.exp(x) + 1.0):
        np.testing.assert_allclose(pb.compile(f)(x), f(x), rtol=1e-13)
    for f in (lambda x: (x + x) * -0.0, lambda x: (x + x) * 0.0):
        np.testing.assert_array_equal(np.signbit(pb.compile(f)(x)), np.signbit(f(x)))
