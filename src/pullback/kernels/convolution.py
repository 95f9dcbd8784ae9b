"""Two-dimensional convolution of float32 images and its two adjoints, by whichever algorithm is cheapest for the shape.
Images are (N, H, W, C), weights (kh, kw, C / groups, O); "convolution" is what neural networks mean by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pullback.errors import ConfigError, ShapeError
from pullback.kernels import (
    blocked,
    depthwise,
    fused,
    matmul,
    normalisation,
    runtime,
    scattered,
    shifted,
    tiny,
    winograd,
)
from pullback.kernels.bfloat16 import PARTS, PRECISIONS, RATES, SIDE
from pullback.kernels.fused import Affine, Mask, NormGradient, as_input
from pullback.kernels.runtime import round_up
from pullback.kernels.target import PANEL

Pair = int | tuple[int, int]


class Shape(NamedTuple):
    """Everything an algorithm is chosen by."""

    images: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int

    @property
    def output_size(self) -> tuple[int, int]:
        size = (self.height, self.width)
        rows, columns = (
            (size[axis] + 2 * self.padding[axis] - self.kernel[axis]) // self.stride[axis] + 1 for axis in range(2)
        )
        return rows, columns


def forward(
    x: Any, w: Any, stride: Pair = 1, padding: Pair = 0, groups: int = 1, out: Any = None,
    algorithm: str | None = None, *, load: Affine | None = None, moments: bool = False,
) -> Any:  # fmt: skip
    """y[n, i, j, o] = sum over a, b, c of x[n, i s + a - p, j s + b - p, c] w[a, b, c, o], x zero outside.

    Args:
        x: (N, H, W, C) float32.
        w: (kh, kw, C / groups, O) float32.
        stride, padding: one number, or one for rows and one for columns.
        groups: input and output channels are split into so many groups that do not mix.
        out: where to put the result, (N, OH, OW, O); made if not given.
        algorithm: a name from `costs`, in place of the cheapest.
        load: what is done to x as it is read, before it is padded.
        moments: return y and the mean and variance of its channels, as `normalisation.moments` has them.
    """
    shape = _shape(x.shape, w.shape, stride, padding, groups)
    y = _result(out, (shape.images, *shape.output_size, shape.outputs), "forward")
    chosen = _pick("forward", shape, algorithm)
    if chosen == "winograd":
        found = winograd.forward(as_input(x), as_input(w), y, shape.padding, False, load, None, moments)
        return (y, *found) if moments else y
    if chosen in PARTS:
        parts = PARTS[chosen]
        found = blocked.forward(as_input(x), as_input(w), y, shape.padding, parts, False, load, None, moments)
        return (y, *found) if moments else y
    x, w = fused.loaded(load, as_input(x), "loaded x"), as_input(w)
    match chosen:
        case "tiny":
            tiny.forward(x, w, y, shape.stride, shape.padding)
        case "pointwise":
            matmul.multiply(_pixels(x), _pixels(w), _pixels(y))
        case "depthwise":
            depthwise.forward(x, w, y, shape.stride, shape.padding)
        case _:
            shifted.forward(x, w, y, shape.stride, shape.padding, groups)
    return (y, *normalisation.moments(y)) if moments else y


def input_adjoint(
    g: Any, w: Any, input_shape: tuple[int, ...], stride: Pair = 1, padding: Pair = 0, groups: int = 1, out: Any = None,
    algorithm: str | None = None, *, load_gradient: NormGradient | None = None, store: Mask | None = None,
) -> Any:  # fmt: skip
    """The adjoint of x -> `forward(x, w)`: <g, forward(x, w)> = <input_adjoint(g, w, x.shape), x>.

    `load_gradient` is done to g as it is read, `store` to dx as it is written. With `store`, returns dx and the two
    sums of each channel, (2, C) float64: of dx and of dx (x - mean).
    """
    shape = _shape(input_shape, w.shape, stride, padding, groups)
    _expect_gradient(g, shape)
    dx = _result(out, tuple(input_shape), "input_adjoint")
    chosen = _pick("input_adjoint", shape, algorithm)
    around = (shape.kernel[0] - 1 - shape.padding[0], shape.kernel[1] - 1 - shape.padding[1])
    if chosen == "winograd":
        sums = winograd.forward(as_input(g), as_input(w), dx, around, True, load_gradient, store)
        return dx if store is None else (dx, sums)
    if chosen in PARTS:
        sums = blocked.forward(as_input(g), as_input(w), dx, around, PARTS[chosen], True, load_gradient, store)
        return dx if store is None else (dx, sums)
    g, w = fused.loaded(load_gradient, as_input(g), "loaded g"), as_input(w)
    match chosen:
        case "tiny":
            tiny.input_adjoint(g, w, dx, shape.stride, shape.padding)
        case "pointwise":
            matmul.multiply(_pixels(g), _pixels(w), _pixels(dx), transposed_right=True)
        case "depthwise":
            depthwise.input_adjoint(g, w, dx, shape.stride, shape.padding)
        case "scattered":
            scattered.input_adjoint(g, w, dx, shape.stride, shape.padding)
        case _:
            shifted.input_adjoint(g, w, dx, shape.stride, shape.padding, groups)
    return dx if store is None else (dx, fused.stored(store, dx))


def weight_adjoint(
    x: Any, g: Any, weight_shape: tuple[int, ...], stride: Pair = 1, padding: Pair = 0, groups: int = 1,
    out: Any = None, algorithm: str | None = None, *, load: Affine | None = None,
    load_gradient: NormGradient | None = None,
) -> Any:  # fmt: skip
    """The adjoint of w -> `forward(x, w)`: <g, forward(x, w)> = <weight_adjoint(x, g, w.shape), w>.

    `load` is done to x as it is read, before it is padded, and `load_gradient` to g.
    """
    shape = _shape(x.shape, weight_shape, stride, padding, groups)
    _expect_gradient(g, shape)
    dw = _result(out, tuple(weight_shape), "weight_adjoint")
    chosen = _pick("weight_adjoint", shape, algorithm)
    if chosen == "winograd":
        winograd.weight_adjoint(as_input(x), as_input(g), dw, shape.padding, load, load_gradient)
        return dw
    if chosen in PARTS:
        blocked.weight_adjoint(as_input(x), as_input(g), dw, shape.padding, PARTS[chosen], load, load_gradient)
        return dw
    x = fused.loaded(load, as_input(x), "loaded x")
    g = fused.loaded(load_gradient, as_input(g), "loaded g")
    match chosen:
        case "tiny":
            tiny.weight_adjoint(x, g, dw, shape.stride, shape.padding)
        case "pointwise":
            matmul.multiply(_pixels(x), _pixels(g), _pixels(dw), transposed_left=True)
        case "depthwise":
            depthwise.weight_adjoint(x, g, dw, shape.stride, shape.padding)
        case _:
            shifted.weight_adjoint(x, g, dw, shape.stride, shape.padding, groups)
    return dw


def choose(
    direction: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Pair = 1,
    padding: Pair = 0,
    groups: int = 1,
    preferred: str | None = None,
    precision: str = "float32",
) -> str:
    """The algorithm that `direction` ("forward", "input_adjoint", "weight_adjoint") uses for these shapes: `preferred`
    if it can serve them, else the cheapest; of those whose arithmetic `precision` allows."""
    table = costs(direction, _shape(input_shape, weight_shape, stride, padding, groups))
    table = {name: cost for name, cost in table.items() if name not in PARTS or name in PRECISIONS[precision]}
    return preferred if preferred in table else min(table, key=lambda name: table[name])


def costs(direction: str, shape: Shape) -> Mapping[str, float]:
    """Estimated cost of every algorithm that can serve the shape, in multiply-adds at the rate of a matrix product.

    The factors are measured: the products of Winograd's transformed tiles are too thin for the full rate, and a
    transform of a channel of a tile costs what about 300 multiply-adds would, adding a term where it belongs about 50.
    """
    return _costs(direction, shape, tuple(RATES.items()))


@lru_cache(4096)  # a table takes longer than some convolutions do
def _costs(direction: str, shape: Shape, rates: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    rows, columns = shape.output_size
    inputs, outputs = shape.inputs // shape.groups, shape.outputs // shape.groups
    taps = shape.kernel[0] * shape.kernel[1]
    terms = shape.images * rows * columns * taps * inputs * outputs * shape.groups
    # A product fills whole panels of the channels that it makes.
    made = inputs if direction == "input_adjoint" else outputs
    found = {"shifted": terms * round_up(made, PANEL) / made}
    if direction == "input_adjoint":
        found["shifted"] *= shape.height * shape.width / (rows * columns * shape.stride[0] * shape.stride[1])
    if direction == "input_adjoint" and shape.groups == 1 and taps * inputs <= scattered.MOST_TERMS:
        pixels = shape.images * rows * columns
        found["scattered"] = float(pixels * (outputs * round_up(taps * inputs, PANEL) + 50 * taps * inputs))
    if shape.kernel == shape.stride == (1, 1) and shape.padding == (0, 0) and shape.groups == 1:
        found["pointwise"] = 0.9 * found["shifted"]
    if shape.groups == shape.inputs == shape.outputs:
        found["depthwise"] = 12.0 * terms  # a vector needs its loads for each product
    if shape.kernel == (3, 3) and shape.stride == (1, 1) and max(shape.padding) <= 2 and shape.groups == 1:
        tiles_y, tiles_x = -(-rows // 4), -(-columns // 4)
        if direction == "input_adjoint":
            tiles_y, tiles_x = -(-shape.height // 4), -(-shape.width // 4)
        tiles = shape.images * tiles_y * tiles_x
        products = 36 * tiles * inputs * outputs * round_up(made, PANEL) // made
        transforms = 300 * (tiles * (inputs * -(-outputs // 64) + outputs) + inputs * outputs)
        found["winograd"] = 1.1 * products + transforms
    if shape.groups == 1 and shape.images * max(shape.height * shape.width, rows * columns) <= tiny.MOST_PIXELS:
        reached = _reached(shape, 0) * _reached(shape, 1)
        filled = round_up(shape.images, 4)  # rows of a product go by four
        found["tiny"] = 1.15 * filled * reached * inputs * outputs + 8 * taps * inputs * outputs
    if (
        shape.groups == 1
        and shape.stride == (1, 1)
        and all(shape.padding[axis] < shape.kernel[axis] for axis in range(2))
    ):
        reached = _reached(shape, 0) * _reached(shape, 1)
        images, inputs, outputs = (round_up(count, SIDE) for count in (shape.images, inputs, outputs))
        loaded = {"forward": inputs, "input_adjoint": outputs, "weight_adjoint": inputs + outputs}[direction]
        packing = 8 * (images * shape.height * shape.width * loaded + taps * inputs * outputs)
        for name, rate in rates:
            found[name] = rate * images * reached * inputs * outputs + PARTS[name] * packing
    return MappingProxyType(found)


def _reached(shape: Shape, axis: int) -> int:
    """Pairs of an output pixel and a tap, along one axis, that meet a pixel of the image."""
    size, padding, stride = (shape.height, shape.width)[axis], shape.padding[axis], shape.stride[axis]
    positions = range(-padding, shape.output_size[axis] * stride - padding, stride)
    return sum(0 <= position + tap < size for position in positions for tap in range(shape.kernel[axis]))


def _pick(direction: str, shape: Shape, asked: str | None) -> str:
    table = costs(direction, shape)
    if asked is None:
        return min(table.keys() - PARTS.keys(), key=lambda name: table[name])
    if asked not in table:
        raise ConfigError(
            f"convolution {direction}: algorithm {asked!r} cannot serve {shape}; these can: {', '.join(table)}"
        )
    return asked


def as_pair(value: Pair) -> tuple[int, int]:
    """One number stands for rows and columns."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _shape(x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, groups: int) -> Shape:
    if len(x) != 4 or len(w) != 4:
        raise ShapeError("convolution", f"expected images (N, H, W, C) and weights (kh, kw, C, O), got {x} and {w}")
    if x[3] != w[2] * groups or w[3] % groups:
        raise ShapeError(
            "convolution",
            f"expected images with {w[2] * groups} channels ({w[2]} x {groups} groups) and outputs divisible by "
            f"groups, got images {x} and weights {w}",
        )
    shape = Shape(x[0], x[1], x[2], x[3], w[3], (w[0], w[1]), as_pair(stride), as_pair(padding), groups)
    if min(shape.output_size) < 1:
        raise ShapeError(
            "convolution",
            f"expected images of at least {w[0] - 2 * shape.padding[0]} x {w[1] - 2 * shape.padding[1]} pixels for a "
            f"{w[0]} x {w[1]} kernel with padding {shape.padding}, got {x[1]} x {x[2]}",
        )
    return shape


def _expect_gradient(g: Any, shape: Shape) -> None:
    expected = (shape.images, *shape.output_size, shape.outputs)
    if tuple(g.shape) != expected:
        raise ShapeError("convolution", f"expected a gradient of shape {expected}, that of the output, got {g.shape}")


def _pixels(array: Any) -> Any:
    """The matrix of what the last axis holds, by pixels; for weights of a 1 x 1 kernel, by inputs."""
    return array.reshape(-1, array.shape[3])


def _result(out: Any, shape: tuple[int, ...], name: str) -> Any:
    if out is None:
        return runtime.empty(shape)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeError(
            f"convolution {name}", f"expected out as contiguous float32 {shape}, got {out.dtype} {out.shape}"
        )
    return out
