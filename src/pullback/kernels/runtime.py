"""How kernels run: one pool of threads, aligned memory, and `@kernel`, which runs a function on every thread.
Everything else in this package is written as "what thread `thread` of `threads` does".
"""

from __future__ import annotations

import hashlib
import inspect
import os
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pullback.errors import ConfigError
from pullback.kernels.cache import announce, machine_code
from pullback.kernels.language import inline
from pullback.kernels.pool import MOST, POOL
from pullback.kernels.target import ALIGNMENT, Loaded

Floats = Any
"""Annotates a contiguous float32 array of a kernel."""
Bytes = Any
"""Annotates a contiguous uint8 array of a kernel."""
Integers = Any
"""Annotates a contiguous int64 array of a kernel."""
Doubles = Any
"""Annotates a contiguous float64 array of a kernel."""


@cache
def threads() -> int:
    """How many threads a kernel uses: `$PULLBACK_NUM_THREADS`, else the CPUs this process may run on; found once."""
    asked = os.environ.get("PULLBACK_NUM_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or not 1 <= int(asked) <= MOST:
        raise ConfigError(f"PULLBACK_NUM_THREADS: expected a whole number from 1 to {MOST}, got {asked!r}")
    return int(asked)


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
    first = (-raw.ctypes.data % ALIGNMENT) // kind.itemsize
    return raw[first : first + count].reshape(shape)


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


def launch(entry: int, arguments: bytes) -> None:
    """Run machine code on every thread: a C function (thread, threads, pointer to the arguments), by its address."""
    POOL.run(threads(), entry, arguments)


def _identity_of(kind: Any) -> Callable[[Any], int]:
    """The address of NumPy's object, where a kernel finds the data pointer: to ask for that takes a microsecond."""
    expected = np.dtype(kind)

    def code(array: Any) -> int:
        if not isinstance(array, np.ndarray):  # a scalar of NumPy's has all that is asked for below
            raise TypeError(f"a kernel needs contiguous {expected} arrays, got {type(array).__name__} {array!r}")
        dtype = array.dtype
        if (dtype is not expected and dtype != expected) or not array.flags.c_contiguous:
            raise TypeError(f"a kernel needs contiguous {expected} arrays, got {dtype} {array.strides}")
        return id(array)

    return code


_CODERS: dict[str, tuple[str, Callable[[Any], int] | None]] = {
    "Floats": ("q", _identity_of(np.float32)),
    "Bytes": ("q", _identity_of(np.uint8)),
    "Integers": ("q", _identity_of(np.int64)),
    "Doubles": ("q", _identity_of(np.float64)),
    "int": ("q", None),
    "bool": ("q", None),
    "float": ("d", None),
}
"""How an argument of each kind is packed, and what is packed in its place."""


class Kernel:
    """A function of one thread's share, compiled on first use; calling it runs every thread's share.

    The function takes `(thread, threads, *arguments)`, and each argument is annotated `Floats`, `Bytes`, `Integers` or
    `Doubles` (a contiguous array, which arrives as a pointer), `int`, `bool` or `float`. So there is one machine code
    for each kernel. One kernel runs at a time, others wait: two never compete for the same cores. The interpreter lock
    is free meanwhile.
    """

    def __init__(self, share: Callable[..., None]) -> None:
        self.name = share.__name__
        self.__doc__ = share.__doc__
        self._share = share
        self._kinds = [str(each.annotation) for each in list(inspect.signature(share).parameters.values())[2:]]
        self._coders = [_CODERS[kind][1] for kind in self._kinds]
        self._pack = struct.Struct("".join(_CODERS[kind][0] for kind in self._kinds)).pack
        self._code: Loaded | None = None

    def __call__(self, *values: Any) -> None:
        coded = [value if code is None else code(value) for code, value in zip(self._coders, values, strict=True)]
        if self._code is None:
            self._code = machine_code(self.name, self._key(), self._compiled)
        launch(self._code.address, self._pack(*coded))

    def _key(self) -> str:
        """Which function it is; what is written in this package names the folder, and elsewhere counts here."""
        file = Path(self._share.__code__.co_filename)
        text = b"" if file.parent == Path(__file__).parent else file.read_bytes()
        return f"{self._share.__module__} {hashlib.sha256(text).hexdigest()}"

    def _compiled(self, symbol: str) -> bytes:
        from pullback.kernels.compiler import compiled

        announce(self.name)
        return compiled(symbol, self._share, self._kinds)


kernel = Kernel


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
