"""What `pb.compile` saves on small programs: each function beside its compiled form, in turns in one process.

Run `python -m benchmarks.programs`. The chain has 300 scalar operations, the recurrent network 100 steps of 20 units.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import pullback as pb
from benchmarks.overhead import SHORT, chain_of

STEPS, UNITS = 100, 20


def recurrent_loss(weights: tuple[Any, Any, Any], inputs: Any) -> Any:
    """The sum of squares of all hidden vectors of a recurrent network, for one sequence `(STEPS, UNITS)`."""
    from_input, from_hidden, bias = weights
    projected = inputs @ from_input + bias
    hidden, total = np.zeros(UNITS, inputs.dtype), 0.0
    for t in range(STEPS):
        hidden = np.tanh(projected[t] + hidden @ from_hidden)
        total = total + np.sum(hidden * hidden)
    return total


def workloads() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """By name: a function and its arguments."""
    rng = np.random.default_rng(0)
    shapes = ((UNITS, UNITS), (UNITS, UNITS), (UNITS,))
    weights = tuple(rng.normal(scale=0.2, size=shape).astype(np.float32) for shape in shapes)
    inputs = rng.normal(size=(STEPS, UNITS)).astype(np.float32)
    large = rng.normal(size=1_000_000).astype(np.float32)
    return {
        "scalar chain, gradient": (pb.grad(chain_of(np, SHORT)), (np.float64(0.3),)),
        "recurrent network, loss and gradients": (pb.value_and_grad(recurrent_loss), (weights, inputs)),
        "elementwise over a million": (lambda x: np.tanh(x) / (1.0 + np.exp(-x)) + x * x, (large,)),
    }


def compare(f: Callable[..., Any], arguments: tuple[Any, ...], runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each run, of the function and of the program."""
    compiled: Callable[..., Any] = pb.compile(f)
    compiled(*arguments), f(*arguments)
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(runs):
        for times, call in ((taken[0], f), (taken[1], compiled)):
            start = time.perf_counter()
            call(*arguments)
            times.append(1e3 * (time.perf_counter() - start))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    table = Table("workload", "eager, min / median ms", "compiled, min / median ms", "ratio of minima")
    for name, (f, arguments) in workloads().items():
        eager, compiled = compare(f, arguments, runs)
        cells = [f"{min(times):.3f} / {statistics.median(times):.3f}" for times in (eager, compiled)]
        table.add_row(name, *cells, f"{min(eager) / min(compiled):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
