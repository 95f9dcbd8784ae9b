"""Learning rates as functions of the step, counted from 0.

Each is a frozen dataclass, so it prints, compares and can be stored as its fields. The formulas are NumPy functions:
a step may be an int, an array of steps (to plot a schedule in one call) or a traced value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pullback.optim.transform import require

Schedule = Callable[[Any], Any]
LearningRate = float | Schedule


@dataclass(frozen=True)
class constant:
    """lr(t) = lr."""

    lr: float

    def __call__(self, step: Any) -> Any:
        return self.lr


@dataclass(frozen=True)
class staircase:
    """lr(t) = lr * factor^floor(t / every): multiplied by `factor` after each `every` steps (PyTorch's StepLR)."""

    lr: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        require(self.every >= 1, "staircase(every=...) to be at least 1 step", self.every)

    def __call__(self, step: Any) -> Any:
        return self.lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class exponential:
    """lr(t) = lr * rate^(t / steps): multiplied by `rate` in `steps` steps, smoothly (PyTorch's ExponentialLR)."""

    lr: float
    rate: float
    steps: int = 1

    def __post_init__(self) -> None:
        require(self.steps >= 1, "exponential(steps=...) to be at least 1 step", self.steps)

    def __call__(self, step: Any) -> Any:
        return self.lr * self.rate ** (step / self.steps)


@dataclass(frozen=True)
class warmup_cosine:
    """A linear warm-up to `peak`, then half a cosine down to `floor`, where it stays.

        warm(t) = min((t + 1) / (W + 1), 1)                      W = warmup_steps
        p(t)    = clip((t - W) / (T - W), 0, 1)                  T = total_steps
        lr(t)   = warm(t) * (floor + (peak - floor) * (1 + cos(pi * p(t))) / 2)

    The warm-up is that of Goyal et al., "Accurate, large minibatch SGD" (2017), the cosine that of Loshchilov and
    Hutter, "SGDR" (2017), without restarts. The first rate is peak / (W + 1) rather than 0, so that no step is
    wasted.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        expected = f"warmup_cosine(warmup_steps=...) from 0 to below total_steps={self.total_steps}"
        require(0 <= self.warmup_steps < self.total_steps, expected, self.warmup_steps)

    def __call__(self, step: Any) -> Any:
        warm = np.minimum((step + 1) / (self.warmup_steps + 1), 1.0)
        return warm * (self.floor + _cosine(step, self.warmup_steps, self.total_steps, self.peak - self.floor, 0.0))


@dataclass(frozen=True)
class one_cycle:
    """Up to `peak` and down again, each half a cosine (Smith and Topin, "Super-convergence", 2018; OneCycleLR).

    From peak / initial_divisor at step 0, to `peak` at step A = warmup_fraction * total_steps - 1, to peak /
    (initial_divisor * final_divisor) at step total_steps - 1. The paper's cycle is linear with a short last phase; as
    in PyTorch and fastai it is a cosine in two phases.
    """

    peak: float
    total_steps: int
    warmup_fraction: float = 0.3
    initial_divisor: float = 25.0
    final_divisor: float = 1e4

    def __post_init__(self) -> None:
        peak_step = self.warmup_fraction * self.total_steps - 1
        expected = f"one_cycle to have its peak between the first and the last of total_steps={self.total_steps} steps"
        require(0 < peak_step < self.total_steps - 1, expected, f"step {peak_step:g}")

    def __call__(self, step: Any) -> Any:
        initial = self.peak / self.initial_divisor
        final = initial / self.final_divisor
        peak_step = self.warmup_fraction * self.total_steps - 1
        up = _cosine(step, 0, peak_step, initial - self.peak, 0.0)
        down = _cosine(step, peak_step, self.total_steps - 1, self.peak, final)
        return up + down


def _cosine(step: Any, begin: float, end: float, first: float, last: float) -> Any:
    """Half a cosine from `first` at step `begin` to `last` at step `end`; level before and after."""
    progress = np.clip((step - begin) / (end - begin), 0.0, 1.0)
    return last + (first - last) * (1.0 + np.cos(np.pi * progress)) / 2.0
