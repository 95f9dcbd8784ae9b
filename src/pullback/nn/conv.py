"""The convolution layer for images, channels last."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pullback.core.tensor import Array
from pullback.errors import ConfigError
from pullback.nn import init
from pullback.nn.checks import Pair, check_features, pad_pairs, pair
from pullback.nn.module import Module
from pullback.rules.convolution import conv2d

__all__ = ["Conv2d"]


class Conv2d(Module):
    """Cross-correlation with learned kernels: `(N, H, W, inputs)` to `(N, H', W', outputs)`.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: rows and columns of the kernel, or one number for both.
        stride: rows and columns from one window to the next, or one number for both.
        padding: zeros around the image: one number, one for rows and one for columns, pairs
            `((top, bottom), (left, right))`, or "same" for an output of `ceil(H / stride)` rows, and likewise columns.
        groups: channels are cut into that many parts that do not mix; `groups=inputs` is a depthwise convolution.

    The weight is `(kh, kw, inputs / groups, outputs)`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Pair = 3,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | tuple[Pair, Pair] | Literal["same"] = 0,
        groups: int = 1,
        bias: bool = True,
        weight_init: init.Initialiser = init.he_normal,
        rng: init.Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        if inputs % groups or outputs % groups:
            raise ConfigError(
                f"Conv2d: expected inputs and outputs divisible by groups={groups}, got {inputs}, {outputs}"
            )
        self.inputs, self.outputs, self.groups = inputs, outputs, groups
        self.kernel, self.stride = pair(kernel), pair(stride)
        self.padding = padding if isinstance(padding, str) else pad_pairs(padding)
        self.weight = weight_init(init.generator(rng), (*self.kernel, inputs // groups, outputs), dtype)
        self.bias = np.zeros(outputs, dtype) if bias else None

    def forward(self, x: Array) -> Array:
        check_features("Conv2d", x, self.inputs, ("N", "H", "W"))
        y = conv2d(x, self.weight, stride=self.stride, padding=self.padding_of(x.shape[1:3]), groups=self.groups)
        return y if self.bias is None else y + self.bias

    def padding_of(self, size: Pair) -> tuple[Pair, Pair]:
        """The zeros around an image of this size. "same" is outputs of size / stride, rounded up; the odd zero goes
        after the image."""
        if not isinstance(self.padding, str):
            return self.padding
        rows, columns = (
            max((-(-n // stride) - 1) * stride + kernel - n, 0)
            for n, stride, kernel in zip(size, self.stride, self.kernel, strict=True)
        )
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
