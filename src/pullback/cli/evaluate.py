"""`pullback evaluate`: loss and accuracy of a run's network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from pullback.cli.options import Options, RunFolder
from pullback.train import Evaluation, Run, evaluate
from pullback.train.report import duration


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Loss and accuracy of a run's network on its validation images."""

    folder: RunFolder
    """Run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to evaluate. `best` was chosen by its accuracy on these very images, so that its figure flatters."""

    def run(self) -> int:
        result = evaluate(self.folder, checkpoint=self.checkpoint)
        run = Run.open(self.folder)
        position, _, _ = run.checkpoint(self.checkpoint)
        record = {
            "run": self.folder,
            "checkpoint": self.checkpoint,
            "step": position.step,
            "train_seconds": position.train_seconds,
            "train_images_per_second": position.images_per_second,
            "settings": asdict(run.config.settings),
            **asdict(result),
        }
        self.show(record, _text(result))
        return 0


def _text(result: Evaluation) -> str:
    width = max(map(len, result.class_accuracy)) + 2
    lines = [
        f"accuracy  {result.accuracy:.2%}",
        f"loss      {result.loss:.4f}",
        f"images    {result.images:,} in {duration(result.seconds)}, {result.images / result.seconds:,.0f} images/s",
        "",
        "accuracy by class:",
    ]
    return "\n".join(lines + [f"  {name:{width}}{accuracy:.1%}" for name, accuracy in result.class_accuracy.items()])
