"""What something was measured or trained on: the processor, the system, and the versions of libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def machine() -> dict[str, str | int]:
    """Processor, CPUs that this process may use, memory, system."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processor": _processor(), "cpus": cpus, "memory_mib": _memory(), "system": platform.platform()}


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of Python, of pullback, and of those of the libraries that are there."""
    found = {"python": platform.python_version()}
    for name in ("pullback", *libraries):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def has_amx() -> bool:
    """Whether the CPU has a matrix unit for bfloat16."""
    return "amx_bf16" in _cpu_info()


def _processor() -> str:
    text = _cpu_info()
    for line in text.splitlines():
        if line.startswith("model name"):
            wide = "AMX" if has_amx() else "AVX-512" if "avx512f" in text else "AVX2"
            return f"{line.split(':', 1)[1].strip()} ({wide})"
    return platform.processor() or platform.machine()


def _cpu_info() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def _memory() -> int:
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return 0
