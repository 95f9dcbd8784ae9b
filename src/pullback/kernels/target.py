"""What machine code is made for: the CPU, its vectors, and LLVM's code generator for them.

Only llvmlite is needed here, and so to run what was compiled before: Numba is imported when a kernel is compiled.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
TRIPLE = llvm.get_process_triple()


class Cpu(NamedTuple):
    """A CPU as LLVM knows it; `$NUMBA_CPU_NAME` and `$NUMBA_CPU_FEATURES` name another than this one."""

    name: str
    features: str


def _cpu() -> Cpu:
    named, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if named else llvm.get_host_cpu_features().flatten()
    return Cpu(named or llvm.get_host_cpu_name(), features)


class Machine(NamedTuple):
    """What the compiled code may use: floats in a vector, vector registers, a fused multiply-add."""

    width: int
    registers: int
    fma: bool


def _probe() -> Machine:
    """The vectors that LLVM uses on this CPU, read off a probe's assembly rather than from a table of CPUs."""
    module = ir.Module()
    module.triple = TRIPLE
    wide = ir.VectorType(ir.FloatType(), 16)
    fma = ir.Function(module, ir.FunctionType(wide, [wide] * 3), "llvm.fma.v16f32")
    probe = ir.Function(module, ir.FunctionType(ir.VoidType(), [wide.as_pointer()]), "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    value = builder.load(probe.args[0], align=4)
    builder.store(builder.call(fma, [value, value, value]), probe.args[0], align=4)
    builder.ret_void()
    assembly = generator().emit_assembly(llvm.parse_assembly(str(module)))
    fused = "vfmadd" in assembly or "fmla" in assembly
    if "zmm" in assembly:
        return Machine(16, 32, fused)
    if "ymm" in assembly:
        return Machine(8, 16, fused)
    return Machine(4, 32 if "fmla" in assembly else 16, fused)


@cache
def generator() -> Any:
    """LLVM's code generator for this CPU."""
    # As Numba has it: code that is loaded at a fixed place, with addresses that reach anywhere.
    target = llvm.Target.from_triple(TRIPLE)
    place = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(cpu=CPU.name, features=CPU.features, opt=3, reloc=place, codemodel="jitdefault")


class Loaded(NamedTuple):
    """Machine code in memory, where it stays."""

    address: int
    call: Any
    """The function of two integers and a pointer (an integer, or bytes), for Python; the interpreter lock is free
    meanwhile."""


def load(symbol: str, code: bytes) -> Loaded:
    """The function of this name in object code that has no other name, ready to be called. By one thread at a time.

    Raises:
        RuntimeError: the code cannot be read, or there is no such function in it.
    """
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"no function {symbol} in the machine code")
    return Loaded(address, _FUNCTION(address))


@cache
def _engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), generator())


HEAD = object.__basicsize__
"""Where in an array object its data pointer is: NumPy's binary interface has it first, behind Python's own fields."""


def _check_arrays() -> None:
    array = np.zeros(3)[1:]
    if ctypes.c_size_t.from_address(id(array) + HEAD).value != array.ctypes.data:
        raise ImportError(f"NumPy {np.__version__} lays out its arrays in a way that is not known to these kernels")


_check_arrays()
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
CPU = _cpu()
MACHINE = _probe()
WIDTH = MACHINE.width
"""Floats in one vector."""
PANEL = 2 * WIDTH
"""Columns of the tile of a matrix product: two vectors."""
ROWS = (12, 8, 4) if MACHINE.registers == 32 else (6, 4, 2)
"""Rows of the tiles; with two vectors a row, the largest fills the registers without spilling."""
ALIGNMENT = 64
