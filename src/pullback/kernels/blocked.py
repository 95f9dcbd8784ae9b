"""Matrix products and convolutions of stride 1 in bfloat16, in one part or two, summed in float32 (`bfloat16.py`).

The rows of a convolution's products are images: a pixel of 32 images is a block, so no border runs through a block, and
taps beyond the image are not multiplied. For the weights' adjoint, images are what is summed over. Operands are rounded
and packed when they are loaded, after the work of `fused.py`; the result is float32.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from pullback.kernels import fused, runtime
from pullback.kernels.bfloat16 import (
    BLOCK,
    ENTRY,
    SIDE,
    TILE,
    begin_products,
    copy_tile,
    end_products,
    get_count,
    multiply_blocks,
    put_entries,
    put_entry,
    put_pairs,
    put_row,
    turn_left,
    turn_right,
)
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
from pullback.kernels.runtime import Floats, kernel, portion
from pullback.kernels.simd import Pointer, broadcast, load_part, offset, store
from pullback.kernels.target import WIDTH

Padding = tuple[int, int]


def forward(
    x: Any, w: Any, y: Any, padding: Padding, parts: int, adjoint: bool = False,
    load: Affine | NormGradient | None = None, store: Mask | None = None, moments: bool = False,
) -> Any:  # fmt: skip
    """y = conv(x, w) with stride 1 and zero padding, for x (N, H, W, C), w (kh, kw, C, O), y (N, OH, OW, O).

    With `adjoint`, w is (kh, kw, O, C) and is applied rotated by half a turn and transposed, which with padding
    (kh - 1 - ph, kw - 1 - pw) is the adjoint with respect to the input. All arrays float32 and contiguous. `load` is
    done to x and `store` to y on the way; returns the sums of `store`, or the mean and variance of y if `moments`.
    """
    images, height, width, inputs = x.shape
    _, out_height, out_width, outputs = y.shape
    taps_y, taps_x = w.shape[:2]
    taps, chunks, groups = taps_y * taps_x, _blocks(inputs), _blocks(outputs)
    packed = _packed_right(w, taps, inputs, outputs, transposed=adjoint, reverse=adjoint, parts=parts)
    pixel = chunks * parts * BLOCK
    band = _band(out_width, taps_y * pixel, taps_x)
    most = taps * chunks * _products(parts) + 1
    lines = _blocks(images) * -(-out_width // band) * out_height
    room, room_size = runtime.scratch(TILE + ENTRY * band * most + taps_y * (band + taps_x - 1) * pixel)
    into = fused.storing(store, moments, y, lines * groups, SIDE)
    blocked_forward(
        x, packed, y, images, height, width, inputs, out_height, out_width, outputs, taps_y, taps_x, *padding, parts,
        band, most, *fused.loading(load, x), *into, room, room_size,
    )  # fmt: skip
    return into.found(groups, outputs)


def weight_adjoint(
    x: Any, g: Any, dw: Any, padding: Padding, parts: int,
    load: Affine | None = None, load_gradient: NormGradient | None = None,
) -> None:  # fmt: skip
    """dw (kh, kw, C, O): the adjoint of `forward` with respect to the weights, for x (N, H, W, C) and g like y."""
    images, height, width, inputs = x.shape
    _, out_height, out_width, outputs = g.shape
    taps_y, taps_x = dw.shape[:2]
    chunks, groups = _blocks(inputs), _blocks(outputs)
    taken = min(chunks, _CHUNKS)
    # A line of x has taps_x - 1 pixels more than one of g, and taps_y - 1 lines more are kept.
    pixel = parts * BLOCK * (taps_y * taken + groups)
    band = _band(out_width, pixel, taps_x)
    step = (band + taps_x - 1) * taken * parts * BLOCK
    rows = max(1, min(out_height, _cache_floats() // (pixel * (band + taps_x - 1))))
    lines = _blocks(images) * -(-out_width // band) * -(-out_height // rows)
    threads = runtime.threads()
    units = -(-chunks // taken)
    splits = 1 if units >= 4 * threads else min(threads // gcd(units, threads), lines)
    sums = dw if splits == 1 else runtime.reserved("parts", splits * dw.size)
    entries = rows * band * _products(parts)
    kept = (rows + taps_y - 1) * step
    room, room_size = runtime.scratch(TILE + ENTRY * entries + kept + step + rows * band * groups * parts * BLOCK)
    blocked_weight_adjoint(
        x, g, sums, images, height, width, inputs, out_height, out_width, outputs, taps_y, taps_x, *padding, parts,
        band, rows, taken, splits, *fused.loading(load, x), *fused.loading(load_gradient, g), room, room_size,
    )  # fmt: skip
    if splits > 1:
        runtime.add_parts(sums, splits, dw.size, dw)


def multiply(
    a: Any, b: Any, c: Any, parts: int, *, transposed_left: bool = False, transposed_right: bool = False
) -> None:
    """c = a b, either factor transposed if asked; all contiguous float32 matrices of sizes that fit."""
    rows, columns = c.shape
    depth = a.shape[0] if transposed_left else a.shape[1]
    if not (a.size and c.size):
        c[...] = 0.0
        return
    packed = _packed_right(b, 1, depth, columns, transposed=transposed_right, reverse=False, parts=parts)
    chunks, groups = _blocks(depth), _blocks(columns)
    threads = runtime.threads()
    high = max(1, min(-(-_blocks(rows) // threads), _cache_floats() // (chunks * parts * BLOCK)))
    steps = -(-_blocks(rows) // high)
    splits = 1 if steps >= 4 * threads else min(threads // gcd(steps, threads), groups)
    room, room_size = runtime.scratch(TILE + ENTRY * chunks * _products(parts) + (high * chunks + 1) * parts * BLOCK)
    blocked_product(a, packed, c, rows, depth, columns, transposed_left, parts, high, splits, room, room_size)


_CHUNKS = 4  # blocks of input channels whose weights' adjoint is found at a time


def _blocks(count: int) -> int:
    return -(-count // SIDE)


def _products(parts: int) -> int:
    return 1 if parts == 1 else 3


def _cache_floats() -> int:
    """What packed operands may take of the second-level cache, in words."""
    return runtime.cache_bytes() // 2 // 4


def _band(width: int, pixel: int, taps_x: int) -> int:
    """Columns of the result at a time, evenly, so that the pixels they need, of `pixel` words each, fit the cache."""
    most = max(2, _cache_floats() // pixel - taps_x + 1)
    bands = -(-width // most)
    return -(-width // bands)


def _packed_right(w: Any, taps: int, depth: int, results: int, *, transposed: bool, reverse: bool, parts: int) -> Any:
    """packed[group of results][tap][chunk of the depth]: right blocks of the matrices w (taps, depth, results), which
    lie transposed, and are taken in reverse order, if asked."""
    packed = runtime.reserved("weights", _blocks(results) * taps * _blocks(depth) * parts * BLOCK)
    room, room_size = runtime.scratch(parts * BLOCK)
    pack_right(w, packed, taps, depth, results, transposed, reverse, parts, room, room_size)
    return packed


# -- packing ---------------------------------------------------------------------------------------------------------
@inline
def _loaded(x: Pointer, at: int, count: int, kind: int, other: Pointer, table: Pointer, row: int, channel: int) -> Any:
    """`count` channels of a pixel after their work; zeros beyond, as tables have zeros there."""
    value = load_part(x, at, count)
    if kind == 1:
        return through_affine(value, loaded_rows(1, table, row, channel))
    if kind == 2:
        return through_gradient(value, load_part(other, at, count), loaded_rows(2, table, row, channel))
    return value


@kernel
def pack_right(
    thread: int, threads: int, w: Floats, packed: Floats, taps: int, depth: int, results: int, transposed: bool,
    reverse: bool, parts: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Blocks are shared out."""
    chunks, groups = -(-depth // SIDE), -(-results // SIDE)
    own = offset(room, thread * room_size)
    start, stop = portion(groups * taps * chunks, thread, threads)
    for block in range(start, stop):
        chunk, tap, group = block % chunks, block // chunks % taps, block // chunks // taps
        if reverse:
            tap = taps - 1 - tap
        first, result = chunk * SIDE, group * SIDE
        to = block * parts * BLOCK
        if transposed:
            _pack_rows(
                w, (tap * results + result) * depth + first, depth, results - result, depth - first, parts, own, 0
            )
            turn_right(own, 0, parts, packed, to)
        else:
            _pack_pairs(
                w, (tap * depth + first) * results + result, results, depth - first, results - result, parts, packed, to
            )


@inline
def _pack_rows(a: Pointer, at: int, row: int, rows: int, columns: int, parts: int, to: Pointer, put: int) -> None:
    """The left block of a matrix; zeros beyond its rows and columns."""
    for i in range(SIDE):
        for j in range(0, SIDE, 2 * WIDTH):
            count = columns - j if i < rows else 0
            first, second = load_part(a, at + i * row + j, count), load_part(a, at + i * row + j + WIDTH, count - WIDTH)
            put_row(first, second, parts, to, put + i * (SIDE // 2) + j // 2)


@inline
def _pack_pairs(a: Pointer, at: int, row: int, rows: int, columns: int, parts: int, to: Pointer, put: int) -> None:
    """The right block of a matrix; zeros beyond its rows and columns."""
    for i in range(0, SIDE, 2):
        for j in range(0, SIDE, WIDTH):
            first = load_part(a, at + i * row + j, columns - j if i < rows else 0)
            second = load_part(a, at + (i + 1) * row + j, columns - j if i + 1 < rows else 0)
            put_pairs(first, second, parts, to, put + i // 2 * SIDE + j)


@inline
def _pack_line_left(
    x: Pointer, image: int, images: int, row: int, first: int, columns: int, height: int, width: int, channels: int,
    kind: int, other: Pointer, table: Pointer, table_row: int, parts: int, to: Pointer, put: int,
) -> None:  # fmt: skip
    """Left blocks to[column][chunk of channels] of pixels in one row of 32 images, which are the rows of the blocks."""
    chunks = -(-channels // SIDE)
    for n in range(SIDE):
        there = image + n < images
        for column in range(columns):
            at = (((image + n) * height + row) * width + first + column) * channels
            for c in range(0, chunks * SIDE, 2 * WIDTH):
                block = put + (column * chunks + c // SIDE) * parts * BLOCK
                low = high = broadcast(np.float32(0.0))
                if there:
                    low = _loaded(x, at + c, channels - c, kind, other, table, table_row, c)
                    high = _loaded(x, at + c + WIDTH, channels - c - WIDTH, kind, other, table, table_row, c + WIDTH)
                put_row(low, high, parts, to, block + n * (SIDE // 2) + c % SIDE // 2)


@inline
def _pack_line_right(
    x: Pointer, image: int, images: int, row: int, first: int, columns: int, height: int, width: int, channels: int,
    first_channel: int, chunks: int, kind: int, other: Pointer, table: Pointer, table_row: int, parts: int,
    to: Pointer, put: int,
) -> None:  # fmt: skip
    """Right blocks to[column][chunk of channels] of pixels in one row of 32 images, which are summed over."""
    next_image = height * width * channels
    for n in range(0, SIDE, 2):
        for column in range(columns):
            at = (((image + n) * height + row) * width + first + column) * channels + first_channel
            for c in range(0, chunks * SIDE, WIDTH):
                block = put + (column * chunks + c // SIDE) * parts * BLOCK
                channel = first_channel + c
                even = odd = broadcast(np.float32(0.0))
                if image + n < images:
                    even = _loaded(x, at + c, channels - channel, kind, other, table, table_row, channel)
                if image + n + 1 < images:
                    odd = _loaded(x, at + next_image + c, channels - channel, kind, other, table, table_row, channel)
                put_pairs(even, odd, parts, to, block + n // 2 * SIDE + c % SIDE)


# -- kernels ---------------------------------------------------------------------------------------------------------
@kernel
def blocked_forward(
    thread: int, threads: int, x: Floats, weights: Floats, y: Floats, images: int, height: int, width: int,
    inputs: int, out_height: int, out_width: int, outputs: int, taps_y: int, taps_x: int, pad_y: int, pad_x: int,
    parts: int, band: int, most: int,
    load_kind: int, load_other: Floats, load_table: Floats, load_row: int,
    store_kind: int, store_other: Floats, store_table: Floats, store_row: int, records: Floats,
    room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Lines (a band of columns in a row of 32 images) times groups of outputs are shared out. The rows of pixels that a
    line reads are packed into a ring, where the next line finds them again. `most` is the size of a column's table."""
    chunks, groups, taps = -(-inputs // SIDE), -(-outputs // SIDE), taps_y * taps_x
    bands = -(-out_width // band)
    lines = -(-images // SIDE) * bands * out_height
    size = parts * BLOCK
    step = (band + taps_x - 1) * chunks * size
    tile = offset(room, thread * room_size)
    tables = offset(tile, TILE)
    ring = offset(tables, ENTRY * band * most)
    start, stop = portion(lines * groups, thread, threads)
    image = first = columns = row = packed = 0
    ring_of = line = -1
    begin_products()
    for unit in range(start, stop):
        if unit // groups != line:
            line = unit // groups
            row, strip = line % out_height, line // out_height
            image, first = strip // bands * SIDE, strip % bands * band
            columns = min(band, out_width - first)
            left, right = max(0, first - pad_x), min(width, first + columns + taps_x - 1 - pad_x)
            top, bottom = max(0, row - pad_y), min(height, row + taps_y - pad_y)
            packed = top if strip != ring_of else max(packed, top)
            ring_of = strip
            while packed < bottom:
                _pack_line_left(
                    x, image, images, packed, left, right - left, height, width, inputs,
                    load_kind, load_other, load_table, load_row, parts, ring, packed % taps_y * step,
                )  # fmt: skip
                packed += 1
            for column in range(columns):
                entry = column * most + 1
                for tap in range(taps):
                    from_row, from_column = row - pad_y + tap // taps_x, first + column - pad_x + tap % taps_x
                    if top <= from_row < bottom and left <= from_column < right:
                        at = from_row % taps_y * step + (from_column - left) * chunks * size
                        for chunk in range(chunks):
                            entry = put_entries(tables, entry, at + chunk * size, (tap * chunks + chunk) * size, parts)
                put_entry(tables, column * most, entry - column * most - 1, 0)
        group = unit % groups
        of_group = offset(weights, group * taps * chunks * size)
        count_out = outputs - group * SIDE
        for column in range(columns):
            count = get_count(tables, column * most)
            if count > 0:
                table = offset(tables, ENTRY * (column * most + 1))
                multiply_blocks(count, table, ring, of_group, tile, 0, SIDE, 0)
            else:
                _clear(tile)
            to = ((image * out_height + row) * out_width + first + column) * outputs + group * SIDE
            for c in range(0, min(SIDE, count_out), WIDTH):
                store_fused(
                    offset(tile, c), SIDE, y, to + c, out_height * out_width * outputs, 0,
                    min(SIDE, images - image), 1, count_out - c,
                    store_kind, store_other, store_table, store_row, group * SIDE + c,
                    offset(records, (group * lines + line) * 4 * SIDE + c), SIDE, column == 0,
                )  # fmt: skip
    end_products()


@inline
def _clear(tile: Pointer) -> None:
    for i in range(0, TILE, WIDTH):
        store(tile, i, broadcast(np.float32(0.0)))


@kernel
def blocked_weight_adjoint(
    thread: int, threads: int, x: Floats, g: Floats, sums: Floats, images: int, height: int, width: int,
    inputs: int, out_height: int, out_width: int, outputs: int, taps_y: int, taps_x: int, pad_y: int, pad_x: int,
    parts: int, band: int, rows: int, taken: int, splits: int,
    x_kind: int, x_other: Floats, x_table: Floats, x_row: int,
    g_kind: int, g_other: Floats, g_table: Floats, g_row: int,
    room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Stretches of input channels, and stretches of the images where these are few, are shared out. What a few rows of
    g meet in x is packed, and then multiplied for each tap; the next rows are added."""
    chunks, groups = -(-inputs // SIDE), -(-outputs // SIDE)
    bands, strips = -(-out_width // band), -(-out_height // rows)
    lines = -(-images // SIDE) * bands * strips
    size = parts * BLOCK
    step = (band + taps_x - 1) * taken * size
    tile = offset(room, thread * room_size)
    table = offset(tile, TILE)
    kept = offset(table, ENTRY * rows * band * (1 if parts == 1 else 3))
    fresh = offset(kept, (rows + taps_y - 1) * step)
    of_g = offset(fresh, step)
    start, stop = portion(-(-chunks // taken) * splits, thread, threads)
    begin_products()
    for unit in range(start, stop):
        split, first_chunk = unit % splits, unit // splits * taken
        count_chunks = min(taken, chunks - first_chunk)
        begin, end = portion(lines, split, splits)
        base = split * taps_y * taps_x * inputs * outputs
        for line in range(begin, end):
            image, first = line // strips // bands * SIDE, line // strips % bands * band
            columns = min(band, out_width - first)
            row = line % strips * rows
            count_rows = min(rows, out_height - row)
            left, right = max(0, first - pad_x), min(width, first + columns + taps_x - 1 - pad_x)
            top, bottom = max(0, row - pad_y), min(height, row + count_rows + taps_y - 1 - pad_y)
            for from_row in range(top, bottom):
                _pack_line_right(
                    x, image, images, from_row, left, right - left, height, width, inputs, first_chunk * SIDE,
                    count_chunks, x_kind, x_other, x_table, x_row, parts, fresh, 0,
                )  # fmt: skip
                for block in range((right - left) * count_chunks):
                    turn_left(fresh, block * size, parts, kept, (from_row - top) * step + block * size)
            for i in range(count_rows):
                _pack_line_right(
                    g, image, images, row + i, first, columns, out_height, out_width, outputs, 0, groups,
                    g_kind, g_other, g_table, g_row, parts, of_g, i * band * groups * size,
                )  # fmt: skip
            for tap in range(taps_y * taps_x):
                count = 0
                for i in range(count_rows):
                    from_row = row + i - pad_y + tap // taps_x
                    for column in range(columns):
                        from_column = first + column - pad_x + tap % taps_x
                        if top <= from_row < bottom and left <= from_column < right:
                            at = (from_row - top) * step + (from_column - left) * count_chunks * size
                            count = put_entries(table, count, at, (i * band + column) * groups * size, parts)
                for chunk in range(count_chunks):
                    count_in = min(SIDE, inputs - (first_chunk + chunk) * SIDE)
                    for group in range(groups):
                        if count > 0:
                            multiply_blocks(
                                count, table, offset(kept, chunk * size), offset(of_g, group * size), tile, 0, SIDE, 0
                            )  # fmt: skip
                        elif line == begin:
                            _clear(tile)
                        if count > 0 or line == begin:
                            to = base + (tap * inputs + (first_chunk + chunk) * SIDE) * outputs + group * SIDE
                            copy_tile(
                                tile, count_in, min(SIDE, outputs - group * SIDE), sums, to, outputs, line > begin
                            )
    end_products()


@kernel
def blocked_product(
    thread: int, threads: int, a: Floats, right: Floats, c: Floats, rows: int, depth: int, columns: int,
    transposed: bool, parts: int, high: int, splits: int, room: Floats, room_size: int,
) -> None:  # fmt: skip
    """Rows, `high` blocks at a time, and groups of columns are shared out."""
    chunks, groups = -(-depth // SIDE), -(-columns // SIDE)
    size = parts * BLOCK
    tile = offset(room, thread * room_size)
    table = offset(tile, TILE)
    left = offset(table, ENTRY * chunks * (1 if parts == 1 else 3))
    fresh = offset(left, high * chunks * size)
    count = 0
    for chunk in range(chunks):
        count = put_entries(table, count, chunk * size, chunk * size, parts)
    start, stop = portion(-(-rows // (high * SIDE)) * splits, thread, threads)
    begin_products()
    for unit in range(start, stop):
        first = unit // splits * high * SIDE
        blocks = min(high, -(-(rows - first) // SIDE))
        for block in range(blocks):
            row = first + block * SIDE
            for chunk in range(chunks):
                to, k = (block * chunks + chunk) * size, chunk * SIDE
                if transposed:
                    _pack_pairs(a, k * rows + row, rows, depth - k, rows - row, parts, fresh, 0)
                    turn_left(fresh, 0, parts, left, to)
                else:
                    _pack_rows(a, row * depth + k, depth, rows - row, depth - k, parts, left, to)
        begin, end = portion(groups, unit % splits, splits)
        for group in range(begin, end):
            width = min(SIDE, columns - group * SIDE)
            for block in range(blocks):
                row = first + block * SIDE
                of_block, of_group = offset(left, block * chunks * size), offset(right, group * chunks * size)
                if rows - row >= SIDE and width == SIDE:
                    multiply_blocks(count, table, of_block, of_group, c, row * columns + group * SIDE, columns, 0)
                else:
                    multiply_blocks(count, table, of_block, of_group, tile, 0, SIDE, 0)
                    copy_tile(tile, min(SIDE, rows - row), width, c, row * columns + group * SIDE, columns, False)
    end_products()
