"""Convolution of any kernel size, stride, padding and groups as products of shifted pixels, and its two adjoints.
The rows of the product are pixels, its depth is taps x channels. The patches of a block of pixels are gathered in the
cache when they are used: the matrix of all patches ("im2col") never exists.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from pullback.kernels import lattice, runtime
from pullback.kernels.language import inline
from pullback.kernels.lattice import Correlation, Pair
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import (
    Pointer,
    broadcast,
    copy_transposed,
    load,
    load_part,
    multiply_panel,
    offset,
    store,
    store_part,
)
from pullback.kernels.target import PANEL, ROWS, WIDTH

_DEPTH = 320  # of a product at a time: a panel of weights and a few rows of patches fit the first-level cache
_COLUMNS = 128
_GATHERED = 8 * ROWS[0]  # patches at a time: loads that soon follow the stores they read from would wait


def forward(x: Any, w: Any, y: Any, stride: Pair, padding: Pair, groups: int) -> None:
    """y (N, OH, OW, O) = conv(x, w) for x (N, H, W, C) and w (kh, kw, C / groups, O); all float32 and contiguous."""
    _correlate(x, w, y, lattice.of_forward(y.shape[1:3], w.shape[:2], stride, padding), groups, adjoint=False)


def input_adjoint(g: Any, w: Any, dx: Any, stride: Pair, padding: Pair, groups: int) -> None:
    """dx (N, H, W, C): the adjoint of `forward` with respect to x, for g like y."""
    for taps, pixels in lattice.of_input_adjoint(dx.shape[1:3], w.shape[:2], stride, padding):
        if taps[0].number == 0 or taps[1].number == 0:
            dx[:, pixels[0].start :: stride[0], pixels[1].start :: stride[1]] = 0.0
        else:
            _correlate(g, w, dx, (taps, pixels), groups, adjoint=True)


def weight_adjoint(x: Any, g: Any, dw: Any, stride: Pair, padding: Pair, groups: int) -> None:
    """dw (kh, kw, C / groups, O): the adjoint of `forward` with respect to w, for g like y."""
    images, height, width, channels = x.shape
    _, out_height, out_width, out_channels = g.shape
    taps_y, taps_x, inputs, _ = dw.shape
    outputs = out_channels // groups
    depth = taps_y * taps_x * inputs
    rows = _part(depth, taps_x * inputs, inputs, 256)
    columns = round_up(min(outputs, _COLUMNS), PANEL)
    pixels = images * out_height * out_width
    block = min(96, pixels)
    units = -(-depth // rows) * -(-outputs // columns)
    threads = runtime.threads()
    splits = 1 if units >= 4 * threads else min(threads // gcd(units, threads), pixels)
    parts = dw if splits == 1 else runtime.reserved("parts", splits * dw.size)
    step = round_up(rows, WIDTH)
    room, room_size = runtime.scratch(block * (step + columns) + rows * columns + WIDTH)
    for group in range(groups):
        shifted_weight_adjoint(
            x, g, parts, images, height, width, channels, group * inputs, inputs,
            out_height, out_width, out_channels, group * outputs, outputs,
            taps_y, taps_x, -padding[0], -padding[1], stride[0], stride[1],
            block, rows, columns, splits, room, room_size,
        )  # fmt: skip
    if splits > 1:
        runtime.add_parts(parts, splits, dw.size, dw)


def _correlate(source: Any, w: Any, target: Any, correlation: Correlation, groups: int, adjoint: bool) -> None:
    """Add up, for each target pixel of the lattice, weights times the source pixels that the taps reach."""
    images, height, width, source_channels = source.shape
    _, target_height, target_width, target_channels = target.shape
    inputs, outputs = source_channels // groups, target_channels // groups
    (vertical, horizontal), (rows, columns) = correlation
    depth = vertical.number * horizontal.number * inputs
    part = _part(depth, horizontal.number * inputs, inputs, _DEPTH)
    group_columns = round_up(min(outputs, _COLUMNS), PANEL)
    total = images * rows.number * columns.number
    block = _block(total, -(-outputs // group_columns), group_columns)
    panels = -(-outputs // PANEL)
    packed = runtime.reserved("weights", panels * depth * PANEL)
    room, room_size = runtime.scratch(_GATHERED * round_up(part, WIDTH) + block * group_columns + WIDTH)
    for group in range(groups):
        pack_weights(
            w, packed, inputs, outputs, group * (inputs if adjoint else outputs), w.shape[1], w.shape[3],
            vertical.number, vertical.first, vertical.stride, horizontal.number, horizontal.first, horizontal.stride,
            panels, adjoint,
        )  # fmt: skip
        shifted_products(
            source, packed, target, images, height, width, source_channels, group * inputs, inputs,
            target_height, target_width, target_channels, group * outputs, outputs,
            vertical.number, horizontal.number, vertical.shift, horizontal.shift, vertical.step, horizontal.step,
            rows.number, columns.number, rows.start, columns.start, rows.step, columns.step,
            block, part, group_columns, room, room_size,
        )  # fmt: skip


def _part(depth: int, line: int, inputs: int, most: int) -> int:
    """Depth at a time: everything, or whole rows of taps, or whole taps, whichever first is not above `most`."""
    for unit in (depth, line, inputs):
        if unit <= most:
            return unit * min(depth // unit, most // unit)
    return most


def _block(pixels: int, groups: int, floats: int) -> int:
    """Pixels at a time: what 3/8 of the cache holds, evenly over the threads."""
    most = min(384, max(4 * _GATHERED, runtime.cache_bytes() * 3 // 8 // (4 * floats)))
    blocks = -(-pixels // most)
    if blocks * groups < 8 * runtime.threads():
        blocks = round_up(blocks, runtime.threads() // gcd(groups, runtime.threads()))
    return max(1, min(round_up(-(-pixels // blocks), 4), pixels))


@kernel
def pack_weights(
    thread: int, threads: int, w: Floats, packed: Floats, inputs: int, outputs: int, first_channel: int,
    width: int, w_outputs: int, taps_y: int, first_y: int, stride_y: int, taps_x: int, first_x: int, stride_x: int,
    panels: int, adjoint: bool,
) -> None:  # fmt: skip
    """packed[panel][tap][input][PANEL], zeros beyond the last output; with `adjoint` w's channels change places."""
    start, stop = portion(panels * taps_y * taps_x, thread, threads)
    for unit in range(start, stop):
        tap, panel = unit % (taps_y * taps_x), unit // (taps_y * taps_x)
        source = (first_y + tap // taps_x * stride_y) * width + first_x + tap % taps_x * stride_x
        count = min(PANEL, outputs - panel * PANEL)
        to = unit * inputs * PANEL
        if adjoint:
            if count < PANEL:
                for i in range(inputs * PANEL):
                    packed[to + i] = 0.0
            at = (source * outputs + panel * PANEL) * w_outputs + first_channel
            copy_transposed(w, at, w_outputs, count, inputs, packed, to, PANEL)
        else:
            for c in range(inputs):
                at = (source * inputs + c) * w_outputs + first_channel + panel * PANEL
                store(packed, to + c * PANEL, load_part(w, at, count))
                store(packed, to + c * PANEL + WIDTH, load_part(w, at + WIDTH, count - WIDTH))


@inline
def _copy(x: Pointer, source: int, to: Pointer, target: int, count: int) -> None:
    """Copy `count` floats by whole vectors: writes up to a vector too many, of zeros."""
    whole = count - count % WIDTH
    for i in range(0, whole, WIDTH):
        store(to, target + i, load(x, source + i))
    if whole < count:
        store(to, target + whole, load_part(x, source + whole, count - whole))


@inline
def _gather(
    x: Pointer, image: int, top: int, left: int, height: int, width: int, channels: int, first: int, inputs: int,
    taps_x: int, tap_y: int, tap_x: int, channel: int, count: int, patch: Pointer, to: int,
) -> None:  # fmt: skip
    """Copy `count` values of the patch whose first tap is pixel (top, left), from a tap and channel on; zeros outside.

    The patch is ordered by taps and then channels. Up to a vector too many is written: the next row overwrites it.
    """
    whole = inputs == channels and left >= 0 and left + taps_x <= width  # so that a row of taps is contiguous
    line = taps_x * inputs
    top += tap_y
    while count > 0:
        above_or_below = top < 0 or top >= height
        run = min(count, (line - tap_x * inputs if whole or above_or_below else inputs) - channel)
        if above_or_below or left + tap_x < 0 or left + tap_x >= width:
            for i in range(0, run, WIDTH):
                store(patch, to + i, broadcast(np.float32(0.0)))
        else:
            _copy(x, ((image * height + top) * width + left + tap_x) * channels + first + channel, patch, to, run)
        to += run
        count -= run
        if whole or above_or_below:
            tap_x = taps_x
        else:
            tap_x += 1
        channel = 0
        if tap_x == taps_x:
            tap_x = 0
            top += 1


@inline
def _gather_block(
    x: Pointer, pixel: int, count: int, rows: int, columns: int, height: int, width: int, channels: int, first: int,
    inputs: int, taps_x: int, shift_y: int, shift_x: int, step_y: int, step_x: int, begin: int, end: int,
    patch: Pointer, step: int,
) -> None:  # fmt: skip
    """Positions begin..end of the patches of `count` pixels of a lattice of rows x columns in every image."""
    image, top, left = pixel // (rows * columns), pixel // columns % rows, pixel % columns
    tap, channel = begin // inputs, begin % inputs
    tap_y, tap_x = tap // taps_x, tap % taps_x
    line = taps_x * inputs
    lines = (end - begin) // line
    whole_lines = inputs == channels and begin % line == 0 and (end - begin) % line == 0
    row = 0
    while row < count:
        y, x_left = top * step_y + shift_y, left * step_x + shift_x
        if whole_lines and x_left >= 0 and x_left + taps_x <= width and y + tap_y >= 0 and y + tap_y + lines <= height:
            run = min((width - taps_x - x_left) // step_x + 1, columns - left, count - row)
            source = ((image * height + y + tap_y) * width + x_left) * channels
            _gather_inside(x, source, run, lines, line, width * channels, step_x * channels, patch, row * step, step)
        else:
            run = 1
            _gather(
                x, image, y, x_left, height, width, channels, first, inputs,
                taps_x, tap_y, tap_x, channel, end - begin, patch, row * step,
            )  # fmt: skip
        row += run
        left += run
        if left == columns:
            left = 0
            top += 1
            if top == rows:
                top = 0
                image += 1


@inline
def _gather_inside(
    x: Pointer,
    source: int,
    count: int,
    lines: int,
    line: int,
    next_line: int,
    next_pixel: int,
    patch: Pointer,
    to: int,
    step: int,
) -> None:
    """Patches of `count` pixels next to each other, all inside the image: `lines` contiguous stretches each."""
    rest = line % WIDTH
    for a in range(lines):
        for pixel in range(count):
            at, put = source + a * next_line + pixel * next_pixel, to + a * line + pixel * step
            for c in range(0, line - rest, WIDTH):
                store(patch, put + c, load(x, at + c))
            if rest > 0:
                store_part(patch, put + line - rest, load_part(x, at + line - rest, rest), rest)


@kernel
def shifted_products(
    thread: int, threads: int, x: Floats, weights: Floats, y: Floats, images: int, height: int, width: int,
    channels: int, first_channel: int, inputs: int,
    out_height: int, out_width: int, out_channels: int, first_output: int, outputs: int,
    taps_y: int, taps_x: int, shift_y: int, shift_x: int, step_y: int, step_x: int,
    rows: int, columns: int, start_y: int, start_x: int, out_step_y: int, out_step_x: int,
    block: int, part: int, group: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks of pixels and groups of outputs are shared out; a thread goes through the depth in parts."""
    pixels, depth = images * rows * columns, taps_y * taps_x * inputs
    blocks, groups = -(-pixels // block), -(-outputs // group)
    patch = offset(room, thread * room_size)
    step = -(-part // WIDTH) * WIDTH
    spare = offset(patch, _GATHERED * step + WIDTH)
    dense = rows == out_height and columns == out_width
    start, stop = portion(blocks * groups, thread, threads)
    for unit in range(start, stop):
        first_pixel, first_out = unit % blocks * block, unit // blocks * group
        count = min(block, pixels - first_pixel)
        count_out = min(group, outputs - first_out)
        # Where the target pixels follow one another, sums of whole panels are made in place.
        in_place = dense and count_out % PANEL == 0
        if in_place:
            sums, sums_at, sums_row = y, first_pixel * out_channels + first_output + first_out, out_channels
        else:
            sums, sums_at, sums_row = spare, 0, group
        for begin in range(0, depth, part):
            end = min(begin + part, depth)
            for row in range(0, count, _GATHERED):
                gathered = min(_GATHERED, count - row)
                _gather_block(
                    x, first_pixel + row, gathered, rows, columns, height, width, channels, first_channel, inputs,
                    taps_x, shift_y, shift_x, step_y, step_x, begin, end, patch, step,
                )  # fmt: skip
                for column in range(0, count_out, PANEL):
                    multiply_panel(
                        gathered, end - begin, patch, 0, step, 1,
                        weights, (first_out + column) * depth + begin * PANEL, PANEL,
                        sums, sums_at + row * sums_row + column, sums_row, begin,
                    )  # fmt: skip
        if in_place:
            continue
        image, i, j = first_pixel // (rows * columns), first_pixel // columns % rows, first_pixel % columns
        for row in range(count):
            place = (image * out_height + i * out_step_y + start_y) * out_width + j * out_step_x + start_x
            to = place * out_channels + first_output + first_out
            for c in range(0, count_out, WIDTH):
                store_part(y, to + c, load(sums, row * group + c), count_out - c)
            j += 1
            if j == columns:
                j = 0
                i += 1
                if i == rows:
                    i = 0
                    image += 1


@kernel
def shifted_weight_adjoint(
    thread: int, threads: int, x: Floats, g: Floats, parts: Floats, images: int, height: int, width: int,
    channels: int, first_channel: int, inputs: int,
    out_height: int, out_width: int, out_channels: int, first_output: int, outputs: int,
    taps_y: int, taps_x: int, shift_y: int, shift_x: int, step_y: int, step_x: int,
    block: int, rows: int, columns: int, splits: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks of weights, and stretches of pixels where these are few, are shared out; the sums stay in the cache."""
    pixels, depth = images * out_height * out_width, taps_y * taps_x * inputs
    row_blocks, column_blocks = -(-depth // rows), -(-outputs // columns)
    step = -(-rows // WIDTH) * WIDTH
    patch = offset(room, thread * room_size)
    gradient = offset(patch, block * step + WIDTH)
    sums = offset(gradient, block * columns)
    start, stop = portion(row_blocks * column_blocks * splits, thread, threads)
    for unit in range(start, stop):
        split = unit % splits
        begin, first_out = unit // splits % row_blocks * rows, unit // splits // row_blocks * columns
        end, count_out = min(begin + rows, depth), min(columns, outputs - first_out)
        first, last = portion(pixels, split, splits)
        for first_pixel in range(first, last, block):
            count = min(block, last - first_pixel)
            _gather_block(
                x, first_pixel, count, out_height, out_width, height, width, channels, first_channel, inputs,
                taps_x, shift_y, shift_x, step_y, step_x, begin, end, patch, step,
            )  # fmt: skip
            for row in range(count):
                at = (first_pixel + row) * out_channels + first_output + first_out
                for c in range(0, columns, WIDTH):
                    store(gradient, row * columns + c, load_part(g, at + c, count_out - c))
            for column in range(0, count_out, PANEL):
                multiply_panel(
                    end - begin, count, patch, 0, 1, step, gradient, column, columns,
                    sums, column, columns, first_pixel - first,
                )  # fmt: skip
        for k in range(begin, end):
            to = (split * depth + k) * out_channels + first_output + first_out
            for c in range(0, count_out, WIDTH):
                store_part(parts, to + c, load(sums, (k - begin) * columns + c), count_out - c)
