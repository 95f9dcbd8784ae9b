"""The softmax cross-entropy and its gradient, in one pass over the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels import runtime
from pullback.kernels.functions import Number, exp
from pullback.kernels.language import intrinsic
from pullback.kernels.runtime import Floats, Integers, kernel, portion
from pullback.kernels.simd import (
    at_least,
    broadcast,
    first_lanes,
    largest_lane,
    load,
    load_part,
    store_part,
    sum_of_lanes,
)
from pullback.kernels.target import WIDTH


def _exponential(builder: Any, value: Any) -> Any:
    return exp(Number(builder, value)).value


exponential = intrinsic(_exponential)
"""`exponential(value)`: e^x in every lane."""


def softmax_cross_entropy(logits: Any, targets: Any, gradient: Any) -> Any:
    """The mean over rows of -sum(targets * log softmax(logits)), as float32, and its gradient by the logits.

    Args:
        logits: float32 (N, K).
        targets: float32 (N, K), or whole numbers (N,), of which one outside the K classes makes the loss
            NaN, and its row of the gradient.
        gradient: float32 (N, K), to be written.
    """
    rows, classes = logits.shape
    losses, of_labels = runtime.reserved("losses", rows), targets.ndim == 1
    labels = np.ascontiguousarray(targets, np.int64) if of_labels else _NONE
    targets = logits if of_labels else np.ascontiguousarray(targets)
    cross_entropy(logits, targets, of_labels, labels, rows, classes, gradient, losses)
    return np.float32(losses.sum(dtype=np.float64) / rows)


_NONE = np.zeros(0, np.int64)


@kernel
def cross_entropy(
    thread: int, threads: int, logits: Floats, targets: Floats, of_labels: bool, labels: Integers, rows: int,
    classes: int, gradient: Floats, losses: Floats,
) -> None:  # fmt: skip
    """Row by row, from the largest logit, so that no exponential overflows."""
    share = np.float32(1.0) / np.float32(rows)
    start, stop = portion(rows, thread, threads)
    for row in range(start, stop):
        at = row * classes
        top = logits[at]
        if classes < WIDTH:
            for k in range(1, classes):
                top = max(top, logits[at + k])
        else:
            best = load(logits, at + classes - WIDTH)
            for k in range(0, classes - WIDTH, WIDTH):
                best = at_least(best, load(logits, at + k))
            top = largest_lane(best)
        sums = broadcast(np.float32(0.0))
        for k in range(0, classes, WIDTH):
            power = first_lanes(exponential(load_part(logits, at + k, classes - k) - top), classes - k)
            store_part(gradient, at + k, power, classes - k)
            sums = sums + power
        total = sum_of_lanes(sums)
        if of_labels:
            label = labels[row]
            known = 0 <= label < classes
            factor = share / total if known else np.float32(np.nan)
            for k in range(0, classes, WIDTH):
                store_part(gradient, at + k, load_part(gradient, at + k, classes - k) * factor, classes - k)
            losses[row] = np.nan
            if known:
                gradient[at + label] -= share
                losses[row] = np.log(total) - (logits[at + label] - top)
        else:
            weights, met = broadcast(np.float32(0.0)), broadcast(np.float32(0.0))
            for k in range(0, classes, WIDTH):
                target = load_part(targets, at + k, classes - k)
                weights = weights + target
                met = met + target * first_lanes(load_part(logits, at + k, classes - k) - top, classes - k)
            weight = sum_of_lanes(weights)
            factor = share * weight / total
            for k in range(0, classes, WIDTH):
                target = load_part(targets, at + k, classes - k)
                power = load_part(gradient, at + k, classes - k)
                store_part(gradient, at + k, power * factor - target * share, classes - k)
            losses[row] = np.log(total) * weight - sum_of_lanes(met)
