"""Derivatives by differences over a sweep of step sizes, which separates truncation from rounding and finds kinks.

The judge of the rules: it runs a function in plain NumPy and knows nothing of how it is differentiated."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Plain = np.ndarray[Any, Any]

RATIO = 4.0  # from one step size to the next
LARGEST = 0.1
STEPS = 12  # the smallest is then 2e-8
SPAN = 2  # steps between two gaps that are compared in search of a kink: a smooth one shrinks 16 times
EPSILON = float(np.finfo(np.float64).eps)


class Estimate(NamedTuple):
    """The derivative of each entry of a function of one number, at 0."""

    value: Plain
    error: Plain  # its likely error: truncation and rounding at the step where their sum is least
    step: Plain  # that step
    kink: Plain  # where the slopes on the two sides do not come together, however small the step
    left: Plain  # the slopes on the two sides
    right: Plain
    truncation: Plain  # at the chosen step
    rounding: Plain
    size: Plain  # of the function itself

    @property
    def reliable(self) -> Plain:
        """The entries that can be compared: no kink, and a small error."""
        return self.reliable_to(1e-5)

    def reliable_to(self, relative: float) -> Plain:
        """The entries without a kink whose error is at most so large."""
        allowed = relative * np.abs(self.value) + 1e-7 * np.max(np.abs(self.value), initial=0.0) + 1e-11 * self.size
        return np.asarray(~self.kink & (self.error <= allowed))


def sweep(f: Callable[[float], Any], steps: int = STEPS, largest: float = LARGEST) -> Estimate:
    """The derivative of f at 0, by central differences extrapolated from each step size to the next.

    For each entry the step is chosen where the estimated error is least: with large steps the truncation dominates,
    which shrinks as a power of the step, with small ones the rounding, which grows as the step shrinks.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        centre = np.asarray(f(0.0))
        epsilon = float(np.finfo(centre.dtype).eps) if centre.dtype.kind == "f" else EPSILON
        centre = centre.astype(np.float64)
        sizes = [largest / RATIO**k for k in range(steps)]
        ahead = [np.asarray(f(h), np.float64) for h in sizes]
        behind = [np.asarray(f(-h), np.float64) for h in sizes]
        return _extrapolate(centre, ahead, behind, sizes, epsilon)


def _extrapolate(
    centre: Plain, ahead: list[Plain], behind: list[Plain], sizes: list[float], epsilon: float
) -> Estimate:
    differences = [(a - b) / (2 * h) for a, b, h in zip(ahead, behind, sizes, strict=True)]
    finer = [(RATIO**2 * d1 - d0) / (RATIO**2 - 1) for d0, d1 in itertools.pairwise(differences)]
    magnitude = np.maximum(np.abs(centre), np.maximum(np.abs(ahead[-1]), np.abs(behind[-1])))
    best = _nothing(centre)
    for k in range(1, len(finer)):
        rounding = 4 * epsilon * magnitude / sizes[k + 1]
        # Over two intervals, so that a chance agreement of two estimates is not taken for accuracy.
        truncation = np.abs(finer[k] - finer[k - 1])
        if k > 1:
            truncation = np.maximum(truncation, np.abs(finer[k - 1] - finer[k - 2]) / RATIO**2)
        error = truncation + rounding
        better = np.isfinite(error) & (error < best.error)
        chosen = (finer[k], error, np.full_like(error, sizes[k + 1]), truncation, rounding)
        value, error, step, truncation, rounding = (
            np.where(better, new, old)
            for new, old in zip(
                chosen, (best.value, best.error, best.step, best.truncation, best.rounding), strict=True
            )
        )
        best = best._replace(value=value, error=error, step=step, truncation=truncation, rounding=rounding)
    kink, left, right = _kinks(centre, ahead, behind, sizes, epsilon * magnitude)
    return best._replace(kink=kink, left=left, right=right)


def _nothing(centre: Plain) -> Estimate:
    zero, infinite = np.zeros(centre.shape), np.full(centre.shape, np.inf)
    return Estimate(zero, infinite, zero, np.zeros(centre.shape, bool), zero, zero, infinite, infinite, np.abs(centre))


def _kinks(
    centre: Plain, ahead: list[Plain], behind: list[Plain], sizes: list[float], rounding: Plain
) -> tuple[Plain, Plain, Plain]:
    """Where the slopes on the two sides stay equally far apart. For a smooth function their gap shrinks with the step,
    and where it is rounding it grows."""
    slope = [((centre - b) / h, (a - centre) / h) for a, b, h in zip(ahead, behind, sizes, strict=True)]
    kink = np.zeros(centre.shape, bool)
    left, right = slope[0]
    for k in range(SPAN, len(sizes)):
        low, high = slope[k]
        size = np.maximum(np.abs(low), np.abs(high))
        noise = 30 * rounding / sizes[k]
        # The smallest step whose rounding still leaves the slopes to be told apart decides.
        usable = (noise < 0.02 * size) | (k == SPAN)
        gap, earlier = np.abs(high - low), np.abs(slope[k - SPAN][1] - slope[k - SPAN][0])
        apart = (gap > noise + 1e-6 * size) & (gap > 0.3 * earlier) & (gap < 3 * earlier)
        kink = np.where(usable, apart | ~np.isfinite(gap), kink)
        left, right = np.where(usable, low, left), np.where(usable, high, right)
    return kink, left, right
