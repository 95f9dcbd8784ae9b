"""Normalisation layers: over the batch, and over the features of each example."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.core.trace import stop_gradient
from pullback.nn.checks import check_features
from pullback.nn.module import Buffer, Module
from pullback.rules.nn import batch_norm, layer_norm

__all__ = ["BatchNorm", "LayerNorm"]


class BatchNorm(Module):
    """Normalises each feature (last axis) over the batch and all other axes, then scales and shifts it.

    In training by the statistics of the batch; in evaluation by running ones, `(1 - momentum) old + momentum new`, of
    which the variance is the unbiased estimate.
    """

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: Any = np.float32) -> None:
        self.features, self.momentum, self.eps = features, momentum, eps
        self.gamma = np.ones(features, dtype)
        self.beta = np.zeros(features, dtype)
        self.running_mean = Buffer(np.zeros(features, dtype))
        self.running_variance = Buffer(np.ones(features, dtype))

    def forward(self, x: Array) -> Array:
        check_features("BatchNorm", x, self.features)
        if not self.training:
            scale = self.gamma / np.sqrt(self.running_variance.value + self.eps)
            return x * scale + (self.beta - self.running_mean.value * scale)
        y, mean, variance = batch_norm(x, self.gamma, self.beta, eps=self.eps)
        count = x.size // self.features
        self._track(self.running_mean, mean)
        self._track(self.running_variance, variance * (count / max(count - 1, 1)))
        return y

    def _track(self, running: Buffer, new: Array) -> None:
        running.update((1.0 - self.momentum) * running.value + self.momentum * stop_gradient(new))


class LayerNorm(Module):
    """Normalises over the last axis, then scales and shifts each feature."""

    def __init__(self, features: int, *, eps: float = 1e-5, dtype: Any = np.float32) -> None:
        self.features, self.eps = features, eps
        self.gamma = np.ones(features, dtype)
        self.beta = np.zeros(features, dtype)

    def forward(self, x: Array) -> Array:
        check_features("LayerNorm", x, self.features)
        return layer_norm(x, self.gamma, self.beta, eps=self.eps)
