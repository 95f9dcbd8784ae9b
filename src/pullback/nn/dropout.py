"""Dropout, with masks that can be drawn again: a resumed run drops what the unbroken one would have."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.primitive import Untracked
from pullback.core.tensor import Array
from pullback.errors import ConfigError
from pullback.nn import init
from pullback.nn.module import Buffer, Module

__all__ = ["Dropout"]


class Dropout(Module):
    """Sets each element to zero with probability `rate` in training, and scales the others by 1 / (1 - rate).

    The mask of each call is a function of the seed and of the number of calls before, by the counter-based generator
    Philox (Salmon et al., SC 2011); the count is saved with the module's state.
    """

    def __init__(self, rate: float = 0.5, *, rng: init.Seed = None) -> None:
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"Dropout: expected a rate from 0 to below 1, got {rate}")
        self.rate = rate
        self.seed = int(init.generator(rng).integers(2**63))
        self.calls = Buffer(np.array(0, np.int64))

    def forward(self, x: Array) -> Array:
        if not self.training or self.rate == 0.0:
            return x
        call = self.calls.value
        self.calls.update(call + 1)
        return x * _mask(call, seed=self.seed, rate=self.rate, shape=x.shape, dtype=x.dtype)


def _draw(call: Array, *, seed: int, rate: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate): a function of its arguments, so that a program can repeat it."""
    draw = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, int(call)]))
    return (draw.random(shape, np.float32) >= rate).astype(dtype) * (1.0 / (1.0 - rate))


_mask = Untracked(_draw, name="dropout_mask", register=False)
