"""Compiled kernels kept on disk, in a folder of their own: each is compiled once for a CPU, not once a process.
A folder that cannot be written or a file that cannot be read costs one warning and a compilation in memory.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.core.registry import cpu_target

from pullback.kernels import bfloat16
from pullback.kernels.simd import MACHINE

_SOURCES = Path(__file__).parent


@cache
def folder() -> Path:
    """`$PULLBACK_CACHE`, else the user's cache folder, and in it a folder for all that changes the machine code.

    That is the versions of pullback and Numba, the CPU with its vectors and its unit for bfloat16, and the text of the
    kernels: Numba's own key sees neither a changed constant nor a changed function in another file.
    """
    root = os.environ.get("PULLBACK_CACHE")
    if root is None:
        home = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "~/.cache")
        root = os.path.join(os.path.expanduser(home), "pullback")
    try:
        version = importlib.metadata.version("pullback")
    except importlib.metadata.PackageNotFoundError:
        version = "source"
    digest = hashlib.sha256(repr(cpu_target.target_context.codegen().magic_tuple()).encode())
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest.update(bfloat16.UNIT.encode())
    name = f"{version}-numba{numba.__version__}-python{python}-float32x{MACHINE.width}-{digest.hexdigest()[:16]}"
    return Path(root) / "kernels" / name


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Tells Numba the folder, and that a file there is fresh (the folder's name already says so)."""

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls()


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012 (Numba's own name and type)


class _CheckedFile(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's files, the machine code behind its digest: damaged code would load all the same, and crash as it runs."""

    def _save_data(self, name: str, data: Any) -> None:
        with self._open_for_write(self._data_path(name)) as file:
            file.write(with_digest(self._dump(data)))

    def _load_data(self, name: str) -> Any:
        content = without_digest(Path(self._data_path(name)).read_bytes())
        if content is None:
            raise ValueError("the digest is of something else")
        return pickle.loads(content)


def with_digest(content: bytes) -> bytes:
    """What `without_digest` takes apart."""
    return hashlib.sha256(content).digest() + content


def without_digest(file: bytes) -> bytes | None:
    """What was written with its digest, or None if that has changed."""
    digest, content = file[:32], file[32:]
    return content if hashlib.sha256(content).digest() == digest else None


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, in our folder; announces what has to be compiled, and survives damage."""

    _impl_class = _Implementation

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(str(folder()), self._impl.filename_base, "")

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            found = super().load_overload(signature, target)
        except OSError:  # no such folder: saving will tell
            found = None
        except Exception as error:  # any damage shows as any error of pickle, LLVM or the file system
            warn_once(f"a file in the kernel cache {self.cache_path} cannot be read ({type(error).__name__})")
            self._forget()
            found = None
        if found is None:
            _announce(self._py_func.__name__)
        return found

    def _forget(self) -> None:
        with suppress(OSError):
            self._cache_file.flush()

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            super().save_overload(signature, compiled)
        except OSError as error:
            warn_once(f"the kernel cache {self.cache_path} cannot be written ({error.strerror})")


_compiled: list[str] = []
_warned: list[str] = []


def _announce(name: str) -> None:
    """Say on the terminal that a kernel is being compiled, the first time with the reason."""
    if not _compiled:
        print("pullback: compiling kernels for this CPU (once)", file=sys.stderr)
    _compiled.append(name)
    print(f"pullback: kernel {len(_compiled)}: {name.replace('_', ' ')}", file=sys.stderr)


def warn_once(problem: str) -> None:
    """Say once in a process that machine code is not kept, and why."""
    if _warned:
        return
    _warned.append(problem)
    warnings.warn(
        f"{problem}, so kernels are compiled again in every process. Set PULLBACK_CACHE to a folder that can be "
        "written, or remove the damaged one.",
        stacklevel=2,
    )
