"""What an optimiser is made of: gradient transformations that are chained, as in optax (DeepMind, 2020).

A transformation takes a tree of gradients and gives a tree of updates; `apply_updates` adds the last ones to the
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.tensor import Array
from pullback.errors import ConfigError

Params = Any  # a pytree of floating-point arrays
Updates = Any  # a pytree like Params: gradients on the way in, steps on the way out
State = Any  # a pytree of arrays, so that it is saved and restored leaf by leaf


class Transform(NamedTuple):
    """A pair of pure functions. Nothing is changed in place: new updates and a new state are returned.

    `init(params) -> state` makes the state before the first step, and `update(updates, state, params) -> (updates,
    state)` does one step. Every leaf of a state is an array, step counts included.

        state = optimiser.init(params)
        for batch in batches:
            updates, state = optimiser.update(pb.grad(loss)(params, batch), state, params)
            params = optim.apply_updates(params, updates)
    """

    init: Callable[[Params], State]
    update: Callable[[Updates, State, Params], tuple[Updates, State]]


def chain(*transforms: Transform) -> Transform:
    """The transformations one after the other; the state is the tuple of theirs."""

    def init(params: Params) -> State:
        return tuple(transform.init(params) for transform in transforms)

    def update(updates: Updates, state: State, params: Params) -> tuple[Updates, State]:
        states = []
        for transform, old in zip(transforms, state, strict=True):
            updates, new = transform.update(updates, old, params)
            states.append(new)
        return updates, tuple(states)

    return Transform(init, update)


def stateless(f: Callable[[Updates, Params], Updates]) -> Transform:
    """The transformation `f(updates, params) -> updates`, which remembers nothing."""
    return Transform(lambda params: (), lambda updates, state, params: (f(updates, params), state))


def identity() -> Transform:
    """Leaves the updates as they are."""
    return stateless(lambda updates, params: updates)


def apply_updates(params: Params, updates: Updates) -> Params:
    """The parameters after the step, params + updates. The sign is in the updates."""
    return tree.map(lambda p, u: p + u, params, updates)


def first_step() -> Array:
    """The count of steps done before the first."""
    return np.zeros((), np.int64)


def next_step(count: Array) -> Array:
    """One more step. NumPy makes the sum a scalar; the ellipsis makes it a 0-d array again."""
    return (count + 1)[...]


def in_dtype_of(x: Array, scalar: Any) -> Any:
    """`scalar` such that `x * scalar` keeps the dtype of x.

    NumPy promotes float32 times a float64 scalar to float64, but float32 times a Python float stays float32.
    """
    return scalar.astype(x.dtype) if hasattr(scalar, "astype") else scalar


def require(condition: bool, expected: str, got: Any) -> None:
    """Raises ConfigError with "expected ..., got ..." where a hyperparameter is out of range."""
    if not condition:
        raise ConfigError(f"expected {expected}, got {got}")
