"""Batch normalisation over all axes but the last (arXiv:1502.03167), optionally with a ReLU behind it.
Forward reads x twice and writes y; the adjoint reads g and x twice and writes dx. No other array of that size is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels import runtime
from pullback.kernels.channels import RECORD, affine, coefficients, merged_moments, merged_sums
from pullback.kernels.language import inline
from pullback.kernels.runtime import Floats, kernel, portion

_ROWS = 64  # summed in float32 before they are added to a larger sum


def batch_norm(
    x: Any, gamma: Any, beta: Any, epsilon: float, relu: bool = False, out: Any = None
) -> tuple[Any, Any, Any]:
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta for x (..., C), with negative y set to zero if `relu`.

    Returns y, and the batch's mean and variance (that of the batch itself, divided by N), each (C,) float32.
    """
    mean, variance = moments(x)
    scale, shift = affine(gamma, beta, mean, variance, epsilon)
    return normalise(x, scale, shift, relu, out), mean, variance


def batch_norm_adjoint(
    g: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, relu: bool = False, out: Any = None
) -> tuple[Any, Any, Any]:
    """dx, dgamma and dbeta of `batch_norm`, for g like y; the mean and variance are differentiated too.

    With xhat = (x - mean) / sqrt(variance + epsilon), and g zero where the ReLU is, dbeta = sum g, dgamma = sum g xhat,
    dx = gamma / sqrt(variance + epsilon) (g - dbeta / N - xhat dgamma / N).
    """
    scale, shift = affine(gamma, beta, mean, variance, epsilon) if relu else (None, None)
    dgamma, dbeta, a, b, c = adjoint_coefficients(g, x, gamma, mean, variance, epsilon, scale, shift)
    return gradient(g, x, a, b, c, scale, shift, out), dgamma, dbeta


def adjoint_coefficients(
    g: Any, x: Any, gamma: Any, mean: Any, variance: Any, epsilon: float, scale: Any = None, shift: Any = None
) -> tuple[Any, ...]:
    """dgamma, dbeta, and the a, b and c with which dx = a g + b x + c, each (C,) float32.

    With `scale` and `shift`, those of the normalisation, a ReLU is behind it: g counts where x scale + shift > 0.
    """
    totals = gradient_totals(g, x, mean, scale, shift)
    return coefficients(totals, x.size // x.shape[-1], gamma, mean, variance, epsilon)


def gradient_totals(g: Any, x: Any, mean: Any, scale: Any = None, shift: Any = None) -> Any:
    """The sums of g and of g (x - mean) over all axes but the last, (2, C) float64; `scale` and `shift` as above."""
    g, x, mean = (np.ascontiguousarray(each, np.float32) for each in (g, x, mean))
    channels = x.shape[-1]
    sums = runtime.empty((runtime.threads(), 2, channels))
    room, room_size = runtime.scratch(2 * channels)
    relu = scale is not None
    gradient_sums(
        g, x, mean, scale if relu else mean, shift if relu else mean, relu, x.size // channels, channels, sums,
        room, room_size,
    )  # fmt: skip
    return merged_sums(sums, 1, channels)


def gradient(
    g: Any, x: Any, factor: Any, of_x: Any, constant: Any, scale: Any = None, shift: Any = None, out: Any = None
) -> Any:
    """factor g + of_x x + constant; with `scale` and `shift`, g counts where x scale + shift > 0."""
    g, x = np.ascontiguousarray(g, np.float32), np.ascontiguousarray(x, np.float32)
    dx = runtime.empty(x.shape) if out is None else out
    relu = scale is not None
    gradient_of_normalised(
        g, x, factor, of_x, constant, scale if relu else factor, shift if relu else factor, relu,
        x.size // x.shape[-1], x.shape[-1], dx,
    )  # fmt: skip
    return dx


def through_relu(g: Any, x: Any, scale: Any, shift: Any, out: Any = None) -> Any:
    """g where x scale + shift > 0, and 0 elsewhere."""
    g, x = np.ascontiguousarray(g, np.float32), np.ascontiguousarray(x, np.float32)
    dx = runtime.empty(x.shape) if out is None else out
    gradient_through_relu(g, x, scale, shift, x.size // x.shape[-1], x.shape[-1], dx)
    return dx


def moments(x: Any) -> tuple[Any, Any]:
    """The mean and variance over all axes but the last, (C,) float32 each, accurate for data far from zero as well."""
    x = np.ascontiguousarray(x, np.float32)
    channels = x.shape[-1]
    rows = x.size // channels
    records = runtime.empty((runtime.threads(), RECORD, channels))
    room, room_size = runtime.scratch(2 * channels)
    channel_moments(x, rows, channels, records, room, room_size)
    return merged_moments(records, 1, channels)


def normalise(x: Any, scale: Any, shift: Any, relu: bool = False, out: Any = None) -> Any:
    """x scale + shift for x (..., C), with negative results set to zero if `relu`."""
    x = np.ascontiguousarray(x, np.float32)
    y = runtime.empty(x.shape) if out is None else out
    apply_affine(x, scale, shift, relu, x.size // x.shape[-1], x.shape[-1], y)
    return y


@kernel
def channel_moments(
    thread: int, threads: int, x: Floats, rows: int, channels: int, records: Floats, room: Floats, room_size: int
) -> None:
    """A record of a thread's share, from the means and squares of small blocks (Chan, Golub and LeVeque 1979)."""
    start, stop = portion(rows, thread, threads)
    mean, squares = (thread * RECORD + 1) * channels, (thread * RECORD + 3) * channels
    block_mean, block_squares = thread * room_size, thread * room_size + channels
    for c in range(channels):
        records[mean - channels + c] = np.float32(stop - start)
        records[mean + c] = np.float32(0.0)
        records[mean + channels + c] = np.float32(0.0)
        records[squares + c] = np.float32(0.0)
    for first in range(start, stop, _ROWS):
        last = min(first + _ROWS, stop)
        for c in range(2 * channels):
            room[block_mean + c] = np.float32(0.0)
        for row in range(first, last):
            for c in range(channels):
                room[block_mean + c] += x[row * channels + c]
        share = np.float32(1.0 / (last - first))
        for c in range(channels):
            room[block_mean + c] *= share
        for row in range(first, last):
            for c in range(channels):
                deviation = x[row * channels + c] - room[block_mean + c]
                room[block_squares + c] += deviation * deviation
        weight = np.float32((last - first) / (last - start))
        cross = np.float32((last - first) * (first - start) / (last - start))
        for c in range(channels):
            difference = room[block_mean + c] - records[mean + c]
            records[mean + c] += difference * weight
            records[squares + c] += room[block_squares + c] + difference * difference * cross


@kernel
def apply_affine(
    thread: int, threads: int, x: Floats, scale: Floats, shift: Floats, relu: bool, rows: int, channels: int, y: Floats
) -> None:
    """y = x scale + shift, or its positive part."""
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * channels
        if relu:
            for c in range(channels):
                y[at + c] = max(x[at + c] * scale[c] + shift[c], np.float32(0.0))
        else:
            for c in range(channels):
                y[at + c] = x[at + c] * scale[c] + shift[c]


@inline
def _through_relu(g: float, x: float, scale: float, shift: float, relu: bool) -> Any:
    return g if not relu or x * scale + shift > np.float32(0.0) else np.float32(0.0)


@kernel
def gradient_sums(
    thread: int, threads: int, g: Floats, x: Floats, mean: Floats, scale: Floats, shift: Floats, relu: bool,
    rows: int, channels: int, sums: Floats, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """A thread's sums of g and of g (x - mean) over rows."""
    start, stop = portion(rows, thread, threads)
    total, block = thread * 2 * channels, thread * room_size
    for c in range(2 * channels):
        sums[total + c] = np.float32(0.0)
    for first in range(start, stop, _ROWS):
        for c in range(2 * channels):
            room[block + c] = np.float32(0.0)
        for row in range(first, min(first + _ROWS, stop)):
            at = row * channels
            for c in range(channels):
                value = _through_relu(g[at + c], x[at + c], scale[c], shift[c], relu)
                room[block + c] += value
                room[block + channels + c] += value * (x[at + c] - mean[c])
        for c in range(2 * channels):
            sums[total + c] += room[block + c]


@kernel
def gradient_of_normalised(
    thread: int, threads: int, g: Floats, x: Floats, factor: Floats, of_x: Floats, constant: Floats,
    scale: Floats, shift: Floats, relu: bool, rows: int, channels: int, dx: Floats,
) -> None:  # fmt: skip
    """dx = g factor + x of_x + constant."""
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * channels
        for c in range(channels):
            value = _through_relu(g[at + c], x[at + c], scale[c], shift[c], relu)
            dx[at + c] = value * factor[c] + (x[at + c] * of_x[c] + constant[c])


@kernel
def gradient_through_relu(
    thread: int, threads: int, g: Floats, x: Floats, scale: Floats, shift: Floats, rows: int, channels: int, dx: Floats
) -> None:
    """dx = g where x scale + shift is positive."""
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * channels
        for c in range(channels):
            dx[at + c] = _through_relu(g[at + c], x[at + c], scale[c], shift[c], True)
