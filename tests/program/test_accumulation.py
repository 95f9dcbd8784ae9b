"""Sums of products, and of parts put at an index, into the memory of what they are added to."""

from __future__ import annotations

import numpy as np
import pytest

import pullback as pb
from pullback.core import tree

RNG = np.random.default_rng(0)
A, B, X = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 6)), RNG.normal(size=(5, 6))


def several(x, a, b):
    return x + a @ b + (a * 2.0) @ b + a @ (b - 1.0)


def used_again(x, a, b):
    y = np.tanh(x)
    return y + a @ b, y * 2.0


def seen_again(x, a, b):
    y = np.tanh(x)
    turned = y.T
    return y + a @ b, turned * 2.0


def of_itself(x, a, b):
    y = np.tanh(a @ b)[:, :5]
    return y + y @ y


def through_a_view(x, a, b):
    y = np.tanh(x)
    return (y.T + b.T @ a.T).T * 3.0, np.sum(y[1:])


def read_before(x, a, b):
    y = np.tanh(x)
    dense = np.tanh(y.T)  # a dense copy of the transpose is made, which must not serve below
    z = y + a @ b
    return dense, z.T * 2.0


def twice_as_a_factor(x, a, b):
    y = a @ b
    return y + y


FUNCTIONS = [several, used_again, seen_again, of_itself, through_a_view, read_before, twice_as_a_factor]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_compiled_as_eager(f, dtype):
    arguments = [each.astype(dtype) for each in (X, A, B)]
    compiled = pb.compile(f)
    for _ in range(2):  # the second run finds the arena as the first one left it
        for got, expected in zip(tree.leaves(compiled(*arguments)), tree.leaves(f(*arguments)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    assert all(np.array_equal(each, old.astype(dtype)) for each, old in zip(arguments, (X, A, B), strict=True))


def parts(x):
    total = 0.0
    for k in range(5):
        total = total + np.sum(np.tanh(x[k]) * x[k, ::-1]) + np.sum(x[k:, 1:3] ** 2) + x[k, 2] * x[-1, 0]
    return total


@pytest.mark.parametrize("size", [6, 200], ids=["machine", "numpy"])
def test_gradients_of_parts_go_to_their_place(size):
    x = np.random.default_rng(1).normal(size=(5, size))
    compiled = pb.compile(pb.grad(parts))
    text = str(compiled.explain(x).after)
    assert text.count("index_accumulate") >= 10
    for _ in range(2):
        np.testing.assert_allclose(compiled(x), pb.grad(parts)(x), rtol=1e-12)


def test_the_weights_of_a_recurrent_network():
    def loss(w, x):
        h = np.zeros(7)
        for row in x:
            h = np.tanh(row + h @ w)
        return np.sum(h * h)

    w, x = RNG.normal(size=(7, 7)), RNG.normal(size=(9, 7))
    compiled = pb.compile(pb.grad(loss))
    assert "multiply_accumulate" in str(compiled.explain(w, x).after)
    np.testing.assert_allclose(compiled(w, x), pb.grad(loss)(w, x), rtol=1e-11)
    direction = np.ones_like(w)
    h = 1e-5
    slope = (loss(w + h * direction, x) - loss(w - h * direction, x)) / (2 * h)
    np.testing.assert_allclose(np.sum(compiled(w, x) * direction), slope, rtol=1e-6)


def test_an_array_of_one_element_among_numbers():
    def f(x, y):
        a, b = x[0] * y[1], np.sin(y[0])
        return a * b + x[0] * b + np.sum(x * a) * y[2] + x[-1]

    x, y = np.array([0.7]), np.array([0.3, -1.2, 2.0])
    compiled = pb.compile(pb.grad(f, argnums=(0, 1)))
    for got, expected in zip(compiled(x, y), pb.grad(f, argnums=(0, 1))(x, y), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
