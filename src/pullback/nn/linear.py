"""The fully connected layer, and the table look-up that is one for one-hot inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.tensor import Array, Tensor
from pullback.errors import DataError, DtypeError
from pullback.nn import init
from pullback.nn.checks import check_features
from pullback.nn.module import Module

__all__ = ["Embedding", "Linear"]


class Linear(Module):
    """y = x W + b over the last axis: `(..., inputs)` to `(..., outputs)`. The weight is `(inputs, outputs)`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        weight_init: init.Initialiser = init.he_normal,
        rng: init.Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.weight = weight_init(init.generator(rng), (inputs, outputs), dtype)
        self.bias = np.zeros(outputs, dtype) if bias else None

    def forward(self, x: Array) -> Array:
        check_features("Linear", x, self.inputs)
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Embedding(Module):
    """A vector for each of `count` whole numbers: integers of any shape to `(..., features)`.

    A number that there is not is a DataError; in a compiled program, which nobody may look into, an IndexError.
    """

    def __init__(
        self,
        count: int,
        features: int,
        *,
        weight_init: init.Initialiser = init.normal,
        rng: init.Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        self.count, self.features = count, features
        self.weight = weight_init(init.generator(rng), (count, features), dtype)

    def forward(self, x: Array) -> Array:
        hidden = isinstance(x, Tensor)
        x = x if hidden else np.asarray(x)
        if x.dtype.kind not in "iu":
            raise DtypeError(f"Embedding: expected integers, got dtype {x.dtype}; convert them: x.astype(int)")
        if hidden:
            return self.weight[np.where(x < 0, self.count, x)]
        wrong = (x < 0) | (x >= self.count)
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(f"Embedding: expected numbers from 0 to {self.count - 1}, got {x[place]} at index {place}")
        return self.weight[x]
