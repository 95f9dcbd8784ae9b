"""Activation layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.nn.checks import check_features
from pullback.nn.module import Module
from pullback.rules.nn import erf, relu, sigmoid, softmax

__all__ = ["GELU", "LeakyReLU", "PReLU", "ReLU", "ReLU6", "Sigmoid", "Softmax", "Tanh"]


class _Activation(Module):
    """A layer that is one function."""

    function: Callable[[Array], Array]

    def forward(self, x: Array) -> Array:
        return type(self).function(x)


class ReLU(_Activation):
    """max(x, 0); the derivative at 0 is 0."""

    function = staticmethod(relu)


class ReLU6(Module):
    """min(max(x, 0), 6), as in networks for small devices (Howard et al., arXiv:1704.04861)."""

    def forward(self, x: Array) -> Array:
        return np.minimum(relu(x), 6)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    function = staticmethod(sigmoid)


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = staticmethod(np.tanh)


class GELU(Module):
    """x Phi(x) with the normal distribution function, by the exact erf (Hendrycks and Gimpel, arXiv:1606.08415)."""

    def forward(self, x: Array) -> Array:
        return x * (0.5 + 0.5 * erf(x * math.sqrt(0.5)))


class LeakyReLU(Module):
    """x where positive, else slope * x."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def forward(self, x: Array) -> Array:
        return _leaky(x, self.slope)


class PReLU(Module):
    """LeakyReLU with a learned slope for each feature, the last axis, or one for all (He et al., arXiv:1502.01852)."""

    def __init__(self, features: int = 1, *, slope: float = 0.25, dtype: Any = np.float32) -> None:
        self.features = features
        self.slope = np.full(features, slope, dtype)

    def forward(self, x: Array) -> Array:
        if self.features > 1:
            check_features("PReLU", x, self.features)
        return _leaky(x, self.slope)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along an axis. For training, use the loss `softmax_cross_entropy` on the logits instead."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return softmax(x, axis=self.axis)


def _leaky(x: Array, slope: Array) -> Array:
    return np.where(x > 0, x, x * slope)
