"""Hypotheses about a gradient as a whole: a factor, a sign, another layout, another shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

import numpy as np

from pullback.show.evidence import Case, Sample
from pullback.show.mistakes.axes import localised
from pullback.show.mistakes.findings import Finding, name_of_factor, plausible, proportion
from pullback.show.mistakes.sizes import size_behind


def sign_or_factor(case: Case) -> Iterator[Finding]:
    """The gradient is right but for a number."""
    factor = proportion(case, case.truth)
    if factor is None:
        return

    def predict(sample: Sample) -> Any:
        return factor * sample.true(case.name)

    error = case.explained(predict)
    if error is None:
        return
    if abs(factor) < 1e-12:
        yield Finding("missing_term", "The gradient is zero: nothing of it is there.", error, 1.0)
    elif abs(factor + 1) < 1e-6:
        text = f"The sign is wrong: it is minus the gradient. Negate what is returned for {case.name}."
        yield Finding("sign", text, error, plausible(case, predict, 1.0))
    else:
        name = name_of_factor(factor, case.first.point, size_behind(case, factor) if factor > 0 else None)
        text = f"Off by the constant factor {name}. {_mend(factor, name)}"
        yield Finding("constant_factor", text, error, plausible(case, predict, 0.9))


def _mend(factor: float, name: str) -> str:
    if "shape[" in name or ".size" in name:
        if abs(factor) > 1:
            return "A division by that size is missing, as of a sum in place of a mean; or a sum is taken twice."
        return "The division by that size is applied once too often, or a sum over it is missing."
    return f"Divide it by {factor:.6g}."


def transposed(case: Case) -> Iterator[Finding]:
    """The axes are in another order."""
    truth, claim = case.truth, case.claim
    if truth.ndim < 2 or sorted(truth.shape) != sorted(claim.shape):
        return
    for axes in permutations(range(truth.ndim)):
        if axes == tuple(range(truth.ndim)) or tuple(truth.shape[k] for k in axes) != claim.shape:
            continue

        def predict(sample: Sample, axes: tuple[int, ...] = axes) -> Any:
            return np.transpose(sample.true(case.name), axes)

        error = case.explained(predict)
        if error is None:
            continue
        if claim.shape != truth.shape and truth.ndim == 2:
            text = (
                f"Right in row-vector (numerator) layout: it is the transpose of the gradient, of shape {claim.shape}. "
                f"Transpose it to the shape {truth.shape} of {case.name} before it is used."
            )
            yield Finding("transposed", text, error, 1.0, "right_other_layout")
        else:
            what = "its transpose" if truth.ndim == 2 else f"its axes in the order {axes}"
            text = f"The gradient is transposed: what is returned is {what}. Transpose it back."
            yield Finding("transposed", text, error, plausible(case, predict, 1.0))


def flipped(case: Case) -> Iterator[Finding]:
    """The entries come in reverse order along some axes."""
    truth = case.truth
    if truth.shape != case.claim.shape:
        return
    long = [axis for axis in range(truth.ndim) if truth.shape[axis] > 1]
    for axes in (axes for count in (1, 2) for axes in combinations(long, count)):

        def predict(sample: Sample, axes: tuple[int, ...] = axes) -> Any:
            return np.flip(sample.true(case.name), axes)

        error = case.explained(predict)
        if error is not None:
            along = " and ".join(map(str, axes))
            text = f"The entries are right and come in reverse order along axis {along}: a filter is flipped."
            yield Finding("flipped_filter", text, error, plausible(case, predict, 1.0))


def other_layout(case: Case) -> Iterator[Finding]:
    """The entries are right, as a row where a column is meant, or with axes of size one more or fewer."""
    truth, claim = case.truth, case.claim
    if claim.shape == truth.shape or claim.size != truth.size or _without_ones(claim) != _without_ones(truth):
        return

    def predict(sample: Sample) -> Any:
        return np.reshape(sample.true(case.name), sample.claims[case.name].shape)

    error = case.explained(predict)
    if error is not None:
        text = (
            "Right in row-vector (numerator) layout: the entries are those of the gradient, in the shape "
            f"{claim.shape}. Transpose or reshape it to the shape {truth.shape} of {case.name}."
        )
        yield Finding("transposed", text, error, 1.0, "right_other_layout")


def _without_ones(x: Any) -> tuple[int, ...]:
    return tuple(size for size in x.shape if size != 1)


def unknown(case: Case) -> Finding:
    """Nothing fits."""
    truth, claim = case.truth, case.claim
    if truth.shape != claim.shape:
        text = f"Expected a gradient of the shape {truth.shape} of {case.name}, got {claim.shape}."
        return Finding("wrong_shape", text, np.inf, 1.0)
    return Finding("unknown", f"No known mistake explains it. {localised(case)}", np.inf, 1.0)
