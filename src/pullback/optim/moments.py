"""Transformations that remember past gradients: momentum, RMSprop's mean square, Adam's two moments.

Sums are written with augmented assignments on arrays made in the same function: a step of a large network is bound by
memory, and each temporary less is a pass over all parameters less. Adam's step is one primitive for that reason.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.tensor import Array
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
)
from pullback.rules.optim import adam_step, moving_average


class TraceState(NamedTuple):
    trace: Updates


def trace(decay: float, nesterov: bool = False) -> Transform:
    """Momentum: a decaying sum of the gradients.

        m <- g + decay * m
        u <- m                    (Polyak, 1964)
        u <- g + decay * m        (nesterov; Sutskever et al., "On the importance of initialization and momentum", 2013)

    The sum is of raw gradients and the learning rate is applied afterwards, as in PyTorch; in Sutskever et al. the
    learning rate is inside the sum, which differs only where the rate changes between steps. With decay 0 nothing is
    remembered.
    """
    require(0 <= decay < 1, "a momentum in [0, 1)", decay)
    if decay == 0:
        return identity()

    def init(params: Params) -> State:
        return TraceState(tree.map(np.zeros_like, params))

    def update(updates: Updates, state: TraceState, params: Params) -> tuple[Updates, State]:
        new = tree.map(lambda g, m: _add_scaled(g, m, decay), updates, state.trace)
        steps = tree.map(lambda g, m: _add_scaled(g, m, decay), updates, new) if nesterov else new
        return steps, TraceState(new)

    return Transform(init, update)


class RmsState(NamedTuple):
    mean_square: Updates


def scale_by_rms(decay: float = 0.99, eps: float = 1e-8) -> Transform:
    """Divides by a moving root mean square of the gradient.

        v <- decay * v + (1 - decay) * g^2
        u <- g / (sqrt(v) + eps)

    Tieleman and Hinton, "Lecture 6.5: RMSprop" (2012), which states decay 0.9 and no eps. As in PyTorch, v starts at
    0 and eps is added outside the root (optax adds it inside).
    """
    require(0 <= decay < 1, "rmsprop's decay in [0, 1)", decay)

    def init(params: Params) -> State:
        return RmsState(tree.map(np.zeros_like, params))

    def update(updates: Updates, state: RmsState, params: Params) -> tuple[Updates, State]:
        mean_square = tree.map(lambda v, g: moving_average(v, g * g, decay), state.mean_square, updates)
        return tree.map(lambda g, v: g / (np.sqrt(v) + eps), updates, mean_square), RmsState(mean_square)

    return Transform(init, update)


class AdamState(NamedTuple):
    count: Array  # steps done, a 0-d int64 array
    mean: Updates
    mean_square: Updates


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    """Adam's direction: the mean of the gradient over its root mean square, both corrected for their start at 0.

        t <- t + 1
        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g^2
        u <- (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1. The fraction is multiplied
    through by 1 - b1^t, so that the corrections are scalars and save passes over the parameters: u = m / (sqrt(v) *
    (1 - b1^t) / sqrt(1 - b2^t) + eps * (1 - b1^t)), the same to rounding. (The faster form that the paper gives in
    its section 2 does not scale eps, and so differs in the first steps.)
    """
    require(0 <= b1 < 1, "adam's b1 in [0, 1)", b1)
    require(0 <= b2 < 1, "adam's b2 in [0, 1)", b2)

    def init(params: Params) -> State:
        return AdamState(first_step(), tree.map(np.zeros_like, params), tree.map(np.zeros_like, params))

    def update(updates: Updates, state: AdamState, params: Params) -> tuple[Updates, State]:
        count = next_step(state.count)
        correction = 1.0 - b1**count
        scale, floor = correction / np.sqrt(1.0 - b2**count), eps * correction
        trees = [tree.flatten(each) for each in (updates, state.mean, state.mean_square)]
        rows = [
            adam_step(g, m, v, in_dtype_of(v, scale), in_dtype_of(v, floor), b1=b1, b2=b2)
            for g, m, v in zip(*(leaves for leaves, _ in trees), strict=True)
        ]
        steps, *moments = (form.unflatten([row[k] for row in rows]) for k, (_, form) in enumerate(trees))
        return steps, AdamState(count, *moments)

    return Transform(init, update)


class AverageState(NamedTuple):
    count: Array  # steps done, a 0-d int64 array
    average: Params


def average_parameters(decay: float = 0.999) -> Transform:
    """Keeps a moving average of the parameters beside them, which changes no step; the last of a chain.

        t <- t + 1,  d <- min(decay, t / (t + 9))
        a <- d * a + (1 - d) * (p + u)

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992). At first the average follows
    faster, so that the initial values are soon forgotten. `state.average` is to be evaluated in place of p.
    """
    require(0 < decay < 1, "a decay in (0, 1)", decay)

    def init(params: Params) -> State:
        return AverageState(first_step(), tree.map(np.array, params))

    def update(updates: Updates, state: AverageState, params: Params) -> tuple[Updates, State]:
        count = next_step(state.count)
        kept = np.minimum(decay, count / (count + 9.0))

        def moved(a: Array, p: Array, u: Array) -> Array:
            return a + in_dtype_of(a, 1.0 - kept) * (p + u - a)

        return updates, AverageState(count, tree.map(moved, state.average, params, updates))

    return Transform(init, update)


def _add_scaled(g: Array, m: Array, decay: float) -> Array:
    """g + decay * m."""
    total = m * decay
    total += g
    return total
