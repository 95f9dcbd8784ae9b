"""Max pooling that remembers in one byte which pixel of its window each output came from, and its adjoint.
Images are (N, H, W, C) float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.errors import ShapeError
from pullback.kernels import fused, runtime
from pullback.kernels.convolution import Pair, as_pair
from pullback.kernels.fused import Affine, Mask, as_input, loaded_rows, through_affine
from pullback.kernels.runtime import Bytes, Floats, kernel, portion, round_up
from pullback.kernels.simd import (
    broadcast,
    load,
    load_part,
    offset,
    store,
    store_bytes,
    store_part,
    where_better,
    where_byte,
    where_positive,
)
from pullback.kernels.target import WIDTH

_ROWS = 16  # of the image at a time, whose sums are added up in float32


def max_pool(
    x: Any, window: Pair, stride: Pair, padding: Pair = 0, out: Any = None, places: Any = None,
    *, load: Affine | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """The largest pixel of every window, (N, OH, OW, C), and its place a kw + b in the window, as uint8.

    They go to `out` and `places`, where these are given. `load` is done to x as it is read.

    Outside the image is less than everything; of equal pixels the first wins; a NaN wins over numbers.
    """
    window, stride, padding = as_pair(window), as_pair(stride), as_pair(padding)
    if window[0] * window[1] > 256 or padding[0] >= window[0] or padding[1] >= window[1]:
        raise ShapeError(
            "max_pool",
            f"expected a window of at most 256 pixels and less padding than window, got {window} and {padding}",
        )
    images, height, width, channels = x.shape
    rows, columns = ((x.shape[1 + i] + 2 * padding[i] - window[i]) // stride[i] + 1 for i in range(2))
    if rows < 1 or columns < 1:
        raise ShapeError("max_pool", f"expected images of at least {window} pixels, got {(height, width)}")
    y = runtime.empty((images, rows, columns, channels)) if out is None else out
    places = runtime.empty(y.shape, np.uint8) if places is None else places
    x = as_input(x)
    kind, _, table, table_row = fused.loading(load, x)
    max_pool_forward(
        x, y, places, images, height, width, channels, rows, columns, *window, *stride, *padding,
        kind, table, table_row,
    )  # fmt: skip
    return y, places


def max_pool_adjoint(
    g: Any, places: Any, input_shape: tuple[int, ...], window: Pair, stride: Pair, padding: Pair = 0, out: Any = None,
    *, store: Mask | None = None,
) -> Any:  # fmt: skip
    """dx of shape `input_shape`: each g goes to the pixel that its output came from.

    `store` is done to dx as it is written; with it, returns dx and the two sums of each channel, (2, C) float64.
    """
    window, stride, padding = as_pair(window), as_pair(stride), as_pair(padding)
    dx = runtime.empty(tuple(input_shape)) if out is None else out
    _, rows, columns, channels = g.shape
    blocks = -(-input_shape[0] * input_shape[1] // _ROWS)
    into = fused.storing(store, False, dx, blocks, round_up(channels, WIDTH))
    max_pool_backward(
        as_input(g), places, dx, *input_shape, rows, columns, *window, *stride, *padding, *into,
        round_up(channels, WIDTH),
    )  # fmt: skip
    return dx if store is None else (dx, into.found(1, channels))


@kernel
def max_pool_forward(
    thread: int, threads: int, x: Floats, y: Floats, places: Bytes, images: int, height: int, width: int, channels: int,
    rows: int, columns: int, window_y: int, window_x: int, stride_y: int, stride_x: int, pad_y: int, pad_x: int,
    kind: int, table: Floats, table_row: int,
) -> None:  # fmt: skip
    """Rows of the output are shared out; a window is gone through with a vector of channels at a time."""
    start, stop = portion(images * rows, thread, threads)
    for row in range(start, stop):
        top = row % rows * stride_y - pad_y
        first_y, last_y = max(0, -top), min(window_y, height - top)
        for column in range(columns):
            left = column * stride_x - pad_x
            first_x, last_x = max(0, -left), min(window_x, width - left)
            source = ((row // rows * height + top) * width + left) * channels
            to = (row * columns + column) * channels
            for c in range(0, channels, WIDTH):
                work = loaded_rows(kind, table, table_row, c)
                best = broadcast(np.float32(-np.inf))
                place = broadcast(np.float32(first_y * window_x + first_x))
                for a in range(first_y, last_y):
                    for b in range(first_x, last_x):
                        value = load_part(x, source + (a * width + b) * channels + c, channels - c)
                        if kind != 0:
                            value = through_affine(value, work)
                        place = where_better(value, best, broadcast(np.float32(a * window_x + b)), place)
                        best = where_better(value, best, value, best)
                store_part(y, to + c, best, channels - c)
                store_bytes(places, to + c, place, channels - c)


@kernel
def max_pool_backward(
    thread: int, threads: int, g: Floats, places: Bytes, dx: Floats, images: int, height: int, width: int,
    channels: int, rows: int, columns: int, window_y: int, window_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int,
    kind: int, other: Floats, table: Floats, table_row: int, records: Floats, group: int,
) -> None:  # fmt: skip
    """Rows of the input are shared out; a pixel collects from its windows, so that no two threads write it."""
    start, stop = portion(-(-images * height // _ROWS), thread, threads)
    zero = broadcast(np.float32(0.0))
    for block in range(start, stop):
        record = offset(records, block * 4 * group)
        if kind != 0:
            for i in range(0, 4 * group, WIDTH):
                store(record, i, zero)
        for row in range(block * _ROWS, min((block + 1) * _ROWS, images * height)):
            y = row % height + pad_y
            first_i, last_i = max(0, (y - window_y) // stride_y + 1), min(rows - 1, y // stride_y) + 1
            for column in range(width):
                x = column + pad_x
                first_j, last_j = max(0, (x - window_x) // stride_x + 1), min(columns - 1, x // stride_x) + 1
                to = (row * width + column) * channels
                for c in range(0, channels, WIDTH):
                    value = zero
                    for i in range(first_i, last_i):
                        for j in range(first_j, last_j):
                            place = (y - i * stride_y) * window_x + x - j * stride_x
                            at = ((row // height * rows + i) * columns + j) * channels + c
                            value = value + where_byte(places, at, place, channels - c, load_part(g, at, channels - c))
                    if kind != 0:
                        beside = load_part(other, to + c, channels - c)
                        value = where_positive(beside * load(table, c) + load(table, table_row + c), value)
                        total = load(record, 2 * group + c) + value
                        moment = load(record, 3 * group + c) + value * (beside - load(table, 2 * table_row + c))
                        store(record, 2 * group + c, total)
                        store(record, 3 * group + c, moment)
                    store_part(dx, to + c, value, channels - c)
