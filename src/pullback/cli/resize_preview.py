"""`pullback resize-preview`: which way of resizing suits a teacher and a folder of images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pullback import files
from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.cli.teacher import Description
from pullback.data import open_source
from pullback.errors import ConfigError
from pullback.teach import select_classes
from pullback.teach.interpolation import Comparison, compare_interpolations


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Compare ways of resizing on a sample of a folder: one page with the images side by side, what the teacher
    answers, and a recommendation.

    Example: pullback resize-preview photos --teacher efficientnet-lite0
    """

    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder, .zip, .tar or .npz file of images. They are only read."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.onnx|PACKAGE:CALLABLE")] = None
    """The pretrained network; always needed."""
    out: str = "resize-preview.html"
    """The page to write."""
    classes: str = "all"
    """Classes to choose from: names, WordNet ids or numbers with commas between, or a file with one a line."""
    sample: int = 64
    """Images to compare on, spread evenly over the folder."""
    shown: int = 16
    """Images on the page, those first on which the methods differ most."""
    workers: int | None = None
    """Threads that run the teacher, and threads that decode; not given: one for each processor."""
    description: tyro.conf.OmitArgPrefixes[Description]

    def run(self) -> int:
        from pullback.show.resize_page import resize_page

        if self.sample < 2 or self.shown < 1:
            raise ConfigError(
                f"expected --sample of at least 2 and --shown of at least 1, got {self.sample}, {self.shown}"
            )
        source = open_source(self.folder)
        teacher = self.description.open(self.teacher)
        chosen = select_classes(teacher.classes, self.classes)
        with Progress("comparing", "answers", quiet=self.json) as progress:
            comparison = compare_interpolations(
                source,
                teacher,
                chosen,
                sample=self.sample,
                workers=self.workers or os.cpu_count() or 1,
                on_progress=progress,
            )
        names = [c.short for c in chosen]
        page = resize_page(comparison, names, str(teacher.spec.name), str(source.root), self.shown)
        out = Path(self.out)
        files.make_folder(out.parent)
        files.replace(out, page.encode())
        record = _record(comparison, out)
        self.show(record, _text(record))
        return 0


def _record(comparison: Comparison, out: Path) -> dict[str, Any]:
    return {
        "page": str(out),
        "images": len(comparison.paths),
        "skipped": comparison.skipped,
        "methods": {
            method: {
                "mean_confidence": float(comparison.confidences[m].mean()),
                "support": float(comparison.support[m].mean()),
                "agreement": dict(zip(comparison.methods, map(float, comparison.agreement[m]), strict=True)),
            }
            for m, method in enumerate(comparison.methods)
        },
        "recommended": comparison.recommended(),
    }


def _text(record: dict[str, Any]) -> str:
    lines = [f"{'method':10}mean confidence  support of the consensus  agreement with the others"]
    for method, figures in record["methods"].items():
        others = [value for name, value in figures["agreement"].items() if name != method]
        confidence, support, agreement = figures["mean_confidence"], figures["support"], sum(others) / len(others)
        lines.append(f"{method:10}{confidence:15.1%}  {support:24.1%}  {agreement:25.1%}")
    lines += ["", f"recommended: {record['recommended']}, on {record['images']} images", f"page: {record['page']}"]
    return "\n".join(lines)
