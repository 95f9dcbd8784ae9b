"""What a table of labels holds, in figures: classes, confidences, copies, and the most and least certain images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pullback.teach.duplicates import equal_groups, similar_groups
from pullback.teach.selection import Selection
from pullback.teach.table import LabelTable

BINS = 20
"""Of the histogram of confidence."""


@dataclass(frozen=True)
class ClassSummary:
    """One class of a table."""

    name: str
    images: int
    """Images of which the teacher finds it most probable."""
    used: int
    """Those of them that the selection uses."""
    mean_confidence: float
    most_certain: NDArray[np.int64]
    """Rows of the table, the most certain first."""
    least_certain: NDArray[np.int64]
    """The least certain first."""


@dataclass(frozen=True)
class LabelSummary:
    """A table of labels in figures."""

    images: int
    used: int
    classes: list[ClassSummary]
    """Those that have images, the largest first."""
    empty_classes: list[str]
    """Those that have none."""
    confidence_histogram: NDArray[np.int64]
    """Images in each of 20 equal ranges of confidence from 0 to 1."""
    mean_confidence: float
    mean_entropy: float
    """Nats."""
    copies: list[NDArray[np.int64]]
    """Groups of rows of equal content."""
    alike: list[NDArray[np.int64]]
    """Groups of rows that look alike, of which at least two differ in content."""


def summarise(table: LabelTable, selection: Selection | None = None, shown: int = 8, distance: int = 4) -> LabelSummary:
    """Sum a table up.

    Args:
        table: the labels.
        selection: which are used; the one kept beside them if None.
        shown: how many of the most and of the least certain images of each class are named.
        distance: in how many of 64 bits images that look alike may differ.
    """
    labels, confidences = table.labels, table.confidences
    used = table.selected(selection)
    count = len(table.kind.classes)
    per_class = np.bincount(labels, minlength=count)
    used_per_class = np.bincount(labels[used], minlength=count)
    order = np.lexsort((-confidences, labels))
    members = np.split(order, np.cumsum(per_class)[:-1])
    names = table.class_names
    digests = table.digests()
    alike = similar_groups(np.asarray(table.column("perceptual_hash").to_numpy(), np.uint64), distance)
    return LabelSummary(
        images=len(table),
        used=len(used),
        classes=[
            ClassSummary(
                names[i],
                int(per_class[i]),
                int(used_per_class[i]),
                float(confidences[members[i]].mean()),
                members[i][:shown],
                members[i][shown:][::-1][:shown],
            )
            for i in np.argsort(-per_class, kind="stable")
            if per_class[i]
        ],
        empty_classes=[names[i] for i in range(count) if not per_class[i]],
        confidence_histogram=np.histogram(confidences, BINS, (0, 1))[0],
        mean_confidence=float(confidences.mean()) if len(table) else 0.0,
        mean_entropy=float(np.mean(table.column("entropy").to_numpy())) if len(table) else 0.0,
        copies=equal_groups(digests),
        alike=[group for group in alike if len(np.unique(digests[group])) > 1],
    )
