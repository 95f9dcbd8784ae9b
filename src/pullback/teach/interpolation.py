"""Which way of resizing suits a teacher and a folder: the same images by every method, and what the teacher answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pullback.data.parallel import map_ahead
from pullback.data.source import ImageSource, Listing
from pullback.errors import DataError
from pullback.teach.classes import ClassName
from pullback.teach.teacher import Teacher

METHODS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

DEFAULT = "bicubic"
"""Recommended where no other method is clearly better."""

_BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """What a teacher answers to the same N images, resized by each of M methods."""

    methods: tuple[str, ...]
    paths: list[str]
    """The N images."""
    images: NDArray[np.uint8]
    """(M, N, H, W, 3), of the teacher's size."""
    probabilities: NDArray[np.float32]
    """(M, N, K)."""
    skipped: dict[str, str]
    """Images of the sample that could not be read, with reasons."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class, (M, N)."""
        return np.asarray(self.probabilities.argmax(axis=2))

    @property
    def confidences(self) -> NDArray[np.float32]:
        """Its probability, (M, N)."""
        return np.asarray(self.probabilities.max(axis=2))

    @property
    def agreement(self) -> NDArray[np.float64]:
        """The part of the images that two methods put into the same class, (M, M)."""
        return np.asarray((self.labels[:, None] == self.labels[None]).mean(axis=2))

    @property
    def consensus(self) -> NDArray[np.int64]:
        """The most probable class of the mean of all methods' answers, (N,)."""
        return np.asarray(self.probabilities.mean(axis=0).argmax(axis=1))

    @property
    def support(self) -> NDArray[np.float32]:
        """The probability that each method gives to the consensus, (M, N)."""
        return self.probabilities[:, np.arange(len(self.paths)), self.consensus]

    def recommended(self) -> str:
        """The method that supports the consensus most; bicubic, unless that is less by two standard errors.

        The consensus stands in for the truth, which nobody knows here: errors that one way of resizing makes are
        mostly not those of another.
        """
        mean = self.support.mean(axis=1)
        best, default = int(mean.argmax()), self.methods.index(DEFAULT)
        lead = self.support[best] - self.support[default]
        error = lead.std() / np.sqrt(len(lead))
        return DEFAULT if lead.mean() <= 2 * error else self.methods[best]


def compare_interpolations(
    source: ImageSource,
    teacher: Teacher,
    classes: Sequence[ClassName],
    *,
    sample: int = 64,
    workers: int = 1,
    listing: Listing | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Resize a sample of the images by every method, and ask the teacher.

    Args:
        source: the images; the sample is spread evenly over their listing.
        teacher, classes: who answers, and among what.
        sample: number of images.
        workers: threads that run the teacher, and threads that decode.
        listing: of the source, if there is one already.
        on_progress: called as `on_progress(done, total)`, in answers.

    Raises DataError where the source has no image that can be read.
    """
    listing = source.listing() if listing is None else listing
    if not len(listing):
        raise DataError(f"no images in {source.root}")
    chosen = [listing.paths[i] for i in np.unique(np.linspace(0, len(listing) - 1, sample).astype(int))]
    total, done = len(chosen) * len(METHODS), 0
    resized = []
    skipped: dict[str, str] = {}
    for method in METHODS:
        read = list(source.images(chosen, teacher.size, workers=workers, resample=method))
        skipped |= {found.path: found.problem for found in read if found.problem is not None}
        resized.append([found.image for found in read if found.image is not None])
    if not resized[0]:
        path, reason = next(iter(skipped.items()))
        raise DataError(f"{source.root}: no image of the sample can be read; the first, {path}: {reason}")
    images = np.array(resized)
    flat = images.reshape(-1, *images.shape[2:])
    answers = []
    starts = range(0, len(flat), _BATCH)

    def answer(start: int) -> NDArray[np.float32]:
        return teacher.probabilities(flat[start : start + _BATCH], classes)

    for part in map_ahead(answer, starts, workers=workers if teacher.parallel else 1, ahead=2 * workers):
        answers.append(part)
        done += len(part)
        if on_progress is not None:
            on_progress(done, total)
    probabilities = np.concatenate(answers).reshape(*images.shape[:2], -1)
    return Comparison(METHODS, [p for p in chosen if p not in skipped], images, probabilities, skipped)
