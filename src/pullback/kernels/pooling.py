"""Max pooling that remembers in one byte which pixel of its window each output came from, and its adjoint.
Images are (N, H, W, C) float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.errors import ShapeError
from pullback.kernels import runtime
from pullback.kernels.convolution import Pair, as_pair
from pullback.kernels.runtime import Bytes, Floats, kernel, portion


def max_pool(
    x: Any, window: Pair, stride: Pair, padding: Pair = 0, out: Any = None, places: Any = None
) -> tuple[Any, Any]:
    """The largest pixel of every window, (N, OH, OW, C), and its place a kw + b in the window, as uint8.

    They go to `out` and `places`, where these are given.

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
    max_pool_forward(
        np.ascontiguousarray(x, np.float32),
        y,
        places,
        images,
        height,
        width,
        channels,
        rows,
        columns,
        *window,
        *stride,
        *padding,
    )
    return y, places


def max_pool_adjoint(
    g: Any, places: Any, input_shape: tuple[int, ...], window: Pair, stride: Pair, padding: Pair = 0, out: Any = None
) -> Any:
    """dx of shape `input_shape`: each g goes to the pixel that its output came from."""
    window, stride, padding = as_pair(window), as_pair(stride), as_pair(padding)
    dx = runtime.empty(tuple(input_shape)) if out is None else out
    _, rows, columns, _ = g.shape
    max_pool_backward(
        np.ascontiguousarray(g, np.float32), places, dx, *input_shape, rows, columns, *window, *stride, *padding
    )
    return dx


@kernel
def max_pool_forward(
    thread: int, threads: int, x: Floats, y: Floats, places: Bytes, images: int, height: int, width: int, channels: int,
    rows: int, columns: int, window_y: int, window_x: int, stride_y: int, stride_x: int, pad_y: int, pad_x: int,
) -> None:  # fmt: skip
    """Rows of the output are shared out; a window is gone through with all channels of a pixel at a time."""
    start, stop = portion(images * rows, thread, threads)
    for row in range(start, stop):
        top = row % rows * stride_y - pad_y
        for column in range(columns):
            left = column * stride_x - pad_x
            to = (row * columns + column) * channels
            first = True
            for a in range(max(0, -top), min(window_y, height - top)):
                for b in range(max(0, -left), min(window_x, width - left)):
                    at = ((row // rows * height + top + a) * width + left + b) * channels
                    place = np.uint8(a * window_x + b)
                    if first:
                        for c in range(channels):
                            y[to + c] = x[at + c]
                            places[to + c] = place
                        first = False
                    else:
                        for c in range(channels):
                            value, best, best_place = x[at + c], y[to + c], places[to + c]
                            better = (value > best) | (value != value)
                            y[to + c] = value if better else best
                            places[to + c] = place if better else best_place


@kernel
def max_pool_backward(
    thread: int, threads: int, g: Floats, places: Bytes, dx: Floats, images: int, height: int, width: int,
    channels: int, rows: int, columns: int, window_y: int, window_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int,
) -> None:  # fmt: skip
    """Rows of the input are shared out; a pixel collects from its windows, so that no two threads write it."""
    start, stop = portion(images * height, thread, threads)
    for row in range(start, stop):
        y = row % height + pad_y
        for column in range(width):
            x = column + pad_x
            to = (row * width + column) * channels
            for c in range(channels):
                dx[to + c] = np.float32(0.0)
            for i in range(max(0, (y - window_y) // stride_y + 1), min(rows - 1, y // stride_y) + 1):
                for j in range(max(0, (x - window_x) // stride_x + 1), min(columns - 1, x // stride_x) + 1):
                    place = np.uint8((y - i * stride_y) * window_x + x - j * stride_x)
                    at = ((row // height * rows + i) * columns + j) * channels
                    for c in range(channels):
                        dx[to + c] += g[at + c] if places[at + c] == place else np.float32(0.0)
