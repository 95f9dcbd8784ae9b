"""Explicit SIMD vectors of float32 inside kernels, and the register-blocked tile that matrix products stand on."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from pullback.kernels import instructions
from pullback.kernels.instructions import BYTE, FLOAT, INTEGER, LANE, VOID, integer
from pullback.kernels.language import inline, intrinsic
from pullback.kernels.target import MACHINE, ROWS, WIDTH

Pointer = Any
"""The address of float32 (or, where said, of bytes) inside a kernel; indexed like an array."""

VECTOR = ir.VectorType(FLOAT, WIDTH)
_BYTES = ir.VectorType(BYTE, WIDTH)
_FAST = ("contract", "nsz")


def at(builder: Any, pointer: Any, index: Any) -> Any:
    """Emit the pointer to a later element; the index as a value, or as a Python number."""
    return builder.gep(pointer, [integer(index) if isinstance(index, int) else index])


def splat(builder: Any, scalar: Any) -> Any:
    """Emit a vector of equal lanes."""
    return instructions.splat(builder, scalar, VECTOR)


def load_vector(builder: Any, pointer: Any, count: Any = None) -> Any:
    """Emit the load of a vector, or of its first `count` lanes with zeros after."""
    return instructions.load(builder, pointer, VECTOR, None if count is None else _mask(builder, count))


def store_vector(builder: Any, value: Any, pointer: Any, count: Any = None) -> None:
    """Emit the store of a vector, or of its first `count` lanes."""
    instructions.store(builder, value, pointer, None if count is None else _mask(builder, count))


def multiply_add(builder: Any, left: Any, right: Any, total: Any) -> Any:
    """Emit left right + total."""
    if not MACHINE.fma:  # llvm.fma would become a call of the C library for every lane
        return builder.fadd(builder.fmul(left, right, flags=_FAST), total, flags=_FAST)
    return instructions.call(builder, f"llvm.fma.v{WIDTH}f32", VECTOR, left, right, total)


def _mask(builder: Any, count: Any) -> Any:
    return instructions.first_lanes(builder, count, WIDTH)


# -- memory ----------------------------------------------------------------------------------------------------------
def _load(builder: Any, pointer: Any, index: Any) -> Any:
    return load_vector(builder, at(builder, pointer, index))


def _store(builder: Any, pointer: Any, index: Any, value: Any) -> None:
    store_vector(builder, value, at(builder, pointer, index))


def _load_part(builder: Any, pointer: Any, index: Any, count: Any) -> Any:
    return load_vector(builder, at(builder, pointer, index), count)


def _store_part(builder: Any, pointer: Any, index: Any, value: Any, count: Any) -> None:
    store_vector(builder, value, at(builder, pointer, index), count)


def _prefetch(to_write: bool) -> Any:
    def emit(builder: Any, pointer: Any, index: Any) -> None:
        place = builder.bitcast(at(builder, pointer, index), BYTE.as_pointer())
        near, data = 2, 1  # the second-level cache; not instructions
        numbers = (ir.Constant(LANE, each) for each in (int(to_write), near, data))
        instructions.call(builder, "llvm.prefetch.p0", VOID, place, *numbers)

    return intrinsic(emit, "nothing")


def _store_bytes(builder: Any, pointer: Any, index: Any, value: Any, count: Any) -> None:
    place, data = at(builder, pointer, index), builder.fptoui(value, _BYTES)
    whole = builder.icmp_signed(">=", count, integer(WIDTH))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            instructions.store(builder, data, place)
        with otherwise:
            instructions.store(builder, data, place, _mask(builder, count))


def _where_byte(builder: Any, pointer: Any, index: Any, byte: Any, count: Any, value: Any) -> Any:
    place = at(builder, pointer, index)
    whole = builder.icmp_signed(">=", count, integer(WIDTH))
    held = instructions.room(builder, _BYTES)
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            builder.store(instructions.load(builder, place, _BYTES), held)
        with otherwise:
            builder.store(instructions.load(builder, place, _BYTES, _mask(builder, count)), held)
    wanted = instructions.splat(builder, builder.trunc(byte, BYTE), _BYTES)
    return builder.select(builder.icmp_unsigned("==", builder.load(held), wanted), value, ir.Constant(VECTOR, None))


offset = intrinsic(at, "pointer")
"""`offset(pointer, index)`: the pointer to a later element."""
load = intrinsic(_load)
"""`load(pointer, index)`: the vector that starts at an element."""
store = intrinsic(_store, "nothing")
"""`store(pointer, index, value)`."""
load_part = intrinsic(_load_part)
"""`load_part(pointer, index, count)`: the first `count` lanes, zeros after; nothing beyond them is touched."""
store_part = intrinsic(_store_part, "nothing")
"""`store_part(pointer, index, value, count)`."""
prefetch = _prefetch(False)
"""`prefetch(pointer, index)`: bring the cache line of an element, which will be read soon."""
prefetch_to_write = _prefetch(True)
"""`prefetch_to_write(pointer, index)`: the same for an element that will be written."""
store_bytes = intrinsic(_store_bytes, "nothing")
"""`store_bytes(pointer, index, value, count)`: the first `count` lanes, whole numbers, as bytes."""
where_byte = intrinsic(_where_byte)
"""`where_byte(pointer, index, byte, count, value)`: value where the byte in memory is this one, and 0 elsewhere."""


# -- values ----------------------------------------------------------------------------------------------------------
def _at_least(builder: Any, value: Any, floor: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", value, floor), floor, value)


def _where_positive(builder: Any, sign: Any, value: Any) -> Any:
    zero = ir.Constant(VECTOR, None)
    return builder.select(builder.fcmp_ordered(">", sign, zero), value, zero)


def _where_better(builder: Any, value: Any, best: Any, new: Any, old: Any) -> Any:
    larger, no_number = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
    return builder.select(builder.or_(larger, no_number), new, old)


def _first_lanes(builder: Any, value: Any, count: Any) -> Any:
    return builder.select(_mask(builder, count), value, ir.Constant(VECTOR, None))


def _sum_of_lanes(builder: Any, value: Any) -> Any:
    return instructions.across(builder, value, builder.fadd)


def _largest_lane(builder: Any, value: Any) -> Any:
    return instructions.across(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _in_vectors(instruction: str) -> Any:
    def emit(builder: Any, left: Any, right: Any) -> Any:
        return getattr(builder, instruction)(left, right, flags=_FAST)

    return intrinsic(emit)


OPERATORS = {"add": _in_vectors("fadd"), "sub": _in_vectors("fsub"), "mul": _in_vectors("fmul")}
"""What +, - and * of two vectors are, by their names in the module `operator`."""
broadcast = intrinsic(splat)
"""`broadcast(scalar)`: a vector of equal lanes."""
at_least = intrinsic(_at_least)
"""`at_least(value, floor)`: the larger in each lane; NaN stays."""
where_positive = intrinsic(_where_positive)
"""`where_positive(sign, value)`: value where sign > 0, and 0 elsewhere."""
where_better = intrinsic(_where_better)
"""`where_better(value, best, new, old)`: new where value > best or is NaN, and old elsewhere."""
first_lanes = intrinsic(_first_lanes)
"""`first_lanes(value, count)`: the first `count` lanes, zeros after."""
sum_of_lanes = intrinsic(_sum_of_lanes, "float")
"""`sum_of_lanes(value)`: a number."""
largest_lane = intrinsic(_largest_lane, "float")
"""`largest_lane(value)`: a number, which a NaN in a lane leaves as it is."""


# -- what a kernel is given, as integers of 64 bits -------------------------------------------------------------------
def _data_of(element: Any) -> Any:
    def emit(builder: Any, array: Any) -> Any:
        return instructions.data_of(builder, array, element)

    return emit


def _double_from(builder: Any, bits: Any) -> Any:
    return builder.bitcast(bits, ir.DoubleType())


floats_of = intrinsic(_data_of(FLOAT), "floats")
bytes_of = intrinsic(_data_of(BYTE), "bytes")
integers_of = intrinsic(_data_of(INTEGER), "integers")
doubles_of = intrinsic(_data_of(ir.DoubleType()), "doubles")
double_from = intrinsic(_double_from, "double")


# -- products --------------------------------------------------------------------------------------------------------
def _tile(rows: int, vectors: int) -> Any:
    """The product tile of so many rows and vectors: C[i, :] (+)= sum over k of A[i, k] B[k, :], sums kept in registers.

    Arguments: depth, then A, its first element, the steps to the next row and the next k; B, its first element and
    the step to the next k; C, its first element and the step to the next row; and whether to add to what C holds.
    """

    def emit(
        builder: Any, depth: Any, a: Any, a_first: Any, a_row: Any, a_k: Any, b: Any, b_first: Any, b_k: Any,
        c: Any, c_first: Any, c_row: Any, accumulate: Any,
    ) -> None:  # fmt: skip
        a = at(builder, a, a_first)
        b = at(builder, b, b_first)
        c = at(builder, c, c_first)

        zero = ir.Constant(VECTOR, None)
        cells = [(row, part) for row in range(rows) for part in range(vectors)]
        targets = {}
        for row, part in cells:
            offset = builder.add(builder.mul(integer(row), c_row), integer(part * WIDTH))
            targets[row, part] = at(builder, c, offset)
        # A pointer for every third row: the two between are reached by the address modes of one instruction.
        starts = [at(builder, a, builder.mul(integer(row), a_row)) for row in range(0, rows, 3)]
        between = [integer(0), a_row, builder.mul(integer(2), a_row)]

        entry = builder.block
        loop, done, adding, after = (
            builder.append_basic_block(f"tile.{name}") for name in ("loop", "done", "add", "after")
        )
        builder.branch(loop)

        builder.position_at_end(loop)
        k, b_at = builder.phi(INTEGER), builder.phi(b.type)
        a_at = [builder.phi(a.type) for _ in starts]
        sums = {cell: builder.phi(VECTOR) for cell in cells}
        right = [load_vector(builder, at(builder, b_at, part * WIDTH)) for part in range(vectors)]
        added = {}
        for row in range(rows):
            left = splat(builder, builder.load(at(builder, a_at[row // 3], between[row % 3])))
            for part in range(vectors):
                added[row, part] = multiply_add(builder, left, right[part], sums[row, part])
        k_next = builder.add(k, integer(1))
        a_next = [at(builder, pointer, a_k) for pointer in a_at]
        b_next = at(builder, b_at, b_k)
        builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
        moving = [(k, integer(0), k_next), (b_at, b, b_next), *zip(a_at, starts, a_next, strict=True)]
        for phi, start, following in moving:
            phi.add_incoming(start, entry)
            phi.add_incoming(following, loop)
        for cell in cells:
            sums[cell].add_incoming(zero, entry)
            sums[cell].add_incoming(added[cell], loop)

        # What C holds is added last: many short sums round less than one long one.
        builder.position_at_end(done)
        builder.cbranch(builder.icmp_signed("!=", accumulate, integer(0)), adding, after)
        builder.position_at_end(adding)
        totals = {cell: builder.fadd(added[cell], load_vector(builder, targets[cell])) for cell in cells}
        builder.branch(after)
        builder.position_at_end(after)
        for cell in cells:
            value = builder.phi(VECTOR)
            value.add_incoming(added[cell], done)
            value.add_incoming(totals[cell], adding)
            sums[cell] = value
        for cell in cells:
            store_vector(builder, sums[cell], targets[cell])

    return intrinsic(emit, "nothing")


def _rows_of_tiles(vectors: int) -> Any:
    """C (+)= A B for any number of rows and so many vectors of columns; first elements and steps as in `_tile`."""
    most, some, few = ROWS
    tile_most, tile_some, tile_few, tile_two, tile_one = (_tile(rows, vectors) for rows in (*ROWS, 2, 1))

    @inline
    def multiply(
        rows: int, depth: int, a: Any, a_first: int, a_row: int, a_k: int, b: Any, b_first: int, b_k: int,
        c: Any, c_first: int, c_row: int, accumulate: int,
    ) -> None:  # fmt: skip
        row = 0
        while row < rows:
            left = rows - row
            at, to = a_first + row * a_row, c_first + row * c_row
            if left >= most and left != 2 * some:
                tile_most(depth, a, at, a_row, a_k, b, b_first, b_k, c, to, c_row, accumulate)
                row += most
            elif left >= some:
                tile_some(depth, a, at, a_row, a_k, b, b_first, b_k, c, to, c_row, accumulate)
                row += some
            elif left >= few:
                tile_few(depth, a, at, a_row, a_k, b, b_first, b_k, c, to, c_row, accumulate)
                row += few
            elif left >= 2:
                tile_two(depth, a, at, a_row, a_k, b, b_first, b_k, c, to, c_row, accumulate)
                row += 2
            else:
                tile_one(depth, a, at, a_row, a_k, b, b_first, b_k, c, to, c_row, accumulate)
                row += 1

    return multiply


multiply_panel = _rows_of_tiles(2)
"""The product of `PANEL` columns."""
multiply_narrow_panel = _rows_of_tiles(1)
"""The product of `WIDTH` columns."""


# -- transposition ---------------------------------------------------------------------------------------------------
def _transpose(builder: Any, a: Any, a_first: Any, a_row: Any, b: Any, b_first: Any, b_row: Any) -> None:
    def row(pointer: Any, first: Any, step: Any, index: int) -> Any:
        return at(builder, pointer, builder.add(first, builder.mul(step, integer(index))))

    lines = [load_vector(builder, row(a, a_first, a_row, index)) for index in range(WIDTH)]
    # Interleaving the first half of the rows with the second, log2(WIDTH) times, is a transposition.
    half = WIDTH // 2
    low = [lane // 2 + lane % 2 * WIDTH for lane in range(WIDTH)]
    kind = ir.VectorType(LANE, WIDTH)
    masks = [ir.Constant(kind, low), ir.Constant(kind, [lane + half for lane in low])]
    for _ in range(WIDTH.bit_length() - 1):
        pairs = zip(lines[:half], lines[half:], strict=True)
        lines = [builder.shuffle_vector(first, second, mask) for first, second in pairs for mask in masks]
    for index, line in enumerate(lines):
        store_vector(builder, line, row(b, b_first, b_row, index))


_transpose_block = intrinsic(_transpose, "nothing")


@inline
def copy_transposed(
    a: Pointer, a_first: int, a_row: int, rows: int, columns: int, b: Pointer, b_first: int, b_row: int
) -> None:
    """b[column, row] = a[row, column], by whole blocks of vectors and then the edges one by one."""
    whole_rows, whole_columns = rows - rows % WIDTH, columns - columns % WIDTH
    for row in range(0, whole_rows, WIDTH):
        for column in range(0, whole_columns, WIDTH):
            _transpose_block(a, a_first + row * a_row + column, a_row, b, b_first + column * b_row + row, b_row)
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            b[b_first + column * b_row + row] = a[a_first + row * a_row + column]
