"""What comes before and beside the steps: importing, the first step with and without a cache, and peak memory.

Each sample is a process of its own.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

from pullback.bench.workload import Contender, Step, Workload

_IMPORT = "import time; start = time.perf_counter(); import {0}; print(1e3 * (time.perf_counter() - start))"

_FIRST_STEP = """
import time
from pullback.bench.workloads import WORKLOADS
WORKLOADS["cnn64"].contender({0!r}, "float32")()()
print(time.monotonic())
"""

_PEAK = """
import importlib, resource, sys
from pullback.bench.workloads import WORKLOADS
importlib.import_module({1!r})
from pullback.bench import memory
step = WORKLOADS["cnn64"].contender({0!r}, "float32")()
before = memory.resident()
for _ in range(3):
    step()
print(memory.peak() - before)
"""


def _output_of(program: str, **environment: str) -> float:
    settings = {**os.environ, **environment}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # every contender's modules are compiled once, as where pip installs
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True)
    if done.returncode:
        missing = done.stderr.strip().splitlines()[-1:]
        raise ImportError(missing[0] if missing else f"exit code {done.returncode}")
    return float(done.stdout.split()[-1])


def _importing(module: str) -> Step:
    return lambda: _output_of(_IMPORT.format(module))


def _first_step(contender: str, cached: bool) -> Step:
    def sample() -> float:
        with tempfile.TemporaryDirectory() as folder:
            places = {} if cached else dict.fromkeys(("PULLBACK_CACHE", "TORCHINDUCTOR_CACHE_DIR"), folder)
            start = time.monotonic()  # a clock that processes share
            return _output_of(_FIRST_STEP.format(contender), **places) - start

    return sample


def _peak(contender: str, module: str) -> Step:
    return lambda: _output_of(_PEAK.format(contender, module))


def _workload(name: str, summary: str, unit: str, steps: Mapping[str, Callable[[], Step]]) -> Workload:
    ours: Contender = steps["pullback"]
    peers = {peer: step for peer, step in steps.items() if peer != "pullback"}
    return Workload(name, summary, {"float32": ours}, peers, unit=unit, fresh=True)


_CNN64 = {
    "pullback": "pullback.kernels.convolution",
    "torch-eager": "torch",
    "torch-channels-last": "torch",
    "jax": "jax",
}
"""Contenders of cnn64, and what they import that is not memory of a step."""

WORKLOADS = [
    _workload(
        "import",
        "importing the library in a new process",
        "ms",
        {name: functools.partial(_importing, name) for name in ("pullback", "torch", "jax", "autograd")},
    ),
    _workload(
        "cold-start",
        "a new process with empty caches, to the end of the first step of cnn64",
        "s",
        {
            name: functools.partial(_first_step, name, cached=False)
            for name in ("pullback", "torch-eager", "torch-compile", "jax")
        },
    ),
    _workload(
        "warm-start",
        "a new process with full caches, to the end of the first step of cnn64",
        "s",
        {
            name: functools.partial(_first_step, name, cached=True)
            for name in ("pullback", "torch-eager", "torch-compile", "jax")
        },
    ),
    _workload(
        "peak-memory",
        "memory at the peak of three steps of cnn64, above what the process held before",
        "MiB",
        {name: functools.partial(_peak, name, module) for name, module in _CNN64.items()},
    ),
]
