"""What kernels are written in: Python, and functions whose bodies are LLVM instructions.

Both are only noted here. Numba makes machine code of them (`compiler.py`) when a kernel is not on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Result = Literal["vector", "pointer", "floats", "bytes", "integers", "doubles", "integer", "float", "double", "nothing"]
"""What an intrinsic gives; "pointer": one like its first argument, the others to elements of that type."""


class Intrinsic:
    """A function for use inside kernels, of which `emit(builder, *values)` writes the instructions.

    Its arguments are pointers, vectors, whole numbers (64 bits) and float32.
    """

    def __init__(self, emit: Callable[..., Any], result: Result = "vector") -> None:
        self.emit, self.result = emit, result

    def __call__(self, *values: Any) -> Any:
        raise TypeError(f"{self.emit.__name__.strip('_')} is for use inside kernels")


class Inline:
    """A Python function for use inside kernels."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, *values: Any) -> Any:
        raise TypeError(f"{self.function.__name__.strip('_')} is for use inside kernels")


intrinsic, inline = Intrinsic, Inline
