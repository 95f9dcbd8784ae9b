"""Explicit SIMD vectors of float32 inside Numba functions, and the register-blocked tile that matrix products stand on.
The vector width follows from the CPU that Numba compiles for, found by asking LLVM rather than a table of CPUs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

Function = TypeVar("Function", bound=Callable[..., Any])
Pointer = Any
"""The address of float32 (or, where said, of bytes) inside a kernel; indexed like an array."""

_FLOAT = ir.FloatType()
INTEGER = ir.IntType(64)
_FAST = ("contract", "nsz")


class Machine(NamedTuple):
    """What the compiled code may use: floats in a vector, vector registers, a fused multiply-add."""

    width: int
    registers: int
    fma: bool


def _probe() -> Machine:
    """The vectors LLVM uses on the CPU Numba compiles for (so `NUMBA_CPU_NAME` counts), read off a probe's assembly."""
    module = ir.Module()
    module.triple = llvm.get_process_triple()
    wide = ir.VectorType(_FLOAT, 16)
    fma = ir.Function(module, ir.FunctionType(wide, [wide] * 3), "llvm.fma.v16f32")
    probe = ir.Function(module, ir.FunctionType(ir.VoidType(), [wide.as_pointer()]), "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    value = builder.load(probe.args[0], align=4)
    builder.store(builder.call(fma, [value, value, value]), probe.args[0], align=4)
    builder.ret_void()
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    if config.CPU_NAME and not config.CPU_FEATURES:
        features = ""  # a CPU was named: its own features, not the ones of the host that Numba adds
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(cpu=cpu, features=features, opt=2)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    fused = "vfmadd" in assembly or "fmla" in assembly
    if "zmm" in assembly:
        return Machine(16, 32, fused)
    if "ymm" in assembly:
        return Machine(8, 16, fused)
    return Machine(4, 32 if "fmla" in assembly else 16, fused)


MACHINE = _probe()
WIDTH = MACHINE.width
"""Floats in one vector."""
PANEL = 2 * WIDTH
"""Columns of the tile of a matrix product: two vectors."""
ROWS = (12, 8, 4) if MACHINE.registers == 32 else (6, 4, 2)
"""Rows of the tiles; with two vectors a row, the largest fills the registers without spilling."""
ALIGNMENT = 64

VECTOR = ir.VectorType(_FLOAT, WIDTH)
_MASK = ir.VectorType(ir.IntType(1), WIDTH)
_LANES = ir.VectorType(ir.IntType(32), WIDTH)
_NAME = f"v{WIDTH}f32"


class _Vector(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


vector = _Vector()


def as_vector(builder: Any, pointer: Any) -> Any:
    return builder.bitcast(pointer, VECTOR.as_pointer())


def splat(builder: Any, scalar: Any, kind: Any = VECTOR) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None))


def _lane_mask(builder: Any, count: Any) -> Any:
    """True in the first `count` lanes."""
    lanes = ir.Constant(_LANES, list(range(WIDTH)))
    return builder.icmp_signed("<", lanes, splat(builder, builder.trunc(count, ir.IntType(32)), _LANES))


def declared(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _load(typing: Any, pointer: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(as_vector(builder, builder.gep(values[0], [values[1]])), align=4)

    return vector(pointer, types.intp), emit


def _store(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], as_vector(builder, builder.gep(values[0], [values[1]])), align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), emit


def load_lanes(builder: Any, start: Any, count: Any) -> Any:
    """Emit the load of the first `count` lanes of the vector at `start`, zeros after."""
    arguments = [start.type, ir.IntType(32), _MASK, VECTOR]
    masked = declared(builder, f"llvm.masked.load.{_NAME}.p0{_NAME}", VECTOR, arguments)
    mask = _lane_mask(builder, count)
    return builder.call(masked, [start, ir.Constant(ir.IntType(32), 4), mask, ir.Constant(VECTOR, None)])


def store_lanes(builder: Any, value: Any, start: Any, count: Any) -> None:
    """Emit the store of the first `count` lanes to the vector at `start`."""
    arguments = [VECTOR, start.type, ir.IntType(32), _MASK]
    masked = declared(builder, f"llvm.masked.store.{_NAME}.p0{_NAME}", ir.VoidType(), arguments)
    builder.call(masked, [value, start, ir.Constant(ir.IntType(32), 4), _lane_mask(builder, count)])


def _load_part(typing: Any, pointer: Any, index: Any, count: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return load_lanes(builder, as_vector(builder, builder.gep(values[0], [values[1]])), values[2])

    return vector(pointer, types.intp, types.intp), emit


def _store_part(typing: Any, pointer: Any, index: Any, value: Any, count: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        store_lanes(builder, values[2], as_vector(builder, builder.gep(values[0], [values[1]])), values[3])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector, types.intp), emit


def _broadcast(typing: Any, scalar: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return splat(builder, values[0])

    return vector(types.float32), emit


def _offset(typing: Any, pointer: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.intp), emit


def _at_least(typing: Any, value: Any, floor: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", values[0], values[1]), values[1], values[0])

    return vector(vector, vector), emit


def _where_positive(typing: Any, sign: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zero = ir.Constant(VECTOR, None)
        return builder.select(builder.fcmp_ordered(">", values[0], zero), values[1], zero)

    return vector(vector, vector), emit


def _first_lanes(typing: Any, value: Any, count: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(_lane_mask(builder, values[1]), values[0], ir.Constant(VECTOR, None))

    return vector(vector, types.intp), emit


def across(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes of a vector joined to one number, by halves."""
    width = value.type.count
    half = width // 2
    while half:
        order = [(lane + half) % width for lane in range(width)]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), order)
        value = join(value, builder.shuffle_vector(value, value, lanes))
        half //= 2
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def _across(join: Callable[[Any, Any, Any], Any]) -> Any:
    def declare(typing: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return across(builder, values[0], lambda a, b: join(builder, a, b))

        return types.float32(vector), emit

    return intrinsic(declare)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


_BYTES = ir.VectorType(ir.IntType(8), WIDTH)


def _where_better(typing: Any, value: Any, best: Any, new: Any, old: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, best, new, old = values
        larger, no_number = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
        return builder.select(builder.or_(larger, no_number), new, old)

    return vector(vector, vector, vector, vector), emit


def _store_bytes(typing: Any, pointer: Any, index: Any, value: Any, count: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer, index, value, count = values
        start = builder.bitcast(builder.gep(pointer, [index]), _BYTES.as_pointer())
        data = builder.fptoui(value, _BYTES)
        arguments = [_BYTES, start.type, ir.IntType(32), _MASK]
        masked = declared(builder, f"llvm.masked.store.v{WIDTH}i8.p0v{WIDTH}i8", ir.VoidType(), arguments)
        whole = builder.icmp_signed(">=", count, ir.Constant(INTEGER, WIDTH))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(data, start, align=1)
            with otherwise:
                builder.call(masked, [data, start, ir.Constant(ir.IntType(32), 1), _lane_mask(builder, count)])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector, types.intp), emit


def _where_byte(typing: Any, pointer: Any, index: Any, byte: Any, count: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer, index, byte, count, value = values
        start = builder.bitcast(builder.gep(pointer, [index]), _BYTES.as_pointer())
        arguments = [start.type, ir.IntType(32), _MASK, _BYTES]
        masked = declared(builder, f"llvm.masked.load.v{WIDTH}i8.p0v{WIDTH}i8", _BYTES, arguments)
        zero = ir.Constant(_BYTES, None)
        whole = builder.icmp_signed(">=", count, ir.Constant(INTEGER, WIDTH))
        held = cgutils.alloca_once(builder, _BYTES)
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(builder.load(start, align=1), held)
            with otherwise:
                mask = _lane_mask(builder, count)
                builder.store(builder.call(masked, [start, ir.Constant(ir.IntType(32), 1), mask, zero]), held)
        wanted = splat(builder, builder.trunc(byte, ir.IntType(8)), _BYTES)
        return builder.select(builder.icmp_unsigned("==", builder.load(held), wanted), value, ir.Constant(VECTOR, None))

    return vector(pointer, types.intp, types.intp, types.intp, vector), emit


def _prefetch(to_write: bool) -> Any:
    def declare(typing: Any, pointer: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = builder.bitcast(builder.gep(values[0], [values[1]]), ir.IntType(8).as_pointer())
            number = ir.IntType(32)
            wanted = declared(builder, "llvm.prefetch.p0", ir.VoidType(), [place.type, number, number, number])
            near, data = 2, 1  # the second-level cache; not instructions
            builder.call(wanted, [place, *(ir.Constant(number, each) for each in (int(to_write), near, data))])
            return context.get_dummy_value()

        return types.void(pointer, types.intp), emit

    return intrinsic(declare)


def _from_bits(kind: Any) -> Any:
    """A value of `kind` (pointer or float64) from the 64-bit integer that holds its bits."""

    def declare(typing: Any, bits: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            target = context.get_value_type(kind)
            if isinstance(kind, types.CPointer):
                return builder.inttoptr(values[0], target)
            return builder.bitcast(values[0], target)

        return kind(types.int64), emit

    return intrinsic(declare)


floats_from = _from_bits(types.CPointer(types.float32))
bytes_from = _from_bits(types.CPointer(types.uint8))
integers_from = _from_bits(types.CPointer(types.int64))
double_from = _from_bits(types.float64)

offset = intrinsic(_offset)
"""`offset(pointer, index)`: the pointer to a later element."""
load = intrinsic(_load)
"""`load(pointer, index)`: the vector that starts at an element."""
store = intrinsic(_store)
"""`store(pointer, index, value)`."""
load_part = intrinsic(_load_part)
"""`load_part(pointer, index, count)`: the first `count` lanes, zeros after; nothing beyond them is touched."""
store_part = intrinsic(_store_part)
"""`store_part(pointer, index, value, count)`."""
broadcast = intrinsic(_broadcast)
"""`broadcast(scalar)`: a vector of equal lanes."""
where_better = intrinsic(_where_better)
"""`where_better(value, best, new, old)`: new where value > best or is NaN, and old elsewhere."""
store_bytes = intrinsic(_store_bytes)
"""`store_bytes(pointer, index, value, count)`: the first `count` lanes, whole numbers, as bytes."""
where_byte = intrinsic(_where_byte)
"""`where_byte(pointer, index, byte, count, value)`: value where the byte in memory is this one, and 0 elsewhere."""
prefetch = _prefetch(False)
"""`prefetch(pointer, index)`: bring the cache line of an element, which will be read soon."""
prefetch_to_write = _prefetch(True)
"""`prefetch_to_write(pointer, index)`: the same for an element that will be written."""
at_least = intrinsic(_at_least)
"""`at_least(value, floor)`: the larger in each lane; NaN stays."""
first_lanes = intrinsic(_first_lanes)
"""`first_lanes(value, count)`: the first `count` lanes, zeros after."""
sum_of_lanes = _across(lambda builder, a, b: builder.fadd(a, b))
"""`sum_of_lanes(value)`: a number."""
largest_lane = _across(_larger)
"""`largest_lane(value)`: a number, which a NaN in a lane leaves as it is."""
where_positive = intrinsic(_where_positive)
"""`where_positive(sign, value)`: value where sign > 0, and 0 elsewhere."""


def _transpose(typing: Any, a: Any, a_first: Any, a_row: Any, b: Any, b_first: Any, b_row: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, a_first, a_row, b, b_first, b_row = values

        def row(pointer: Any, first: Any, step: Any, index: int) -> Any:
            place = builder.add(first, builder.mul(step, ir.Constant(INTEGER, index)))
            return as_vector(builder, builder.gep(pointer, [place]))

        lines = [builder.load(row(a, a_first, a_row, index), align=4) for index in range(WIDTH)]
        # Interleaving the first half of the rows with the second, log2(WIDTH) times, is a transposition.
        half = WIDTH // 2
        low = [lane // 2 + lane % 2 * WIDTH for lane in range(WIDTH)]
        kind = ir.VectorType(ir.IntType(32), WIDTH)
        masks = [ir.Constant(kind, low), ir.Constant(kind, [lane + half for lane in low])]
        for _ in range(WIDTH.bit_length() - 1):
            pairs = zip(lines[:half], lines[half:], strict=True)
            lines = [builder.shuffle_vector(first, second, mask) for first, second in pairs for mask in masks]
        for index, line in enumerate(lines):
            builder.store(line, row(b, b_first, b_row, index), align=4)
        return context.get_dummy_value()

    n = types.intp
    return types.void(a, n, n, b, n, n), emit


_transpose_block = intrinsic(_transpose)


def inline(function: Function) -> Function:
    """A function for use inside kernels: no reference counts, no wrappers for Python."""
    options = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled: Function = njit(error_model="numpy", fastmath={"contract", "nsz"}, **options)(function)
    return compiled


def _binary(instruction: str, operation: Callable[[Any, Any], Any]) -> None:
    """Let `operation` act on two vectors, or on a vector and a number."""

    def declare(typing: Any, left: Any, right: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(values[0], values[1], flags=_FAST)

        return vector(vector, vector), emit

    of_vectors = intrinsic(declare)

    def choose(left: Any, right: Any) -> Any:
        if isinstance(left, _Vector) and isinstance(right, _Vector):
            return lambda left, right: of_vectors(left, right)
        if isinstance(left, _Vector):
            return lambda left, right: of_vectors(left, broadcast(np.float32(right)))
        if isinstance(right, _Vector):
            return lambda left, right: of_vectors(broadcast(np.float32(left)), right)
        return None

    overload(operation, strict=False)(choose)  # strict would compare our annotations with the bare lambdas


_binary("fadd", operator.add)
_binary("fsub", operator.sub)
_binary("fmul", operator.mul)


def _tile(rows: int, vectors: int) -> Any:
    """The product tile of so many rows and vectors: C[i, :] (+)= sum over k of A[i, k] B[k, :], sums kept in registers.

    Arguments: depth, then A, its first element, the steps to the next row and the next k; B, its first element and
    the step to the next k; C, its first element and the step to the next row; and whether to add to what C holds.
    """

    def declare(
        typing: Any, depth: Any, a: Any, a_first: Any, a_row: Any, a_k: Any, b: Any, b_first: Any, b_k: Any,
        c: Any, c_first: Any, c_row: Any, accumulate: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            depth, a, a_first, a_row, a_k, b, b_first, b_k, c, c_first, c_row, accumulate = values
            a = builder.gep(a, [a_first])
            b = builder.gep(b, [b_first])
            c = builder.gep(c, [c_first])

            def number(value: int) -> Any:
                return ir.Constant(INTEGER, value)

            zero = ir.Constant(VECTOR, None)
            cells = [(row, part) for row in range(rows) for part in range(vectors)]
            targets = {}
            for row, part in cells:
                offset = builder.add(builder.mul(number(row), c_row), number(part * WIDTH))
                targets[row, part] = as_vector(builder, builder.gep(c, [offset]))
            # A pointer for every third row: the two between are reached by the address modes of one instruction.
            starts = [builder.gep(a, [builder.mul(number(row), a_row)]) for row in range(0, rows, 3)]
            between = [number(0), a_row, builder.mul(number(2), a_row)]

            entry = builder.block
            reload = builder.append_basic_block("tile.reload")
            loop = builder.append_basic_block("tile.loop")
            done = builder.append_basic_block("tile.done")
            builder.cbranch(builder.icmp_signed("!=", accumulate, number(0)), reload, loop)

            builder.position_at_end(reload)
            held = {cell: builder.load(targets[cell], align=4) for cell in cells}
            builder.branch(loop)

            builder.position_at_end(loop)
            k, b_at = builder.phi(INTEGER), builder.phi(b.type)
            a_at = [builder.phi(a.type) for _ in starts]
            sums = {cell: builder.phi(VECTOR) for cell in cells}
            right = [
                builder.load(as_vector(builder, builder.gep(b_at, [number(part * WIDTH)])), align=4)
                for part in range(vectors)
            ]
            added = {}
            for row in range(rows):
                left = splat(builder, builder.load(builder.gep(a_at[row // 3], [between[row % 3]])))
                for part in range(vectors):
                    added[row, part] = multiply_add(builder, left, right[part], sums[row, part])
            k_next = builder.add(k, number(1))
            a_next = [builder.gep(pointer, [a_k]) for pointer in a_at]
            b_next = builder.gep(b_at, [b_k])
            builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
            moving = [(k, number(0), k_next), (b_at, b, b_next), *zip(a_at, starts, a_next, strict=True)]
            for phi, start, following in moving:
                for value, block in ((start, entry), (start, reload), (following, loop)):
                    phi.add_incoming(value, block)
            for cell in cells:
                for value, block in ((zero, entry), (held[cell], reload), (added[cell], loop)):
                    sums[cell].add_incoming(value, block)

            builder.position_at_end(done)
            for cell in cells:
                builder.store(added[cell], targets[cell], align=4)
            return context.get_dummy_value()

        n = types.intp
        return types.void(n, a, n, n, n, b, n, n, c, n, n, n), emit

    return intrinsic(declare)


def multiply_add(builder: Any, left: Any, right: Any, total: Any) -> Any:
    if not MACHINE.fma:  # llvm.fma would become a call of the C library for every lane
        return builder.fadd(builder.fmul(left, right, flags=_FAST), total, flags=_FAST)
    fma = declared(builder, f"llvm.fma.{_NAME}", VECTOR, [VECTOR] * 3)
    return builder.call(fma, [left, right, total])


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
