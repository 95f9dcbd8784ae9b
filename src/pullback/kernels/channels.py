"""What is known of each channel: sums merged from where they were found, and what follows for a normalisation.
The numbers are few, but a network has many such steps, and one call of NumPy takes as long as each of these whole.
All is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels.runtime import Doubles, Floats, kernel, portion

RECORD = 4
"""Rows of a record: how many values, a value near them (the pivot), the sums of deviations from it and of their
squares; for a mask, the last two are its sums."""


def merged_moments(records: Any, groups: int, channels: int) -> tuple[Any, Any]:
    """Mean and variance, (C,) float32, from records (groups x units, RECORD, width) of `width` channels each.

    Units are merged by their means and squared deviations (Chan, Golub and LeVeque 1979).
    """
    mean, variance = np.empty((2, channels), np.float32)
    merge_moments(records, len(records) // groups, records.shape[2], channels, mean, variance)
    return mean, variance


def merged_sums(records: Any, groups: int, channels: int) -> Any:
    """(2, C) float64 from the last two rows of records as above, of any number of rows."""
    units, rows, width = records.shape
    totals = np.empty((2, channels))
    merge_sums(records, units // groups, rows, width, channels, totals)
    return totals


def affine(gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, Any]:
    """The scale and shift, (C,) float32 each, with which normalisation is x scale + shift."""
    scale, shift = np.empty((2, mean.size), np.float32)
    norm_affine(*map(_dense, (gamma, beta, mean, variance)), epsilon, mean.size, scale, shift)
    return scale, shift


def coefficients(totals: Any, rows: int, gamma: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, ...]:
    """dgamma, dbeta, and the a, b and c with which dx = a g + b x + c, each (C,) float32, from the totals of g and of
    g (x - mean), (2, C) float64, over `rows` rows."""
    found = np.empty((5, mean.size), np.float32)
    norm_coefficients(totals, rows, *map(_dense, (gamma, mean, variance)), epsilon, mean.size, found)
    return tuple(found)


def _dense(array: Any) -> Any:
    return np.ascontiguousarray(array, np.float32)


@kernel
def merge_moments(
    thread: int, threads: int, records: Floats, units: int, width: int, channels: int, mean: Floats, variance: Floats
) -> None:
    """A share of the channels; a unit may be empty."""
    start, stop = portion(channels, thread, threads)
    for c in range(start, stop):
        first = c // width * units * RECORD * width + c % width
        total, weighted = 0.0, 0.0
        for unit in range(units):
            at = first + unit * RECORD * width
            count = np.float64(records[at])
            if count > 0.0:
                total += count
                weighted += count * records[at + width] + records[at + 2 * width]
        centre, spread = weighted / total, 0.0
        for unit in range(units):
            at = first + unit * RECORD * width
            count, deviations = np.float64(records[at]), np.float64(records[at + 2 * width])
            if count > 0.0:
                difference = records[at + width] + deviations / count - centre
                spread += records[at + 3 * width] - deviations * deviations / count + count * difference * difference
        mean[c] = np.float32(centre)
        variance[c] = np.float32(max(spread / total, 0.0))


@kernel
def merge_sums(
    thread: int, threads: int, records: Floats, units: int, rows: int, width: int, channels: int, totals: Doubles
) -> None:
    """A share of the channels."""
    start, stop = portion(channels, thread, threads)
    for c in range(start, stop):
        first = (c // width * units + 1) * rows * width + c % width
        total, moment = 0.0, 0.0
        for unit in range(units):
            at = first + unit * rows * width
            total += records[at - 2 * width]
            moment += records[at - width]
        totals[c] = total
        totals[channels + c] = moment


@kernel
def norm_affine(
    thread: int, threads: int, gamma: Floats, beta: Floats, mean: Floats, variance: Floats, epsilon: float,
    channels: int, scale: Floats, shift: Floats,
) -> None:  # fmt: skip
    """A share of the channels."""
    start, stop = portion(channels, thread, threads)
    for c in range(start, stop):
        factor = gamma[c] / np.sqrt(variance[c] + epsilon)
        scale[c] = np.float32(factor)
        shift[c] = np.float32(beta[c] - mean[c] * factor)


@kernel
def norm_coefficients(
    thread: int, threads: int, totals: Doubles, rows: int, gamma: Floats, mean: Floats, variance: Floats,
    epsilon: float, channels: int, found: Floats,
) -> None:  # fmt: skip
    """A share of the channels: rows of `found`, as `coefficients` names them."""
    start, stop = portion(channels, thread, threads)
    for c in range(start, stop):
        inverse = 1.0 / np.sqrt(variance[c] + epsilon)
        dbeta, dgamma = totals[c], totals[channels + c] * inverse
        factor = gamma[c] * inverse
        of_x = -factor * inverse * dgamma / rows
        found[c] = np.float32(dgamma)
        found[channels + c] = np.float32(dbeta)
        found[2 * channels + c] = np.float32(factor)
        found[3 * channels + c] = np.float32(of_x)
        found[4 * channels + c] = np.float32(-factor * dbeta / rows - of_x * mean[c])
