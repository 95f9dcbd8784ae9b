"""`pullback label`: a folder of images and a pretrained teacher in; a table of labels out."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.cli.teacher import Description
from pullback.cli.terminal import one_line
from pullback.teach import Labelling, Selection, Teacher, label_folder, select_classes
from pullback.train.report import duration
from pullback.train.signals import terminated_as_interrupt

KEPT = 100
"""Probabilities kept for an image where the teacher has more than twice as many classes."""


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Label a folder of images with a pretrained network. The images are only read.

    The same command goes on with what was interrupted, and labels what was added or changed since.

    Example: pullback label photos --teacher efficientnet-lite0 --classes tench,church --out labels
    """

    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images in any tree, of any size; or a .zip, a .tar or an .npz file of them."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.onnx|PACKAGE:CALLABLE")] = None
    """The pretrained network; always needed."""
    out: Annotated[str | None, tyro.conf.arg(metavar="LABELS")] = None
    """Folder of the labels to make, or to continue; where not given, labels/FOLDER."""
    classes: str = "all"
    """Classes to choose from: names, WordNet ids or numbers with commas between, or a file with one a line."""
    top_k: int | None = None
    """Probabilities to keep for each image; not given: all, or 100 where there are more than 200 classes."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "auto"] = "bicubic"
    """How images are resized to the teacher's size; auto: as a sample of 64 images recommends."""
    tta: Literal["none", "flip"] = "none"
    """Test-time augmentation; flip: the mean of the answers to the image and to its mirror image."""
    min_confidence: float = 0.0
    """Use only images of which the teacher is so certain, 0 to 1. The table keeps every label, whatever is used."""
    max_per_class: int | None = None
    """Use at most so many images of each class, the most certain ones."""
    balance: bool = False
    """Use equally many images of each class."""
    batch_size: int | None = None
    """Images in one call of the teacher; not given: 8 on a CPU, 128 on a GPU."""
    workers: int | None = None
    """Threads that run the teacher, and threads that decode; not given: one for each processor."""
    description: tyro.conf.OmitArgPrefixes[Description]

    def run(self) -> int:
        """Exit code 0 also where some images could not be read: they are listed."""
        selection = Selection(self.min_confidence, self.max_per_class, self.balance)
        teacher = self.description.open(self.teacher)
        chosen = [c.index for c in select_classes(teacher.classes, self.classes)]
        out = Path(self.out) if self.out else Path("labels") / Path(self.folder).resolve().name
        try:
            result = self._label(teacher, chosen, out)
        except KeyboardInterrupt:
            print("Interrupted; what was labelled is saved. Go on with the same command.", file=sys.stderr)
            return 130
        selection.write(out)
        record = _record(result, out, selection)
        self.show(record, _text(record))
        return 0

    def _label(self, teacher: Teacher, chosen: list[int], out: Path) -> Labelling:
        shown = Progress("labelling", "images", quiet=self.json, before="listing the images")
        with terminated_as_interrupt(), shown as progress:
            return label_folder(
                self.folder,
                teacher,
                out,
                classes=chosen,
                top_k=KEPT if self.top_k is None and len(chosen) > 2 * KEPT else self.top_k,
                interpolation=self.interpolation,
                tta=self.tta,
                batch_size=self.batch_size,
                workers=self.workers,
                on_progress=progress,
            )


def _record(result: Labelling, out: Path, selection: Selection) -> dict[str, Any]:
    table = result.labels
    chosen = table.selected(selection)
    counts = Counter(table.column("class").take(chosen).to_pylist())
    return {
        "labels": str(out),
        "teacher": table.kind.teacher,
        "teacher_sha256": table.kind.teacher_sha256,
        "interpolation": table.kind.interpolation,
        "images": len(table),
        "labelled": result.labelled,
        "changed": result.changed,
        "recognised": result.recognised,
        "removed": result.removed,
        "skipped": len(result.skipped),
        "skipped_reasons": dict(list(result.skipped.items())[:100]),
        "selected": len(chosen),
        "classes": dict(counts.most_common()),
        "mean_confidence": float(table.confidences.mean()),
        "seconds": result.seconds,
        "images_per_second": result.labelled / result.seconds,
    }


def _text(record: dict[str, Any]) -> str:
    news = [f"{record[name]:,} {name}" for name in ("changed", "recognised", "removed") if record[name]]
    lines = [
        f"{'labels':18}{record['labels']}",
        f"{'teacher':18}{record['teacher']}, {record['interpolation']}",
        f"{'images':18}{record['images']:,}, of which {record['selected']:,} are used",
        f"{'labelled now':18}{record['labelled']:,}{' (' + ', '.join(news) + ')' if news else ''} "
        f"in {duration(record['seconds'])}, {record['images_per_second']:,.0f} images/s",
        f"{'mean confidence':18}{record['mean_confidence']:.1%}",
    ]
    classes = list(record["classes"].items())
    shown = ", ".join(f"{name} {count:,}" for name, count in classes[:12])
    lines.append(f"{'classes':18}{len(classes):,}: {shown}{', ...' if len(classes) > 12 else ''}")
    if record["skipped"]:
        lines.append(f"{'skipped':18}{record['skipped']:,}, listed in {record['labels']}/skipped.json, such as")
        lines += [f"  {one_line(path)}: {one_line(why)}" for path, why in [*record["skipped_reasons"].items()][:5]]
    lines += ["", "Next:", f"  pullback labels {shlex.quote(record['labels'])}"]
    return "\n".join(lines)
