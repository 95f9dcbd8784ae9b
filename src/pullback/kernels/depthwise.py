"""Depthwise convolution, one filter for each channel, and its two adjoints: vectors run along the channels.
Pixels are read where they are, except for the weights, where a band of rows is copied with its border of zeros first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels import lattice, runtime
from pullback.kernels.depthwise_tile import add_products
from pullback.kernels.language import inline
from pullback.kernels.lattice import Correlation, Pair
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import Pointer, broadcast, load, load_part, offset, store, store_part
from pullback.kernels.target import PANEL, WIDTH

_BAND = 1 << 13  # floats of a band of PANEL channels: 32 KiB stay in the first-level cache


def forward(x: Any, w: Any, y: Any, stride: Pair, padding: Pair) -> None:
    """y (N, OH, OW, C) = conv(x, w) for x (N, H, W, C) and w (kh, kw, 1, C); all float32 and contiguous."""
    _correlate(x, w, y, lattice.of_forward(y.shape[1:3], w.shape[:2], stride, padding))


def input_adjoint(g: Any, w: Any, dx: Any, stride: Pair, padding: Pair) -> None:
    """dx (N, H, W, C): the adjoint of `forward` with respect to x, for g like y."""
    for taps, pixels in lattice.of_input_adjoint(dx.shape[1:3], w.shape[:2], stride, padding):
        if taps[0].number == 0 or taps[1].number == 0:
            dx[:, pixels[0].start :: stride[0], pixels[1].start :: stride[1]] = 0.0
        else:
            _correlate(g, w, dx, (taps, pixels))


def _correlate(source: Any, w: Any, target: Any, correlation: Correlation) -> None:
    (vertical, horizontal), (rows, columns) = correlation
    depthwise_sums(
        source, w, target, *source.shape, *target.shape[1:3], w.shape[1], *vertical, *horizontal, *rows, *columns
    )


def _rows_in_band(rows: int, step: int, taps: int, width: int) -> int:
    """Output rows whose input rows fit the band, at least two so that not every row is copied for each tap."""
    most = max(2, (_BAND // (width * PANEL) - taps) // step + 1)
    return -(-rows // -(-rows // most))


def weight_adjoint(x: Any, g: Any, dw: Any, stride: Pair, padding: Pair) -> None:
    """dw (kh, kw, 1, C): the adjoint of `forward` with respect to w, for g like y."""
    channels = x.shape[3]
    taps_y, taps_x, _, _ = dw.shape
    _, rows, columns, _ = g.shape
    band_width = (columns - 1) * stride[1] + taps_x
    band_rows = _rows_in_band(rows, stride[0], taps_y, band_width)
    band_size = ((band_rows - 1) * stride[0] + taps_y) * band_width * PANEL
    threads, taps = runtime.threads(), taps_y * taps_x
    parts = dw if threads == 1 else runtime.empty(threads * dw.size)
    totals_size = taps * round_up(channels, PANEL)
    room, room_size = runtime.scratch(band_size + band_rows * columns * PANEL + taps * PANEL + totals_size)
    depthwise_weight_adjoint(
        x, g, parts, *x.shape, rows, columns, taps_y, taps_x, *stride, *padding,
        band_rows, band_width, band_size, room, room_size,
    )  # fmt: skip
    if threads > 1:
        runtime.add_parts(parts, threads, dw.size, dw)


@inline
def _copy_band(
    x: Pointer, image: int, top: int, left: int, height: int, width: int, channels: int, first: int, rows: int,
    columns: int, band: Pointer,
) -> None:  # fmt: skip
    """band[row][column][PANEL] = the pixels from (top, left) on, zeros outside the image and beyond the channels."""
    zero = broadcast(np.float32(0.0))
    count = channels - first
    before, after = min(max(0, -left), columns), max(min(columns, width - left), 0)
    for row in range(rows):
        to = row * columns * PANEL
        inside = 0 <= top + row < height
        begin, end = (before, after) if inside else (columns, columns)
        for column in range(begin):
            store(band, to + column * PANEL, zero)
            store(band, to + column * PANEL + WIDTH, zero)
        at = ((image * height + top + row) * width + left) * channels + first
        for column in range(begin, end):
            if count >= PANEL:
                store(band, to + column * PANEL, load(x, at + column * channels))
                store(band, to + column * PANEL + WIDTH, load(x, at + column * channels + WIDTH))
            else:
                store(band, to + column * PANEL, load_part(x, at + column * channels, count))
                store(band, to + column * PANEL + WIDTH, load_part(x, at + column * channels + WIDTH, count - WIDTH))
        for column in range(max(begin, end), columns):
            store(band, to + column * PANEL, zero)
            store(band, to + column * PANEL + WIDTH, zero)


@kernel
def depthwise_sums(
    thread: int, threads: int, x: Floats, w: Floats, y: Floats, images: int, height: int, width: int, channels: int,
    out_height: int, out_width: int, weight_columns: int,
    taps_y: int, shift_y: int, step_y: int, first_y: int, stride_y: int,
    taps_x: int, shift_x: int, step_x: int, first_x: int, stride_x: int,
    rows: int, start_y: int, out_step_y: int, columns: int, start_x: int, out_step_x: int,
) -> None:  # fmt: skip
    """Rows of images are shared out; for a few pixels at a time, the weights times the sources that the taps reach."""
    inside = -(shift_x // step_x) if shift_x < 0 else 0  # pixels inside..beyond have all their taps in the row
    beyond = min((width - taps_x - shift_x) // step_x + 1, columns) if width >= taps_x + shift_x else 0
    start, stop = portion(images * rows, thread, threads)
    for unit in range(start, stop):
        i, image = unit % rows, unit // rows
        top = i * step_y + shift_y
        above = max(0, -top)
        reached = min(taps_y, height - top) - above
        j = 0
        while j < columns:
            number = min(beyond - j, 4) if inside <= j < beyond else 1
            left = j * step_x + shift_x
            before = max(0, -left)
            across = min(taps_x, width - left) - before
            weight = ((first_y + above * stride_y) * weight_columns + first_x + before * stride_x) * channels
            at = ((image * height + top + above) * width + left + before) * channels
            to = ((image * out_height + i * out_step_y + start_y) * out_width + j * out_step_x + start_x) * channels
            for c in range(0, channels, PANEL):
                if reached > 0 and across > 0:
                    add_products(
                        channels - c, number, reached, across, x, at + c, step_x * channels, width * channels, channels,
                        w, weight + c, stride_y * weight_columns * channels, stride_x * channels,
                        y, to + c, out_step_x * channels, 0,
                    )  # fmt: skip
                else:
                    for k in range(c, min(c + PANEL, channels), WIDTH):
                        store_part(y, to + k, broadcast(np.float32(0.0)), channels - k)
            j += number


@kernel
def depthwise_weight_adjoint(
    thread: int, threads: int, x: Floats, g: Floats, parts: Floats, images: int, height: int, width: int,
    channels: int, rows: int, columns: int, taps_y: int, taps_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, band_rows: int, band_width: int, band_size: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Images are shared out; the sums of a band are added to those before. Panels whose pages are near come in turn."""
    taps = taps_y * taps_x
    band = offset(room, thread * room_size)
    gradient = offset(band, band_size)
    sums = offset(gradient, band_rows * columns * PANEL)
    totals = offset(sums, taps * PANEL)
    panels = -(-channels // PANEL)
    for i in range(panels * taps * PANEL):
        totals[i] = np.float32(0.0)
    start, stop = portion(images, thread, threads)
    for image in range(start, stop):
        for row in range(0, rows, band_rows):
            reached = min(band_rows, rows - row)
            for panel in range(panels):
                first = panel * PANEL
                _copy_band(
                    x, image, row * stride_y - pad_y, -pad_x, height, width, channels, first,
                    (reached - 1) * stride_y + taps_y, band_width, band,
                )  # fmt: skip
                _copy_band(g, image, row, 0, rows, columns, channels, first, reached, columns, gradient)
                for a in range(taps_y):
                    add_products(
                        PANEL, taps_x, reached, columns, band, a * band_width * PANEL, PANEL,
                        stride_y * band_width * PANEL, stride_x * PANEL, gradient, 0, columns * PANEL, PANEL,
                        sums, a * taps_x * PANEL, PANEL, 0,
                    )  # fmt: skip
                for i in range(taps * PANEL):
                    totals[panel * taps * PANEL + i] += sums[i]
    for panel in range(panels):
        for tap in range(taps):
            to = (thread * taps + tap) * channels + panel * PANEL
            count = channels - panel * PANEL
            for c in range(0, min(PANEL, count), WIDTH):
                store_part(parts, to + c, load(totals, (panel * taps + tap) * PANEL + c), count - c)
