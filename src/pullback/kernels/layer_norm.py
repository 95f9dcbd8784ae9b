"""Layer normalisation and its adjoint, row by row: a row stays in the first-level cache from its mean to its result."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels import runtime
from pullback.kernels.runtime import Floats, kernel, portion
from pullback.kernels.simd import broadcast, first_lanes, load_part, store_part, sum_of_lanes
from pullback.kernels.target import WIDTH


def layer_norm(x: Any, gamma: Any, beta: Any, eps: float, y: Any, normal: Any, inverse: Any) -> None:
    """Of float32 x (N, C): y = normal gamma + beta, with normal = (x - mean) inverse and inverse = 1 / sqrt(var + eps).

    All are written: y and normal (N, C), inverse (N,).
    """
    rows, size = x.shape
    normalise_rows(x, gamma, beta, rows, size, eps, y, normal, inverse)


def adjoint(g: Any, normal: Any, inverse: Any, gamma: Any, dx: Any) -> tuple[Any, Any]:
    """The gradients by gamma and beta (C,), float32; that by x is written to dx (N, C)."""
    rows, size = g.shape
    parts = np.zeros((runtime.threads(), 2, size), np.float32)
    rows_adjoint(g, normal, inverse, gamma, rows, size, dx, parts)
    return tuple(parts.sum(axis=0, dtype=np.float64).astype(np.float32))


@kernel
def normalise_rows(
    thread: int, threads: int, x: Floats, gamma: Floats, beta: Floats, rows: int, size: int, eps: float,
    y: Floats, normal: Floats, inverse: Floats,
) -> None:  # fmt: skip
    """The variance is that of what is left of the mean, as in float32 the other formula loses it."""
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * size
        total = broadcast(np.float32(0.0))
        for k in range(0, size, WIDTH):
            total = total + load_part(x, at + k, size - k)
        mean = sum_of_lanes(total) / np.float32(size)
        squares = broadcast(np.float32(0.0))
        for k in range(0, size, WIDTH):
            centred = first_lanes(load_part(x, at + k, size - k) - mean, size - k)
            squares = squares + centred * centred
        scale = np.float32(1.0) / np.sqrt(sum_of_lanes(squares) / np.float32(size) + np.float32(eps))
        inverse[row] = scale
        for k in range(0, size, WIDTH):
            value = (load_part(x, at + k, size - k) - mean) * scale
            store_part(normal, at + k, value, size - k)
            store_part(y, at + k, value * load_part(gamma, k, size - k) + load_part(beta, k, size - k), size - k)


@kernel
def rows_adjoint(
    thread: int, threads: int, g: Floats, normal: Floats, inverse: Floats, gamma: Floats, rows: int, size: int,
    dx: Floats, parts: Floats,
) -> None:  # fmt: skip
    """dx = (s - mean s - normal mean(s normal)) inverse, s = g gamma; each thread has sums for gamma and beta."""
    of_gamma = thread * 2 * size
    of_beta = of_gamma + size
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * size
        plain, with_normal = broadcast(np.float32(0.0)), broadcast(np.float32(0.0))
        for k in range(0, size, WIDTH):
            left = size - k
            back, value = load_part(g, at + k, left), load_part(normal, at + k, left)
            scaled = back * load_part(gamma, k, left)
            plain = plain + scaled
            with_normal = with_normal + scaled * value
            store_part(parts, of_gamma + k, load_part(parts, of_gamma + k, left) + back * value, left)
            store_part(parts, of_beta + k, load_part(parts, of_beta + k, left) + back, left)
        mean, slope = sum_of_lanes(plain) / np.float32(size), sum_of_lanes(with_normal) / np.float32(size)
        for k in range(0, size, WIDTH):
            left = size - k
            scaled = load_part(g, at + k, left) * load_part(gamma, k, left)
            value = (scaled - mean - load_part(normal, at + k, left) * slope) * inverse[row]
            store_part(dx, at + k, value, left)
