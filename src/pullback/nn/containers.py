"""Modules made of modules, and the one that only reshapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.errors import ConfigError, ShapeError
from pullback.nn.module import Module

__all__ = ["Flatten", "Residual", "Sequential"]


class Sequential(Module):
    """Layers one after another, each an attribute of its name.

    `Sequential(a, b)` names them "0" and "1"; `Sequential(conv=a, act=b)` and `Sequential(("conv", a), ("act", b))`
    name them as told. Layers are reached as `model[0]`, `model["conv"]` or `model.conv`.
    """

    def __init__(self, *layers: Module | tuple[str, Module], **named: Module) -> None:
        pairs = [layer if isinstance(layer, tuple) else (str(i), layer) for i, layer in enumerate(layers)]
        self.names: tuple[str, ...] = ()
        for name, layer in (*pairs, *named.items()):
            if not isinstance(layer, Module):
                raise ConfigError(
                    f"Sequential: expected layers, got a {type(layer).__name__}; unpack a list: Sequential(*layers)"
                )
            if hasattr(self, name):
                raise ConfigError(f"Sequential: the name {name!r} is taken; give the layer another")
            setattr(self, name, layer)
            self.names = (*self.names, name)

    def forward(self, x: Array) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        return x

    def __getitem__(self, key: int | str) -> Module:
        layer: Module = getattr(self, key if isinstance(key, str) else self.names[key])
        return layer

    def __len__(self) -> int:
        return len(self.names)


class Residual(Module):
    """x + branch(x), or shortcut(x) + branch(x) where the branch changes the shape (He et al., arXiv:1512.03385)."""

    def __init__(self, branch: Module, shortcut: Module | None = None) -> None:
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Array) -> Array:
        y = self.branch(x)
        straight = x if self.shortcut is None else self.shortcut(x)
        if y.shape != straight.shape:
            path = "input" if self.shortcut is None else "shortcut"
            raise ShapeError(
                "Residual", f"expected the branch to give the shape of the {path}, {straight.shape}, got {y.shape}"
            )
        return straight + y


class Flatten(Module):
    """All axes but the first in one: `(N, ...)` to `(N, features)`."""

    def forward(self, x: Array) -> Array:
        return np.reshape(x, (x.shape[0], -1)) if x.size else np.reshape(x, (x.shape[0], 0))
