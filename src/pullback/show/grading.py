"""The pairs of a forward and a backward in a Python file, each checked in a process of its own, with limits of time and
memory. The process runs the file's code: it is a guard against accidents, not against malice."""

from __future__ import annotations

import importlib.util
import inspect
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Fused
from pullback.errors import CheckError, PullbackError
from pullback.files import JsonLines, read_json_lines
from pullback.show.claimed import line_of
from pullback.show.files import EXAMPLE, as_arguments

CHILD = "import sys; from pullback.show.grading import work; work(*sys.argv[1:])"
SUFFIX = "_backward"


class Pair(NamedTuple):
    """What a file holds to be checked."""

    name: str
    function: Any
    backward: Any  # None for one that brings its own, or has none


class Grade(NamedTuple):
    """The outcome for one pair of one file."""

    file: str
    name: str
    report: dict[str, Any] | None  # of `CheckReport.to_dict`
    error: str | None  # why there is none
    text: str = ""  # the report for a terminal
    html: str = ""

    @property
    def ok(self) -> bool:
        return self.report is not None and bool(self.report["ok"])


def grade(path: str, name: str | None, seconds: float, megabytes: int) -> list[Grade]:
    """Checks the pairs of a file, or the one with a name, in a process of its own.

    What was found before a limit was reached counts; what ran into it is reported as such.

    Raises:
        CheckError: there is no such file.
    """
    if not Path(path).is_file():
        raise CheckError(f"{path}: no such file; expected FILE.py, or FILE.py:NAME")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        ended = _run(path, name, results, seconds, megabytes)
        rows = read_json_lines(results) if results.exists() else []
    grades = [Grade(path, **row) for row in rows if "started" not in row]
    if ended is not None:
        running = rows[-1].get("started", "") if rows else ""
        later = "; what comes after it in the file was not reached" if running else ""
        grades.append(Grade(path, running, None, ended + later))
    return grades


def _run(path: str, name: str | None, results: Path, seconds: float, megabytes: int) -> str | None:
    """Runs the child; what ended it too early, or None."""
    # One thread for BLAS: its threads reserve address space, which the limit would count.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", CHILD, path, name or "", str(results), str(megabytes), str(int(seconds) + 5)]
    child = subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, complaint = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return f"did not end within the time limit of {seconds:g} s (an infinite loop?)"
    if child.returncode == 0:
        return None
    if child.returncode < 0:
        return f"was ended by {signal.Signals(-child.returncode).name}, perhaps at the memory limit of {megabytes} MB"
    last = complaint.decode(errors="replace").strip().splitlines()
    return f"ended the process with code {child.returncode}" + (f": {last[-1]}" if last else "")


def work(path: str, name: str, results: str, megabytes: str, seconds: str) -> None:
    """What the child does: one line for each pair that is begun, and one for each that is done."""
    limit = int(megabytes) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    rows = JsonLines(Path(results), 0)
    rows.append({"started": name})
    try:
        module = _load(path)
        pairs = list(find(module, name or None))
    except MemoryError:
        rows.append(_failed(name, f"needs more than the memory limit of {megabytes} MB"))
        return
    except CheckError as error:
        rows.append(_failed(name, str(error)))
        return
    except (Exception, SystemExit) as error:
        rows.append(_failed(name, f"cannot be run: {type(error).__name__}: {error}{line_of(error)}"))
        return
    for pair in pairs:
        rows.append({"started": pair.name})
        rows.append(_checked(pair, module, megabytes))


def _checked(pair: Pair, module: ModuleType, megabytes: str) -> dict[str, Any]:
    from pullback.show.check import check

    try:
        with np.errstate(all="ignore"):
            report = check(pair.function, *_example(pair, module), backward=pair.backward)
    except MemoryError:
        return _failed(pair.name, f"needs more than the memory limit of {megabytes} MB")
    except PullbackError as error:
        return _failed(pair.name, str(error))
    except (Exception, SystemExit) as error:
        return _failed(pair.name, f"the forward raised {type(error).__name__}: {error}{line_of(error)}")
    return {"name": pair.name, "report": report.to_dict(), "error": None, "text": str(report), "html": report.html()}


def _failed(name: str, problem: str) -> dict[str, Any]:
    return {"name": name, "report": None, "error": problem}


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise CheckError(f"{path} is not a Python file")
    sys.path.insert(0, str(Path(path).resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def find(module: ModuleType, name: str | None = None) -> Iterator[Pair]:
    """The pairs of a module in its order: `pb.custom` functions, classes with forward and backward, and functions
    `NAME` with `NAME_backward`. A function that is asked for by name may be without one.

    Raises:
        CheckError: there is nothing to check, or nothing of this name.
    """
    members = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    found = {key: pair for key, value in members.items() if (pair := _pair(key, value, members, module)) is not None}
    if name is None:
        if not found:
            raise CheckError(
                "nothing to check: expected functions made by pb.custom, or functions NAME and NAME_backward, "
                "with their inputs in NAME_example"
            )
        yield from found.values()
    elif name in found:
        yield found[name]
    elif callable(members.get(name)):
        yield Pair(name, members[name], None)
    else:
        known = f"; there are {', '.join(found)}" if found else ""
        raise CheckError(f"there is no function {name}{known}")


def _pair(key: str, value: Any, members: dict[str, Any], module: ModuleType) -> Pair | None:
    if isinstance(value, Fused):
        return Pair(key, value, None) if value.forward.__module__ == module.__name__ else None
    if inspect.isclass(value) and value.__module__ == module.__name__:
        halves = all(callable(getattr(value, half, None)) for half in ("forward", "backward"))
        return Pair(key, value, None) if halves else None
    if callable(value) and callable(members.get(key + SUFFIX)):
        return Pair(key, value, members[key + SUFFIX])
    return None


def _example(pair: Pair, module: ModuleType) -> tuple[Any, ...]:
    example: Any | Callable[[], Any] = getattr(module, pair.name + EXAMPLE, None)
    if example is None:
        raise CheckError(f"no inputs: define {pair.name}{EXAMPLE}, a tuple of arguments or a function that returns one")
    return as_arguments(example() if callable(example) else example, pair.function)
