"""A network beside its teacher: on images, and against the truth where that is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.data import Dataset, cache_images, open_source
from pullback.errors import DataError, RunError
from pullback.teach import LabelTable, Teacher, label_folder
from pullback.train.build import normalise
from pullback.train.evaluate import Evaluation, answers, trained_model
from pullback.train.labelled import Recipe, class_names, labels_folder, read_labelled
from pullback.train.run import Run
from pullback.train.truth import true_classes


@dataclass(frozen=True)
class Comparison:
    """A network on images that its teacher has labelled, or whose classes are known."""

    images: int
    """Images looked at."""
    agreement: Evaluation | None
    """The network against the teacher's probabilities; None where the teacher has not seen the images."""
    student: Evaluation | None
    """The network against the truth, on the images of which it is known; None where it is of none."""
    teacher: Evaluation | None
    """The teacher against the truth, on the same images."""
    unknown: int
    """Images of which no true class among the network's classes was given."""
    skipped: dict[str, str]
    """Images that could not be read, with the reason."""
    seconds: float
    """Wall-clock time, seconds."""


def compare(
    run: str | Path,
    folder: str | Path | None = None,
    *,
    truth: Mapping[str, str] | None = None,
    teacher: Teacher | None = None,
    checkpoint: str = "last",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare the network of a distillation with its teacher and with the truth.

    Args:
        run: the run folder.
        folder: images (or an archive of them) to compare on; if None, the run's held-out images.
        truth: class by file (see `read_truth`). If None and `folder` is given, an image's class is the folder in it
            that is named like a class.
        teacher: labels `folder`, which the run's teacher has not seen; the labels are kept in the run.
        checkpoint: `last` or `best`.
        on_progress: called as `on_progress(done, total)` while the teacher labels.

    Raises:
        RunError: the run is no distillation, or cannot be read.
        DataError: the images cannot be read.
    """
    began = time.perf_counter()
    opened = Run.open(run)
    facts = opened.config.facts
    recipe = Recipe.read(Path(opened.config.settings.data))
    if recipe is None:
        raise RunError(f"{run} is no distillation, so that there is no teacher to compare with: `pullback evaluate`")
    home = Path(opened.config.settings.data)
    known = LabelTable(labels_folder(home)).kind.classes
    found = (
        _held_out(home, recipe, opened)
        if folder is None
        else _elsewhere(home, recipe, opened, Path(folder), teacher, on_progress)
    )
    names = class_names(known)
    dataset = Dataset(found.pixels, np.zeros(len(found.paths), np.int64), names, str(folder or run))
    if dataset.image_shape != facts.image_shape:
        raise DataError(f"{dataset.name}: expected images of {facts.image_shape}, got {dataset.image_shape}")
    ours = answers(trained_model(opened, checkpoint), dataset, normalise(facts))
    true = np.full(len(found.paths), -1)
    if truth is not None or folder is not None:
        true = true_classes(found.paths, known, truth)
    there = true >= 0

    def against_truth(given: NDArray[Any] | None) -> Evaluation | None:
        return Evaluation.of(given[there], true[there], names) if given is not None and there.any() else None

    return Comparison(
        images=len(dataset),
        agreement=None if found.teacher is None else Evaluation.of(ours, found.teacher, names),
        student=against_truth(ours),
        teacher=against_truth(found.teacher),
        unknown=int((~there).sum()),
        skipped=found.skipped,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True)
class _Images:
    paths: list[str]
    pixels: Any
    teacher: NDArray[np.float32] | None
    """The teacher's probabilities, (N, K)."""
    skipped: dict[str, str]


def _held_out(home: Path, recipe: Recipe, run: Run) -> _Images:
    """The images that a distillation kept out of training."""
    labelled = read_labelled(home, recipe, run.config.settings.image_size)
    places = np.flatnonzero(labelled.held_out)
    paths = [labelled.paths[k] for k in places]
    skipped = {str(path): reason for path, reason in labelled.skipped}
    return _Images(paths, labelled.pixels.take(places), labelled.probabilities(places), skipped)


def _elsewhere(
    home: Path, recipe: Recipe, run: Run, folder: Path, teacher: Teacher | None, on_progress: Callable[[int, int], None]
) -> _Images:
    """Images of another folder, labelled by the teacher where it is there. What is made is kept in the run."""
    source = open_source(folder.resolve())
    kept = run.folder / "compared" / folder.resolve().name
    answered: dict[str, NDArray[np.float32]] = {}
    if teacher is not None:
        own = LabelTable(labels_folder(home)).kind
        labelling = label_folder(
            source.root,
            teacher,
            kept / "labels",
            classes=[c.index for c in own.classes],
            interpolation=recipe.interpolation,
            on_progress=on_progress,
        )
        table = labelling.labels
        paths, sha256 = table.paths, table.column("sha256").to_pylist()
        answered = dict(zip(paths, table.probabilities(), strict=True))
        skipped = dict(labelling.skipped)
    else:
        listing = source.listing()
        found = list(source.images(listing.paths, wanted=lambda sha256: False))
        skipped = {**listing.refused, **{image.path: image.problem for image in found if image.problem}}
        paths = [image.path for image in found if image.sha256]
        sha256 = [image.sha256 for image in found if image.sha256]
    size = run.config.facts.image_shape[0]
    cached = cache_images(source, paths, sha256, kept / "pixels", size=size, resample=recipe.interpolation)
    if cached.pixels is None:
        raise DataError(f"{folder}: none of its images can be read")
    there = [paths[k] for k in cached.kept]
    probabilities = np.stack([answered[path] for path in there]) if answered else None
    return _Images(there, cached.pixels, probabilities, {**skipped, **cached.skipped})
