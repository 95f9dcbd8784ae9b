"""`pullback train`: a network, data and settings in; a run folder out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import tyro

from pullback.cli.options import Options
from pullback.cli.outcome import report_outcome
from pullback.train import Settings, fit


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Train a network on labelled images, into a new run folder.

    Example: pullback train mlp --data cifar10 --hidden 600,600,200 --optimizer adam --lr 3e-4 --steps 3000
    """

    settings: tyro.conf.OmitArgPrefixes[Settings]
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to make; where not given, runs/NETWORK-DATA-NUMBER, the first that is free."""

    def run(self) -> int:
        out = _free_folder(self.settings) if self.out is None else Path(self.out)
        return report_outcome(self, fit(self.settings, out, quiet=self.json))


def _free_folder(settings: Settings) -> Path:
    """`runs/mlp-digits-1`, or the first number that is free."""
    stem = f"{settings.model}-{Path(settings.data).resolve().name}"
    folders = (Path("runs") / f"{stem}-{number}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())
