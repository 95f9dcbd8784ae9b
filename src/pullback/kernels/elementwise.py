"""Optimiser updates in one pass over flat float32 buffers that hold all parameters one after the other.
Everything is changed in place; a step allocates nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.errors import ShapeError
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
