"""Matrix products without BLAS, whose threads would keep spinning on the cores that the next kernel needs.
A panel of the right factor is packed into the first-level cache for each block of rows, which then all read it there,
unless few read it, or its rows are so short that it is near together where it lies.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from pullback.errors import ShapeError
from pullback.kernels import blocked, runtime, thin
from pullback.kernels.bfloat16 import PARTS, PRECISIONS, RATES, SIDE
from pullback.kernels.language import inline
from pullback.kernels.runtime import Floats, kernel, portion, round_up
from pullback.kernels.simd import (
    Pointer,
    at_least,
    broadcast,
    copy_transposed,
    load,
    load_part,
    multiply_narrow_panel,
    multiply_panel,
    offset,
    prefetch,
    store,
    store_part,
    where_positive,
)
from pullback.kernels.target import PANEL, ROWS, WIDTH
from pullback.kernels.thin import multiply_by_dots, multiply_by_stripes

_DEPTH = 208  # at a time, at most: a panel of so many rows stays in the first-level cache
_STEP = _DEPTH + WIDTH  # from row to row of a copied block
_BLOCK = 40 * ROWS[0]  # rows at a time, at most: the packing of a panel is shared by so many
_STRIDE = 1024  # floats between rows of the right factor, at most, for a panel to be read where it lies
_SHARED = 1 << 16  # multiply-adds from which on they are shared among threads: below, one is done before others start


def product(a: Any, b: Any, out: Any = None) -> Any:
    """a b, for float32 a (M, K) and b (K, N)."""
    result = _result("a b", a, b, a.shape[1], b.shape[0], (a.shape[0], b.shape[1]), out)
    multiply(_input(a), _input(b), result)
    return result


def product_transposed_right(a: Any, b: Any, out: Any = None) -> Any:
    """a b^T, for float32 a (M, K) and b (N, K)."""
    result = _result("a b^T", a, b, a.shape[1], b.shape[1], (a.shape[0], b.shape[0]), out)
    multiply(_input(a), _input(b), result, transposed_right=True)
    return result


def product_transposed_left(a: Any, b: Any, out: Any = None) -> Any:
    """a^T b, for float32 a (K, M) and b (K, N)."""
    result = _result("a^T b", a, b, a.shape[0], b.shape[0], (a.shape[1], b.shape[1]), out)
    multiply(_input(a), _input(b), result, transposed_left=True)
    return result


def _input(matrix: Any) -> Any:
    return np.ascontiguousarray(matrix, np.float32)


def _result(name: str, a: Any, b: Any, depth: int, other: int, shape: tuple[int, int], out: Any) -> Any:
    if depth != other:
        raise ShapeError(f"product {name}", f"the inner sizes differ, a {a.shape} and b {b.shape}")
    if out is None:
        return runtime.empty(shape)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeError(f"product {name}", f"expected out as contiguous float32 {shape}, got {out.dtype} {out.shape}")
    return out


def choose(rows: int, depth: int, columns: int, precision: str = "float32") -> str:
    """The cheapest algorithm for these sizes: "panels" in float32, or one in an arithmetic that `precision` allows."""
    table = {"panels": float(rows * depth * columns)}
    m, k, n = (round_up(size, SIDE) for size in (rows, depth, columns))
    for name in PRECISIONS[precision]:
        table[name] = RATES[name] * m * k * n + 8 * PARTS[name] * k * (m + n)
    return min(table, key=lambda name: table[name])


class Ending(NamedTuple):
    """What is done to a product as it is stored: c = scale a b, plus what c holds, plus a row; then its positive part,
    or what of it stands where another matrix is positive."""

    scale: float = 1.0
    adding: bool = False
    row: Any = None
    """(N,) or None."""
    relu: bool = False
    mask: Any = None
    """(M, N) or None."""


_PLAIN = Ending()
_AS_IT_IS, _POSITIVE_PART, _MASKED = 0, 1, 2


def multiply(
    a: Any, b: Any, c: Any, *, transposed_left: bool = False, transposed_right: bool = False,
    algorithm: str = "panels", ending: Ending = _PLAIN,
) -> None:  # fmt: skip
    """c = a b, either factor transposed if asked; all contiguous float32 matrices of sizes that fit.

    The algorithm "panels" alone knows an `ending`.
    """
    if algorithm in PARTS:
        parts = PARTS[algorithm]
        blocked.multiply(a, b, c, parts, transposed_left=transposed_left, transposed_right=transposed_right)
        return
    rows, columns = c.shape
    depth = a.shape[0] if transposed_left else a.shape[1]
    if not (a.size and c.size):  # no terms; the kernel expects at least one
        _finish_in_numpy(np.zeros_like(c), c, ending)
        return
    blocks, groups, splits, block = _shares(rows, depth, columns, runtime.threads())
    parts = c if splits == 1 else runtime.reserved("parts", splits * c.size)
    left = max(_DEPTH * (block + WIDTH), block * _STEP)
    room, room_size = runtime.scratch(_DEPTH * PANEL + block * PANEL + thin.MOST * (block + WIDTH) + left)
    scale, adding, row, relu, mask = ending if splits == 1 else _PLAIN
    after = _POSITIVE_PART if relu else _AS_IT_IS if mask is None else _MASKED
    matrix_product(
        a, b, parts, rows, depth, columns, transposed_left, transposed_right, blocks, groups, splits, block,
        room, room_size, scale, adding, row is not None, c if row is None else row, after, c if mask is None else mask,
    )  # fmt: skip
    if splits > 1 and ending is _PLAIN:
        runtime.add_parts(parts, splits, c.size, c)
    elif splits > 1:
        total = runtime.empty(c.shape)
        runtime.add_parts(parts, splits, c.size, total)
        _finish_in_numpy(total, c, ending)


@lru_cache(1024)
def _shares(rows: int, depth: int, columns: int, threads: int) -> tuple[int, int, int, int]:
    """In how many blocks of rows, groups of columns and stretches of the depth the work is shared; rows of a block."""
    if rows * depth * columns < _SHARED:
        threads = 1
    blocks = -(-rows // _BLOCK)
    if blocks % threads and rows >= threads * 2 * ROWS[0]:
        blocks = round_up(blocks, threads)
    groups = min(-(-columns // PANEL), threads // gcd(blocks, threads))
    splits = min(-(-depth // _DEPTH), threads // gcd(blocks * groups, threads))
    return blocks, groups, splits, round_up(-(-rows // blocks), ROWS[-1])


def _finish_in_numpy(product: Any, c: Any, ending: Ending) -> None:
    product *= np.float32(ending.scale)
    if ending.adding:
        product += c
    if ending.row is not None:
        product += ending.row
    if ending.relu:
        np.maximum(product, 0.0, out=product)
    if ending.mask is not None:
        product[~(ending.mask > 0)] = 0.0
    c[...] = product


@inline
def _pack_panel(
    b: Pointer, begin: int, end: int, first: int, depth: int, columns: int, transposed: bool, packed: Pointer
) -> None:
    """packed[k][PANEL] = rows begin..end of b from column `first` on, with zeros beyond the last column."""
    count = min(PANEL, columns - first)
    if transposed:
        if count < PANEL:
            for i in range((end - begin) * PANEL):
                packed[i] = np.float32(0.0)
        copy_transposed(b, first * depth + begin, depth, count, end - begin, packed, 0, PANEL)
    elif count == PANEL:
        for k in range(end - begin):
            at = (begin + k) * columns + first
            store(packed, k * PANEL, load(b, at))
            store(packed, k * PANEL + WIDTH, load(b, at + WIDTH))
    else:
        for k in range(end - begin):
            at = (begin + k) * columns + first
            store(packed, k * PANEL, load_part(b, at, count))
            store(packed, k * PANEL + WIDTH, load_part(b, at + WIDTH, count - WIDTH))


@inline
def _pack_few(
    b: Pointer, begin: int, end: int, first: int, depth: int, columns: int, transposed: bool, packed: Pointer
) -> None:
    """packed[column][_STEP] = rows begin..end of b, of four or eight columns from `first` on; zeros up to a whole
    vector of rows, and beyond the last column."""
    count, size = columns - first, end - begin
    padded = -(-size // WIDTH) * WIDTH
    for j in range(4 if count <= 4 else thin.MOST):
        for k in range(padded):
            value = np.float32(0.0)
            if j < count and k < size:
                value = b[(first + j) * depth + begin + k] if transposed else b[(begin + k) * columns + first + j]
            packed[j * _STEP + k] = value


@inline
def _copy_block(
    a: Pointer, first: int, rows: int, begin: int, end: int, size: int, transposed: bool, scale: Any, copied: Pointer
) -> Any:
    """Rows `first` on of the left factor, or columns if it is transposed, between two depths, near one another, scaled.

    Where they lie, they may be a power of two apart, which is the same place in the cache. `size` is the length of a
    row of a. Returns the steps to the next row and the next depth. What is fetched ahead is mostly the next block.
    """
    if transposed:
        step = -(-rows // WIDTH) * WIDTH
        for k in range(begin, end):
            for i in range(0, rows, WIDTH):
                prefetch(a, k * size + first + rows + i)
                store(copied, (k - begin) * step + i, load_part(a, k * size + first + i, rows - i) * scale)
        return 1, step
    for i in range(rows):
        at = (first + i) * size
        for k in range(begin, end, WIDTH):
            prefetch(a, at + k + end - begin)
            store(copied, i * _STEP + k - begin, load_part(a, at + k, end - k) * scale)
    return _STEP, 1


@inline
def _finish_panel(
    panel: Pointer, at: int, next_row: int, c: Pointer, to: int, rows: int, columns: int, first: int,
    adding: bool, has_row: bool, row: Pointer, after: int, mask: Pointer,
) -> None:  # fmt: skip
    """What the ending asks for, from a panel to its place in the result, which may be the same."""
    zero = broadcast(np.float32(0.0))
    for i in range(rows):
        for j in range(0, min(PANEL, columns - first), WIDTH):
            place, left = to + i * columns + first + j, columns - first - j
            value = load(panel, at + i * next_row + j)
            if adding:
                value = value + load_part(c, place, left)
            if has_row:
                value = value + load_part(row, first + j, left)
            if after == _POSITIVE_PART:
                value = at_least(value, zero)
            elif after == _MASKED:
                value = where_positive(load_part(mask, place, left), value)
            store_part(c, place, value, left)


@kernel
def matrix_product(
    thread: int, threads: int, a: Floats, b: Floats, c: Floats, rows: int, depth: int, columns: int,
    transposed_left: bool, transposed_right: bool, blocks: int, groups: int, splits: int, block: int,
    room: Floats, room_size: int, scale: float, adding: bool, has_row: bool, row: Floats, after: int, mask: Floats,
) -> None:  # fmt: skip
    """Blocks of rows, groups of columns and, if these are few, stretches of the depth are shared out."""
    packed = offset(room, thread * room_size)
    spare = offset(packed, _DEPTH * PANEL)
    turned = offset(spare, block * PANEL)
    copied = offset(turned, thin.MOST * (block + WIDTH))
    panels = -(-columns // PANEL)
    factor_scale = np.float32(scale)
    start, stop = portion(blocks * groups * splits, thread, threads)
    for unit in range(start, stop):
        split, group, first_row = unit % splits, unit // splits % groups, unit // splits // groups * block
        count = min(block, rows - first_row)
        if count <= 0:
            continue
        first_panel, last_panel = portion(panels, group, groups)
        first, last = portion(depth, split, splits)
        to = (split * rows + first_row) * columns
        stretches = -(-(last - first) // _DEPTH)
        for stretch in range(stretches):
            begin, end = portion(last - first, stretch, stretches)
            begin, end = first + begin, first + end
            factor, at, next_row, next_k = a, first_row * depth + begin, depth, 1
            # Else each element is read once.
            if transposed_left or last_panel - first_panel > 1 or factor_scale != np.float32(1.0):
                factor, at = copied, 0
                size = rows if transposed_left else depth
                next_row, next_k = _copy_block(
                    a, first_row, count, begin, end, size, transposed_left, factor_scale, copied
                )
            for panel in range(first_panel, last_panel):
                rest = columns - panel * PANEL
                by_dots = rest <= thin.MOST and next_k == 1
                right, right_at, right_k = packed, 0, PANEL
                # Rows a multiple of 256 bytes apart would share a few places of the cache.
                near = columns <= _STRIDE and columns % 64 != 0
                if (near or count <= ROWS[0]) and rest >= PANEL and not transposed_right:
                    right, right_at, right_k = b, begin * columns + panel * PANEL, columns
                elif by_dots:
                    _pack_few(b, begin, end, panel * PANEL, depth, columns, transposed_right, packed)
                else:
                    _pack_panel(b, begin, end, panel * PANEL, depth, columns, transposed_right, packed)
                whole = rest >= PANEL  # else the panel is wider than what is left of the result
                result, result_at, result_row = (c, to + panel * PANEL, columns) if whole else (spare, 0, PANEL)
                more = int(begin > first or (adding and whole))
                if by_dots:
                    multiply_by_dots(
                        count, end - begin, rest, factor, at, next_row, packed, _STEP, spare, 0, PANEL, more
                    )
                elif rest <= thin.MOST:
                    multiply_by_stripes(
                        count, end - begin, rest, factor, next_k, packed, turned, block + WIDTH, spare, more
                    )
                elif rest > WIDTH:
                    multiply_panel(
                        count, end - begin, factor, at, next_row, next_k, right, right_at, right_k,
                        result, result_at, result_row, more,
                    )  # fmt: skip
                else:
                    multiply_narrow_panel(
                        count, end - begin, factor, at, next_row, next_k, packed, 0, PANEL,
                        result, result_at, result_row, more,
                    )  # fmt: skip
                if end == last and (not whole or has_row or after != _AS_IT_IS):
                    _finish_panel(
                        result, result_at, result_row, c, to, count, columns, panel * PANEL,
                        adding and not whole, has_row, row, after, mask,
                    )  # fmt: skip
