"""The steps of optimisers that are bound by memory, each fused into one pass over its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.primitive import Fused
from pullback.core.tensor import Array
from pullback.rules.compiled import worth_compiling

__all__ = ["adam_step", "moving_average"]

Triple = tuple[Array, Array, Array]


def _adam_step_forward(
    g: Array, mean: Array, mean_square: Array, scale: Array, eps: Array, *, b1: float, b2: float
) -> tuple[Triple, tuple[Array, ...]]:
    """Moves Adam's two moments towards the gradient g and its square, and divides one by the root of the other.

        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g^2
        u <- m / (scale * sqrt(v) + eps)

    The corrections for the moments' start at 0 are in the numbers scale and eps (`pullback.optim.scale_by_adam`).

    Returns:
        u, m and v, each of the shape of g.
    """
    if worth_compiling(32 * np.size(g), g, mean, mean_square):
        from pullback.kernels import elementwise

        u, m, v = elementwise.adam_direction(g, mean, mean_square, float(scale), float(eps), b1, b2)
    else:
        m, v = moving_average(mean, g, b1), moving_average(mean_square, g * g, b2)
        root = np.sqrt(v)
        root *= scale
        root += eps
        u = m / root
    return (u, m, v), (g, m, v, scale, eps)


def moving_average(average: Array, new: Array, decay: float) -> Array:
    """decay * average + (1 - decay) * new, as average + (1 - decay) * (new - average)."""
    moved = new - average
    moved *= 1.0 - decay
    moved += average
    return moved


def _adam_step_backward(saved: tuple[Array, ...], cotangents: Triple, *, b1: float, b2: float) -> tuple[Array, ...]:
    g, m, v, scale, eps = saved
    of_u, of_m, of_v = cotangents
    root = np.sqrt(v)
    denominator = root * scale + eps
    of_denominator = -of_u * m / (denominator * denominator)
    of_m = of_m + of_u / denominator
    of_v = of_v + of_denominator * scale / (2.0 * root)
    of_g = (1.0 - b1) * of_m + 2.0 * (1.0 - b2) * g * of_v
    return of_g, b1 * of_m, b2 * of_v, np.sum(of_denominator * root), np.sum(of_denominator)


def _adam_step_reference(
    g: Array, mean: Array, mean_square: Array, scale: Array, eps: Array, *, b1: float, b2: float
) -> Triple:
    m = mean + (1.0 - b1) * (g - mean)
    v = mean_square + (1.0 - b2) * (g * g - mean_square)
    return m / (np.sqrt(v) * scale + eps), m, v


def _adam_step_blank(
    g: Array, mean: Array, mean_square: Array, scale: Array, eps: Array, *, b1: float, b2: float
) -> tuple[Triple, tuple[Array, ...]]:
    u, m, v = np.zeros((3, *g.shape), g.dtype)
    return (u, m, v), (g, m, v, scale, eps)


adam_step: Any = Fused(
    _adam_step_forward, _adam_step_backward, _adam_step_reference, name="adam_step", blanks=(_adam_step_blank, None)
)
