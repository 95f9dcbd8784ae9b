"""The true classes of images, where they are known: from a CSV file, or from the folders that the images are in."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pullback.errors import DataError
from pullback.teach import ClassName
from pullback.teach.classes import ClassIndex


def read_truth(path: str | Path) -> dict[str, str]:
    """The class of each file, from a CSV with the columns `file` and `class`. Raises DataError where it is none."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from None
    if not rows or not {"file", "class"} <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise DataError(f"{path}: expected the columns file and class in its first line, got {found}")
    return {row["file"]: row["class"] for row in rows}


def true_classes(
    paths: Sequence[str], classes: Sequence[ClassName], truth: Mapping[str, str] | None
) -> NDArray[np.int64]:
    """The number of each image's class among `classes`, (N,); -1 where it is not known, or none of them.

    Args:
        paths: of the images, with forward slashes.
        classes: found by name, synonym, WordNet id or number in the teacher's class list.
        truth: class by path, or by the name of the file where no two paths share one. If None, an image's class is the
            innermost of its folders that is named like a class.
    """
    index = ClassIndex(classes)
    if truth is None:
        return np.array([_of_folder(path, index) for path in paths], np.int64)
    names: dict[str, str | None] = {}
    for path, name in truth.items():
        last = PurePosixPath(path).name
        names[last] = None if last in names and names[last] != name else name
    found = [truth.get(path, names.get(PurePosixPath(path).name)) for path in paths]
    return np.array([-1 if name is None else index.position(name) for name in found], np.int64)


def _of_folder(path: str, index: ClassIndex) -> int:
    for parent in PurePosixPath(path).parents:
        position = index.position(parent.name) if parent.name else -1
        if position >= 0:
            return position
    return -1
