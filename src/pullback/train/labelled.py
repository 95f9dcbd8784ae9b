"""The data of a distillation: the images of a folder with the labels that a teacher gave them, split by content.
What it takes to make the same data again is kept in the run folder, in `distill.toml` and `labels/`.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray

from pullback.data import Dataset, Pixels, Splits, cache_images, open_source
from pullback.errors import ConfigError, DataError, RunError
from pullback.files import replace
from pullback.teach import ClassName, LabelTable
from pullback.train.config import choose

Targets = Literal["soft", "hard", "both"]


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

    def targets_of(self, table: LabelTable) -> NDArray[Any]:
        """What to train on for each image of a table: probabilities (N, K), or numbers of classes (N,)."""
        if self.targets == "hard":
            return table.labels
        soft = table.probabilities()
        if self.temperature != 1.0:
            soft = soft ** np.float32(1.0 / self.temperature)
            soft /= soft.sum(axis=1, keepdims=True)
        if self.targets == "both":
            soft = 0.5 * soft
            soft[np.arange(len(soft)), table.labels] += 0.5
        return soft

    def write(self, run: Path) -> None:
        """Keep the recipe in a run folder."""
        replace(run / "distill.toml", tomli_w.dumps(asdict(self)).encode())

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

    def probabilities(self) -> NDArray[np.float32]:
        """The teacher's answers, (N, K)."""
        return self.table.probabilities()[self.rows]


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
    targets = recipe.targets_of(labelled.table)[labelled.rows]
    names = class_names(labelled.table.kind.classes)

    def part(which: NDArray[np.bool_], what: str) -> Dataset:
        places = np.flatnonzero(which)
        if not len(places):
            raise DataError(
                f"{recipe.folder}: none of its {len(which)} labelled images is {what}, at a held-out part of "
                f"{recipe.held_out:g}: change --held-out, or use more images"
            )
        return Dataset(labelled.pixels.take(places), targets[places], names, Path(recipe.folder).name)

    train, test = part(~labelled.held_out, "for training"), part(labelled.held_out, "held out")
    return Splits(train, test, labelled.skipped)


def class_names(classes: Sequence[ClassName]) -> tuple[str, ...]:
    """Short names, told apart by WordNet id or number where two classes share one, as ImageNet's two cranes do."""
    count = Counter(c.short for c in classes)
    return tuple(c.short if count[c.short] == 1 else f"{c.short} ({c.wnid or c.index})" for c in classes)
