"""Networks by name. Each is a function of the shape of one example and the number of classes, and of its options."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.nn import init
from pullback.nn.activations import ReLU
from pullback.nn.containers import Flatten, Sequential
from pullback.nn.conv import Conv2d
from pullback.nn.linear import Linear
from pullback.nn.module import Module
from pullback.nn.norm import BatchNorm
from pullback.nn.pool import GlobalAvgPool2d, MaxPool2d
from pullback.rules.nn import relu

__all__ = ["MODELS", "ResidualBlock", "cifar_cnn", "levels_cnn", "mlp", "residual_cnn"]


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    hidden: tuple[int, ...] = (100,),
    *,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Fully connected layers with ReLU between them, on the flattened input."""
    rng = np.random.default_rng(seed)
    widths = (math.prod(input_shape), *hidden)
    layers: list[tuple[str, Module]] = [("flatten", Flatten())]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [(f"hidden{i}", Linear(inputs, outputs, rng=rng, dtype=dtype)), (f"relu{i}", ReLU())]
    layers.append(("output", Linear(widths[-1], classes, rng=rng, dtype=dtype)))
    return _for_input(input_shape, layers)


def cifar_cnn(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """3x3 convolutions with batch norm and ReLU, five times with a 3x3 max pool of stride 2, then a linear layer.

    Channels: 64, pool, 128, pool, 256, 256, pool, 512, 512, pool, 512, 512, pool.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = input_shape
    layers: list[tuple[str, Module]] = []
    for i, level in enumerate([(64,), (128,), (256, 256), (512, 512), (512, 512)]):
        layers.append((f"level{i}", _level(channels, level, rng, dtype)))
        layers.append((f"pool{i}", MaxPool2d(3, stride=2, padding=1)))
        channels = level[-1]
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    layers += [("flatten", Flatten()), ("output", Linear(height * width * channels, classes, rng=rng, dtype=dtype))]
    return _for_input(input_shape, layers)


def levels_cnn(
    input_shape: tuple[int, ...] = (64, 64, 3),
    classes: int = 10,
    levels: tuple[int, ...] = (32, 64, 128),
    repeats: int = 3,
    extra: tuple[int, ...] = (),
    *,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Levels of convolution, batch norm and ReLU, 3x3 max pools of stride 2 between them, then the mean over pixels.

    Args:
        levels: the channels of each level.
        repeats: convolutions in each level.
        extra: channels of further levels, of as many convolutions, without a pool before them.
    """
    rng = np.random.default_rng(seed)
    channels = input_shape[-1]
    layers: list[tuple[str, Module]] = []
    for i, outputs in enumerate((*levels, *extra)):
        if 0 < i < len(levels):
            layers.append((f"pool{i - 1}", MaxPool2d(3, stride=2, padding=1)))
        layers.append((f"level{i}", _level(channels, (outputs,) * repeats, rng, dtype)))
        channels = outputs
    layers += [("mean", GlobalAvgPool2d()), ("output", Linear(channels, classes, rng=rng, dtype=dtype))]
    return _for_input(input_shape, layers)


class ResidualBlock(Module):
    """relu(x + two 3x3 convolutions of x, each with batch norm); He et al., "Deep residual learning", arXiv:1512.03385.

    Where the size or the channels change, x goes through a 1x1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, rng: np.random.Generator, dtype: Any) -> None:
        conv = functools.partial(Conv2d, bias=False, weight_init=init.fan_in_uniform, rng=rng, dtype=dtype)
        self.conv0 = conv(inputs, outputs, 3, stride=stride, padding=1)
        self.norm0 = BatchNorm(outputs, dtype=dtype)
        self.conv1 = conv(outputs, outputs, 3, padding=1)
        self.norm1 = BatchNorm(outputs, dtype=dtype)
        self.shortcut = Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = Sequential(conv(inputs, outputs, 1, stride=stride), BatchNorm(outputs, dtype=dtype))

    def forward(self, x: Array) -> Array:
        y = relu(self.norm0(self.conv0(x)))
        return relu(self.norm1(self.conv1(y)) + self.shortcut(x))


def residual_cnn(
    input_shape: tuple[int, ...] = (64, 64, 3),
    classes: int = 10,
    levels: tuple[int, ...] = (32, 64, 128),
    repeats: int = 2,
    *,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """A 3x3 convolution, levels of residual blocks, each but the first at half the size, then the mean over pixels.

    Args:
        levels: the channels of each level.
        repeats: blocks in each level.
    """
    rng = np.random.default_rng(seed)
    layers: list[tuple[str, Module]] = [("stem", _level(input_shape[-1], levels[:1], rng, dtype))]
    channels = levels[0]
    for i, outputs in enumerate(levels):
        for j in range(repeats):
            stride = 2 if i > 0 and j == 0 else 1
            layers.append((f"block{i}_{j}", ResidualBlock(channels, outputs, stride, rng, dtype)))
            channels = outputs
    layers += [("mean", GlobalAvgPool2d()), ("output", Linear(channels, classes, rng=rng, dtype=dtype))]
    return _for_input(input_shape, layers)


MODELS: dict[str, Callable[..., Sequential]] = {
    "mlp": mlp,
    "cifar-cnn": cifar_cnn,
    "levels-cnn": levels_cnn,
    "residual": residual_cnn,
}
"""Networks by the names of the command line: `MODELS[name](input_shape, classes, seed=..., **options)`."""


def _level(inputs: int, widths: tuple[int, ...], rng: np.random.Generator, dtype: Any) -> Sequential:
    """3x3 convolutions of these widths, each followed by batch norm, whose shift makes a bias superfluous, and ReLU.

    Batch norm also takes the scale of the weights out of the outputs, but Adam's steps have a length of their own:
    small
    weights turn faster, so they begin smaller than He's.
    """
    layers: list[tuple[str, Module]] = []
    small = init.fan_in_uniform
    for i, (before, after) in enumerate(itertools.pairwise((inputs, *widths))):
        layers += [
            (f"conv{i}", Conv2d(before, after, 3, padding=1, bias=False, weight_init=small, rng=rng, dtype=dtype)),
            (f"norm{i}", BatchNorm(after, dtype=dtype)),
            (f"relu{i}", ReLU()),
        ]
    return Sequential(*layers)


def _for_input(shape: tuple[int, ...], layers: list[tuple[str, Module]]) -> Sequential:
    model = Sequential(*layers)
    model.input_shape = tuple(shape)
    return model
