"""What `train` and `resume` say when a run ends, or is interrupted."""

from __future__ import annotations

import shlex
import signal

from pullback.cli.options import Options
from pullback.train import Result
from pullback.train.report import duration


def report_outcome(options: Options, result: Result) -> int:
    """Print where the run stands and what can be done next; return the exit code."""
    options.show(result, f"{_standing(result)}\n\n{_next(result)}")
    return 0 if result.signal is None else 128 + result.signal


def _standing(result: Result) -> str:
    rows = {"run folder": result.run}
    if result.accuracy is not None and result.best_accuracy is not None:
        highest = f"highest {result.best_accuracy:.2%} at step {result.best_step}"
        rows["validation accuracy"] = f"{result.accuracy:.2%}, {highest}"
        rows["validation loss"] = f"{result.loss:.4f}"
    rows["steps"] = f"{result.step:,} of {result.steps:,}"
    rows["training"] = f"{duration(result.train_seconds)}, {result.images_per_second:,.0f} images/s"
    return "\n".join(f"{name:21}{text}" for name, text in rows.items())


def _next(result: Result) -> str:
    run = shlex.quote(result.run)
    if result.signal is not None:
        name = signal.Signals(result.signal).name
        return f"Interrupted by {name}; everything is saved. Go on with\n  pullback resume {run}"
    return f"Next:\n  pullback evaluate {run}\n  pullback predict {run} IMAGE..."
