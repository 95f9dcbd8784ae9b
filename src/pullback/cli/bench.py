"""`pullback bench`: this machine's figures, beside the libraries that are installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pullback.bench import page
from pullback.bench.command import run, show_progress, write
from pullback.bench.runner import Effort
from pullback.cli.options import Options


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Measure pullback beside PyTorch, JAX, autograd and NumPy, as far as they are installed, on this machine."""

    only: tuple[str, ...] = ()
    """Workloads or curves to measure, such as mlp-small,cnn64,batch; all of them without this option."""
    rounds: int = 8
    """Turns of every contender."""
    seconds: float = 0.25
    """Seconds of each turn."""
    md: str | None = None
    """Write a page to this file, and its plots beside it."""

    def run(self) -> int:
        words = ["pullback bench", *(["--only", ",".join(self.only)] if self.only else [])]
        effort = Effort(self.rounds, self.seconds)
        found = run(self.only, effort, " ".join(words), show_progress)
        write(found, None, Path(self.md) if self.md else None)
        self.show(found, page.as_text(found))
        return 0
