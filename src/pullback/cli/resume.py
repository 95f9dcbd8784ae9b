"""`pullback resume`: goes on with a run that was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pullback.cli.options import Options, RunFolder
from pullback.cli.outcome import report_outcome
from pullback.train import resume


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Go on with a run that was interrupted. Its metrics become those of a run that never was."""

    folder: RunFolder
    """Run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to go on from. `best` goes back to the highest validation accuracy and forgets what came after it."""

    def run(self) -> int:
        return report_outcome(self, resume(self.folder, checkpoint=self.checkpoint, quiet=self.json))
