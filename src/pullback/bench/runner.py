"""Measuring: the contenders of a workload in turns, each in a process of its own."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from pullback.bench.workload import Workload
from pullback.errors import PullbackError

Report = Callable[[str], None]


class Effort(NamedTuple):
    """How long to measure: rounds, and in each the seconds of every contender."""

    rounds: int = 8
    seconds: float = 0.25
    samples: int = 3
    """Of workloads whose every sample is a new process."""


def measure(workload: Workload, precision: str, effort: Effort, report: Report) -> dict[str, Any]:
    """One entry of the results. Raises PullbackError where a contender fails, or computes something else."""
    names = ["pullback", *workload.rivals(precision)]
    gather = _samples if workload.fresh else _steps
    times, notes = gather(workload, precision, names, effort, report)
    figures = {name: _figures(each) for name, each in times.items()}
    ours = figures.pop("pullback")
    best = min((each["min"] for each in figures.values()), default=math.nan)
    return {
        "workload": workload.name,
        "summary": workload.summary,
        "precision": precision,
        "unit": workload.unit,
        "pullback": ours,
        "peers": figures,
        "missing": notes,
        "ratio": None if math.isnan(best) else best / ours["min"],
    }


def _figures(times: Sequence[float]) -> dict[str, float]:
    return {"min": min(times), "median": statistics.median(times), "n": len(times)}


Gathered = tuple[dict[str, list[float]], dict[str, str]]
"""Times by contender, and why others have none."""


def _samples(workload: Workload, precision: str, names: Sequence[str], effort: Effort, report: Report) -> Gathered:
    times: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for number in range(effort.samples):
        for name in names:
            if name in missing:
                continue
            report(f"{workload.name}: sample {number + 1} of {effort.samples}, {name}")
            try:
                times.setdefault(name, []).append(workload.contender(name, precision)()())
            except ImportError as error:
                if name == "pullback":
                    raise PullbackError(f"{workload.name}: {error}") from error
                missing[name] = str(error)
                times.pop(name, None)
    return times, missing


def _steps(workload: Workload, precision: str, names: Sequence[str], effort: Effort, report: Report) -> Gathered:
    times: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        runners: dict[str, _Process] = {}
        answers: dict[str, float] = {}
        for name in names:
            report(f"{workload.name}: preparing {name}")
            process = stack.enter_context(_Process(workload.name, name, precision))
            first = process.read()
            if "missing" in first:
                missing[name] = first["missing"]
            else:
                runners[name], answers[name] = process, first["answer"]
                times[name] = []
        _compare(workload, precision, answers)
        for number in range(effort.rounds):
            report(f"{workload.name}: round {number + 1} of {effort.rounds}")
            for name, process in runners.items():
                times[name] += process.ask(effort.seconds)
    return times, missing


def _compare(workload: Workload, precision: str, answers: dict[str, float]) -> None:
    """All contenders must have computed the same, within what their arithmetic allows."""
    tolerance = workload.tolerance if precision != "bfloat16" else 5e-2
    ours = answers["pullback"]
    for name, answer in answers.items():
        if not math.isclose(answer, ours, rel_tol=tolerance, abs_tol=tolerance):
            raise PullbackError(f"{workload.name}: pullback computes {ours!r} and {name} {answer!r}: not the same work")


class _Process:
    """A contender at work."""

    def __init__(self, *arguments: str) -> None:
        self._name = " ".join(arguments)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pullback.bench.worker", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, seconds: float) -> list[float]:
        """Milliseconds of each step that it ran in these seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        times: list[float] = self.read()
        return times

    def read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise PullbackError(f"the contender {self._name} ended:\n{self._errors.read().strip()[-2000:]}")
        return json.loads(line)
