"""The process of one contender: `python -m pullback.bench.worker WORKLOAD CONTENDER PRECISION`.

It answers on the standard output, a line of JSON for each line that it reads: first `{"answer": ...}` for the first
step, then, for each number of seconds, the milliseconds of every step that it ran in that time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np

WARM_UP = 0.3
"""Seconds of steps, three at least, before the first that counts."""


def main() -> None:
    name, contender, precision = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        _serve(name, contender, precision, answers)


def _serve(name: str, contender: str, precision: str, answers: TextIO) -> None:
    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    from pullback.bench.workloads import WORKLOADS

    workload = WORKLOADS[name]
    _settle(workload.threads)
    try:
        step = workload.contender(contender, precision)()
        first = step()
    except ImportError as missing:
        say({"missing": str(missing)})
        return
    say({"answer": float(np.mean(np.asarray(first, np.float64)))})
    _timed(step, WARM_UP, least=3)
    for line in sys.stdin:
        say(_timed(step, float(line)))


def _settle(threads: int | None) -> None:
    """Stay on so many CPUs."""
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _timed(step: Any, seconds: float, least: int = 1) -> list[float]:
    """Milliseconds of each step."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


if __name__ == "__main__":
    main()
