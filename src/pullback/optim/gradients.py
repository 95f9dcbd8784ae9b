"""Transformations of the gradient itself: scaling, clipping, weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.tensor import Array
from pullback.optim.schedules import LearningRate, Schedule
from pullback.optim.transform import (
    Params,
    State,
    Transform,
    Updates,
    first_step,
    identity,
    in_dtype_of,
    next_step,
    require,
    stateless,
)

Mask = Callable[[str], bool]


def scale(factor: float) -> Transform:
    """u <- factor * u."""
    return stateless(lambda updates, params: tree.map(lambda u: u * factor, updates))


class ScheduleState(NamedTuple):
    count: Array  # steps done, a 0-d int64 array


def scale_by_schedule(schedule: Schedule) -> Transform:
    """u <- schedule(t) * u, with t = 0 at the first step."""

    def init(params: Params) -> State:
        return ScheduleState(first_step())

    def update(updates: Updates, state: ScheduleState, params: Params) -> tuple[Updates, State]:
        factor = schedule(state.count)
        scaled = tree.map(lambda u: u * in_dtype_of(u, factor), updates)
        return scaled, ScheduleState(next_step(state.count))

    return Transform(init, update)


def scale_by_learning_rate(lr: LearningRate) -> Transform:
    """u <- -lr * u, the last link of a chain: gradients point uphill, steps go down. `lr` is a number or a schedule."""
    if callable(lr):
        return scale_by_schedule(lambda step: -lr(step))
    require(lr >= 0, "a learning rate that is not negative", lr)
    return scale(-lr)


def add_decayed_weights(rate: float, mask: Mask | None = None) -> Transform:
    """u <- u + rate * p: weight decay, of which there are two by the place in the chain.

    *Before* the moments are estimated it adds the gradient of the penalty rate / 2 * |p|^2 (L2 regularisation: `sgd`,
    `rmsprop`, `adam`). *After* them it is decoupled from the gradient's statistics (Loshchilov and Hutter, "Decoupled
    weight decay regularization", 2019: `adamw`). For SGD without momentum the two are the same.

    `mask` says by its path which parameter is decayed, such as `lambda path: path.endswith("weight")`; without it all
    are.
    """
    require(rate >= 0, "a weight decay that is not negative", rate)
    if rate == 0:
        return identity()

    def decay(updates: Updates, params: Params) -> Updates:
        if mask is None:
            return tree.map(lambda u, p: u + rate * p, updates, params)
        rows = zip(tree.paths(params), tree.leaves(updates), tree.leaves(params), strict=True)
        return tree.flatten(params)[1].unflatten([u + rate * p if mask(path) else u for path, u, p in rows])

    return stateless(decay)


def clip_by_value(limit: float) -> Transform:
    """u <- min(max(u, -limit), limit), element by element. Changes the direction of the gradient."""
    require(limit > 0, "clip_by_value(limit=...) to be positive", limit)
    return stateless(lambda updates, params: tree.map(lambda u: np.clip(u, -limit, limit), updates))


def clip_by_global_norm(max_norm: float) -> Transform:
    """u <- u * max_norm / max(|u|, max_norm), with |u| the norm of all updates together: keeps the direction.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013). PyTorch's
    `clip_grad_norm_` divides by |u| + 1e-6 instead, against a zero norm; here the denominator cannot be zero.
    """
    require(max_norm > 0, "clip_by_global_norm(max_norm=...) to be positive", max_norm)

    def clip(updates: Updates, params: Params) -> Updates:
        factor = max_norm / np.maximum(global_norm(updates), max_norm)
        return tree.map(lambda u: u * in_dtype_of(u, factor), updates)

    return stateless(clip)


def global_norm(updates: Updates) -> Any:
    """The Euclidean norm of all leaves of a tree together, a scalar."""
    return np.sqrt(sum(np.sum(np.square(u)) for u in tree.leaves(updates)))
