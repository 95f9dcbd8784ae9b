"""Labelling a folder of images with a teacher: `label_folder`, which can be killed at any instant and then continues.

One pool of threads decodes images, another runs the teacher on batches of them, the thread between writes the table.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.data.images import existing_folder, list_images, read_images
from pullback.data.parallel import map_ahead
from pullback.errors import ConfigError, DataError
from pullback.teach.classes import select_classes
from pullback.teach.table import ImageFile, LabelKind, LabelTable, LabelWriter, shard_paths
from pullback.teach.teacher import Teacher

SKIPPED = "skipped.json"
"""The file beside the shards that lists the images that could not be labelled: [{"path", "reason"}, ...]."""


@dataclass(frozen=True)
class Labelling:
    """What `label_folder` did."""

    labels: LabelTable
    """Every label of the folder's images, old and new; images that have since been removed keep theirs."""
    labelled: int
    """Images labelled by this call; the others had been labelled before."""
    skipped: dict[str, str]
    """Path and reason of each image that could not be labelled."""
    seconds: float
    """Time that this call took, with listing, decoding and writing."""


def label_folder(
    folder: str | Path,
    teacher: Teacher,
    out: str | Path,
    *,
    classes: str | Path | Iterable[str | int] | None = None,
    top_k: int | None = None,
    interpolation: str = "bicubic",
    batch_size: int = 8,
    workers: int | None = None,
    shard_rows: int = 4096,
    shard_seconds: float = 20.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Labelling:
    """Label every image below `folder`, and keep the labels in the table `out`. The images themselves are only read.

    Called again it continues: an image is labelled again only if its content has changed.

    Args:
        folder: images of any size and mode, in any tree.
        teacher: gives the labels.
        out: the table's folder; it must not lie inside `folder`.
        classes: restrict the labels to these (see `select_classes`); all of the teacher's if None.
        top_k: keep only the k largest probabilities of each image; all if None.
        interpolation: how images are resized to the teacher's size, by Pillow's name (`bicubic`, `box`, ...).
        batch_size: images in one call of the teacher.
        workers: how many threads run the teacher, and how many decode; the number of processors if None.
        shard_rows, shard_seconds: a shard is written after so many rows or seconds, all that a kill loses.
        on_progress: called as `on_progress(done, total)`, in images.

    Raises:
        DataError: the folder is missing or holds no image, or none of its images could be labelled.
        ConfigError: a setting is wrong, or `out` holds labels that were made with other settings.
        RunError: the table cannot be written. What was written stays, and the next call continues from it.
        TeacherError: the teacher fails on an image.
    """
    started = time.monotonic()
    folder, out = existing_folder(folder), Path(out)
    kind = LabelKind.of(teacher, select_classes(teacher.classes, classes), interpolation, top_k)
    _check_settings(folder, out, kind, batch_size)
    paths = list_images(folder)
    to_do, skipped = _to_do(folder, paths, _Known(out, kind))
    workers = (os.cpu_count() or 1) if workers is None else workers
    decoded = read_images(
        [folder / file.path for file in to_do], teacher.size, workers=workers, channels=3, resample=interpolation
    )
    done, labelled = len(paths) - len(to_do), 0
    with LabelWriter(out, kind, shard_rows, shard_seconds) as writer:

        def answer(batch: _Batch) -> _Batch:
            return batch.answered(folder, teacher, kind)

        # Two batches ahead for each worker: none waits for a decoder, and memory stays bounded.
        batches = _batches(to_do, (image for _, image in decoded), batch_size)
        for batch in map_ahead(answer, batches, workers=workers, ahead=2 * workers):
            writer.append(batch.files, batch.answers)
            skipped.update(batch.skipped)
            labelled += len(batch.files)
            done += len(batch.files) + len(batch.skipped)
            if on_progress is not None:
                on_progress(done, len(paths))
    listed = [{"path": path, "reason": reason} for path, reason in sorted(skipped.items())]
    files.replace(out / SKIPPED, json.dumps(listed, indent=1).encode())
    if not shard_paths(out):
        path, reason = next(iter(skipped.items()))
        raise DataError(f"{folder}: none of its {len(paths)} images could be labelled; the first, {path}: {reason}")
    return Labelling(LabelTable(out), labelled, skipped, time.monotonic() - started)


@dataclass
class _Batch:
    """Images on their way through the teacher; `skipped` are those that fell out on the way, with reasons."""

    files: list[ImageFile] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    answers: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def answered(self, folder: Path, teacher: Teacher, kind: LabelKind) -> _Batch:
        """The batch with the teacher's answers in place of the images."""
        if not self.files:
            return self
        answers = teacher.probabilities(np.stack(self.images), kind.classes)
        usable = [bool(np.isfinite(row).all()) for row in answers]
        result = _Batch(skipped=dict(self.skipped))
        for row, file in enumerate(self.files):
            if not usable[row]:
                result.skipped[file.path] = "the teacher's answer to it is not finite"
                continue
            try:
                result.files.append(file.hashed(folder))
            except OSError as error:
                usable[row] = False
                result.skipped[file.path] = f"cannot be read ({error.strerror})"
        result.answers = answers[usable]
        return result


def _batches(
    files: Iterable[ImageFile], images: Iterable[NDArray[np.uint8] | DataError], batch_size: int
) -> Iterator[_Batch]:
    batch = _Batch()
    for file, image in zip(files, images, strict=True):
        if isinstance(image, DataError):
            batch.skipped[file.path] = str(image)
        else:
            batch.files.append(file)
            batch.images.append(image)
        # Unreadable files count too, so that a folder full of them still shows progress.
        if len(batch.files) + len(batch.skipped) >= batch_size:
            yield batch
            batch = _Batch()
    if batch.files or batch.skipped:
        yield batch


def _check_settings(folder: Path, out: Path, kind: LabelKind, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch size: expected at least 1 image, got {batch_size}")
    if kind.top_k is not None and not 1 <= kind.top_k <= len(kind.classes):
        raise ConfigError(f"top k: expected 1 to {len(kind.classes)}, the number of classes, got {kind.top_k}")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{out} lies inside the folder of images, {folder}, which is only read; choose another place")


class _Known:
    """Which files have a label already. Raises ConfigError where those labels were made with other settings."""

    def __init__(self, out: Path, kind: LabelKind) -> None:
        self._row: dict[str, int] = {}
        if not shard_paths(out):
            return
        table = LabelTable(out, columns=("path", "sha256", "bytes", "modified_ns"))
        difference = table.kind.difference(kind)
        if difference:
            raise ConfigError(f"{out} holds labels with {difference}; choose another folder, or repeat those settings")
        self._row = {path: row for row, path in enumerate(table.paths)}
        self._sha256 = table.rows["sha256"]
        self._bytes = table.rows["bytes"].to_numpy()
        self._modified_ns = table.rows["modified_ns"].to_numpy()

    def holds(self, file: ImageFile, folder: Path) -> bool:
        row = self._row.get(file.path)
        if row is None or self._bytes[row] != file.bytes:
            return False
        # A copied or restored file has a new time; only then is its content read to compare.
        unchanged = self._modified_ns[row] == file.modified_ns
        return bool(unchanged) or self._sha256[row].as_py() == file.hashed(folder).sha256


def _to_do(folder: Path, paths: Iterable[Path], known: _Known) -> tuple[list[ImageFile], dict[str, str]]:
    """The files that have no label of their present content, and those that cannot have one, with reasons."""
    to_do, skipped = [], {}
    for path in paths:
        relative = path.relative_to(folder).as_posix()
        try:
            relative.encode()
            file = ImageFile.at(folder, relative)
            if not known.holds(file, folder):
                to_do.append(file)
        except UnicodeEncodeError:
            skipped[ascii(relative)] = "its name is not valid Unicode"
        except OSError as error:
            skipped[relative] = f"cannot be read ({error.strerror})"
    return to_do, skipped
