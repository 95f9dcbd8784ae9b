"""`pullback evaluate`: how well a run's network does, alone, beside its teacher, and against the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pullback.cli.options import Options, RunFolder
from pullback.cli.progress import Progress
from pullback.cli.teacher import Description
from pullback.errors import ConfigError
from pullback.train import Comparison, Evaluation, Run, compare, evaluate, read_truth
from pullback.train.labelled import Recipe
from pullback.train.report import duration


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Loss, accuracy and calibration of a run's network on its validation images.

    Of a distillation: beside its teacher, on the held-out images or those of FOLDER, and against the truth where it is
    given by --truth, or by the names of the folders in FOLDER.
    """

    folder: RunFolder
    """Run folder."""
    images: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = None
    """Of a distillation: another folder of images, or an archive of them."""
    truth: Annotated[str | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Of a distillation: true classes; a CSV file with the columns file and class (name, WordNet id or number)."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.onnx|PACKAGE:CALLABLE")] = None
    """With FOLDER: the teacher, to label these images too."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to evaluate. `best` was chosen by its accuracy on the validation images, so that its figure there
    flatters."""
    description: tyro.conf.OmitArgPrefixes[Description]

    def run(self) -> int:
        run = Run.open(self.folder)
        distilled = Recipe.read(Path(run.config.settings.data)) is not None
        if not distilled and (self.images or self.truth or self.teacher):
            raise ConfigError("FOLDER, --truth and --teacher are for a distillation, and this run is none.")
        position, _, _ = run.checkpoint(self.checkpoint)
        record: dict[str, Any] = {
            "run": self.folder,
            "checkpoint": self.checkpoint,
            "step": position.step,
            "train_seconds": position.train_seconds,
            "train_images_per_second": position.images_per_second,
            "settings": asdict(run.config.settings),
        }
        if not distilled:
            result = evaluate(self.folder, checkpoint=self.checkpoint)
            self.show({**record, **asdict(result)}, _text(result))
            return 0
        with Progress("labelling", "images", quiet=self.json) as progress:
            comparison = compare(
                self.folder,
                self.images,
                truth=read_truth(self.truth) if self.truth else None,
                teacher=self.description.open(self.teacher) if self.teacher else None,
                checkpoint=self.checkpoint,
                on_progress=progress,
            )
        main = comparison.agreement or comparison.student
        self.show({**record, **(asdict(main) if main else {}), **asdict(comparison)}, _comparison(comparison))
        return 0


def _text(result: Evaluation) -> str:
    width = max(map(len, result.class_accuracy)) + 2
    lines = [
        f"accuracy  {result.accuracy:.2%}",
        f"top 5     {result.top5_accuracy:.2%}",
        f"loss      {result.loss:.4f}",
        f"calibration error  {result.calibration_error:.2%}",
        f"images    {result.images:,} in {duration(result.seconds)}, {result.images / result.seconds:,.0f} images/s",
        "",
        "accuracy by class:",
    ]
    return "\n".join(lines + [f"  {name:{width}}{accuracy:.1%}" for name, accuracy in result.class_accuracy.items()])


def _comparison(result: Comparison) -> str:
    columns = {
        "with the teacher": result.agreement,
        "with the truth": result.student,
        "teacher, with the truth": result.teacher,
    }
    there = {name: each for name, each in columns.items() if each is not None}
    lines = [f"{result.images:,} images in {duration(result.seconds)}"]
    if result.skipped:
        lines[0] += f", {len(result.skipped):,} skipped"
    if not there:
        return "\n".join([*lines, "No true class is known: give --truth FILE.csv, or --teacher."])
    lines += ["", " " * 20 + "".join(f"{name:>26}" for name in there)]
    rows = {
        "images": [f"{e.images:,}" for e in there.values()],
        "same class": [f"{e.accuracy:.2%}" for e in there.values()],
        "among the top 5": [f"{e.top5_accuracy:.2%}" for e in there.values()],
        "cross-entropy": [f"{e.loss:.4f}" for e in there.values()],
        "calibration error": [f"{e.calibration_error:.2%}" for e in there.values()],
    }
    lines += [f"{what:20}" + "".join(f"{shown:>26}" for shown in row) for what, row in rows.items()]
    if result.unknown and result.student is not None:
        lines.append(f"{result.unknown:,} images without a true class among the network's classes are left out.")
    names = list(dict.fromkeys(name for each in there.values() for name in each.class_accuracy))
    lines += ["", "same class, by class:"]
    for name in names:
        parts = (each.class_accuracy.get(name) for each in there.values())
        shown = ["-" if part is None else f"{part:.1%}" for part in parts]
        lines.append(f"  {name[:17]:18}" + "".join(f"{part:>26}" for part in shown))
    return "\n".join(lines)
