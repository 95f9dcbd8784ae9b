"""What a traced operation costs: the gradient of chains of scalar operations, pullback beside HIPS autograd.

Run `python -m benchmarks.overhead`. Both differentiate the same function in turns in one process, so that a slow
moment of the machine falls on both; autograd must be installed (`pip install autograd`).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import autograd
import autograd.numpy
import numpy as np
from rich.console import Console
from rich.table import Table

import pullback as pb

SHORT = 300
LONG = 100_000
OPERATIONS_A_ROUND = 10


def chain_of(numpy: Any, operations: int) -> Callable[[Any], Any]:
    """A mixed chain of scalar operations, bounded for any length: six operators and four ufuncs a round."""

    def f(x: Any) -> Any:
        for _ in range(operations // OPERATIONS_A_ROUND):
            y = numpy.sin(x) * 0.5 + x
            y = numpy.tanh(y * 1.1)
            x = numpy.exp(-y) - numpy.cos(y) / 2.0
        return x

    return f


def seconds(f: Callable[[float], Any], x: float) -> float:
    start = time.perf_counter()
    f(x)
    return time.perf_counter() - start


def compare(runs: int) -> dict[str, Any]:
    """The gradient of the short chain by both, in turns: minimum and median in milliseconds."""
    candidates = {
        "pullback": pb.grad(chain_of(np, SHORT)),
        "autograd": autograd.grad(chain_of(autograd.numpy, SHORT)),
    }
    ours, theirs = (gradient(0.3) for gradient in candidates.values())
    if not np.isclose(ours, theirs, rtol=1e-12):
        raise SystemExit(f"the gradients differ: pullback {ours!r}, autograd {theirs!r}")
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, gradient in candidates.items():
            times[name].append(1e3 * seconds(gradient, 0.3))
    return {name: {"min_ms": min(t), "median_ms": statistics.median(t)} for name, t in times.items()}


def long_chain() -> dict[str, Any]:
    """The gradient of the long chain: its time, its memory, and what is left of that without the garbage collector."""
    gradient = pb.grad(chain_of(np, LONG))
    gc.collect()
    gc.disable()
    try:
        elapsed = seconds(gradient, 0.3)
        tracemalloc.start()
        gradient(0.3)  # fills CPython's free lists, which are no leak
        before, _ = tracemalloc.get_traced_memory()
        gradient(0.3)
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        gc.enable()
    return {
        "operations": LONG,
        "seconds": elapsed,
        "peak_bytes": peak - before,
        "left_bytes": after - before,
        "found_by_gc": gc.collect(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description="The cost of a traced operation."
    )
    parser.add_argument("--runs", type=int, default=200, help="gradients by each library (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()

    short, long = compare(options.runs), long_chain()
    ratio = {key: short["autograd"][key] / short["pullback"][key] for key in ("min_ms", "median_ms")}
    versions = {"pullback": pb.__version__, "autograd": version("autograd"), "numpy": np.__version__}
    versions["python"] = platform.python_version()
    command = " ".join(["python -m benchmarks.overhead", *sys.argv[1:]])

    table = Table("", "min", "median", title=f"Gradient of {SHORT} scalar operations, {options.runs} runs, in turns")
    for name, row in short.items():
        table.add_row(name, f"{row['min_ms']:.2f} ms", f"{row['median_ms']:.2f} ms")
    table.add_row("times faster", f"{ratio['min_ms']:.2f}", f"{ratio['median_ms']:.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Gradient of {LONG:,} operations: {long['seconds']:.2f} s, at most {long['peak_bytes'] / 2**20:.0f} MiB. "
        f"Afterwards {long['left_bytes']} bytes are left, and the garbage collector finds "
        f"{long['found_by_gc']} objects."
    )
    console.print(", ".join(f"{name} {number}" for name, number in versions.items()), platform.machine())
    console.print(command)
    if options.json:
        result = {"short_chain": short, "ratio": ratio, "long_chain": long, "versions": versions, "command": command}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
