"""Pooling layers for images `(N, H, W, C)`."""

from __future__ import annotations

import numpy as np

from pullback.core.tensor import Array
from pullback.nn.checks import Pair, check_images, pad_pairs, pair
from pullback.nn.module import Module
from pullback.rules.pooling import avg_pool2d, max_pool2d

__all__ = ["AvgPool2d", "GlobalAvgPool2d", "MaxPool2d"]


class MaxPool2d(Module):
    """The largest entry of each window; where entries tie, the first. The stride is the window unless given."""

    def __init__(
        self,
        window: int | Pair = 2,
        *,
        stride: int | Pair | None = None,
        padding: int | Pair | tuple[Pair, Pair] = 0,
    ) -> None:
        self.window = pair(window)
        self.stride = self.window if stride is None else pair(stride)
        self.padding = pad_pairs(padding)

    def forward(self, x: Array) -> Array:
        check_images("MaxPool2d", x)
        return max_pool2d(x, window=self.window, stride=self.stride, padding=self.padding)


class AvgPool2d(Module):
    """The mean of each window. The stride is the window unless given; padding counts as zeros unless told otherwise."""

    def __init__(
        self,
        window: int | Pair = 2,
        *,
        stride: int | Pair | None = None,
        padding: int | Pair | tuple[Pair, Pair] = 0,
        count_include_pad: bool = True,
    ) -> None:
        self.window = pair(window)
        self.stride = self.window if stride is None else pair(stride)
        self.padding = pad_pairs(padding)
        self.count_include_pad = count_include_pad

    def forward(self, x: Array) -> Array:
        check_images("AvgPool2d", x)
        return avg_pool2d(
            x, window=self.window, stride=self.stride, padding=self.padding, count_include_pad=self.count_include_pad
        )


class GlobalAvgPool2d(Module):
    """The mean over all pixels: `(N, H, W, C)` to `(N, C)`."""

    def forward(self, x: Array) -> Array:
        check_images("GlobalAvgPool2d", x)
        return np.mean(x, axis=(1, 2))
