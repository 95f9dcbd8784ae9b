"""Convolution and pooling primitives: a plain sum as the judge, adjoints, second derivatives, over a grid of shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.rules import convolution
from pullback.rules.convolution import conv2d, conv2d_input_adjoint, conv2d_weight_adjoint
from pullback.rules.pooling import avg_pool2d, max_pool2d

GRID = [
    {"size": size, "kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
    for size, kernel, stride, padding, groups in itertools.product(
        [(7, 5), (1, 2), (6, 8)],
        [(3, 3), (1, 1), (2, 3)],
        [(1, 1), (2, 2), (2, 3)],
        [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 1), (0, 3))],
        [1, 2, 4],
    )
    if all(n + sum(p) >= k for n, k, p in zip(size, kernel, padding, strict=True))
]


def windows(x: Any, kernel: Any, stride: Any, padding: Any, fill: float = 0.0) -> Any:
    """Every window of the padded images: `(N, H', W', C, kh, kw)`."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def plain_conv2d(x: Any, w: Any, stride: Any, padding: Any, groups: int) -> Any:
    views = np.split(windows(x, w.shape[:2], stride, padding), groups, axis=3)
    kernels = np.split(w, groups, axis=3)
    return np.concatenate([np.einsum("nijcrs,rsco->nijo", v, k) for v, k in zip(views, kernels, strict=True)], axis=3)


@pytest.mark.parametrize("block", [1 << 19, 256], ids=["one block", "many blocks"])
def test_conv2d_and_adjoints(block: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "BLOCK_BYTES", block)
    for case in GRID[:: 1 if block > 1000 else 5]:
        size, kernel, groups = case["size"], case["kernel"], case["groups"]
        x = rng.standard_normal((3, *size, 4))
        w = rng.standard_normal((*kernel, 4 // groups, 8))
        options = {"stride": case["stride"], "padding": case["padding"], "groups": groups}
        y = conv2d(x, w, **options)
        np.testing.assert_allclose(y, plain_conv2d(x, w, **options), rtol=1e-10, atol=1e-12, err_msg=str(case))
        v = rng.standard_normal(y.shape)
        # <v, A x> = <A' v, x>, in each argument.
        inner = np.sum(v * y)
        for_x = np.sum(conv2d_input_adjoint(v, w, size=size, **options) * x)
        for_w = np.sum(conv2d_weight_adjoint(x, v, kernel=kernel, **options) * w)
        np.testing.assert_allclose([for_x, for_w], inner, rtol=1e-10, atol=1e-10, err_msg=str(case))


@pytest.mark.parametrize("channels", [2, 24])
def test_float32_is_accurate(channels: int, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((4, 9, 8, channels)), rng.standard_normal((3, 3, channels, 8))
    exact = conv2d(x, w, padding=((1, 1), (1, 1)))
    y = conv2d(x.astype(np.float32), w.astype(np.float32), padding=((1, 1), (1, 1)))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("case", GRID[::17], ids=str)
def test_conv2d_second_derivatives(
    case: dict[str, Any], rng: np.random.Generator, check_gradients: Callable[..., None]
) -> None:
    options = {name: case[name] for name in ("stride", "padding", "groups")}
    x = rng.standard_normal((2, *case["size"], 4))
    w = rng.standard_normal((*case["kernel"], 4 // case["groups"], 4))
    gradients = pb.grad(lambda x, w: np.sum(conv2d(x, w, **options) ** 3), argnums=(0, 1))
    check_gradients(gradients, x, w, tolerance=1e-5)


def test_no_images() -> None:
    y = conv2d(np.zeros((0, 4, 4, 3)), np.zeros((3, 3, 3, 2)))
    assert y.shape == (0, 2, 2, 2)


def test_conv2d_names_what_does_not_fit() -> None:
    with pytest.raises(pb.ShapeError, match=r"conv2d: expected x \(N, H, W, C\) and w \(kh, kw, C / 2, O\), got"):
        conv2d(np.zeros((1, 4, 4, 3)), np.zeros((3, 3, 3, 2)), groups=2)


POOLS = [
    {"window": window, "stride": stride, "padding": padding}
    for window, stride, padding in itertools.product(
        [(2, 2), (3, 3), (1, 3)], [(1, 1), (2, 2), (3, 2)], [((0, 0), (0, 0)), ((0, 0), (1, 1)), ((0, 0), (2, 0))]
    )
    if all(max(pad) < size for pad, size in zip(padding, window, strict=True))
]


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pooling(case: dict[str, Any], rng: np.random.Generator, check_gradients: Callable[..., None]) -> None:
    x = rng.permutation(2.0 * 7 * 6 * 3 * np.arange(2 * 7 * 6 * 3) / 252).reshape(2, 7, 6, 3)  # no two are close
    view = [case["window"], case["stride"], case["padding"]]
    np.testing.assert_array_equal(max_pool2d(x, **case), windows(x, *view, fill=-np.inf).max(axis=(-2, -1)))
    np.testing.assert_allclose(avg_pool2d(x, **case), windows(x, *view).mean(axis=(-2, -1)), rtol=1e-13)
    inside = np.nanmean(windows(x, *view, fill=np.nan), axis=(-2, -1))
    np.testing.assert_allclose(avg_pool2d(x, **case, count_include_pad=False), inside, rtol=1e-13)
    for f in (
        lambda x: max_pool2d(x, **case),
        lambda x: avg_pool2d(x, **case),
        lambda x: avg_pool2d(x, **case, count_include_pad=False),
        pb.grad(lambda x: np.sum(max_pool2d(x, **case) ** 2)),
    ):
        check_gradients(f, x, tolerance=1e-6)


def test_max_pool_of_large_windows(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 20, 20, 2))
    gradient = pb.grad(lambda x: np.sum(max_pool2d(x, window=(17, 17), stride=(1, 1))))(x)
    expected = np.zeros_like(x)
    for i, j, c in itertools.product(range(4), range(4), range(2)):
        part = x[0, i : i + 17, j : j + 17, c]
        r, s = np.unravel_index(np.argmax(part), part.shape)
        expected[0, i + r, j + s, c] += 1
    np.testing.assert_array_equal(gradient, expected)


def test_padding_as_wide_as_the_window_is_refused() -> None:
    with pytest.raises(pb.ShapeError, match="padding smaller than the window"):
        max_pool2d(np.zeros((1, 4, 4, 1)), window=(2, 2), stride=(2, 2), padding=((2, 0), (0, 0)))
