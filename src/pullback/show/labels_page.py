"""The contact sheet of a table of labels: one HTML page with its figures and the images that say most about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback.data.source import ReadImage, open_source
from pullback.errors import DataError
from pullback.show import html_page as html
from pullback.teach import LabelTable
from pullback.teach.summary import LabelSummary

THUMBNAIL = 120
"""Longest side of an image on the page, pixels."""

GROUPS = 12
"""Groups of copies that are shown."""


def labels_page(table: LabelTable, summary: LabelSummary, images: Path | None, classes: int = 100) -> str:
    """The page. Without `images`, the folder or archive that was labelled, it has no pictures.

    `classes` is how many classes are shown in pictures, the largest first.
    """
    shown = summary.classes[:classes]
    groups = {"Copies": summary.copies[:GROUPS], "Images that look alike": summary.alike[:GROUPS]}
    wanted = [row for c in shown for row in (*c.most_certain, *c.least_certain)]
    wanted += [row for some in groups.values() for group in some for row in group[:GROUPS]]
    sheet = _Sheet(table, images, wanted)
    kind = table.kind
    size = "x".join(map(str, kind.preprocessing.get("size") or ()))
    facts: list[tuple[object, object]] = [
        ("images", f"{summary.images:,}, of which {summary.used:,} are used"),
        ("teacher", f"{kind.teacher}, SHA-256 {kind.teacher_sha256[:16]}..."),
        ("input", f"{size}, {kind.interpolation}" + (", mean with mirror images" if kind.tta == "flip" else "")),
        ("mean confidence", f"{summary.mean_confidence:.1%}"),
        ("mean entropy", f"{summary.mean_entropy:.3f} nats"),
        ("copies", f"{_surplus(summary.copies):,} images are copies of others"),
        ("alike", f"{sum(map(len, summary.alike)):,} images look alike (groups: {len(summary.alike):,})"),
    ]
    edges = np.linspace(0, 1, len(summary.confidence_histogram) + 1)
    ranges = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(edges)]
    bins = list(zip(ranges, summary.confidence_histogram.tolist(), strict=True))
    rows = [(c.name, c.images, c.used, f"{c.mean_confidence:.1%}") for c in summary.classes]
    parts = [
        html.table(facts),
        html.heading("Classes"),
        html.table(rows, ("class", "images", "used", "mean confidence"), bars=1),
        html.heading("Confidence"),
        html.table(bins, ("confidence", "images"), bars=1),
    ]
    if summary.empty_classes:
        names = ", ".join(summary.empty_classes[:50]) + (", ..." if len(summary.empty_classes) > 50 else "")
        parts.insert(3, html.paragraph(f"{len(summary.empty_classes):,} classes have no image: {names}", note=True))
    for c in shown:
        parts.append(html.heading(f"{c.name}: {c.images:,} images"))
        for what, members in (("Most certain", c.most_certain), ("Least certain", c.least_certain)):
            if len(members):
                parts += [html.heading(what, 3), html.strip(map(sheet.figure, members))]
    for what, some in groups.items():
        if some:
            parts.append(html.heading(what))
            parts += [html.strip(map(sheet.figure, group[:GROUPS])) for group in some]
    return html.page(f"Labels in {table.folder}", parts)


def _surplus(groups: Iterable[NDArray[np.int64]]) -> int:
    return sum(len(group) - 1 for group in groups)


class _Sheet:
    """The pictures of some rows of a table, read once."""

    def __init__(self, table: LabelTable, images: Path | None, rows: Sequence[int]) -> None:
        chosen = np.unique(np.array(rows, np.int64))
        self.names = table.class_names
        self.paths = dict(zip(chosen.tolist(), table.column("path").take(chosen).to_pylist(), strict=True))
        self.labels, self.confidences = table.labels, table.confidences
        self.read: dict[str, ReadImage] = {}
        if images is not None:
            try:
                source = open_source(images)
                self.read = {found.path: found for found in source.images(source.ordered([*self.paths.values()]))}
            except DataError as error:
                self.read = {path: ReadImage(path, problem=str(error)) for path in self.paths.values()}

    def figure(self, row: int) -> str:
        path = self.paths[int(row)]
        found = self.read.get(path, ReadImage(path, problem="no picture"))
        image = None if found.image is None else thumbnail(found.image, THUMBNAIL)
        label = f"{self.names[self.labels[row]]} {self.confidences[row]:.1%}"
        return html.figure(image, (path, label), found.problem or "")


def thumbnail(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The image, reduced so that its longest side is at most `longest` pixels."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(picture)
