"""Right backwards by hand: random compositions of layers, each layer's backward in one of several forms that are equal
in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any
Form = Callable[[Array, Array, Any], Any]
"""(cotangent, input, parameters) -> (gradient of the input, gradients of the parameters)."""


class Layer(NamedTuple):
    """A function of a matrix `(batch, features)` and parameters, with its backward in several forms."""

    forward: Callable[[Array, Any], Array]
    forms: tuple[Form, ...]
    draw: Callable[[np.random.Generator, int], tuple[Any, int]]  # parameters, and the features that come out


def nothing(rng: np.random.Generator, n: int) -> tuple[Any, int]:
    return {}, n


def softmax(x: Array) -> Array:
    e = np.exp(x - np.max(x, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def normalise(x: Array) -> Array:
    mean = np.mean(x, axis=0)
    var = np.mean((x - mean) ** 2, axis=0)
    return (x - mean) / np.sqrt(var + 0.1)


def normalised(x: Array) -> tuple[Array, Array]:
    inverse = (x.var(axis=0) + 0.1) ** -0.5
    return (x - x.mean(axis=0)) * inverse, inverse


def compact_norm(g: Array, x: Array, p: Any) -> Any:
    n, inverse = normalised(x)
    m = len(x)
    return inverse / m * (m * g - n * np.sum(g * n, axis=0) - g.sum(axis=0)), {}


def stepwise_norm(g: Array, x: Array, p: Any) -> Any:
    m, centred = len(x), x - x.mean(axis=0)
    inverse = (np.mean(centred**2, axis=0) + 0.1) ** -0.5
    d_var = np.sum(g * centred, axis=0) * -0.5 * inverse**3
    d_mean = -np.sum(g * inverse, axis=0) + d_var * np.mean(-2 * centred, axis=0)
    return g * inverse + d_var * 2 * centred / m + d_mean / m, {}


def jacobian_softmax(g: Array, x: Array, p: Any) -> Any:
    return np.stack([(np.diag(y) - np.outer(y, y)) @ row for y, row in zip(softmax(x), g, strict=True)]), {}


def outer_products(g: Array, x: Array, p: Any) -> Any:
    dW = sum(np.outer(a, b) for a, b in zip(x, g, strict=True))
    return (p["W"] @ g.T).T, {"W": dW, "b": np.ones(len(g)) @ g}


LAYERS: dict[str, Layer] = {
    "linear": Layer(
        lambda x, p: x @ p["W"] + p["b"],
        (
            lambda g, x, p: (g @ p["W"].T, {"W": x.T @ g, "b": g.sum(axis=0)}),
            lambda g, x, p: (
                np.einsum("bo,io->bi", g, p["W"]),
                {"W": np.einsum("bi,bo->io", x, g), "b": np.einsum("bo->o", g)},
            ),
            lambda g, x, p: (
                np.tensordot(g, p["W"], ((1,), (1,))),
                {"W": (g.T @ x).T, "b": g.mean(axis=0) * len(g)},
            ),
            outer_products,
        ),
        lambda rng, n: ({"W": rng.normal(size=(n, n + 1)), "b": rng.normal(size=n + 1)}, n + 1),
    ),
    "tanh": Layer(
        lambda x, p: np.tanh(x),
        (
            lambda g, x, p: (g * (1 - np.tanh(x) ** 2), {}),
            lambda g, x, p: (g / np.cosh(x) ** 2, {}),
            lambda g, x, p: (g * (1 - np.tanh(x)) * (1 + np.tanh(x)), {}),
            lambda g, x, p: (4 * g * sigmoid(2 * x) * (1 - sigmoid(2 * x)), {}),
        ),
        nothing,
    ),
    "sigmoid": Layer(
        lambda x, p: 1 / (1 + np.exp(-x)),
        (
            lambda g, x, p: (g * sigmoid(x) * (1 - sigmoid(x)), {}),
            lambda g, x, p: (g * np.exp(-x) / (1 + np.exp(-x)) ** 2, {}),
            lambda g, x, p: (g * sigmoid(x) * sigmoid(-x), {}),
        ),
        nothing,
    ),
    "relu": Layer(
        lambda x, p: np.maximum(x, 0),
        (
            lambda g, x, p: (g * (x > 0), {}),
            lambda g, x, p: (np.where(x > 0, g, 0.0), {}),
            lambda g, x, p: (g * (np.sign(x) + 1) / 2, {}),
            lambda g, x, p: (g - g * (x <= 0), {}),
        ),
        nothing,
    ),
    "softmax": Layer(
        lambda x, p: softmax(x),
        (
            lambda g, x, p: (softmax(x) * (g - np.sum(g * softmax(x), axis=1, keepdims=True)), {}),
            lambda g, x, p: (g * softmax(x) - softmax(x) * np.einsum("bc,bc->b", g, softmax(x))[:, None], {}),
            jacobian_softmax,
        ),
        nothing,
    ),
    "normalise": Layer(lambda x, p: normalise(x), (compact_norm, stepwise_norm), nothing),
    "scale": Layer(
        lambda x, p: x * p["gamma"] * p["a"],
        (
            lambda g, x, p: (
                g * p["gamma"] * p["a"],
                {"gamma": np.sum(g * x, axis=0) * p["a"], "a": np.sum(g * x * p["gamma"])},
            ),
            lambda g, x, p: (
                p["a"] * (g @ np.diag(p["gamma"])),
                {"gamma": p["a"] * np.diag(g.T @ x), "a": np.vdot(g, x * p["gamma"])},
            ),
        ),
        lambda rng, n: ({"gamma": rng.normal(size=n), "a": np.array(rng.normal())}, n),
    ),
    "product": Layer(
        lambda x, p: x * np.exp(-(x**2)),
        (
            lambda g, x, p: (g * (np.exp(-(x**2)) - 2 * x**2 * np.exp(-(x**2))), {}),
            lambda g, x, p: (g * (1 - 2 * x * x) / np.exp(x * x), {}),
        ),
        nothing,
    ),
    "cumulative": Layer(
        lambda x, p: np.cumsum(x, axis=1),
        (
            lambda g, x, p: (np.cumsum(g[:, ::-1], axis=1)[:, ::-1], {}),
            lambda g, x, p: (g @ np.tril(np.ones((x.shape[1], x.shape[1]))), {}),
        ),
        nothing,
    ),
    "length": Layer(
        lambda x, p: x / np.sqrt(np.sum(x**2, axis=1, keepdims=True) + 1),
        (
            lambda g, x, p: (_length(g, x), {}),
            lambda g, x, p: (_length_by_jacobian(g, x), {}),
        ),
        nothing,
    ),
}


def _length(g: Array, x: Array) -> Array:
    r = np.sqrt(np.sum(x**2, axis=1, keepdims=True) + 1)
    return g / r - x * np.sum(g * x, axis=1, keepdims=True) / r**3


def _length_by_jacobian(g: Array, x: Array) -> Array:
    rows = []
    for a, row in zip(g, x, strict=True):
        r = np.sqrt(row @ row + 1)
        y = row / r
        rows.append((np.eye(len(row)) - np.outer(y, y)) @ a / r)
    return np.stack(rows)


class Pair(NamedTuple):
    """A function, its right backward, and arguments."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]


def draw(seed: int) -> Pair:
    """A random composition of two to four layers, with skips, and perhaps a loss at the end."""
    rng = np.random.default_rng(seed)
    batch, features = int(rng.integers(2, 6)), int(rng.integers(2, 5))
    x = rng.normal(size=(batch, features))
    chosen: list[tuple[Layer, Form, bool]] = []
    params, names = [], []
    for _ in range(int(rng.integers(2, 5))):
        name = str(rng.choice(list(LAYERS)))
        layer = LAYERS[name]
        form = layer.forms[int(rng.integers(len(layer.forms)))]
        own, after = layer.draw(rng, features)
        skip = after == features and bool(rng.integers(2))
        chosen.append((layer, form, skip))
        params.append(own)
        names.append(name + ("+x" if skip else ""))
        features = after
    loss = bool(rng.integers(2))

    def forward(x: Array, params: Any) -> Array:
        for (layer, _, skip), own in zip(chosen, params, strict=True):
            y = layer.forward(x, own)
            x = x + y if skip else y
        return np.mean(x**2) if loss else x

    def backward(g: Array, x: Array, params: Any) -> Any:
        inputs = []
        for (layer, _, skip), own in zip(chosen, params, strict=True):
            inputs.append(x)
            y = layer.forward(x, own)
            x = x + y if skip else y
        if loss:
            g = g * 2 * x / x.size
        gradients: list[Any] = []
        for (_, form, skip), own, value in reversed(list(zip(chosen, params, inputs, strict=True))):
            d, d_own = form(g, value, own)
            g = g + d if skip else d
            gradients.insert(0, d_own)
        return g, gradients

    return Pair(" > ".join([*names, *(["mean"] if loss else [])]), forward, backward, (x, params))
