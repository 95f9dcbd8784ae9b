"""Convolution of images of a few pixels, where most taps fall outside: the rows of the products are images, not pixels.
For each tap, only the pixels that it reaches are multiplied, and each weight is read from memory once.
"""

from __future__ import annotations

from typing import Any

from pullback.kernels import runtime
from pullback.kernels.language import inline
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import Pointer, copy_transposed, load, load_part, multiply_panel, offset, store, store_part
from pullback.kernels.target import PANEL, WIDTH

_CHANNELS = 64  # at a time, of inputs and of outputs
MOST_PIXELS = 1024
"""Pixels of all images that this algorithm takes: their sums must fit the cache."""


def forward(x: Any, w: Any, y: Any, stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """y = conv(x, w), all float32 and contiguous, with at most MOST_PIXELS pixels in x and in y."""
    _products(x, w, y, w.shape, y.shape, stride, padding, adjoint=False)


def input_adjoint(g: Any, w: Any, dx: Any, stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """dx: the adjoint of `forward` with respect to x, for g like y."""
    _products(g, w, dx, w.shape, g.shape, stride, padding, adjoint=True)


def _products(
    source: Any, w: Any, target: Any, weight_shape: Any, output_shape: Any, stride: Any, padding: Any, adjoint: bool
) -> None:
    images, height, width, inputs = source.shape
    _, rows, columns, outputs = target.shape
    group = round_up(min(outputs, _CHANNELS), PANEL)
    room, room_size = runtime.scratch(
        images * (rows * columns * group + height * width * _CHANNELS) + _CHANNELS * group
    )
    tiny_products(
        source, w, target, images, height, width, inputs, rows, columns, outputs, *weight_shape[:2],
        *stride, *padding, adjoint, group, room, room_size,
    )  # fmt: skip


def weight_adjoint(x: Any, g: Any, dw: Any, stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """dw: the adjoint of `forward` with respect to w, for g like y."""
    images, height, width, inputs = x.shape
    _, rows, columns, outputs = g.shape
    group = round_up(min(outputs, _CHANNELS), PANEL)
    pixels = images * (height * width * _CHANNELS + rows * columns * group)
    room, room_size = runtime.scratch(pixels + _CHANNELS * group)
    tiny_weight_adjoint(
        x,
        g,
        dw,
        images,
        height,
        width,
        inputs,
        rows,
        columns,
        outputs,
        *dw.shape[:2],
        *stride,
        *padding,
        group,
        room,
        room_size,
    )


@inline
def _source_of(position: int, tap: int, stride: int, padding: int, adjoint: bool) -> int:
    """Along one axis, the source pixel that a tap brings to a target pixel; -1 if none."""
    if not adjoint:
        return position * stride + tap - padding
    place = position + padding - tap
    return place // stride if place >= 0 and place % stride == 0 else -1


@inline
def _by_position(
    x: Pointer, images: int, pixels: int, channels: int, first: int, count: int, to: Pointer, step: int
) -> None:
    """Copy channels first..first + count to to[pixel][image][step], with zeros up to `step`."""
    for image in range(images):
        for pixel in range(pixels):
            for c in range(0, step, WIDTH):
                value = load_part(x, (image * pixels + pixel) * channels + first + c, count - c)
                store(to, (pixel * images + image) * step + c, value)


@kernel
def tiny_products(
    thread: int, threads: int, x: Floats, w: Floats, y: Floats, images: int, height: int, width: int, inputs: int,
    rows: int, columns: int, outputs: int, taps_y: int, taps_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, adjoint: bool, group: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Groups of output channels are shared out; a thread goes through chunks of input channels and then taps."""
    sums = offset(room, thread * room_size)
    weights = offset(sums, images * rows * columns * group)
    pixels = offset(weights, _CHANNELS * group)
    start, stop = portion(-(-outputs // group), thread, threads)
    for unit in range(start, stop):
        first_out = unit * group
        count_out = min(group, outputs - first_out)
        for i in range(images * rows * columns * group):
            sums[i] = 0.0
        for i in range(_CHANNELS * group):
            weights[i] = 0.0
        for first_in in range(0, inputs, _CHANNELS):
            depth = min(_CHANNELS, inputs - first_in)
            _by_position(x, images, height * width, inputs, first_in, depth, pixels, _CHANNELS)
            for tap in range(taps_y * taps_x):
                if adjoint:
                    at = (tap * outputs + first_out) * inputs + first_in
                    copy_transposed(w, at, inputs, count_out, depth, weights, 0, group)
                else:
                    for c in range(depth):
                        at = (tap * inputs + first_in + c) * outputs + first_out
                        for o in range(0, group, WIDTH):
                            store(weights, c * group + o, load_part(w, at + o, count_out - o))
                for position in range(rows * columns):
                    i = _source_of(position // columns, tap // taps_x, stride_y, pad_y, adjoint)
                    j = _source_of(position % columns, tap % taps_x, stride_x, pad_x, adjoint)
                    if 0 <= i < height and 0 <= j < width:
                        for column in range(0, group, PANEL):
                            multiply_panel(
                                images, depth, pixels, (i * width + j) * images * _CHANNELS, _CHANNELS, 1,
                                weights, column, group, sums, position * images * group + column, group, 1,
                            )  # fmt: skip
        for position in range(rows * columns):
            for image in range(images):
                to = (image * rows * columns + position) * outputs + first_out
                for c in range(0, count_out, WIDTH):
                    store_part(y, to + c, load(sums, (position * images + image) * group + c), count_out - c)


@kernel
def tiny_weight_adjoint(
    thread: int, threads: int, x: Floats, g: Floats, dw: Floats, images: int, height: int, width: int, inputs: int,
    rows: int, columns: int, outputs: int, taps_y: int, taps_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, group: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks of input and output channels are shared out; for each tap, the pixels that it reaches are added up."""
    sums = offset(room, thread * room_size)
    pixels = offset(sums, _CHANNELS * group)
    gradients = offset(pixels, images * height * width * _CHANNELS)
    chunks = -(-inputs // _CHANNELS)
    start, stop = portion(chunks * -(-outputs // group), thread, threads)
    for unit in range(start, stop):
        first_in, first_out = unit % chunks * _CHANNELS, unit // chunks * group
        count_in, count_out = min(_CHANNELS, inputs - first_in), min(group, outputs - first_out)
        _by_position(x, images, height * width, inputs, first_in, count_in, pixels, _CHANNELS)
        _by_position(g, images, rows * columns, outputs, first_out, count_out, gradients, group)
        for tap in range(taps_y * taps_x):
            for i in range(_CHANNELS * group):
                sums[i] = 0.0
            for position in range(rows * columns):
                i = _source_of(position // columns, tap // taps_x, stride_y, pad_y, False)
                j = _source_of(position % columns, tap % taps_x, stride_x, pad_x, False)
                if 0 <= i < height and 0 <= j < width:
                    for column in range(0, group, PANEL):
                        multiply_panel(
                            count_in, images, pixels, (i * width + j) * images * _CHANNELS, 1, _CHANNELS,
                            gradients, position * images * group + column, group, sums, column, group, 1,
                        )  # fmt: skip
            for c in range(count_in):
                to = (tap * inputs + first_in + c) * outputs + first_out
                for o in range(0, count_out, WIDTH):
                    store_part(dw, to + o, load(sums, c * group + o), count_out - o)
