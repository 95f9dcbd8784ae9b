"""What a user sees while a network trains: a bar on a terminal, elsewhere a line every few seconds, or nothing.
All of it goes to the standard error, so that the standard output stays free for results.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol

from pullback.train.checkpoint import Position

LINE_EVERY = 5.0  # seconds between two lines where there is no terminal


class Report(Protocol):
    """Told of every step and evaluation of a run."""

    def step(self, position: Position) -> None:
        """A training step is done, and the run stands at `position`."""

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        """The validation images were evaluated after `step` steps."""

    def close(self) -> None:
        """The run ends, or is interrupted."""


def report_for(quiet: bool, steps: int, start: int) -> Report:
    """The report that suits where the standard error goes, for a run of `steps` steps that begins after `start`."""
    if quiet:
        return _Silent()
    return _Bar(steps, start) if sys.stderr.isatty() else _Lines(steps, start)


class _Silent:
    def step(self, position: Position) -> None:
        pass

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    """A bar with loss, accuracy, images/s and time left; each evaluation leaves a line above it."""

    def __init__(self, steps: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.1%}"),
            TextColumn("{task.fields[speed]:,.0f} images/s"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, loss=float("nan"), accuracy=0.0, speed=0.0)
        self._bar.start()

    def step(self, position: Position) -> None:
        self._bar.update(
            self._task,
            completed=position.step,
            loss=position.loss,
            accuracy=position.accuracy,
            speed=position.images_per_second,
        )

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self._bar.console.print(_evaluation(step, loss, accuracy), highlight=False)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """For a log file: a line every few seconds, and one for each evaluation."""

    def __init__(self, steps: int, start: int) -> None:
        self._steps = steps
        self._start = start
        self._began = self._last = time.monotonic()

    def step(self, position: Position) -> None:
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        left = (now - self._began) / (position.step - self._start) * (self._steps - position.step)
        self._print(
            f"step {position.step}/{self._steps}  training loss {position.loss:.4f}  accuracy {position.accuracy:.1%}  "
            f"{position.images_per_second:,.0f} images/s  {duration(left)} left"
        )

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self._last = time.monotonic()
        self._print(_evaluation(step, loss, accuracy))

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _evaluation(step: int, loss: float, accuracy: float) -> str:
    return f"step {step}  validation loss {loss:.4f}  accuracy {accuracy:.2%}"


def duration(seconds: float) -> str:
    """`seconds` for people: 3.2 s, 4 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
