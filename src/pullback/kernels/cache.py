"""Machine code kept on disk, in a folder of its own: each kernel is compiled once for a CPU, not once a process.
A folder that cannot be written or a file that cannot be read costs one warning and a compilation in memory.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite

from pullback.kernels import bfloat16
from pullback.kernels.target import CPU, HEAD, MACHINE, TRIPLE, Loaded, load

_SOURCES = Path(__file__).parent


@cache
def folder() -> Path:
    """`$PULLBACK_CACHE`, else the user's cache folder, and in it a folder for all that changes the machine code.

    That is the versions of pullback, Numba and LLVM, the CPU with its vectors and its unit for bfloat16, and the text
    of the kernels.
    """
    root = os.environ.get("PULLBACK_CACHE")
    if root is None:
        home = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "~/.cache")
        root = os.path.join(os.path.expanduser(home), "pullback")
    digest = hashlib.sha256(repr((TRIPLE, CPU, HEAD, bfloat16.UNIT, llvmlite.__version__)).encode())
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    names = [
        _version("pullback"),
        f"numba{_version('numba')}",
        f"python{sys.version_info.major}.{sys.version_info.minor}",
        f"float32x{MACHINE.width}",
        digest.hexdigest()[:16],
    ]
    return Path(root) / "kernels" / "-".join(names)


def _version(package: str) -> str:
    """The installed version, from the name of the folder that tells of it: importing `importlib.metadata` takes longer
    than loading all kernels."""
    for place in sys.path:
        for found in Path(place).glob(f"{package}-*.dist-info"):
            return found.name.removesuffix(".dist-info").split("-")[1]
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"


def machine_code(name: str, key: str, write: Callable[[str], bytes]) -> Loaded:
    """A function in memory: from disk, if it is there by this name and key, else from object code of `write(symbol)`.

    The key says what the function is; all else that matters names the folder. The symbol, which has the key in it, is
    what the function is called in the object code, and all that is to be seen of that from outside.
    """
    symbol = f"{name}_{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    with _turn:  # another thread may want the same, and a symbol can be loaded only once
        if symbol not in _loaded:
            file = folder() / f"{symbol}.o"
            code = _kept(file)
            if code is None:
                code = write(symbol)
                _keep(file, code)
            _loaded[symbol] = load(symbol, code)
        return _loaded[symbol]


def _kept(file: Path) -> bytes | None:
    """The object code on disk, behind its digest: damaged code would load all the same, and crash as it runs."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if not isinstance(error, NotADirectoryError):  # keeping will tell
            _warn_once(f"the kernel cache {file.parent} cannot be read ({error.strerror})")
        return None
    digest, code = content[:32], content[32:]
    if hashlib.sha256(code).digest() == digest:
        return code
    _warn_once(f"{file.name} in the kernel cache {file.parent} cannot be read (it is damaged)")
    return None


def _keep(file: Path, code: bytes) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")  # of this process alone: another may compile the same
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.sha256(code).digest() + code)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        _warn_once(f"the kernel cache {file.parent} cannot be written ({error.strerror})")


_turn = threading.Lock()
_loaded: dict[str, Loaded] = {}
_compiled: list[str] = []
_warned: list[str] = []


def announce(name: str) -> None:
    """Say on the terminal that a kernel is being compiled, the first time with the reason."""
    if not _compiled:
        print("pullback: compiling kernels for this CPU (once)", file=sys.stderr)
    _compiled.append(name)
    print(f"pullback: kernel {len(_compiled)}: {name.replace('_', ' ')}", file=sys.stderr)


def _warn_once(problem: str) -> None:
    """Say once in a process that machine code is not kept, and why."""
    if _warned:
        return
    _warned.append(problem)
    warnings.warn(
        f"{problem}, so kernels are compiled again in every process. Set PULLBACK_CACHE to a folder that can be "
        "written, or remove the damaged one.",
        stacklevel=2,
    )
