"""Derivatives by differences: a judge of rules that knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_SIXTH = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))  # the central formula of sixth order


def slope(f: Callable[[float], Any], linear: bool = False, exact: float = 1e-11) -> tuple[Any, Any]:
    """The derivative at 0 of an array that depends on a number, and an estimate of its error, for each element.

    Central differences of sixth order at shrinking steps; the best is where two neighbouring steps agree most. A linear
    function needs only one.
    """
    if linear:
        found = (np.asarray(f(1.0), float) - np.asarray(f(-1.0), float)) / 2.0
        return found, np.zeros_like(found)
    best: Any = None
    error: Any = None
    last: Any = None
    for h in _STEPS:
        with np.errstate(all="ignore"):
            value = sum(c * (np.asarray(f(k * h), float) - np.asarray(f(-k * h), float)) for k, c in _SIXTH) / h
        if last is not None:
            change = np.where(np.isfinite(value - last), np.abs(value - last), np.inf)
            nearer = np.full(np.shape(value), True) if error is None else change < error
            best = np.where(nearer, value, best)
            error = np.where(nearer, change, error)
            if np.all(error <= exact * np.maximum(np.abs(best), 1.0)):
                break
        last = value
    return best, error


def directions(shape: tuple[int, ...], count: int, seed: int = 0) -> Sequence[Any]:
    """Random directions, the same ones each time."""
    rng = np.random.default_rng((seed, *shape))
    return [rng.normal(size=shape) for _ in range(count)]


def against_slope(gradient: Any, direction: Any, found: float, floor: float) -> float:
    """The relative error of a gradient along a direction: 0 where it predicts the slope that was found."""
    gradient = np.asarray(gradient, dtype=np.float64)
    size = max(float(np.linalg.norm(gradient.ravel())), abs(found), floor)
    return abs(float(np.vdot(gradient, direction)) - found) / size if size else 0.0


def relative(a: Any, b: Any) -> float:
    """The distance of two arrays by the size of the larger; infinite where their shapes differ."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        return np.inf
    size = max(float(np.linalg.norm(a.ravel())), float(np.linalg.norm(b.ravel())))
    distance = float(np.linalg.norm((a - b).ravel()))
    return distance / size if size else 0.0
