"""Convolution 3x3 with stride 1 by Winograd's minimal filtering F(4x4, 3x3), and its adjoints (arXiv:1509.09308).
A tile of 4x4 outputs takes 36 products for a pair of channels in place of 144.

A transformed tile has 36 "frequencies", and for each the convolution is a matrix product over channels. A block of
tiles, a chunk of input channels and a group of output channels are so chosen that the transformed input, weights and
output of a block all lie in the second-level cache, where they are made, used and transformed back.

Error: the transforms add what nearly cancels, which costs accuracy. Against float64, the largest error of a result is
below `ERROR_BOUND` times the largest result for data without structure: one to three times that of direct summation.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from pullback.kernels import fused, runtime
from pullback.kernels.fused import (
    Affine,
    Mask,
    NormGradient,
    loaded_rows,
    store_fused,
    through_affine,
    through_gradient,
)
from pullback.kernels.language import inline
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import (
    Pointer,
    broadcast,
    copy_transposed,
    load,
    load_part,
    multiply_panel,
    offset,
    prefetch,
    prefetch_to_write,
    store,
    store_part,
)
from pullback.kernels.target import PANEL, WIDTH
from pullback.kernels.winograd_transforms import (
    load_six,
    store_six,
    transform_gradient,
    transform_input,
    transform_output,
    weight,
    weight_back,
)

ERROR_BOUND = 3e-5
"""Largest error relative to the largest result, for random data and up to 1024 channels (typically 0.5-7e-6)."""

_LINE = 16  # floats in a cache line
_GAP = 16  # floats between frequencies: without them all 36 would fall into the same cache sets


def forward(
    x: Any, w: Any, y: Any, padding: tuple[int, int], adjoint: bool = False,
    load: Affine | NormGradient | None = None, store: Mask | None = None, moments: bool = False,
) -> Any:  # fmt: skip
    """y = conv(x, w) with zero padding, for x (N, H, W, C), w (3, 3, C, O), y (N, H + 2 ph - 2, W + 2 pw - 2, O).

    With `adjoint`, w is (3, 3, O, C) and is applied rotated by half a turn and transposed, which with padding
    (2 - ph, 2 - pw) is the adjoint with respect to the input. All arrays float32 and contiguous. `load` is done to x
    and `store` to y on the way; returns the sums of `store`, or the mean and variance of y if `moments`.
    """
    images, height, width, inputs = x.shape
    _, out_height, out_width, outputs = y.shape
    tiles = images * -(-out_height // 4) * -(-out_width // 4)
    chunk = _step(inputs, 64 if round_up(inputs, WIDTH) == 64 else 32)
    group = round_up(min(outputs, 64), PANEL)
    block = _tiles_in_cache(tiles, chunk * group, chunk + group)
    blocks, groups, chunks = -(-tiles // block), -(-outputs // group), -(-inputs // chunk)
    # The weights are transformed once into memory, or in the cache by each block where there are few blocks.
    ahead = blocks > 2
    source = w
    if ahead:
        source = runtime.reserved("weights", groups * chunks * 36 * (chunk * group + _GAP))
        room, room_size = runtime.scratch(9 * chunk * group)
        transform_all_weights(w, inputs, outputs, adjoint, chunk, group, source, room, room_size)
    room, room_size = runtime.scratch(
        36 * (chunk * group + block * (chunk + group) + 3 * _GAP) + 9 * chunk * group + 36 * WIDTH
    )
    into = fused.storing(store, moments, y, groups * blocks, group)
    winograd_forward(
        x, source, y, images, height, width, inputs, out_height, out_width, outputs, *padding, adjoint, ahead,
        block, chunk, group, *fused.loading(load, x), *into, room, room_size,
    )  # fmt: skip
    return into.found(groups, outputs)


def weight_adjoint(
    x: Any, g: Any, dw: Any, padding: tuple[int, int],
    load: Affine | None = None, load_gradient: NormGradient | None = None,
) -> None:  # fmt: skip
    """dw (3, 3, C, O): the adjoint of `forward` with respect to the weights, for x (N, H, W, C) and g like y."""
    images, height, width, inputs = x.shape
    _, out_height, out_width, outputs = g.shape
    tiles = images * -(-out_height // 4) * -(-out_width // 4)
    rows = _step(inputs, 64)
    columns = round_up(min(outputs, 64), PANEL)
    block = _tiles_in_cache(tiles, rows * columns, rows + columns)
    units = -(-inputs // rows) * -(-outputs // columns)
    threads = runtime.threads()
    splits = 1 if units >= 4 * threads else min(threads // gcd(units, threads), tiles)
    parts = dw if splits == 1 else runtime.reserved("parts", splits * dw.size)
    room, room_size = runtime.scratch(36 * (rows * columns + block * (rows + columns) + 3 * _GAP) + 36 * WIDTH)
    winograd_weight_adjoint(
        x, g, parts, images, height, width, inputs, out_height, out_width, outputs, *padding,
        block, rows, columns, splits, *fused.loading(load, x), *fused.loading(load_gradient, g), room, room_size,
    )  # fmt: skip
    if splits > 1:
        runtime.add_parts(parts, splits, dw.size, dw)


def _step(channels: int, most: int) -> int:
    """Channels taken at a time: whole vectors, at most `most`."""
    return min(round_up(channels, WIDTH), most)


def _tiles_in_cache(tiles: int, fixed: int, per_tile: int) -> int:
    """Tiles in a block so that 36 x (fixed + tiles x per_tile) floats take 5/8 of the cache, even for all threads."""
    most = max(16, (runtime.cache_bytes() * 5 // 8 // (36 * 4) - fixed) // per_tile)
    blocks = -(-tiles // most)
    if blocks > 1:
        blocks = round_up(blocks, runtime.threads())
    return min(round_up(-(-tiles // blocks), 4), round_up(tiles, 4))


@inline
def _transform_tile(
    x: Pointer, size: int, tile: int, pad_y: int, pad_x: int, tiles_y: int, tiles_x: int, height: int, width: int,
    channels: int, first: int, step: int, kind: int, other: Pointer, table: Pointer, row: int,
    patch: Pointer, v: Pointer, to: int, frequency: int,
) -> None:  # fmt: skip
    """Transform one tile of x (size 6) or of a gradient (size 4): in place where whole and plain, else from a patch."""
    image = tile // (tiles_y * tiles_x)
    top = tile // tiles_x % tiles_y * 4 - pad_y
    left = tile % tiles_x * 4 - pad_x
    whole = top >= 0 and left >= 0 and top + size <= height and left + size <= width
    start = ((image * height + top) * width + left) * channels + first
    count = min(step, channels - first)
    for c in range(0, step, WIDTH):
        source, at, next_row, next_pixel = patch, 0, size * WIDTH, WIDTH
        if whole and kind == 0 and c + WIDTH <= count:
            source, at, next_row, next_pixel = x, start + c, width * channels, channels
        else:
            _fill_patch(
                x, size, top, left, height, width, channels, start + c, count - c, kind, other, table, row, first + c,
                patch,
            )  # fmt: skip
        if size == 6:
            transform_input(source, at, next_row, next_pixel, v, to + c, frequency)
        else:
            transform_gradient(source, at, next_row, next_pixel, v, to + c, frequency)


@inline
def _fill_patch(
    x: Pointer, size: int, top: int, left: int, height: int, width: int, channels: int, start: int, count: int,
    kind: int, other: Pointer, table: Pointer, row: int, channel: int, patch: Pointer,
) -> None:  # fmt: skip
    """A vector of channels of size x size pixels after their work, with zeros around the image."""
    before, after = max(0, -left), min(size, width - left)
    zero = broadcast(np.float32(0.0))
    work = loaded_rows(kind, table, row, channel)
    for i in range(size):
        to, at = i * size * WIDTH, start + i * width * channels
        inside = 0 <= top + i < height
        first, last = before if inside else size, after if inside else size
        for j in range(first):
            store(patch, to + j * WIDTH, zero)
        if kind == 0:
            for j in range(first, last):
                store(patch, to + j * WIDTH, load_part(x, at + j * channels, count))
        elif kind == 1:
            for j in range(first, last):
                store(patch, to + j * WIDTH, through_affine(load_part(x, at + j * channels, count), work))
        else:
            for j in range(first, last):
                beside = load_part(other, at + j * channels, count)
                value = through_gradient(load_part(x, at + j * channels, count), beside, work)
                store(patch, to + j * WIDTH, value)
        for j in range(last, size):
            store(patch, to + j * WIDTH, zero)


@inline
def _prefetch_tiles(
    x: Pointer, begin: int, end: int, tiles_y: int, tiles_x: int, height: int, width: int, channels: int, first: int,
    count: int, to_write: bool,
) -> None:  # fmt: skip
    """Bring the channels first..first + count of 4x4 pixels of each tile: products run while memory is waited for."""
    for tile in range(begin, end):
        top, left = tile // tiles_x % tiles_y * 4, tile % tiles_x * 4
        start = ((tile // (tiles_y * tiles_x) * height + top) * width + left) * channels + first
        for i in range(min(4, height - top)):
            for j in range(min(4, width - left)):
                for c in range(0, count, _LINE):
                    if to_write:
                        prefetch_to_write(x, start + (i * width + j) * channels + c)
                    else:
                        prefetch(x, start + (i * width + j) * channels + c)


@inline
def _prefetch_weights(
    w: Pointer, frequency: int, rows: int, first_row: int, count_rows: int, columns: int, first: int, count: int
) -> None:  # fmt: skip
    """Bring the part of a frequency, of 36, of a block of the 3x3 weights (9, rows, columns)."""
    begin, end = portion(9 * count_rows, frequency, 36)
    for line in range(begin, end):
        at = (line // count_rows * rows + first_row + line % count_rows) * columns + first
        for c in range(0, count, _LINE):
            prefetch(w, at + c)


@inline
def _transform_weights(
    w: Pointer, inputs: int, outputs: int, adjoint: bool, first_in: int, first_out: int, chunk: int, group: int,
    u: Pointer, to: int, taps: Pointer,
) -> None:  # fmt: skip
    """Weights of a chunk of inputs and a group of outputs to u[frequency][panel][input][PANEL], zeros beyond."""
    count_in = min(chunk, inputs - first_in)
    count_out = min(group, outputs - first_out)
    source, start, step, line = taps, 0, group, chunk * group
    if adjoint:
        if count_out < group:
            for i in range(9 * chunk * group):
                taps[i] = 0.0
        for tap in range(9):
            at = (tap * outputs + first_out) * inputs + first_in
            copy_transposed(w, at, inputs, count_out, count_in, taps, (8 - tap) * chunk * group, group)
    elif count_out == group:
        source, start, step, line = w, first_in * outputs + first_out, outputs, inputs * outputs
    else:
        for tap in range(9):
            for c in range(count_in):
                at = (tap * inputs + first_in + c) * outputs + first_out
                put = (tap * chunk + c) * group
                for o in range(0, group, WIDTH):
                    store(taps, put + o, load_part(w, at + o, count_out - o))
    frequency = chunk * group + _GAP
    for o in range(0, group, WIDTH):
        for c in range(count_in):
            at = start + c * step + o
            put = to + (o // PANEL * chunk + c) * PANEL + o % PANEL
            a0, a1, a2, a3, a4, a5 = _weight_column(source, at, line)
            b0, b1, b2, b3, b4, b5 = _weight_column(source, at + line, line)
            c0, c1, c2, c3, c4, c5 = _weight_column(source, at + 2 * line, line)
            store_six(u, put, frequency, weight(a0, b0, c0))
            store_six(u, put + 6 * frequency, frequency, weight(a1, b1, c1))
            store_six(u, put + 12 * frequency, frequency, weight(a2, b2, c2))
            store_six(u, put + 18 * frequency, frequency, weight(a3, b3, c3))
            store_six(u, put + 24 * frequency, frequency, weight(a4, b4, c4))
            store_six(u, put + 30 * frequency, frequency, weight(a5, b5, c5))


@inline
def _weight_column(w: Pointer, at: int, line: int) -> Any:
    return weight(load(w, at), load(w, at + 3 * line), load(w, at + 6 * line))


@kernel
def transform_all_weights(
    thread: int,
    threads: int,
    w: Floats,
    inputs: int,
    outputs: int,
    adjoint: bool,
    chunk: int,
    group: int,
    u: Floats,
    room: Floats,
    room_size: int,
) -> None:
    """Every chunk and group of the transformed weights, one after the other in u."""
    chunks = -(-inputs // chunk)
    start, stop = portion(chunks * -(-outputs // group), thread, threads)
    size = 36 * (chunk * group + _GAP)
    for part in range(start, stop):
        first_in, first_out = part % chunks * chunk, part // chunks * group
        _transform_weights(
            w,
            inputs,
            outputs,
            adjoint,
            first_in,
            first_out,
            chunk,
            group,
            u,
            part * size,
            offset(room, thread * room_size),
        )


@kernel
def winograd_forward(
    thread: int, threads: int, x: Floats, weights: Floats, y: Floats, images: int, height: int, width: int, inputs: int,
    out_height: int, out_width: int, outputs: int, pad_y: int, pad_x: int, adjoint: bool, ahead: bool,
    block: int, chunk: int, group: int,
    load_kind: int, load_other: Floats, load_table: Floats, load_row: int,
    store_kind: int, store_other: Floats, store_table: Floats, store_row: int, records: Floats,
    room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks of tiles and groups of outputs are shared out; a thread goes through the chunks of input channels."""
    tiles_y, tiles_x = -(-out_height // 4), -(-out_width // 4)
    tiles = images * tiles_y * tiles_x
    blocks, groups, chunks = -(-tiles // block), -(-outputs // group), -(-inputs // chunk)
    u_step, v_step, m_step = chunk * group + _GAP, block * chunk + _GAP, block * group + _GAP
    own = offset(room, thread * room_size)
    v, own = own, offset(own, 36 * v_step)
    m, own = own, offset(own, 36 * m_step)
    u, own = own, offset(own, 36 * u_step)
    patch, taps = own, offset(own, 36 * WIDTH)
    if ahead:
        u = weights
    start, stop = portion(blocks * groups, thread, threads)
    for unit in range(start, stop):
        first_tile, first_out = unit % blocks * block, unit // blocks * group
        count = min(block, tiles - first_tile)
        for part in range(chunks):
            first_in = part * chunk
            for tile in range(count):
                _transform_tile(
                    x, 6, first_tile + tile, pad_y, pad_x, tiles_y, tiles_x, height, width,
                    inputs, first_in, chunk, load_kind, load_other, load_table, load_row,
                    patch, v, tile * chunk, v_step,
                )  # fmt: skip
            if ahead:
                u_at = (unit // blocks * chunks + part) * 36 * u_step
            else:
                u_at = 0
                _transform_weights(weights, inputs, outputs, adjoint, first_in, first_out, chunk, group, u, 0, taps)
            depth = min(chunk, inputs - first_in)
            # What the next transforms read is brought while the products run.
            next_tile, next_in, last = first_tile, first_in + chunk, part + 1 == chunks
            if last:
                next_tile, next_in = (unit + 1) % blocks * block, 0
            next_count = min(block, tiles - next_tile)
            for frequency in range(36):
                begin, end = portion(next_count, frequency, 36)
                begin, end = begin + next_tile, end + next_tile
                next_depth = min(chunk, inputs - next_in)
                _prefetch_tiles(
                    x, begin, end, tiles_y, tiles_x, height, width, inputs, next_in, next_depth, False
                )  # fmt: skip
                if load_kind == 2:
                    _prefetch_tiles(
                        load_other, begin, end, tiles_y, tiles_x, height, width, inputs, next_in, next_depth, False
                    )  # fmt: skip
                if not ahead:
                    next_out = first_out
                    if last:
                        next_out = (unit + 1) // blocks * group
                    next_width = min(group, outputs - next_out)
                    if adjoint:
                        _prefetch_weights(
                            weights, frequency, outputs, next_out, next_width, inputs, next_in, next_depth
                        )  # fmt: skip
                    else:
                        _prefetch_weights(
                            weights, frequency, inputs, next_in, next_depth, outputs, next_out, next_width
                        )  # fmt: skip
                if last:
                    begin, end = portion(count, frequency, 36)
                    begin, end = begin + first_tile, end + first_tile
                    width_out = min(group, outputs - first_out)
                    _prefetch_tiles(
                        y, begin, end, tiles_y, tiles_x, out_height, out_width, outputs, first_out, width_out, True
                    )  # fmt: skip
                    if store_kind == 2:
                        _prefetch_tiles(
                            store_other, begin, end, tiles_y, tiles_x, out_height, out_width, outputs, first_out,
                            width_out, False,
                        )  # fmt: skip
                for column in range(0, group, PANEL):
                    multiply_panel(
                        count, depth, v, frequency * v_step, chunk, 1,
                        u, u_at + frequency * u_step + column * chunk, PANEL,
                        m, frequency * m_step + column, group, part,
                    )  # fmt: skip
        for tile in range(count):
            at = first_tile + tile
            top, left = at // tiles_x % tiles_y * 4, at % tiles_x * 4
            to = ((at // (tiles_y * tiles_x) * out_height + top) * out_width + left) * outputs + first_out
            rows, columns = min(4, out_height - top), min(4, out_width - left)
            for c in range(0, min(group, outputs - first_out), WIDTH):
                left_out = outputs - first_out - c
                if store_kind == 0 and rows == 4 and columns == 4 and left_out >= WIDTH:
                    transform_output(m, tile * group + c, m_step, y, to + c, out_width * outputs, outputs)
                else:
                    transform_output(m, tile * group + c, m_step, patch, 0, 4 * WIDTH, WIDTH)
                    store_fused(
                        patch, 4 * WIDTH, y, to + c, out_width * outputs, outputs, rows, columns, left_out,
                        store_kind, store_other, store_table, store_row, first_out + c,
                        offset(records, unit * 4 * group + c), group, tile == 0,
                    )  # fmt: skip


@kernel
def winograd_weight_adjoint(
    thread: int, threads: int, x: Floats, g: Floats, parts: Floats, images: int, height: int, width: int, inputs: int,
    out_height: int, out_width: int, outputs: int, pad_y: int, pad_x: int,
    block: int, rows: int, columns: int, splits: int,
    x_kind: int, x_other: Floats, x_table: Floats, x_row: int,
    g_kind: int, g_other: Floats, g_table: Floats, g_row: int,
    room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks of weights, and stretches of tiles where these are few, are shared out; the sums stay in the cache."""
    tiles_y, tiles_x = -(-out_height // 4), -(-out_width // 4)
    tiles = images * tiles_y * tiles_x
    row_blocks, column_blocks = -(-inputs // rows), -(-outputs // columns)
    v_step, g_step, u_step = block * rows + _GAP, block * columns + _GAP, rows * columns + _GAP
    own = offset(room, thread * room_size)
    v, own = own, offset(own, 36 * v_step)
    z, own = own, offset(own, 36 * g_step)
    u, own = own, offset(own, 36 * u_step)
    patch = own
    start, stop = portion(row_blocks * column_blocks * splits, thread, threads)
    for unit in range(start, stop):
        split = unit % splits
        first_in, first_out = unit // splits % row_blocks * rows, unit // splits // row_blocks * columns
        count_in = min(rows, inputs - first_in)
        begin, end = portion(tiles, split, splits)
        for first_tile in range(begin, end, block):
            count = min(block, end - first_tile)
            for tile in range(count):
                _transform_tile(
                    x, 6, first_tile + tile, pad_y, pad_x, tiles_y, tiles_x, height, width,
                    inputs, first_in, rows, x_kind, x_other, x_table, x_row, patch, v, tile * rows, v_step,
                )  # fmt: skip
                _transform_tile(
                    g, 4, first_tile + tile, 0, 0, tiles_y, tiles_x, out_height, out_width,
                    outputs, first_out, columns, g_kind, g_other, g_table, g_row, patch, z, tile * columns, g_step,
                )  # fmt: skip
            next_count = min(block, end - first_tile - block)
            next_in, next_out = min(rows, inputs - first_in), min(columns, outputs - first_out)
            for frequency in range(36):
                if next_count > 0:
                    first, last = portion(next_count, frequency, 36)
                    first, last = first + first_tile + block, last + first_tile + block
                    _prefetch_tiles(
                        x, first, last, tiles_y, tiles_x, height, width, inputs, first_in, next_in, False
                    )  # fmt: skip
                    _prefetch_tiles(
                        g, first, last, tiles_y, tiles_x, out_height, out_width, outputs, first_out, next_out, False
                    )  # fmt: skip
                    if g_kind == 2:
                        _prefetch_tiles(
                            g_other, first, last, tiles_y, tiles_x, out_height, out_width, outputs, first_out,
                            next_out, False,
                        )  # fmt: skip
                for column in range(0, columns, PANEL):
                    multiply_panel(
                        count_in, count, v, frequency * v_step, 1, rows, z, frequency * g_step + column, columns,
                        u, frequency * u_step + column, columns, first_tile - begin,
                    )  # fmt: skip
        _weights_back(
            u, u_step, inputs, outputs, first_in, first_out, rows, columns, parts, split * 9 * inputs * outputs, patch
        )


@inline
def _weights_back(
    u: Pointer, step: int, inputs: int, outputs: int, first_in: int, first_out: int, rows: int, columns: int,
    dw: Pointer, to: int, between: Pointer,
) -> None:  # fmt: skip
    """A block of transformed weight gradients to its place in dw."""
    count_out = min(columns, outputs - first_out)
    for c in range(min(rows, inputs - first_in)):
        for o in range(0, count_out, WIDTH):
            for j in range(6):
                u0, u1, u2, u3, u4, u5 = load_six(u, j * step + c * columns + o, 6 * step)
                w0, w1, w2 = weight_back(u0, u1, u2, u3, u4, u5)
                store(between, j * WIDTH, w0)
                store(between, (6 + j) * WIDTH, w1)
                store(between, (12 + j) * WIDTH, w2)
            for i in range(3):
                u0, u1, u2, u3, u4, u5 = load_six(between, i * 6 * WIDTH, WIDTH)
                w0, w1, w2 = weight_back(u0, u1, u2, u3, u4, u5)
                at = to + (i * 3 * inputs + first_in + c) * outputs + first_out + o
                store_part(dw, at, w0, count_out - o)
                store_part(dw, at + inputs * outputs, w1, count_out - o)
                store_part(dw, at + 2 * inputs * outputs, w2, count_out - o)
