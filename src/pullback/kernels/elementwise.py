"""Optimiser updates in one pass over float32 memory.
`adam` and `sgd` change flat buffers of all parameters in place; `adam_direction` makes new arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.errors import ShapeError
from pullback.kernels import runtime
from pullback.kernels.runtime import Floats, kernel, portion


def adam(
    parameters: Any, gradient: Any, first: Any, second: Any, step: int, learning_rate: float,
    beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0,
) -> None:  # fmt: skip
    """One step of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), with decoupled decay (arXiv:1711.05101) if asked.

    m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2,
    p <- p - rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + decay p), where t = `step` counts from 1.
    """
    _expect_alike("adam", parameters, gradient, first, second)
    rate = learning_rate / (1.0 - beta1**step)
    correction = 1.0 / np.sqrt(1.0 - beta2**step)
    adam_step(
        parameters, gradient, first, second, parameters.size,
        rate, beta1, beta2, correction, epsilon, 1.0 - learning_rate * weight_decay,
    )  # fmt: skip


def adam_direction(
    g: Any, mean: Any, mean_square: Any, scale: float, eps: float, beta1: float, beta2: float
) -> tuple[Any, Any, Any]:
    """m / (scale sqrt(v) + eps) and the moved moments m and v of Adam, as new arrays of the shape of g."""
    g, mean, mean_square = (np.ascontiguousarray(each, np.float32) for each in (g, mean, mean_square))
    _expect_alike("adam_direction", g, mean, mean_square)
    u, m, v = (runtime.empty(g.shape) for _ in range(3))
    adam_direction_step(g, mean, mean_square, u, m, v, g.size, scale, eps, beta1, beta2)
    return u, m, v


def adam_update(
    p: Any, g: Any, mean: Any, mean_square: Any, scale: float, eps: float, rate: float, beta1: float, beta2: float,
    decay: float,
) -> None:  # fmt: skip
    """p <- p + rate (m / (scale sqrt(v) + eps) + decay p), after moving the moments m and v; all three in place."""
    _expect_alike("adam_update", p, g, mean, mean_square)
    g = np.ascontiguousarray(g, np.float32)
    adam_update_step(p, g, mean, mean_square, p.size, scale, eps, rate, beta1, beta2, 1.0 + rate * decay)


def sgd(
    parameters: Any, gradient: Any, velocity: Any, learning_rate: float,
    momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False,
) -> None:  # fmt: skip
    """One step of gradient descent with momentum, as PyTorch defines it.

    d = g + decay p, u <- momentum u + d, p <- p - rate (d + momentum u if nesterov else u).
    """
    _expect_alike("sgd", parameters, gradient, velocity)
    sgd_step(parameters, gradient, velocity, parameters.size, learning_rate, momentum, weight_decay, nesterov)


def _expect_alike(name: str, *buffers: Any) -> None:
    if len({buffer.size for buffer in buffers}) > 1:
        raise ShapeError(name, f"expected buffers of one size, got {[buffer.size for buffer in buffers]}")


@kernel
def adam_step(
    thread: int, threads: int, parameters: Floats, gradient: Floats, first: Floats, second: Floats, size: int,
    rate: float, beta1: float, beta2: float, correction: float, epsilon: float, kept: float,
) -> None:  # fmt: skip
    """The factors that are the same for all elements are computed by the caller in float64."""
    start, stop = portion(size, thread, threads)
    rate32, epsilon32, kept32, correction32 = (
        np.float32(rate),
        np.float32(epsilon),
        np.float32(kept),
        np.float32(correction),
    )
    first_kept, first_new = np.float32(beta1), np.float32(1.0 - beta1)
    second_kept, second_new = np.float32(beta2), np.float32(1.0 - beta2)
    for i in range(start, stop):
        g = gradient[i]
        m = first_kept * first[i] + first_new * g
        v = second_kept * second[i] + second_new * (g * g)
        first[i] = m
        second[i] = v
        parameters[i] = kept32 * parameters[i] - rate32 * m / (np.sqrt(v) * correction32 + epsilon32)


@kernel
def adam_direction_step(
    thread: int, threads: int, gradient: Floats, mean: Floats, mean_square: Floats, u: Floats, m: Floats, v: Floats,
    size: int, scale: float, eps: float, beta1: float, beta2: float,
) -> None:  # fmt: skip
    """Three arrays are read and three are written, once each."""
    start, stop = portion(size, thread, threads)
    scale32, eps32 = np.float32(scale), np.float32(eps)
    first_new, second_new = np.float32(1.0 - beta1), np.float32(1.0 - beta2)
    for i in range(start, stop):
        g = gradient[i]
        first = mean[i] + first_new * (g - mean[i])
        second = mean_square[i] + second_new * (g * g - mean_square[i])
        m[i] = first
        v[i] = second
        u[i] = first / (np.sqrt(second) * scale32 + eps32)


@kernel
def adam_update_step(
    thread: int, threads: int, p: Floats, gradient: Floats, mean: Floats, mean_square: Floats, size: int,
    scale: float, eps: float, rate: float, beta1: float, beta2: float, kept: float,
) -> None:  # fmt: skip
    """Four arrays are read and three are written, once each."""
    start, stop = portion(size, thread, threads)
    scale32, eps32, rate32, kept32 = np.float32(scale), np.float32(eps), np.float32(rate), np.float32(kept)
    first_new, second_new = np.float32(1.0 - beta1), np.float32(1.0 - beta2)
    for i in range(start, stop):
        g = gradient[i]
        first = mean[i] + first_new * (g - mean[i])
        second = mean_square[i] + second_new * (g * g - mean_square[i])
        mean[i] = first
        mean_square[i] = second
        p[i] = kept32 * p[i] + rate32 * (first / (np.sqrt(second) * scale32 + eps32))


@kernel
def sgd_step(
    thread: int, threads: int, parameters: Floats, gradient: Floats, velocity: Floats, size: int,
    rate: float, momentum: float, decay: float, nesterov: bool,
) -> None:  # fmt: skip
    """Momentum and decay of zero cost nothing noticeable: the loop waits for memory."""
    start, stop = portion(size, thread, threads)
    rate32, momentum32, decay32 = np.float32(rate), np.float32(momentum), np.float32(decay)
    for i in range(start, stop):
        direction = gradient[i] + decay32 * parameters[i]
        u = momentum32 * velocity[i] + direction
        velocity[i] = u
        if nesterov:
            u = direction + momentum32 * u
        parameters[i] -= rate32 * u
