"""Labelling a folder of images with a teacher: `label_folder`, which can be killed at any instant and then continues.

One pool of threads reads and decodes images, another runs the teacher on batches of them, the thread between writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.data.images import check_options
from pullback.data.parallel import map_ahead
from pullback.data.source import ImageSource, Listing, ReadImage, open_source
from pullback.errors import ConfigError, DataError
from pullback.teach.classes import ClassName, select_classes
from pullback.teach.interpolation import DEFAULT, compare_interpolations
from pullback.teach.kind import LabelKind
from pullback.teach.known import Known
from pullback.teach.shards import LabelledImage, LabelWriter, shard_paths
from pullback.teach.table import IMAGES, LabelTable, images_of
from pullback.teach.teacher import Teacher

SKIPPED = "skipped.json"
"""The file beside the shards that lists the images that could not be labelled: [{"path", "reason"}, ...]."""

TTA = ("none", "flip")


@dataclass(frozen=True)
class Labelling:
    """What `label_folder` did."""

    labels: LabelTable
    """The labels of all images that are in the folder now."""
    labelled: int
    """Images that the teacher was shown by this call; the others had been labelled before."""
    changed: int
    """Those of them that had another content when they were labelled before."""
    recognised: int
    """Images at new places, or with new times, whose content had been labelled before: they keep that label."""
    removed: int
    """Images with a label that are no longer in the folder; the label has left the table."""
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
    tta: str = "none",
    batch_size: int | None = None,
    workers: int | None = None,
    shard_rows: int = 4096,
    shard_seconds: float = 5.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Labelling:
    """Label every image in `folder`, and keep the labels in the table `out`. The images themselves are only read.

    Called again it continues: an image is labelled again only if its content has changed.

    Args:
        folder: images of any size and mode, in any tree; or a .zip, a .tar or an .npz file of them (see `open_source`).
        teacher: gives the labels.
        out: the table's folder; it must not lie inside `folder`.
        classes: restrict the labels to these (see `select_classes`); all of the teacher's if None.
        top_k: keep only the k largest probabilities of each image; all if None.
        interpolation: how images are resized to the teacher's size, by Pillow's name (`bicubic`, `box`, ...); `auto`
            for the one that a sample of 64 images recommends (see `compare_interpolations`).
        tta: test-time augmentation: `flip` averages the answers to each image and to its mirror image.
        batch_size: images in one call of the teacher; 8 on a CPU and 128 on a GPU if None.
        workers: how many threads run the teacher, and how many decode; the number of processors if None.
        shard_rows, shard_seconds: a shard is written after so many rows or seconds, all that a kill loses.
        on_progress: called as `on_progress(done, total)`, in images.

    Raises:
        DataError: the folder is missing or holds no image, or none of its images could be labelled.
        ConfigError: a setting is wrong, or `out` holds labels that were made with other settings, or of other images.
        RunError: another process labels into `out`, or it cannot be written. What was written stays, and the next call
            continues from it.
        TeacherError: the teacher fails on an image.
    """
    started = time.monotonic()
    source, out = open_source(folder), Path(out)
    chosen = select_classes(teacher.classes, classes)
    kind = LabelKind.of(teacher, chosen, DEFAULT if interpolation == "auto" else interpolation, top_k, tta)
    workers = (os.cpu_count() or 1) if workers is None else workers
    batch_size = (8 if teacher.device == "cpu" else 128) if batch_size is None else batch_size
    _check_settings(source.root, out, kind, batch_size, workers)
    listing = source.listing()
    if not listing and not listing.refused:
        raise DataError(f"no images in {source.root}: expected files ending in .png, .jpg, .webp, .bmp, .gif or .tif")
    with files.locked(files.make_folder(out) / ".lock", "labelled"):
        _check_same_images(source.root, out)
        if interpolation == "auto":
            kind = replace(kind, interpolation=_suitable(source, listing, teacher, chosen, out, workers))
        files.replace(out / IMAGES, json.dumps({"images": str(source.root.resolve())}).encode())
        job = _Job(source, teacher, kind, Known(out, kind), listing)
        with LabelWriter(out, kind, shard_rows, shard_seconds) as writer:
            job.run(writer, batch_size, workers, on_progress or (lambda done, total: None))
        listed = [{"path": path, "reason": reason} for path, reason in sorted(job.skipped.items())]
        files.replace(out / SKIPPED, json.dumps(listed, indent=1).encode())
        if not shard_paths(out):
            path, reason = next(iter(job.skipped.items()))
            total = len(listing) + len(listing.refused)
            raise DataError(f"{source.root}: none of its {total} images could be labelled; the first, {path}: {reason}")
        table = LabelTable(out)
    seconds = time.monotonic() - started
    return Labelling(table, job.labelled, job.changed, job.recognised, job.removed, job.skipped, seconds)


@dataclass
class _Batch:
    """Images on their way through the teacher."""

    images: list[LabelledImage] = field(default_factory=list)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)
    recognised: list[LabelledImage] = field(default_factory=list)
    """Images whose content has a label already."""
    skipped: dict[str, str] = field(default_factory=dict)
    answers: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.images) + len(self.recognised) + len(self.skipped)


class _Job:
    """One call of `label_folder`: what is to be done, and what has been."""

    def __init__(self, source: ImageSource, teacher: Teacher, kind: LabelKind, known: Known, listing: Listing) -> None:
        self.source, self.teacher, self.kind, self.known, self.listing = source, teacher, kind, known, listing
        self.skipped = dict(listing.refused)
        self.labelled = self.changed = self.recognised = self.removed = 0

    def run(self, writer: LabelWriter, batch_size: int, workers: int, on_progress: Callable[[int, int], None]) -> None:
        to_do, removed = self.known.compare(self.listing)
        writer.remove(removed)
        self.removed = len(removed)
        total = len(self.listing) + len(self.listing.refused)
        done = total - len(to_do)
        on_progress(done, total)
        read = self.source.images(
            [self.listing.paths[i] for i in to_do],
            self.teacher.size,
            workers=workers,
            resample=self.kind.interpolation,
            wanted=lambda sha256: self.known.row(sha256) is None,
        )
        # Two batches ahead for each worker: none waits for a decoder, and memory stays bounded.
        batches = self._batches(to_do, read, batch_size)
        callers = workers if self.teacher.parallel else 1
        for batch in map_ahead(self._answered, batches, workers=callers, ahead=2 * workers):
            writer.append(batch.images, batch.answers)
            for image in batch.recognised:
                writer.copy(self.known.answer(image.sha256), [image])
            self.labelled += len(batch.images)
            self.changed += sum(image.path in self.known for image in batch.images)
            self.recognised += len(batch.recognised)
            self.skipped.update(batch.skipped)
            done += len(batch)
            on_progress(done, total)
        # An image that can no longer be read has no label either: its last one was of another content.
        writer.remove([path for path in self.skipped if path in self.known and path not in self.listing.refused])

    def _batches(self, to_do: Sequence[int], read: Iterable[ReadImage], batch_size: int) -> Iterator[_Batch]:
        batch = _Batch()
        for i, found in zip(to_do, read, strict=True):
            image = LabelledImage(
                found.path, found.sha256, self.listing.bytes[i], self.listing.modified_ns[i], found.perceptual_hash
            )
            if found.problem is not None:
                batch.skipped[found.path] = found.problem
            elif found.image is None:
                batch.recognised.append(image)
            else:
                batch.images.append(image)
                batch.pixels.append(found.image)
            # Unreadable files count too, so that a folder full of them still shows progress.
            if len(batch) >= batch_size:
                yield batch
                batch = _Batch()
        if len(batch):
            yield batch

    def _answered(self, batch: _Batch) -> _Batch:
        """The batch with the teacher's answers in place of the pixels."""
        if not batch.images:
            return batch
        pixels = np.stack(batch.pixels)
        answers = self.teacher.probabilities(pixels, self.kind.classes)
        if self.kind.tta == "flip":
            mirrored = self.teacher.probabilities(np.ascontiguousarray(pixels[:, :, ::-1]), self.kind.classes)
            answers = np.add(answers, mirrored) * np.float32(0.5)
        usable = np.asarray(np.isfinite(answers).all(axis=1))
        result = _Batch(recognised=batch.recognised, skipped=dict(batch.skipped), answers=answers[usable])
        for image, good in zip(batch.images, usable, strict=True):
            if good:
                result.images.append(image)
            else:
                result.skipped[image.path] = "the teacher's answer to it is not finite"
        return result


def _check_same_images(root: Path, out: Path) -> None:
    """Raises ConfigError for labels of other images, which would all leave the table. A folder may have moved."""
    before = images_of(out)
    if before is not None and before != root.resolve() and before.exists():
        raise ConfigError(f"{out} holds the labels of {before}, not of {root}: choose another folder for these labels")


def _suitable(
    source: ImageSource, listing: Listing, teacher: Teacher, chosen: Sequence[ClassName], out: Path, workers: int
) -> str:
    """The interpolation of the labels there are; where there are none, the one that a sample recommends."""
    if shard_paths(out):
        return LabelTable(out).kind.interpolation
    if not len(listing):
        return DEFAULT
    return compare_interpolations(source, teacher, chosen, workers=workers, listing=listing).recommended()


def _check_settings(root: Path, out: Path, kind: LabelKind, batch_size: int, workers: int) -> None:
    check_options(None, 3, kind.interpolation)
    if batch_size < 1:
        raise ConfigError(f"batch size: expected at least 1 image, got {batch_size}")
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1, got {workers}")
    if kind.tta not in TTA:
        raise ConfigError(f"test-time augmentation: expected {' or '.join(TTA)}, got {kind.tta!r}")
    if kind.top_k is not None and not 1 <= kind.top_k <= len(kind.classes):
        raise ConfigError(f"top k: expected 1 to {len(kind.classes)}, the number of classes, got {kind.top_k}")
    if out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{out} lies inside the folder of images, {root}, which is only read; choose another place")
