"""Initial values of weights: functions `(rng, shape, dtype) -> array`.

The last two axes of a shape are inputs and outputs, as in `(inputs, outputs)` and `(kh, kw, inputs, outputs)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.errors import ConfigError

__all__ = [
    "Initialiser", "Seed", "fan_in_uniform", "generator", "he_normal", "he_uniform", "normal", "orthogonal",
    "xavier_normal", "xavier_uniform", "zeros",
]  # fmt: skip

Initialiser = Callable[..., Array]
"""`(rng, shape, dtype) -> array`."""

Seed = np.random.Generator | int | None
"""What layers draw their weights with: a generator they share, a seed of their own, or None for fresh randomness."""


def generator(seed: Seed) -> np.random.Generator:
    """The generator itself, or one made from the seed."""
    return np.random.default_rng(seed)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Normal with variance 2 / fan_in, kept through ReLU (He et al., arXiv:1502.01852, equation 10)."""
    return normal(rng, shape, dtype, std=math.sqrt(2.0 / _fans(shape)[0]))


def he_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Uniform with variance 2 / fan_in."""
    return _uniform(rng, shape, dtype, std=math.sqrt(2.0 / _fans(shape)[0]))


def fan_in_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in), the default of PyTorch's layers."""
    return _uniform(rng, shape, dtype, std=math.sqrt(1.0 / (3.0 * _fans(shape)[0])))


def xavier_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, AISTATS 2010, equation 12)."""
    return normal(rng, shape, dtype, std=math.sqrt(2.0 / sum(_fans(shape))))


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio, AISTATS 2010, equation 16)."""
    return _uniform(rng, shape, dtype, std=math.sqrt(2.0 / sum(_fans(shape))))


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32, std: float = 0.01) -> Array:
    """Normal with mean 0."""
    return (rng.standard_normal(shape) * std).astype(dtype)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """Orthonormal rows or columns, whichever are fewer, of the weights seen as a matrix (Saxe et al., arXiv:1312.6120).

    The matrix has the last axis as its columns. A tall matrix has orthonormal columns, a wide one orthonormal rows.
    """
    if len(shape) < 2:
        raise ConfigError(f"orthogonal: expected a shape of at least two axes, got {shape}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # makes the distribution uniform over the orthogonal matrices
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


def zeros(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """All zero."""
    return np.zeros(shape, dtype)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, std: float) -> Array:
    return rng.uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std, shape).astype(dtype)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs each output sees, and how many outputs each input reaches."""
    if len(shape) < 2:
        raise ConfigError(f"expected a shape of at least two axes, (inputs, outputs), got {shape}")
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]
