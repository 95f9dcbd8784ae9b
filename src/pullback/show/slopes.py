"""Relative errors of a derivation's numbers: against other numbers, and against slopes along random directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pullback.show.differences import sweep

STEPS = 9  # down to a millionth; smaller ones are lost in rounding


def slope(f: Callable[[float], Any], linear: bool = False) -> tuple[Any, Any]:
    """The derivative at 0 of an array that depends on a number, and where it cannot be told, as at a kink."""
    if linear:  # one difference is exact
        found = (np.asarray(f(1.0), float) - np.asarray(f(-1.0), float)) / 2.0
        return found, np.zeros(found.shape, bool)
    estimate = sweep(f, STEPS)
    return estimate.value, ~estimate.reliable


def directions(shape: tuple[int, ...], count: int, seed: int = 0) -> Sequence[Any]:
    """Random directions, the same ones each time."""
    rng = np.random.default_rng((seed, *shape))
    return [rng.normal(size=shape) for _ in range(count)]


def ways(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Any]:
    """A random direction for each of several arrays, no two alike."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def against_slope(gradient: Any, direction: Any, found: float, floor: float) -> float:
    """The relative error of a gradient along a direction: 0 where it predicts the slope that was found."""
    gradient = np.asarray(gradient, dtype=np.float64)
    size = max(norm(gradient), abs(found), floor)
    return _finite(abs(float(np.vdot(gradient, direction)) - found) / size) if size else 0.0


def relative(a: Any, b: Any, floor: float = 0.0) -> float:
    """The distance of two arrays by the size of the larger, or by `floor`; infinite where their shapes differ."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        return np.inf
    size = max(norm(a), norm(b), floor)
    distance = norm(a - b)
    return _finite(distance / size) if size else 0.0


def norm(array: Any) -> float:
    """The Euclidean norm, whose squares do not overflow."""
    largest = float(np.max(np.abs(array), initial=0.0))
    return largest * float(np.linalg.norm(np.ravel(array) / largest)) if 0 < largest < np.inf else largest


def typical(array: Any) -> float:
    """The size of a typical element, which steps are measured by; 1 where that is 0."""
    size = norm(array) / max(np.size(array), 1) ** 0.5
    return size if 0 < size < np.inf else 1.0


def _finite(error: float) -> float:
    return error if np.isfinite(error) else np.inf
