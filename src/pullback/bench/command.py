"""`python -m benchmarks` and `pullback bench`: choose workloads, measure them, and write what was found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pullback import files
from pullback.bench import page
from pullback.bench.runner import Effort, Report, measure
from pullback.bench.workloads import select
from pullback.errors import PullbackError
from pullback.machine import machine, versions

COMPARED = ("numpy", "numba", "torch", "jax", "autograd")


def run(only: Sequence[str], effort: Effort, command: str, report: Report) -> dict[str, Any]:
    """The results of the workloads named in `only`, or of all: what `--json` writes."""
    workloads = select(only)
    results = [measure(each, precision, effort, report) for each in workloads for precision in each.ours]
    return {"machine": machine(), "versions": versions(COMPARED), "command": command, "results": results}


def write(found: dict[str, Any], to_json: Path | None, to_page: Path | None) -> None:
    """The results as JSON, and as a page with its plots beside it."""
    if to_json is not None:
        files.replace(to_json, (json.dumps(found, indent=1) + "\n").encode())
    if to_page is not None:
        page.write(found, to_page)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `python -m benchmarks`."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="pullback beside other libraries.")
    parser.add_argument("--only", metavar="NAME,...", default="", help="workloads or curves; without it, all")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE")
    parser.add_argument("--md", metavar="FILE", type=Path, help="write a page to FILE, and its plots beside it")
    parser.add_argument("--from", metavar="FILE", type=Path, dest="source", help="no measuring: figures from FILE")
    parser.add_argument("--rounds", type=int, default=Effort().rounds, help="turns of every contender")
    parser.add_argument("--seconds", type=float, default=Effort().seconds, help="of each turn")
    options = parser.parse_args(words)
    effort = Effort(options.rounds, options.seconds)
    command = " ".join(["python -m benchmarks", *words])
    try:
        if options.source is not None:
            found = json.loads(options.source.read_text())
        else:
            found = run([name for name in options.only.split(",") if name], effort, command, show_progress)
        write(found, options.json, options.md)
    except PullbackError as error:
        sys.exit(f"error: {error}")
    print(page.as_text(found))


def show_progress(line: str) -> None:
    """On the standard error: over the last line on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)
