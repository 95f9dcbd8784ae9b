"""Products of bfloat16 numbers summed in float32, on blocks of 32 x 32, as matrix units of CPUs compute them.

A block holds pairs of numbers, one pair a 32-bit word, in an array of float32 that is only ever copied. In a *left*
block, word `row * 16 + p` is the pair of columns 2p and 2p + 1 of a row; in a *right* block, word `p * 32 + column` is
the pair of rows 2p and 2p + 1 of a column. A product of many blocks keeps its sums in registers.

A float32 is a bfloat16, of 8 bits, and a rest; with the rest rounded too, 16 bits are kept. `parts` is 1 or 2: of two
parts, the three products of which one factor is not a rest are added up. They are within 2^-15 of the exact ones; an
infinity gives NaN there, as it is multiplied with rests of zero.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

from llvmlite import ir

from pullback.kernels.instructions import BYTE, INTEGER, VOID, call, integer, room
from pullback.kernels.instructions import LANE as WORD
from pullback.kernels.language import inline, intrinsic
from pullback.kernels.simd import (
    VECTOR,
    Pointer,
    at,
    copy_transposed,
    load,
    load_part,
    load_vector,
    multiply_add,
    splat,
    store,
    store_part,
    store_vector,
)
from pullback.kernels.target import CPU, PANEL, ROWS, WIDTH

SIDE = 32
"""Rows and columns of a block."""
BLOCK = SIDE * SIDE // 2
"""Words of a block."""
TILE = SIDE * SIDE
"""Floats of the product of two blocks."""

_LANES = ir.VectorType(WORD, WIDTH)


def _unit() -> str:
    """What multiplies bfloat16 on the CPU: "amx", "avx512_bf16", or "none", as by float32."""
    features = CPU.features.split(",")
    if {"+amx-tile", "+amx-bf16", "+avx512bf16"} <= set(features) and WIDTH == 16 and _amx_is_permitted():
        return "amx"
    return "avx512_bf16" if "+avx512bf16" in features and WIDTH == 16 else "none"


def _amx_is_permitted() -> bool:
    """Ask Linux for the registers of AMX, for all threads of the process."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


UNIT = _unit()
PARTS = {"bfloat16": 1, "bfloat16x3": 2}
"""Arithmetics by name, and the parts of a number in each."""
RATES = {
    "amx": {"bfloat16": 0.15, "bfloat16x3": 0.35},
    "avx512_bf16": {"bfloat16": 0.5, "bfloat16x3": 1.6},
    "none": {"bfloat16": 3.0, "bfloat16x3": 9.0},
}[UNIT]
"""What a product costs in each, of what one in float32 by vectors costs."""
PRECISIONS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float32-fast": ("bfloat16x3",),
    "bfloat16": ("bfloat16x3", "bfloat16"),
}
"""What a user asks for, and the arithmetics below float32 that it allows; float32 it allows always."""


# -- rounding and packing --------------------------------------------------------------------------------------------
def _same(value: int) -> Any:
    return ir.Constant(_LANES, [value] * WIDTH)


def _rounded(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _LANES)
    odd = builder.and_(builder.lshr(bits, _same(16)), _same(1))
    up = builder.add(bits, builder.add(odd, _same(0x7FFF)))
    no_number = builder.or_(bits, _same(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), no_number, up)
    return builder.bitcast(builder.and_(chosen, _same(0xFFFF0000)), VECTOR)


def _rest(builder: Any, value: Any, rounded: Any) -> Any:
    endless = builder.fcmp_unordered("uno", builder.fsub(rounded, rounded), rounded)
    return builder.select(endless, ir.Constant(VECTOR, None), builder.fsub(value, rounded))


def _paired(builder: Any, first: Any, second: Any) -> Any:
    low, high = (builder.bitcast(value, _LANES) for value in (first, second))
    return builder.bitcast(builder.or_(builder.lshr(low, _same(16)), high), VECTOR)


def _neighbours(builder: Any, first: Any, second: Any, odd: Any) -> Any:
    even, others = (
        builder.shuffle_vector(first, second, ir.Constant(_LANES, list(range(start, 2 * WIDTH, 2)))) for start in (0, 1)
    )
    return builder.select(builder.icmp_signed("!=", odd, integer(0)), others, even)


rounded = intrinsic(_rounded)
"""`rounded(value)`: to the nearest bfloat16, ties to even, as a float32."""
rest = intrinsic(_rest)
"""`rest(value, rounded)`: what rounding has left; 0 for NaN, infinities and what became one."""
paired = intrinsic(_paired)
"""`paired(first, second)`: the words of rounded numbers, lane by lane."""
neighbours = intrinsic(_neighbours)
"""`neighbours(first, second, odd)`: of two vectors that follow one another, the lanes 0, 2, ... or 1, 3, ..."""


@inline
def put_row(first: Any, second: Any, parts: int, to: Pointer, at: int) -> None:
    """2 WIDTH numbers of a row, as WIDTH words of a left block that start at `at`."""
    even, odd = neighbours(first, second, 0), neighbours(first, second, 1)
    put_pairs(even, odd, parts, to, at)


@inline
def put_pairs(first: Any, second: Any, parts: int, to: Pointer, at: int) -> None:
    """Numbers of two rows, pair by pair, as WIDTH words of a right block that start at `at`."""
    high_first, high_second = rounded(first), rounded(second)
    store(to, at, paired(high_first, high_second))
    if parts == 2:
        low_first, low_second = rounded(rest(first, high_first)), rounded(rest(second, high_second))
        store(to, at + BLOCK, paired(low_first, low_second))


@inline
def turn_left(right: Pointer, at: int, parts: int, to: Pointer, put: int) -> None:
    """A right block as the left block of the transposed matrix."""
    for part in range(parts):
        copy_transposed(right, at + part * BLOCK, SIDE, SIDE // 2, SIDE, to, put + part * BLOCK, SIDE // 2)


@inline
def turn_right(left: Pointer, at: int, parts: int, to: Pointer, put: int) -> None:
    """A left block as the right block of the transposed matrix."""
    for part in range(parts):
        copy_transposed(left, at + part * BLOCK, SIDE // 2, SIDE, SIDE // 2, to, put + part * BLOCK, SIDE)


# -- products --------------------------------------------------------------------------------------------------------
def _put_entry(builder: Any, table: Any, entry: Any, left: Any, right: Any) -> None:
    place = _entry(builder, table, entry)
    builder.store(left, place)
    builder.store(right, at(builder, place, 1))


def _get_count(builder: Any, table: Any, entry: Any) -> Any:
    return builder.load(_entry(builder, table, entry))


def _entry(builder: Any, table: Any, entry: Any) -> Any:
    return at(builder, builder.bitcast(table, INTEGER.as_pointer()), builder.mul(entry, integer(2)))


put_entry = intrinsic(_put_entry, "nothing")
"""`put_entry(table, entry, left, right)`: an entry of a table, the first words of two blocks that are multiplied."""
get_count = intrinsic(_get_count, "integer")
"""`get_count(table, entry)`: the first number of an entry, where that is a count of entries."""
ENTRY = 4
"""Floats of an entry."""


@inline
def put_entries(table: Pointer, entry: int, left: int, right: int, parts: int) -> int:
    """The products of two blocks of `parts` parts; returns the number of the next entry."""
    put_entry(table, entry, left, right)
    if parts == 1:
        return entry + 1
    put_entry(table, entry + 1, left, right + BLOCK)
    put_entry(table, entry + 2, left + BLOCK, right)
    return entry + 3


class VectorUnit:
    """Products of pairs by vector instructions: of bfloat16 where the CPU has them, else of float32."""

    def __init__(self, native: bool) -> None:
        self._native = native

    def begin(self, builder: Any) -> None:
        """Nothing has to be set up."""

    def end(self, builder: Any) -> None:
        """Nothing is held."""

    def products(
        self, builder: Any, count: Any, table: Any, a: Any, b: Any, c: Any, c_row: Any, accumulate: Any
    ) -> None:
        """Emit C (+)= the sum of A B over the entries, tile by tile of what the registers hold."""
        for column in range(0, SIDE, PANEL):
            row = 0
            while row < SIDE:
                rows = next(each for each in (*ROWS, 2, 1) if each <= SIDE - row)
                self._tile(builder, rows, row, column, count, table, a, b, c, c_row, accumulate)
                row += rows

    def _tile(
        self, builder: Any, rows: int, row: int, column: int, count: Any, table: Any, a: Any, b: Any, c: Any,
        c_row: Any, accumulate: Any,
    ) -> None:  # fmt: skip
        cells = [(r, half) for r in range(rows) for half in range(2)]
        targets = {}
        for r, half in cells:
            place = builder.add(builder.mul(integer(row + r), c_row), integer(column + half * WIDTH))
            targets[r, half] = at(builder, c, place)
        entry = builder.block
        reload, blocks, pairs, next_block, done = (builder.append_basic_block(f"pairs.{k}") for k in range(5))
        builder.cbranch(builder.icmp_signed("!=", accumulate, integer(0)), reload, blocks)
        builder.position_at_end(reload)
        held = {cell: load_vector(builder, targets[cell]) for cell in cells}
        builder.branch(blocks)

        builder.position_at_end(blocks)
        block = builder.phi(INTEGER)
        sums = {cell: builder.phi(VECTOR) for cell in cells}
        a_at, b_at = _operands(builder, table, block, a, b)
        a_at, b_at = at(builder, a_at, row * SIDE // 2), at(builder, b_at, column)
        builder.branch(pairs)

        builder.position_at_end(pairs)
        pair = builder.phi(INTEGER)
        running = {cell: builder.phi(VECTOR) for cell in cells}
        b_row = at(builder, b_at, builder.mul(pair, integer(SIDE)))
        right = [load_vector(builder, at(builder, b_row, k * WIDTH)) for k in range(2)]
        added = {}
        for r in range(rows):
            word = builder.load(at(builder, a_at, builder.add(pair, integer(r * SIDE // 2))))
            left = splat(builder, word)
            for half in range(2):
                added[r, half] = self._dot(builder, running[r, half], left, right[half])
        next_pair = builder.add(pair, integer(1))
        builder.cbranch(builder.icmp_signed("<", next_pair, integer(SIDE // 2)), pairs, next_block)

        builder.position_at_end(next_block)
        following = builder.add(block, integer(1))
        builder.cbranch(builder.icmp_signed("<", following, count), blocks, done)

        pair.add_incoming(integer(0), blocks)
        pair.add_incoming(next_pair, pairs)
        for source in (entry, reload):
            block.add_incoming(integer(0), source)
        block.add_incoming(following, next_block)
        for cell in cells:
            running[cell].add_incoming(sums[cell], blocks)
            running[cell].add_incoming(added[cell], pairs)
            sums[cell].add_incoming(ir.Constant(VECTOR, None), entry)
            sums[cell].add_incoming(held[cell], reload)
            sums[cell].add_incoming(added[cell], next_block)

        builder.position_at_end(done)
        for cell in cells:
            store_vector(builder, added[cell], targets[cell])

    def _dot(self, builder: Any, total: Any, left: Any, right: Any) -> Any:
        if self._native:
            kind = ir.VectorType(_BFloat(), 2 * WIDTH)
            factors = builder.bitcast(left, kind), builder.bitcast(right, kind)
            return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", VECTOR, total, *factors)
        for half in (_low, _high):
            total = multiply_add(builder, half(builder, left), half(builder, right), total)
        return total


def _low(builder: Any, words: Any) -> Any:
    return builder.bitcast(builder.shl(builder.bitcast(words, _LANES), _same(16)), VECTOR)


def _high(builder: Any, words: Any) -> Any:
    return builder.bitcast(builder.and_(builder.bitcast(words, _LANES), _same(0xFFFF0000)), VECTOR)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type of one bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


class Amx:
    """Instructions of the matrix unit: eight registers, each a tile of 16 rows of 64 bytes."""

    def begin(self, builder: Any) -> None:
        """All tiles are of 16 rows of 64 bytes."""
        words = [0] * 16
        words[0] = 1  # the palette
        words[4:8] = [0x400040] * 4  # bytes of a row, two numbers a word
        words[12:14] = [0x10101010] * 2  # rows, four numbers a word
        kind = ir.ArrayType(WORD, 16)
        shape = room(builder, kind)
        builder.store(ir.Constant(kind, words), shape)
        call(builder, "llvm.x86.ldtilecfg", VOID, builder.bitcast(shape, BYTE.as_pointer()))

    def end(self, builder: Any) -> None:
        """The registers are free, which a switch of threads would else have to save."""
        call(builder, "llvm.x86.tilerelease", VOID)

    def zero(self, builder: Any, tile: int) -> None:
        call(builder, "llvm.x86.tilezero", VOID, ir.Constant(BYTE, tile))

    def load(self, builder: Any, tile: int, start: Any, row_bytes: Any) -> None:
        self._move(builder, "llvm.x86.tileloadd64", tile, start, row_bytes)

    def store(self, builder: Any, tile: int, start: Any, row_bytes: Any) -> None:
        self._move(builder, "llvm.x86.tilestored64", tile, start, row_bytes)

    def _move(self, builder: Any, name: str, tile: int, start: Any, row_bytes: Any) -> None:
        place = builder.bitcast(start, BYTE.as_pointer())
        call(builder, name, VOID, ir.Constant(BYTE, tile), place, row_bytes)

    def multiply(self, builder: Any, total: int, left: int, right: int) -> None:
        """total += left right."""
        call(builder, "llvm.x86.tdpbf16ps", VOID, *(ir.Constant(BYTE, tile) for tile in (total, left, right)))


class TileUnit:
    """Products of blocks on a unit with tile registers: four hold the sums, two rows and two columns of operands."""

    def __init__(self, tiles: Any) -> None:
        self._tiles = tiles

    def begin(self, builder: Any) -> None:
        """Set up the registers of the thread."""
        self._tiles.begin(builder)

    def end(self, builder: Any) -> None:
        """Let go of them."""
        self._tiles.end(builder)

    def products(
        self, builder: Any, count: Any, table: Any, a: Any, b: Any, c: Any, c_row: Any, accumulate: Any
    ) -> None:
        """Emit C (+)= the sum of A B over the entries."""
        tiles, half = self._tiles, SIDE // 2
        row_bytes = builder.mul(c_row, integer(4))
        corners = []
        for tile in range(4):
            place = builder.add(builder.mul(integer(tile // 2 * half), c_row), integer(tile % 2 * half))
            corners.append(at(builder, c, place))
        reload, clear, loop, done = (builder.append_basic_block(f"tiles.{k}") for k in range(4))
        builder.cbranch(builder.icmp_signed("!=", accumulate, integer(0)), reload, clear)
        builder.position_at_end(reload)
        for tile, corner in enumerate(corners):
            tiles.load(builder, tile, corner, row_bytes)
        reloaded = builder.block
        builder.branch(loop)
        builder.position_at_end(clear)
        for tile in range(4):
            tiles.zero(builder, tile)
        cleared = builder.block
        builder.branch(loop)

        builder.position_at_end(loop)
        block = builder.phi(INTEGER)
        for source in (reloaded, cleared):
            block.add_incoming(integer(0), source)
        a_at, b_at = _operands(builder, table, block, a, b)
        upper, lower, near, far = 4, 5, 6, 7
        tiles.load(builder, upper, a_at, integer(2 * SIDE))
        tiles.load(builder, near, b_at, integer(4 * SIDE))
        tiles.multiply(builder, 0, upper, near)
        tiles.load(builder, far, at(builder, b_at, half), integer(4 * SIDE))
        tiles.multiply(builder, 1, upper, far)
        tiles.load(builder, lower, at(builder, a_at, BLOCK // 2), integer(2 * SIDE))
        tiles.multiply(builder, 2, lower, near)
        tiles.multiply(builder, 3, lower, far)
        following = builder.add(block, integer(1))
        block.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

        builder.position_at_end(done)
        for tile, corner in enumerate(corners):
            tiles.store(builder, tile, corner, row_bytes)


def _operands(builder: Any, table: Any, block: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The blocks that an entry names."""
    place = _entry(builder, table, block)
    left, right = builder.load(place), builder.load(at(builder, place, 1))
    return at(builder, a, left), at(builder, b, right)


def products_by(unit: VectorUnit | TileUnit) -> Any:
    """The intrinsic `multiply_blocks` on a unit."""

    def emit(
        builder: Any, count: Any, table: Any, a: Any, b: Any, c: Any, c_first: Any, c_row: Any, accumulate: Any
    ) -> None:
        unit.products(builder, count, table, a, b, at(builder, c, c_first), c_row, accumulate)

    return intrinsic(emit, "nothing")


_THE_UNIT = TileUnit(Amx()) if UNIT == "amx" else VectorUnit(UNIT == "avx512_bf16")
multiply_blocks = products_by(_THE_UNIT)
"""`multiply_blocks(count, table, a, b, c, c_first, c_row, accumulate)`: C (+)= the sum over `count` entries (at least
one) of left blocks in `a` times right blocks in `b`, 32 x 32 floats from `c_first` on, the next row `c_row` later."""
begin_products = intrinsic(_THE_UNIT.begin, "nothing")
"""`begin_products()`: once in a thread's share, before its first product."""
end_products = intrinsic(_THE_UNIT.end, "nothing")
"""`end_products()`: after its last."""


@inline
def copy_tile(tile: Pointer, rows: int, columns: int, to: Pointer, at: int, row: int, accumulate: bool) -> None:
    """The first rows and columns of a product go, or are added, to a matrix."""
    for i in range(rows):
        for j in range(0, columns, WIDTH):
            value = load(tile, i * SIDE + j)
            if accumulate:
                value = value + load_part(to, at + i * row + j, columns - j)
            store_part(to, at + i * row + j, value, columns - j)
