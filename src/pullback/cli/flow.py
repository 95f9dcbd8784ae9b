"""`pullback flow`: how activations and gradients run through the network of a run, and what is wrong with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pullback.cli.options import Options, RunFolder


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """How activations and gradients run through the layers of a run's network: norms, the optimiser's steps, dead and
    saturated units, before the first step and along the run, as a table and a plot.

    Example: pullback flow runs/first
    """

    folder: RunFolder
    """Run folder."""
    images: int = 64
    """Validation images to look at."""
    out: str | None = None
    """Picture to write, such as flow.svg; by default flow.png in the run folder."""

    def run(self) -> int:
        """Exit code 0."""
        from pullback.show.figures import save
        from pullback.show.flow import draw
        from pullback.train.flow import flow_of_run

        flows = flow_of_run(self.folder, self.images)
        path = save(draw(flows), self.out or Path(self.folder) / "flow.png")
        points = [{**asdict(each), "findings": each.findings} for each in flows]
        self.show({"picture": str(path), "points": points}, "\n\n".join([*map(str, flows), f"wrote {path}"]))
        return 0
