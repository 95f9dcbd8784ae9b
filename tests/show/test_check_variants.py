"""The same mistakes in other programs: fused primitives, convolutions in four ways, batches, recurrent networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import pullback as pb
from pullback.rules import nn
from pullback.rules.convolution import conv2d, conv2d_input_adjoint, conv2d_weight_adjoint

Array = Any
RNG = np.random.default_rng(5)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape)


class Variant(NamedTuple):
    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    causes: dict[str, str]


# -- convolution -----------------------------------------------------------------------------------------------------
SAME: Any = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "groups": 1}


def of_input(g: Array, x: Array, w: Array) -> Array:
    return conv2d_input_adjoint(g, w, size=x.shape[1:3], **SAME)


def of_weight(g: Array, x: Array) -> Array:
    return conv2d_weight_adjoint(x, g, kernel=(3, 3), **SAME)


def without_edges(g: Array) -> Array:
    inner = np.zeros_like(g)
    inner[:, 1:-1, 1:-1] = g[:, 1:-1, 1:-1]
    return inner


def one_channel(X: Array, H: Array) -> Array:
    rows, columns = X.shape[0] - 2, X.shape[1] - 2
    y = 0.0
    for r in range(3):
        for c in range(3):
            y = y + H[r, c] * X[r : r + rows, c : c + columns]
    return y


def pixel_by_pixel(X: Array, H: Array) -> Array:
    rows, columns = X.shape[0] - 2, X.shape[1] - 2
    return pb.array([[np.sum(X[r : r + 3, c : c + 3] * H) for c in range(columns)] for r in range(rows)])


def untraceable(X: Array, H: Array) -> Array:
    y = np.zeros((X.shape[0] - 2, X.shape[1] - 2))
    for r, c in np.ndindex(y.shape):
        y[r, c] = np.sum(X[r : r + 3, c : c + 3] * H)
    return y


def back_of_one_channel(flip: bool = False, drop: bool = False) -> Callable[..., Any]:
    def backward(g: Array, X: Array, H: Array) -> Any:
        rows, columns = g.shape
        dX, dH = np.zeros_like(X), np.zeros_like(H)
        for r in range(3):
            for c in range(3):
                dX[r : r + rows, c : c + columns] += g * (H[2 - r, 2 - c] if flip else H[r, c])
                dH[r, c] = np.sum(X[r : r + rows, c : c + columns] * g)
        if drop:
            dX[0] = dX[-1] = 0
        return dX, dH

    return backward


IMAGES, IMAGE = (normal(2, 8, 9, 3), normal(3, 3, 3, 4)), (normal(5, 6), normal(3, 3))


def whole(x: Array, w: Array) -> Array:
    return conv2d(x, w, **SAME)


CONVOLUTIONS = [
    Variant(
        "conv flip",
        whole,
        lambda g, x, w: (of_input(g, x, w[::-1, ::-1]), of_weight(g, x)),
        IMAGES,
        {"x": "flipped_filter"},
    ),
    Variant(
        "conv filter flip",
        whole,
        lambda g, x, w: (of_input(g, x, w), of_weight(g, x)[::-1, ::-1]),
        IMAGES,
        {"w": "flipped_filter"},
    ),
    Variant(
        "conv border",
        whole,
        lambda g, x, w: (of_input(without_edges(g), x, w), of_weight(g, x)),
        IMAGES,
        {"x": "border"},
    ),
    Variant("one channel flip", one_channel, back_of_one_channel(flip=True), IMAGE, {"X": "flipped_filter"}),
    Variant("one channel border", one_channel, back_of_one_channel(drop=True), IMAGE, {"X": "border"}),
    Variant("one channel right", one_channel, back_of_one_channel(), IMAGE, {}),
    Variant("pixels flip", pixel_by_pixel, back_of_one_channel(flip=True), IMAGE, {"X": "flipped_filter"}),
    Variant("untraceable flip", untraceable, back_of_one_channel(flip=True), IMAGE, {"X": "flipped_filter"}),
    Variant("untraceable border", untraceable, back_of_one_channel(drop=True), IMAGE, {"X": "border"}),
]


# -- softmax ---------------------------------------------------------------------------------------------------------
def p_of(x: Array) -> Array:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def cross_entropy(x: Array, t: Array) -> Array:
    return -np.sum(t * np.log(p_of(x))) / len(x)


LOGITS = normal(4, 5), np.eye(5)[[0, 2, 3, 1]]


def diagonal(g: Array, x: Array) -> Array:
    return g * p_of(x) * (1 - p_of(x))


def of_targets(g: Array, x: Array) -> Array:
    return -g * np.log(p_of(x)) / len(x)


SOFTMAX = [
    Variant("fused softmax diagonal", lambda x: nn.softmax(x), diagonal, (normal(3, 5),), {"x": "diagonal_only"}),
    Variant("one softmax diagonal", lambda x: nn.softmax(x), diagonal, (normal(5),), {"x": "diagonal_only"}),
    Variant(
        "softmax sign",
        lambda x: nn.softmax(x),
        lambda g, x: p_of(x) * (g + np.sum(g * p_of(x), -1, keepdims=True)),
        (normal(3, 5),),
        {"x": "sign"},
    ),
    Variant(
        "softmax alone",
        lambda x: nn.softmax(x),
        lambda g, x: p_of(x) * (1 - p_of(x)),
        (normal(3, 5),),
        {"x": "missing_incoming"},
    ),
    Variant(
        "no 1/B", cross_entropy, lambda g, x, t: (g * (p_of(x) - t), of_targets(g, x)), LOGITS, {"x": "constant_factor"}
    ),
    Variant(
        "fused, no 1/B",
        lambda x, t: nn.softmax_cross_entropy(x, t),
        lambda g, x, t: (g * (p_of(x) - t), of_targets(g, x)),
        LOGITS,
        {"x": "constant_factor"},
    ),
    Variant(
        "1/B twice",
        cross_entropy,
        lambda g, x, t: (g * (p_of(x) - t) / len(x) ** 2, of_targets(g, x)),
        LOGITS,
        {"x": "constant_factor"},
    ),
    Variant(
        "cross-entropy sign",
        cross_entropy,
        lambda g, x, t: (g * (t - p_of(x)) / len(x), of_targets(g, x)),
        LOGITS,
        {"x": "sign"},
    ),
]


# -- batch normalisation, fused --------------------------------------------------------------------------------------
def fused_norm(x: Array, gamma: Array, beta: Array) -> Array:
    return nn.batch_norm(x, gamma, beta, eps=1e-5)[0]


def back_of_norm(which: str) -> Callable[..., Any]:
    def backward(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
        inverse = 1 / np.sqrt(x.var(axis=0) + 1e-5)
        n, m = (x - x.mean(axis=0)) * inverse, len(x)
        h = g * gamma
        mean_h, mean_hn = h.mean(axis=0), np.mean(h * n, axis=0)
        d = {
            "right": inverse * (h - n * mean_hn - mean_h),
            "mean": inverse * (h - n * mean_hn),
            "variance": inverse * (h - mean_h),
            "sign": inverse * (h + n * mean_hn - mean_h),
            "m": inverse * (m * h - m * n * mean_hn - m * mean_h),
            "m - 1": inverse * m / (m - 1) * (h - n * mean_hn - mean_h),
            "sum": inverse * (h - n * mean_hn - m * mean_h),
        }[which]
        return d, np.sum(g * n, axis=0), g.sum(axis=0)

    return backward


NORM = normal(8, 3) * 2 + 1, normal(3) + 2, normal(3)
NORMS = [
    Variant(f"norm {which}", fused_norm, back_of_norm(which), NORM, {"x": cause} if cause else {})
    for which, cause in (
        ("right", ""), ("mean", "constant_statistic"), ("variance", "constant_statistic"), ("sign", "sign"),
        ("m", "constant_factor"), ("m - 1", "constant_factor"), ("sum", "sum_for_mean"),
    )
]  # fmt: skip


# -- residual layers on a batch --------------------------------------------------------------------------------------
def residual(x: Array, W: Array, b: Array) -> Array:
    return x + np.maximum(x @ W + b, 0)


def back_of_residual(which: str) -> Callable[..., Any]:
    def backward(g: Array, x: Array, W: Array, b: Array) -> Any:
        m = (x @ W + b > 0) * g
        right = (g + m @ W.T, x.T @ m, m.sum(axis=0))
        changed = {
            "right": right,
            "transposed": (g + m @ W, *right[1:]),
            "no skip": (m @ W.T, *right[1:]),
            "ones": (1 + m @ W.T, *right[1:]),
            "twice": (2 * g + m @ W.T, *right[1:]),
            "mask of x": (g + ((x > 0) * g) @ W.T, *right[1:]),
            "no mask": (g + g @ W.T, *right[1:]),
            "other axis": (*right[:2], m.sum(axis=1)),
            "no sum": (*right[:2], m),
        }
        return changed[which]

    return backward


BATCH = normal(4, 4), normal(4, 4), normal(4)
RESIDUALS = [
    Variant(f"residual {which}", residual, back_of_residual(which), BATCH, causes)
    for which, causes in {
        "right": {}, "transposed": {"x": "transposed"}, "no skip": {"x": "missing_term"},
        "ones": {"x": "missing_incoming"}, "twice": {"x": "extra_term"}, "mask of x": {"x": "wrong_mask"},
        "no mask": {"x": "wrong_mask"}, "other axis": {"b": "wrong_axis"}, "no sum": {"b": "wrong_shape"},
    }.items()
]  # fmt: skip


# -- recurrent networks on a batch -----------------------------------------------------------------------------------
def rnn(x: Array, Wx: Array, Wh: Array, h0: Array) -> Array:
    h = h0
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ Wx + h @ Wh)
    return np.sum(h**2)


def back_of_rnn(which: str) -> Callable[..., Any]:
    def backward(g: Array, x: Array, Wx: Array, Wh: Array, h0: Array) -> Any:
        states = [h0]
        for t in range(x.shape[1]):
            states.append(np.tanh(x[:, t] @ Wx + states[-1] @ Wh))
        dh, dx, dWx, dWh = 2 * g * states[-1], np.zeros_like(x), 0 * Wx, 0 * Wh
        for t in reversed(range(x.shape[1])):
            y = x[:, t] @ Wx + states[t] @ Wh if which == "before tanh" else states[t + 1]
            da = dh * (1 - y**2)
            dWx = dWx + x[:, t].T @ da
            dWh = dWh + states[t + 1 if which == "state after" else t].T @ da
            dx[:, t] = da @ Wx.T
            dh = da @ (Wh if which == "transposed" else Wh.T) * (which != "cut")
        return dx, dWx, dWh, dh

    return backward


SEQUENCE = normal(3, 4, 2), normal(2, 5) * 0.5, normal(5, 5) * 0.5, normal(3, 5)
EVERY = ("x", "Wx", "Wh", "h0")
RNNS = [
    Variant("rnn right", rnn, back_of_rnn("right"), SEQUENCE, {}),
    Variant("rnn transposed", rnn, back_of_rnn("transposed"), SEQUENCE, dict.fromkeys(EVERY, "transposed")),
    Variant("rnn before tanh", rnn, back_of_rnn("before tanh"), SEQUENCE, dict.fromkeys(EVERY, "wrong_saved")),
    Variant("rnn state after", rnn, back_of_rnn("state after"), SEQUENCE, {"Wh": "wrong_saved"}),
    Variant("rnn cut", rnn, back_of_rnn("cut"), SEQUENCE, dict.fromkeys(EVERY, "missing_term")),
]


# -- others ----------------------------------------------------------------------------------------------------------
def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def mean_to_all(g: Array, x: Array) -> Array:
    return g + 0 * x


def with_decay(g: Array, x: Array, W: Array) -> Any:
    d = g / np.cosh(x @ W) ** 2
    return d @ W.T, x.T @ d + 0.1 * W


OTHERS = [
    Variant("sigmoid of x", sigmoid, lambda g, x: g * x * (1 - x), (normal(5),), {"x": "wrong_saved"}),
    Variant(
        "fused sigmoid of x", lambda x: nn.sigmoid(x), lambda g, x: g * x * (1 - x), (normal(5),), {"x": "wrong_saved"}
    ),
    Variant(
        "max to all",
        lambda x: np.max(x, axis=1),
        lambda g, x: np.repeat(g[:, None], 4, 1),
        (normal(3, 4),),
        {"x": "wrong_mask"},
    ),
    Variant(
        "one path",
        lambda a, b: a * b + np.sin(b),
        lambda g, a, b: (g * b, g * a),
        (normal(3), normal(3)),
        {"b": "missing_term"},
    ),
    Variant("weight decay", lambda x, W: np.tanh(x @ W), with_decay, (normal(5, 4), normal(4, 3)), {"W": "extra_term"}),
    Variant("mean", lambda x: np.mean(x, axis=0), mean_to_all, (normal(4, 3),), {"x": "constant_factor"}),
]

VARIANTS = [*CONVOLUTIONS, *SOFTMAX, *NORMS, *RESIDUALS, *RNNS, *OTHERS]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name.replace(" ", "-"))
def test_the_mistake_is_found(variant: Variant) -> None:
    report = pb.check(variant.forward, *variant.args, backward=variant.backward)
    found = {name: verdict.cause for name, verdict in report.verdicts.items() if not verdict}
    assert found == variant.causes
    assert all(verdict.confidence >= 0.5 for verdict in report.verdicts.values())


def test_a_wrong_formula_of_one_gate_is_named_and_is_no_border() -> None:
    def cell(x: Array, h: Array, c: Array, Wx: Array, Wh: Array, b: Array) -> Any:
        a = x @ Wx + h @ Wh + b
        n = h.shape[1]
        i, f, o, g = sigmoid(a[:, :n]), sigmoid(a[:, n : 2 * n]), sigmoid(a[:, 2 * n : 3 * n]), np.tanh(a[:, 3 * n :])
        c = f * c + i * g
        return o * np.tanh(c), c

    def backward(grads: Any, x: Array, h: Array, c: Array, Wx: Array, Wh: Array, b: Array) -> Any:
        a = x @ Wx + h @ Wh + b
        n = h.shape[1]
        i, f, o, g = sigmoid(a[:, :n]), sigmoid(a[:, n : 2 * n]), sigmoid(a[:, 2 * n : 3 * n]), np.tanh(a[:, 3 * n :])
        t = np.tanh(f * c + i * g)
        dc = grads[1] + grads[0] * o * (1 - t * t)
        gates = dc * g * i * (1 - i), dc * c * f * (1 - f), grads[0] * t * o * (1 - o), dc * i * (1 - g)
        da = np.concatenate(gates, axis=1)
        return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, h.T @ da, da.sum(0)

    args = normal(2, 3), normal(2, 4), normal(2, 4), normal(3, 16), normal(4, 16), normal(16)
    report = pb.check(cell, *args, backward=backward)
    assert [name for name, verdict in report.verdicts.items() if verdict] == ["c"]
    for name in ("x", "h", "Wx", "Wh", "b"):
        assert "computed as 1 - z with z = g; it is 1 - z^2" in report.verdicts[name].explanation


def test_equal_sizes_are_told_apart_by_changing_one_of_them() -> None:
    def loss(W: Array, x: Array, t: Array) -> Array:
        return np.sum((x @ W - t) ** 2) / len(x)

    def backward(g: Array, W: Array, x: Array, t: Array) -> Any:
        e = 2 * g * (x @ W - t)
        return x.T @ e, e @ W.T / len(x) * W.shape[1], -e / len(x)

    report = pb.check(loss, normal(4, 4), normal(4, 4), normal(4, 4), backward=backward)
    assert "4 = x.shape[0], the batch size" in report.verdicts["W"].explanation
    assert "4 = W.shape[1]" in report.verdicts["x"].explanation


def test_what_nothing_explains_is_unknown_and_localised() -> None:
    def backward(g: Array, x: Array) -> Array:
        d = g * np.cos(x)
        d[2] += 0.3 * np.sqrt(np.abs(x[2]))
        return d

    verdict = pb.check(np.sin, normal(6, 4), backward=backward).verdicts["x"]
    assert verdict.cause == "unknown"
    assert "4 of 24 entries are wrong, all at 2 of axis 0" in verdict.explanation
    assert {index[0] for index in verdict.worst} == {2}
