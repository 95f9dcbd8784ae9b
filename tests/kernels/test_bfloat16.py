"""Rounding to bfloat16, products of blocks on every unit, and products of matrices made of them."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from pullback.kernels import bfloat16, blocked, matmul, runtime
from pullback.kernels.bfloat16 import (
    BLOCK,
    SIDE,
    Amx,
    TileUnit,
    VectorUnit,
    products_by,
    put_entries,
    put_pairs,
    put_row,
)
from pullback.kernels.instructions import room
from pullback.kernels.language import inline
from pullback.kernels.runtime import Floats, kernel
from pullback.kernels.simd import load
from pullback.kernels.target import WIDTH


def rounded(x: Any) -> Any:
    """To the nearest bfloat16, ties to even, in NumPy."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    up = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    found = (up & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), found)


def parts_of(x: Any) -> tuple[Any, Any]:
    high = rounded(x)
    return high, rounded(np.where(np.isfinite(high), x - high, np.float32(0.0)))


def words_of(pairs: Any) -> Any:
    """bfloat16 numbers (..., 2) as 32-bit words."""
    bits = np.ascontiguousarray(pairs).view(np.uint32) >> np.uint32(16)
    return (bits[..., 0] | bits[..., 1] << np.uint32(16)).view(np.float32)


@kernel
def pack_both(thread: int, threads: int, x: Floats, left: Floats, right: Floats) -> None:
    """A row of 2 WIDTH numbers for a left block; and the pairs of its halves for a right one."""
    if thread == 0:
        put_row(load(x, 0), load(x, WIDTH), 2, left, 0)
        put_pairs(load(x, 0), load(x, WIDTH), 2, right, 0)


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40, 1.00390625, 1.01171875, 2**-126, 65504.0]


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_rounded_to_the_nearest_with_their_rest(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal(2 * WIDTH) * 10.0 ** random.integers(-30, 30, 2 * WIDTH)).astype(np.float32)
    if seed == 0:
        x = np.resize(np.array(SPECIAL, np.float32), 2 * WIDTH)
    left, right = np.zeros((2, BLOCK), np.float32), np.zeros((2, BLOCK), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        pack_both(x, left, right)
        for part, numbers in enumerate(parts_of(x)):
            of_left, of_right = (
                words_of(numbers.reshape(-1, 2)),
                words_of(np.stack([numbers[:WIDTH], numbers[WIDTH:]], 1)),
            )
            for found, expected in ((left, of_left), (right, of_right)):
                found_halves = found[part, :WIDTH].view(np.uint16)
                halves = expected.view(np.uint16)
                assert np.array_equal(_without_payload(found_halves), _without_payload(halves))


def _without_payload(halves: Any) -> Any:
    """Every NaN as the same NaN."""
    return np.where((halves & 0x7FFF) > 0x7F80, 0x7FC0, halves)


class EmulatedTiles:
    """The matrix unit's instructions on memory, from the description of the instruction set."""

    def __init__(self) -> None:
        self._kind = ir.VectorType(ir.FloatType(), 16)

    def begin(self, builder: Any) -> None:
        """Nothing has to be set up."""

    def end(self, builder: Any) -> None:
        """Nothing is held."""

    def _rows(self, builder: Any, tile: int) -> list[Any]:
        """Where the 16 rows of a tile are kept in this function."""
        found = builder.function.attributes.__dict__.setdefault("tiles", {})
        if tile not in found:
            found[tile] = [room(builder, self._kind) for _ in range(16)]
        return list(found[tile])

    def zero(self, builder: Any, tile: int) -> None:
        for row in self._rows(builder, tile):
            builder.store(ir.Constant(self._kind, None), row)

    def _places(self, builder: Any, start: Any, row_bytes: Any) -> Any:
        base = builder.bitcast(start, ir.IntType(8).as_pointer())
        for index in range(16):
            at = builder.gep(base, [builder.mul(row_bytes, ir.Constant(ir.IntType(64), index))])
            yield builder.bitcast(at, self._kind.as_pointer())

    def load(self, builder: Any, tile: int, start: Any, row_bytes: Any) -> None:
        for row, place in zip(self._rows(builder, tile), self._places(builder, start, row_bytes), strict=True):
            builder.store(builder.load(place, align=4), row)

    def store(self, builder: Any, tile: int, start: Any, row_bytes: Any) -> None:
        for row, place in zip(self._rows(builder, tile), self._places(builder, start, row_bytes), strict=True):
            builder.store(builder.load(row), place, align=4)

    def multiply(self, builder: Any, total: int, left: int, right: int) -> None:
        words, lane = ir.VectorType(ir.IntType(32), 16), ir.IntType(32)
        halves = [
            (lambda bits: builder.shl(bits, ir.Constant(words, [16] * 16))),
            (lambda bits: builder.and_(bits, ir.Constant(words, [0xFFFF0000] * 16))),
        ]
        rows = [builder.bitcast(builder.load(row), words) for row in self._rows(builder, right)]
        for sums, factors in zip(self._rows(builder, total), self._rows(builder, left), strict=True):
            value, factor = builder.load(sums), builder.bitcast(builder.load(factors), words)
            for k, row in enumerate(rows):
                same = builder.shuffle_vector(factor, factor, ir.Constant(ir.VectorType(lane, 16), [k] * 16))
                for half in halves:
                    a, b = (builder.bitcast(half(bits), self._kind) for bits in (same, row))
                    value = builder.fadd(value, builder.fmul(a, b))
            builder.store(value, sums)


by_vectors = products_by(VectorUnit(False))
by_pairs = products_by(VectorUnit(bfloat16.UNIT != "none"))
by_tiles = products_by(TileUnit(EmulatedTiles()))
UNITS = {"by float32 vectors": 0}
if bfloat16.UNIT != "none":
    UNITS["by bfloat16 vectors"] = 1
if WIDTH == 16:
    UNITS["by tiles"] = 2


@inline
def three_blocks(entries: Any, parts: int) -> int:
    count = 0
    for block in range(3):
        count = put_entries(entries, count, block * parts * BLOCK, (2 - block) * parts * BLOCK, parts)
    return count


@kernel
def multiplied(
    thread: int, threads: int, unit: int, table: Floats, a: Floats, b: Floats, c: Floats, parts: int, accumulate: int
) -> None:
    """By the unit that has this number in `UNITS`."""
    if thread == 0:
        count = three_blocks(table, parts)
        if unit == 0:
            by_vectors(count, table, a, b, c, 2, 48, accumulate)
        elif unit == 1:
            by_pairs(count, table, a, b, c, 2, 48, accumulate)
        else:
            by_tiles(count, table, a, b, c, 2, 48, accumulate)


@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_multiplies_blocks(unit: str, parts: int, accumulate: int) -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    a = np.stack([words_of(part.reshape(3, SIDE, SIDE // 2, 2)) for part in parts_of(left)[:parts]], axis=1)
    pairs = [part.reshape(3, SIDE // 2, 2, SIDE).transpose(0, 1, 3, 2) for part in parts_of(right)[:parts]]
    b = np.stack([words_of(each) for each in pairs], axis=1)
    c = random.standard_normal((SIDE, 48)).astype(np.float32)
    exact = c.astype(np.float64)
    rounded_left, rounded_right = (sum(p.astype(np.float64) for p in parts_of(x)[:parts]) for x in (left, right))
    found = np.einsum("bij,bjk->ik", rounded_left, rounded_right[::-1])
    exact[:, 2:34] = found + accumulate * exact[:, 2:34]
    table = np.zeros(9 * bfloat16.ENTRY, np.float32)
    multiplied(UNITS[unit], table, a, b, c, parts, accumulate)
    bound = 2e-6 if parts == 1 else 2e-5  # the product of the rests is left out
    np.testing.assert_allclose(c, exact, rtol=0, atol=bound * float(np.abs(exact).max()))


def test_the_matrix_unit_is_asked_for_what_was_tried_on_emulated_tiles() -> None:
    module = ir.Module()
    module.triple = "x86_64-unknown-linux-gnu"
    long, number = ir.IntType(64), ir.FloatType().as_pointer()
    f = ir.Function(module, ir.FunctionType(ir.VoidType(), [long, number, number, number, number, long]), "products")
    builder = ir.IRBuilder(f.append_basic_block())
    unit = TileUnit(Amx())
    unit.begin(builder)
    count, table, a, b, c, row = f.args
    unit.products(builder, count, table, a, b, c, row, ir.Constant(long, 0))
    unit.end(builder)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(module.triple).create_target_machine(cpu="sapphirerapids", opt=2)
    assembly = target.emit_assembly(llvm.parse_assembly(str(module)))
    assert assembly.count("tdpbf16ps") == 4
    assert assembly.count("tilezero") == 4
    assert assembly.count("tilestored") == 4
    assert assembly.count("ldtilecfg") == assembly.count("tilerelease") == 1
    assert assembly.count("tileloadd") == 8  # four of sums, to go on from, and four of operands


@pytest.mark.parametrize("transposed_right", [False, True])
@pytest.mark.parametrize("transposed_left", [False, True])
@pytest.mark.parametrize("algorithm", ["bfloat16", "bfloat16x3"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 3, 5), (33, 65, 31), (64, 100, 48), (130, 512, 96), (1, 700, 40)])
def test_products_of_matrices(sizes: Any, algorithm: str, transposed_left: bool, transposed_right: bool) -> None:
    rows, depth, columns = sizes
    random = np.random.default_rng(0)
    a, b = random.standard_normal((rows, depth)), random.standard_normal((depth, columns))
    left, right = (
        np.ascontiguousarray(x.T if t else x, np.float32) for x, t in ((a, transposed_left), (b, transposed_right))
    )
    c = np.full((rows, columns), np.nan, np.float32)
    matmul.multiply(
        left, right, c, transposed_left=transposed_left, transposed_right=transposed_right, algorithm=algorithm
    )
    exact = a @ b
    bound = {"bfloat16": 2e-2, "bfloat16x3": 3e-5}[algorithm]
    np.testing.assert_allclose(c, exact, rtol=0, atol=bound * float(np.abs(exact).max()))


def test_products_of_nothing() -> None:
    for rows, depth, columns in ((0, 3, 2), (3, 0, 2), (3, 2, 0)):
        c = np.full((rows, columns), np.nan, np.float32)
        blocked.multiply(runtime.empty((rows, depth)), runtime.empty((depth, columns)), c, 1)
        assert not c.any()


def test_numbers_that_are_none_and_endless_ones_come_through() -> None:
    a = np.ones((40, 40), np.float32)
    a[0, 0], a[1, 1], a[2, 2] = np.nan, np.inf, 3.4e38
    for algorithm in ("bfloat16", "bfloat16x3"):
        c = np.zeros((40, 40), np.float32)
        matmul.multiply(a, np.eye(40, dtype=np.float32), c, algorithm=algorithm)
        assert np.isnan(c[0]).any()
        assert np.isfinite(c[3:]).all()
        c = np.zeros((40, 1), np.float32)
        matmul.multiply(a, np.ones((40, 1), np.float32), c, algorithm=algorithm)
        # Of an infinity the product with a rest of zero is none: three products cannot tell it from NaN.
        assert c[1, 0] == np.inf if algorithm == "bfloat16" else np.isnan(c[1, 0])
        assert np.isfinite(c[3:]).all()


def test_the_arithmetic_of_a_product_is_chosen_by_cost_and_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "RATES", {"bfloat16": 0.1, "bfloat16x3": 0.3})
    assert matmul.choose(400, 600, 200) == "panels"
    assert matmul.choose(400, 600, 200, "float32-fast") == "bfloat16x3"
    assert matmul.choose(400, 600, 200, "bfloat16") == "bfloat16"
    assert matmul.choose(1, 600, 200, "bfloat16") == "panels"  # 31 of 32 rows would be empty
