"""How far a long job is, on the standard error: a bar on a terminal, elsewhere a line every few seconds, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

from pullback.train.report import LINE_EVERY, duration


class Progress:
    """Called as `progress(done, total)`. The first call says what was done before: it does not count for the rate.

    A context; what is shown ends with it, or as `done` reaches `total`.
    """

    def __init__(self, doing: str, things: str, *, quiet: bool = False, before: str = "") -> None:
        """`before` is what is done before the first call, shown on a terminal alone."""
        self.doing, self.things, self.quiet, self.before = doing, things, quiet, before
        self._status: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._first = 0
        self._began: float | None = None
        self._last = 0.0
        self._ended = False

    def __enter__(self) -> Progress:
        if self.before and not self.quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(f"{self.before} ...")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        for shown in (self._status, self._bar):
            if shown is not None:
                shown.stop()

    def __call__(self, done: int, total: int) -> None:
        if self.quiet or self._ended:
            return
        now = time.monotonic()
        if self._began is None:
            self._first, self._began, self._last = done, now, now
            if self._status is not None:
                self._status.stop()
            if sys.stderr.isatty():
                self._start_bar(done, total)
        self._ended = done >= total
        # Without what was done before, and without the moment in which only the first batches are on their way.
        rate = (done - self._first) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=rate)
            if self._ended:
                self._bar.stop()
        elif now - self._last >= LINE_EVERY or (self._ended and done > self._first):
            self._last = now
            left = f", {duration((total - done) / rate)} left" if rate and not self._ended else ""
            print(
                f"{self.doing} {done:,} of {total:,} {self.things}, {rate:,.0f} {self.things}/s{left}",
                file=sys.stderr,
                flush=True,
            )

    def _start_bar(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn(self.doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{{task.fields[rate]:,.0f}} {self.things}/s"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total, completed=done, rate=0.0)
        self._bar.start()
