"""The input adjoint of a convolution of few input channels, such as a first layer's: all its taps are one product.
Each output pixel's gradient is multiplied by the weights of every tap and channel at once, and the results are then
added where the taps read. A product of the few channels of one tap alone would leave most of a vector empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels import runtime
from pullback.kernels.lattice import Pair
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import load_part, multiply_panel, offset, store_part
from pullback.kernels.target import PANEL, WIDTH

MOST_TERMS = 512
"""Taps times input channels that this algorithm takes: the products of a row of outputs must fit the cache."""


def input_adjoint(g: Any, w: Any, dx: Any, stride: Pair, padding: Pair) -> None:
    """dx (N, H, W, C) for g (N, OH, OW, O) and w (kh, kw, C, O); all float32 and contiguous."""
    taps_y, taps_x, channels, outputs = w.shape
    terms = taps_y * taps_x * channels
    width = round_up(terms, PANEL)
    weights = np.zeros((outputs, width), np.float32)
    weights[:, :terms] = w.reshape(terms, outputs).T
    room, room_size = runtime.scratch(g.shape[2] * width)
    scattered_sums(g, weights, dx, *dx.shape, *g.shape[1:], width, taps_y, taps_x, *stride, *padding, room, room_size)


@kernel
def scattered_sums(
    thread: int, threads: int, g: Floats, weights: Floats, dx: Floats, images: int, height: int, width: int,
    channels: int, rows: int, columns: int, outputs: int, terms: int, taps_y: int, taps_x: int,
    stride_y: int, stride_x: int, pad_y: int, pad_x: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Images are shared out; a row of outputs at a time is multiplied in the cache, and added up."""
    products = offset(room, thread * room_size)
    start, stop = portion(images, thread, threads)
    size = height * width * channels
    for image in range(start, stop):
        for i in range(size):
            dx[image * size + i] = np.float32(0.0)
        for row in range(rows):
            for panel in range(0, terms, PANEL):
                multiply_panel(
                    columns, outputs, g, (image * rows + row) * columns * outputs, outputs, 1,
                    weights, panel, terms, products, panel, terms, 0,
                )  # fmt: skip
            # A row of taps adds a contiguous stretch. Rows of taps do not wait for each other, so they come in turn.
            top = row * stride_y - pad_y
            for j in range(columns):
                left = j * stride_x - pad_x
                before = max(0, -left)
                count = (min(taps_x, width - left) - before) * channels
                for a in range(max(0, -top), min(taps_y, height - top)):
                    to = ((image * height + top + a) * width + left + before) * channels
                    term = j * terms + (a * taps_x + before) * channels
                    for c in range(0, count, WIDTH):
                        value = load_part(dx, to + c, count - c) + load_part(products, term + c, count - c)
                        store_part(dx, to + c, value, count - c)
