"""`pullback labels`: what a table of labels holds, as text and as a page with pictures, and its exports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from pullback import files
from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.errors import ConfigError
from pullback.teach import LabelTable, Selection
from pullback.teach.export import export_csv, export_folders
from pullback.teach.summary import LabelSummary, summarise


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Show a table of labels: its classes, confidences, copies, and the most and least certain images of each class.

    Example: pullback labels labels/photos --page sheet.html --export imagefolder --to sorted
    """

    folder: Annotated[str, tyro.conf.arg(metavar="LABELS")]
    """Folder of the labels."""
    images: str | None = None
    """The folder or archive that was labelled, where it has moved since."""
    page: str | None = None
    """HTML page to write, with pictures; not given: sheet.html in the folder of the labels; none: no page."""
    shown: int = 8
    """Of each class, show so many of the most and of the least certain images."""
    distance: int = 4
    """Images look alike that differ in at most so many of the 64 bits of their perceptual hash, 0 to 10."""
    min_confidence: float | None = None
    """Use only images of which the teacher is so certain; not given: what is used is as `pullback label` was told."""
    max_per_class: int | None = None
    """Use at most so many images of each class, the most certain ones."""
    balance: bool = False
    """Use equally many images of each class."""
    export: Literal["none", "imagefolder", "csv"] = "none"
    """Write the labels that are used: imagefolder, a folder for each class; csv, a table."""
    to: str | None = None
    """Folder or file of the export; not given: imagefolder or labels.csv in the folder of the labels."""
    copy: bool = False
    """Copy images into the image folder; not given: links to them."""
    probabilities: bool = False
    """Write a column for the probability of each class into the CSV."""

    def run(self) -> int:
        if not 0 <= self.distance <= 10 or self.shown < 1:
            raise ConfigError(
                f"expected --distance from 0 to 10 and --shown of at least 1, got {self.distance} and {self.shown}"
            )
        table = LabelTable(self.folder)
        selection = self._selection(table)
        with Progress("", "", quiet=self.json, before="summing the labels up"):
            summary = summarise(table, selection, self.shown, self.distance)
        images = Path(self.images) if self.images else table.images
        record = _record(table, summary)
        if self.page != "none":
            record["page"] = str(self._write_page(table, summary, images))
        if self.export != "none":
            record["exported"], record["to"] = self._export(table, selection, images)
        self.show(record, _text(record))
        return 0

    def _selection(self, table: LabelTable) -> Selection:
        """The one that the options give, or else the one kept beside the labels."""
        if self.min_confidence is None and self.max_per_class is None and not self.balance:
            return Selection.read(table.folder)
        return Selection(self.min_confidence or 0.0, self.max_per_class, self.balance)

    def _write_page(self, table: LabelTable, summary: LabelSummary, images: Path | None) -> Path:
        from pullback.show.labels_page import labels_page

        path = Path(self.page) if self.page else table.folder / "sheet.html"
        files.make_folder(path.parent)
        files.replace(path, labels_page(table, summary, images).encode())
        return path

    def _export(self, table: LabelTable, selection: Selection, images: Path | None) -> tuple[int, str]:
        rows = table.selected(selection)
        if self.export == "csv":
            out = Path(self.to) if self.to else table.folder / "labels.csv"
            return export_csv(table, rows, out, self.probabilities), str(out)
        if images is None:
            raise ConfigError("where the images are is not known: give --images FOLDER")
        out = Path(self.to) if self.to else table.folder / "imagefolder"
        with Progress("exporting", "images", quiet=self.json) as progress:
            return export_folders(table, rows, images, out, "copies" if self.copy else "links", progress), str(out)


def _record(table: LabelTable, summary: LabelSummary) -> dict[str, Any]:
    paths = table.column("path")

    def named(groups: list[np.ndarray[Any, Any]]) -> list[list[str]]:
        return [paths.take(group).to_pylist() for group in groups[:1000]]

    return {
        "labels": str(table.folder),
        "teacher": table.kind.teacher,
        "interpolation": table.kind.interpolation,
        "images": summary.images,
        "used": summary.used,
        "mean_confidence": summary.mean_confidence,
        "mean_entropy": summary.mean_entropy,
        "confidence_histogram": summary.confidence_histogram.tolist(),
        "classes": [
            {
                "name": c.name,
                "images": c.images,
                "used": c.used,
                "mean_confidence": c.mean_confidence,
                "most_certain": paths.take(c.most_certain).to_pylist(),
                "least_certain": paths.take(c.least_certain).to_pylist(),
            }
            for c in summary.classes
        ],
        "empty_classes": summary.empty_classes,
        "copies": named(summary.copies),
        "alike": named(summary.alike),
    }


BAR = 40
ROWS = 25


def _text(record: dict[str, Any]) -> str:
    lines = [
        f"{'labels':18}{record['labels']}",
        f"{'teacher':18}{record['teacher']}, {record['interpolation']}",
        f"{'images':18}{record['images']:,}, of which {record['used']:,} are used",
        f"{'mean confidence':18}{record['mean_confidence']:.1%}",
        f"{'copies':18}{len(record['copies']):,} groups of equal files",
        f"{'alike':18}{len(record['alike']):,} groups of images that look alike",
        "",
    ]
    classes = record["classes"][:ROWS]
    width = max((len(c["name"]) for c in classes), default=5)
    largest = max((c["images"] for c in classes), default=1)
    lines.append(f"{'class':{width}}  {'images':>9}  {'used':>9}  confidence")
    for c in classes:
        bar = "#" * round(BAR * c["images"] / largest)
        lines.append(f"{c['name']:{width}}  {c['images']:9,}  {c['used']:9,}  {c['mean_confidence']:10.1%}  {bar}")
    if len(record["classes"]) > ROWS:
        lines.append(f"and {len(record['classes']) - ROWS:,} more classes")
    if record["empty_classes"]:
        lines.append(f"{len(record['empty_classes']):,} classes have no image")
    histogram = record["confidence_histogram"]
    lines += ["", f"{'confidence':{width}}  {'images':>9}"]
    for i, count in enumerate(histogram):
        if count:
            bar = "#" * round(BAR * count / max(histogram))
            name = f"{i / len(histogram):.0%} to {(i + 1) / len(histogram):.0%}"
            lines.append(f"{name:{width}}  {count:9,}  {bar}")
    lines.append("")
    if "page" in record:
        lines.append(f"{'page':18}{record['page']}")
    if "exported" in record:
        lines.append(f"{'exported':18}{record['exported']:,} images to {json.dumps(record['to'], ensure_ascii=False)}")
    return "\n".join(lines)
