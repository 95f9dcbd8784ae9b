"""How kernels run: one pool of threads, aligned memory, and `@kernel`, which runs a function on every thread.
Everything else in this package is written as "what thread `thread` of `threads` does".
"""

from __future__ import annotations

import ast
import inspect
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from pullback.errors import ConfigError
from pullback.kernels import simd
from pullback.kernels.cache import KernelCache
from pullback.kernels.simd import ALIGNMENT, inline

Floats = Any
"""Annotates a contiguous float32 array of a kernel."""
Bytes = Any
"""Annotates a contiguous uint8 array of a kernel."""
Integers = Any
"""Annotates a contiguous int64 array of a kernel."""


def threads() -> int:
    """How many threads a kernel uses: `$PULLBACK_NUM_THREADS`, else the CPUs this process may run on."""
    asked = os.environ.get("PULLBACK_NUM_THREADS")
    if asked is None:
        return _cpus()
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"PULLBACK_NUM_THREADS: expected a whole number of at least 1, got {asked!r}")
    return int(asked)


@cache
def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cache_bytes() -> int:
    """The second-level cache of one core, in bytes; 1 MiB where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20


def round_up(count: int, step: int) -> int:
    """The least multiple of `step` that is not below `count`."""
    return -(-count // step) * step


def empty(shape: int | tuple[int, ...], dtype: Any = np.float32) -> Any:
    """An uninitialised array that starts on a cache line.

    It is made by `np.empty` because NumPy asks the system for huge pages there (and not in `np.zeros`).
    """
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    spare = ALIGNMENT // kind.itemsize
    raw = np.empty(count + spare, kind)
    first = (-address(raw) % ALIGNMENT) // kind.itemsize
    return raw[first : first + count].reshape(shape)


def address(array: Any) -> int:
    """Where an array begins in memory; `array.ctypes.data` takes twice as long."""
    first: int = array.__array_interface__["data"][0]
    return first


_own = threading.local()


def scratch(floats: int) -> tuple[Any, int]:
    """Working memory of `floats` float32 for each thread of the pool: an array, and where in it a thread's part starts.

    It is kept for the next kernel that the same Python thread calls, so its contents last until then.
    """
    row = round_up(floats, 16) + 16
    return _held("scratch", row * threads()), row


def reserved(name: str, floats: int) -> Any:
    """Memory for `floats` float32 that all threads of the pool share, kept for the next call with the same name.

    Fresh memory of many megabytes costs page faults that are as dear as the arithmetic.
    """
    return _held(name, floats)[:floats]


def _held(name: str, floats: int) -> Any:
    held = _own.__dict__.get(name)
    if held is None or held.size < floats:
        _own.__dict__[name] = None  # so that the old memory goes before the new one comes
        held = _own.__dict__[name] = empty(floats)
    return held


_pool = threading.Lock()


def launch(entry: int | None, bits: Any) -> None:
    """Run machine code on every thread: a C function (thread, threads, pointer to the arguments `bits`), by address."""
    count = threads()
    workers = min(count, numba.config.NUMBA_NUM_THREADS)
    with _pool:
        if getattr(_own, "workers", None) != workers:  # Numba keeps it for each thread of Python's, and is slow to tell
            numba.set_num_threads(workers)
            _own.workers = workers
        _runner()(count, entry, address(bits))


def _address_of(kind: Any) -> Callable[[Any], int]:
    def code(array: Any) -> int:
        if array.dtype != kind or not array.flags.c_contiguous:
            raise TypeError(f"a kernel needs contiguous {kind} arrays, got {array.dtype} {array.strides}")
        return address(array)

    return code


def _unchanged(value: Any) -> Any:
    return value


_CODERS: dict[str, Callable[[Any], int]] = {
    "Floats": _address_of(np.dtype(np.float32)),
    "Bytes": _address_of(np.dtype(np.uint8)),
    "Integers": _address_of(np.dtype(np.int64)),
    "int": _unchanged,  # whole numbers and truth values, of which NumPy makes int64
    "bool": _unchanged,
    "float": lambda value: int(np.float64(value).view(np.int64)),
}


class Kernel:
    """A function of one thread's share, compiled on first use; calling it runs every thread's share.

    The function takes `(thread, threads, *arguments)`, and each argument is annotated `Floats`, `Bytes` or `Integers`
    (a contiguous array, which arrives as a pointer), `int`, `bool` or `float`. So there is one machine code for each
    kernel. One kernel runs at a time, others wait: two never compete for the same cores. The interpreter lock is free
    meanwhile.
    """

    def __init__(self, share: Callable[..., None]) -> None:
        self.name = share.__name__
        self.__doc__ = share.__doc__
        self._share = share
        self._kinds = [str(each.annotation) for each in list(inspect.signature(share).parameters.values())[2:]]
        self._coders = [_CODERS[kind] for kind in self._kinds]
        self._entry: int | None = None

    def __call__(self, *values: Any) -> None:
        bits = np.array([code(value) for code, value in zip(self._coders, values, strict=True)], np.int64)
        if self._entry is None:
            with _pool:
                self._compile()
        launch(self._entry, bits)

    def _compile(self) -> int:
        """The address of a C function (thread, threads, arguments as 64-bit integers)."""
        function = self._entry_point()
        options = {"nopython": True, "_nrt": False, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
        arguments = (types.int64, types.int64, types.CPointer(types.int64))
        compiled: Any = CFunc(function, (arguments, types.void), {}, options)
        compiled._cache = KernelCache(function)
        compiled.compile()
        self._compiled = compiled
        address: int = compiled.address
        self._entry = address
        return address

    def _entry_point(self) -> Callable[..., None]:
        """The share with the signature (thread, threads, bits), its arguments unpacked by its first lines.

        It is the function's own text that changes, as Numba would compile a function that calls it twice over.
        """
        lines, first = inspect.getsourcelines(self._share)
        tree = ast.parse("".join(lines))
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        names = [argument.arg for argument in definition.args.args]
        unpack = [
            f"{name} = {_DECODERS[kind].format(index)}\n"
            for index, (name, kind) in enumerate(zip(names[2:], self._kinds, strict=True))
        ]
        template = ast.parse(f"def entry(thread, threads, bits):\n    {'    '.join(unpack)}").body[0]
        assert isinstance(template, ast.FunctionDef)
        definition.args = template.args
        definition.body[:0] = template.body
        definition.decorator_list.clear()
        ast.increment_lineno(tree, first - 1)
        namespace = {**self._share.__globals__, **_DECODER_NAMES}
        exec(compile(tree, inspect.getsourcefile(self._share) or self.name, "exec"), namespace)
        function: Callable[..., None] = namespace[self.name]
        return function


kernel = Kernel


_DECODERS = {
    "Floats": "floats_from(bits[{}])",
    "Bytes": "bytes_from(bits[{}])",
    "Integers": "integers_from(bits[{}])",
    "int": "bits[{}]",
    "bool": "bits[{}] != 0",
    "float": "double_from(bits[{}])",
}
_DECODER_NAMES = {name: getattr(simd, name) for name in ("floats_from", "bytes_from", "integers_from", "double_from")}


def _call_entry(typing: Any, entry: Any, thread: Any, threads: Any, bits: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer, integer, integer.as_pointer()])
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [values[1], values[2], builder.inttoptr(values[3], integer.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), emit


_call: Any = intrinsic(_call_entry)


@cache
def _runner() -> Any:
    """The only parallel loop: each thread calls a kernel's entry with its number."""

    def thread_pool(threads, entry, bits):  # type: ignore[no-untyped-def]
        for thread in prange(threads):
            _call(entry, thread, threads, bits)

    signature = types.void(types.int64, types.int64, types.int64)
    compiled = njit(parallel=True, nogil=True)(thread_pool)
    compiled._cache = KernelCache(thread_pool)
    compiled.compile(signature)
    return compiled


@inline
def portion(count: int, thread: int, threads: int) -> Any:
    """The half-open range of `count` units that is the share of one thread."""
    return count * thread // threads, count * (thread + 1) // threads


@kernel
def add_parts(thread: int, threads: int, parts: Floats, count: int, size: int, total: Floats) -> None:
    """total = the sum of `count` arrays of `size` elements that follow one another in `parts`."""
    start, stop = portion(size, thread, threads)
    for i in range(start, stop):
        value = parts[i]
        for part in range(1, count):
            value += parts[part * size + i]
        total[i] = value
