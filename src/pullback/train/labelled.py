"""The data of a distillation: the images of a folder with the labels that a teacher gave them, split by content.
What it takes to make the same data again is kept in the run folder, in `distill.toml` and `labels/`.
"""

from __future__ import annotations

import math
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray

from pullback import files
from pullback.data import Dataset, Pixels, Splits, cache_images, open_source
from pullback.errors import ConfigError, DataError, RunError
from pullback.teach import ClassName, LabelTable
from pullback.train.config import choose

Targets = Literal["soft", "hard", "both"]

IN_MEMORY = 256 * 1024 * 1024
"""Longer targets, bytes, are kept on disk: those of a million images and a thousand classes are 4 GB."""

_BLOCK = 16 * 1024 * 1024


@dataclass(frozen=True)
class Recipe:
    """How a folder and the labels of its images become data to train on."""

    folder: str
    """The folder of images."""
    targets: Targets = "soft"
    """soft: the teacher's probabilities. hard: its most probable class. both: the mean of the two."""
    temperature: float = 1.0
    """The teacher's probabilities are taken to the power of one over this, and scaled to sum to one: above 1 they say
    more about the classes that are less probable (Hinton, Vinyals and Dean, arXiv:1503.02531)."""
    held_out: float = 0.1
    """Part of the images that is kept out of training to compare the network with its teacher, between 0 and 1."""
    interpolation: str = "bicubic"
    """How images are resized for the teacher and for the network."""

    def __post_init__(self) -> None:
        choose("targets", self.targets, get_args(Targets))
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: expected a number above 0 and below 1, got {self.held_out}.")

        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature: expected a number above 0, got {self.temperature}.")

    def soft(self, answers: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Probabilities to train on, (N, K), of the teacher's answers to images and its most probable classes (N,)."""
        soft = answers
        if self.temperature != 1.0:
            soft = soft ** np.float32(1.0 / self.temperature)
            soft /= soft.sum(axis=1, keepdims=True)
        if self.targets == "both":
            soft = 0.5 * soft
            soft[np.arange(len(soft)), labels] += 0.5
        return soft

    def write(self, run: Path) -> None:
        """Keep the recipe in a run folder."""
        files.replace(run / "distill.toml", tomli_w.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, run: Path) -> Recipe | None:
        """The recipe in a run folder; None where there is none. Raises RunError where it is damaged."""
        path = run / "distill.toml"
        if not path.exists():
            return None
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path} is not a recipe of this version: {error}.") from error


def labels_folder(run: Path) -> Path:
    """Where a run folder keeps the labels."""
    return run / "labels"


@dataclass(frozen=True)
class Labelled:
    """The images of a distillation that could be read, each with its row in the table of labels."""

    table: LabelTable
    rows: NDArray[np.int64]
    """(N,), the row of each image in the table."""
    paths: list[str]
    """The path of each image in its folder."""
    pixels: Pixels
    """(N, H, W, C)."""
    held_out: NDArray[np.bool_]
    """(N,), whether an image is kept out of training."""
    skipped: tuple[tuple[Path, str], ...]
    """Images that could not be read, with the reason."""

    def probabilities(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The teacher's answers to the images at these places, (M, K)."""
        found = np.empty((len(places), len(self.table.kind.classes)), np.float32)
        self.gather(places, found, lambda answers, labels: answers)
        return found

    def gather(
        self,
        places: NDArray[np.int64],
        into: NDArray[np.float32],
        change: Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]],
    ) -> None:
        """Put the answers to the images at these places into an array (M, K), as `change(answers, labels)` has them."""
        where = np.full(len(self.table), -1, np.int64)
        where[self.rows[places]] = np.arange(len(places))
        labels = self.table.labels
        for rows, answers in self.table.answers():
            wanted = where[rows] >= 0
            into[where[rows[wanted]]] = change(answers[wanted], labels[rows[wanted]])


def read_labelled(
    run: Path,
    recipe: Recipe,
    image_size: int | None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Labelled:
    """The labelled images of a run, resized to squares of `image_size` pixels.

    Their pixels are kept in the run's `pixels/`, and read from there. An image that is gone, has changed since it was
    labelled, or can no longer be read, is left out and listed in `skipped`. Raises DataError where images are of
    several sizes and `image_size` is None, or where no image can be read.
    """
    table = LabelTable(labels_folder(run))
    chosen = table.selected()
    paths = table.column("path").take(chosen).to_pylist()
    cached = cache_images(
        open_source(recipe.folder),
        paths,
        table.column("sha256").take(chosen).to_pylist(),
        run / "pixels",
        size=image_size,
        resample=recipe.interpolation,
        workers=workers,
        on_progress=on_progress,
    )
    if cached.pixels is None:
        raise DataError(f"{recipe.folder}: none of its {len(chosen)} labelled images can be read")
    rows = chosen[cached.kept]
    return Labelled(
        table,
        rows,
        [paths[k] for k in cached.kept],
        cached.pixels,
        table.held_out(recipe.held_out)[rows],
        tuple((Path(recipe.folder, path), reason) for path, reason in cached.skipped.items()),
    )


def split_labelled(labelled: Labelled, recipe: Recipe) -> Splits:
    """What a network is trained on, and the held-out images as the test part. Raises DataError where one is empty."""
    names = class_names(labelled.table.kind.classes)

    def part(which: NDArray[np.bool_], what: str) -> Dataset:
        places = np.flatnonzero(which)
        if not len(places):
            raise DataError(
                f"{recipe.folder}: none of its {len(which)} labelled images is {what}, at a held-out part of "
                f"{recipe.held_out:g}: change --held-out, or use more images"
            )
        if recipe.targets == "hard":
            targets: NDArray[Any] = labelled.table.labels[labelled.rows[places]]
        else:
            targets = _room((len(places), len(names)), labelled.table.folder.parent)
            labelled.gather(places, targets, recipe.soft)
        return Dataset(labelled.pixels.take(places), targets, names, Path(recipe.folder).name)

    train, test = part(~labelled.held_out, "for training"), part(labelled.held_out, "held out")
    return Splits(train, test, labelled.skipped)


def _room(shape: tuple[int, int], folder: Path) -> NDArray[np.float32]:
    """An array to fill: in memory, or where that would take much of it, mapped from a file that ends with the process.

    Raises RunError where `folder` has no room for the file.
    """
    count = 4 * shape[0] * shape[1]
    if count <= IN_MEMORY:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, count, _BLOCK):  # written, not just promised: a full disk is an error here, not later
                file.write(bytes(min(_BLOCK, count - start)))
            file.flush()
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise files.cannot_write(folder, error) from error


def class_names(classes: Sequence[ClassName]) -> tuple[str, ...]:
    """Short names, told apart by WordNet id or number where two classes share one, as ImageNet's two cranes do."""
    count = Counter(c.short for c in classes)
    return tuple(c.short if count[c.short] == 1 else f"{c.short} ({c.wnid or c.index})" for c in classes)
