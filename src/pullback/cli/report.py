"""`pullback report`: a run as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pullback.cli.options import Options, RunFolder
from pullback.errors import ConfigError
from pullback.train.logs import write_csv, write_tensorboard
from pullback.train.page import report
from pullback.train.truth import read_truth


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Write a run as one HTML page that needs nothing else: figures, curves, images, the network, settings.

    Example: pullback report runs/photos
    """

    folder: RunFolder
    """Run folder."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.html")] = None
    """File to write; where not given, report.html in the run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint whose network is shown."""
    truth: Annotated[str | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Of a distillation: show network and teacher beside the true classes in a CSV file with the columns file and
    class."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Write the metrics as a table besides."""
    tensorboard: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the metrics as TensorBoard's event file besides."""

    def run(self) -> int:
        path = report(self.folder, self.out, self.checkpoint, read_truth(self.truth) if self.truth else None)
        written = {"report": str(path)}
        if self.csv is not None:
            if not self.csv.endswith(".csv"):
                raise ConfigError(f"--csv: expected a file that ends in .csv, got {self.csv}")
            written["csv"] = str(write_csv(self.folder, self.csv))
        if self.tensorboard is not None:
            written["tensorboard"] = str(write_tensorboard(self.folder, self.tensorboard))
        self.show(written, "\n".join(f"{name:12}{path}" for name, path in written.items()))
        return 0
