"""What every kernel computes, in plain NumPy and in the precision of its arguments: slow, short, and easy to believe.
Tests compare each kernel with the function of the same name here, given float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels.convolution import Pair, as_pair


def forward(x: Any, w: Any, stride: Pair = 1, padding: Pair = 0, groups: int = 1) -> Any:
    """See `convolution.forward`."""
    (step_y, step_x), (kh, kw, inputs, outputs) = as_pair(stride), w.shape
    windows = np.lib.stride_tricks.sliding_window_view(_pad(x, padding), (kh, kw), axis=(1, 2))[:, ::step_y, ::step_x]
    windows = windows.reshape(*windows.shape[:3], groups, inputs, kh, kw)
    y = np.einsum("nijgcab,abcgo->nijgo", windows, w.reshape(kh, kw, inputs, groups, outputs // groups), optimize=True)
    return y.reshape(*y.shape[:3], outputs)


def input_adjoint(
    g: Any, w: Any, input_shape: tuple[int, ...], stride: Pair = 1, padding: Pair = 0, groups: int = 1
) -> Any:
    """See `convolution.input_adjoint`: every tap adds its share where it read."""
    (step_y, step_x), (pad_y, pad_x), (kh, kw, inputs, outputs) = as_pair(stride), as_pair(padding), w.shape
    images, height, width, channels = input_shape
    _, rows, columns, _ = g.shape
    padded = np.zeros((images, height + 2 * pad_y, width + 2 * pad_x, channels), g.dtype)
    grouped = g.reshape(images, rows, columns, groups, outputs // groups)
    for a in range(kh):
        for b in range(kw):
            taps = w[a, b].reshape(inputs, groups, outputs // groups)
            share = np.einsum("nijgo,cgo->nijgc", grouped, taps, optimize=True).reshape(images, rows, columns, channels)
            padded[:, a : a + rows * step_y : step_y, b : b + columns * step_x : step_x] += share
    return padded[:, pad_y : pad_y + height, pad_x : pad_x + width]


def weight_adjoint(
    x: Any, g: Any, weight_shape: tuple[int, ...], stride: Pair = 1, padding: Pair = 0, groups: int = 1
) -> Any:
    """See `convolution.weight_adjoint`."""
    (step_y, step_x), (kh, kw, inputs, outputs) = as_pair(stride), weight_shape
    images, rows, columns, _ = g.shape
    windows = np.lib.stride_tricks.sliding_window_view(_pad(x, padding), (kh, kw), axis=(1, 2))[:, ::step_y, ::step_x]
    windows = windows.reshape(images, rows, columns, groups, inputs, kh, kw)
    grouped = g.reshape(images, rows, columns, groups, outputs // groups)
    return np.einsum("nijgcab,nijgo->abcgo", windows, grouped, optimize=True).reshape(weight_shape)


def max_pool(x: Any, window: Pair, stride: Pair, padding: Pair = 0) -> tuple[Any, Any]:
    """See `pooling.max_pool`."""
    (step_y, step_x), (kh, kw) = as_pair(stride), as_pair(window)
    padded = _pad(x, padding, -np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, ::step_y, ::step_x]
    windows = windows.reshape(*windows.shape[:4], kh * kw)
    return windows.max(axis=-1), windows.argmax(axis=-1).astype(np.uint8)


def max_pool_adjoint(
    g: Any, places: Any, input_shape: tuple[int, ...], window: Pair, stride: Pair, padding: Pair = 0
) -> Any:
    """See `pooling.max_pool_adjoint`."""
    (step_y, step_x), (pad_y, pad_x), (kh, kw) = as_pair(stride), as_pair(padding), as_pair(window)
    images, height, width, channels = input_shape
    _, rows, columns, _ = g.shape
    padded = np.zeros((images, height + 2 * pad_y + kh, width + 2 * pad_x + kw, channels), g.dtype)
    for a in range(kh):
        for b in range(kw):
            share = np.where(places == a * kw + b, g, 0.0)
            padded[:, a : a + rows * step_y : step_y, b : b + columns * step_x : step_x] += share
    return padded[:, pad_y : pad_y + height, pad_x : pad_x + width]


def batch_norm(x: Any, gamma: Any, beta: Any, epsilon: float, relu: bool = False) -> tuple[Any, Any, Any]:
    """See `normalisation.batch_norm`."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    y = (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return (np.maximum(y, 0.0) if relu else y), mean, variance


def batch_norm_adjoint(
    g: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, relu: bool = False
) -> tuple[Any, Any, Any]:
    """See `normalisation.batch_norm_adjoint`."""
    axes = tuple(range(x.ndim - 1))
    normal = (x - mean) / np.sqrt(variance + epsilon)
    if relu:
        g = np.where(normal * gamma + beta > 0.0, g, 0.0)
    dgamma, dbeta = (g * normal).sum(axis=axes), g.sum(axis=axes)
    dx = gamma / np.sqrt(variance + epsilon) * (g - g.mean(axis=axes) - normal * (g * normal).mean(axis=axes))
    return dx, dgamma, dbeta


def adam(
    p: Any, g: Any, m: Any, v: Any, step: int, learning_rate: float,
    beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """See `elementwise.adam`; returns the new parameters and moments."""
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g**2
    step_size = m / (1.0 - beta1**step) / (np.sqrt(v / (1.0 - beta2**step)) + epsilon)
    return p - learning_rate * (step_size + weight_decay * p), m, v


def adam_direction(
    g: Any, mean: Any, mean_square: Any, scale: float, eps: float, beta1: float, beta2: float
) -> tuple[Any, Any, Any]:
    """See `elementwise.adam_direction`."""
    m = beta1 * mean + (1.0 - beta1) * g
    v = beta2 * mean_square + (1.0 - beta2) * g**2
    return m / (scale * np.sqrt(v) + eps), m, v


def sgd(
    p: Any,
    g: Any,
    velocity: Any,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Any, Any]:
    """See `elementwise.sgd`; returns the new parameters and velocity."""
    direction = g + weight_decay * p
    velocity = momentum * velocity + direction
    return p - learning_rate * (direction + momentum * velocity if nesterov else velocity), velocity


def _pad(x: Any, padding: Pair, value: float = 0.0) -> Any:
    pad_y, pad_x = as_pair(padding)
    return np.pad(x, ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=value)
