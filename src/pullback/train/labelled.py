"""The data of a distillation: the images of a folder with the labels that a teacher gave them, split by content.
What it takes to make the same data again is kept in the run folder, in `distill.toml` and `labels/`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray

from pullback.data import Dataset, Splits, read_images
from pullback.errors import ConfigError, DataError, RunError
from pullback.files import replace
from pullback.teach import ClassName, LabelTable
from pullback.train.config import choose

Targets = Literal["soft", "hard"]


@dataclass(frozen=True)
class Recipe:
    """How a folder and the labels of its images become data to train on."""

    folder: str
    """The folder of images."""
    targets: Targets = "soft"
    """soft: the teacher's probabilities. hard: its most probable class."""
    held_out: float = 0.1
    """Part of the images that is kept out of training to compare the network with its teacher, between 0 and 1."""
    interpolation: str = "bicubic"
    """How images are resized for the teacher and for the network."""

    def __post_init__(self) -> None:
        choose("targets", self.targets, get_args(Targets))
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: expected a number above 0 and below 1, got {self.held_out}.")

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


def load_labelled(run: Path, recipe: Recipe, image_size: int | None) -> Splits:
    """The labelled images of a run, resized to squares of `image_size` pixels; the held-out ones are the test part.

    An image that is gone, or can no longer be read, is left out and listed in `skipped`. Raises DataError where images
    are of several sizes and `image_size` is None, or where one of the parts is empty.
    """
    table = LabelTable(labels_folder(run))
    targets = table.probabilities() if recipe.targets == "soft" else table.labels
    held_out = table.held_out(recipe.held_out)
    names = class_names(table.kind.classes)
    skipped: list[tuple[Path, str]] = []

    def part(chosen: NDArray[np.bool_], what: str) -> Dataset:
        rows = np.flatnonzero(chosen)
        paths = [Path(recipe.folder, table.paths[row]) for row in rows]
        images, kept = _read(paths, image_size, recipe.interpolation, skipped)
        if images is None:
            raise DataError(
                f"{recipe.folder}: none of its {len(table)} labelled images is {what}, at a held-out part of "
                f"{recipe.held_out:g}: change --held-out, or use more images"
            )
        return Dataset(images, targets[rows[kept]], names, Path(recipe.folder).name)

    train = part(~held_out, "for training")
    test = part(held_out, "held out")
    return Splits(train, test, tuple(skipped))


def class_names(classes: Sequence[ClassName]) -> tuple[str, ...]:
    """Short names, told apart by WordNet id or number where two classes share one, as ImageNet's two cranes do."""
    count = Counter(c.short for c in classes)
    return tuple(c.short if count[c.short] == 1 else f"{c.short} ({c.wnid or c.index})" for c in classes)


def _read(
    paths: list[Path], image_size: int | None, interpolation: str, skipped: list[tuple[Path, str]]
) -> tuple[NDArray[np.uint8] | None, NDArray[np.int64]]:
    """The images that can be read, in one array (None where there are none), and their positions in `paths`."""
    size = None if image_size is None else (image_size, image_size)
    images: NDArray[Any] | None = None
    kept: list[int] = []
    for position, (path, image) in enumerate(read_images(paths, size, resample=interpolation)):
        if isinstance(image, DataError):
            skipped.append((path, str(image)))
            continue
        if images is None:
            images = np.empty((len(paths), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise DataError(
                f"{path} is of another size than the images before it: give --image-size to resize them all"
            )
        images[len(kept)] = image
        kept.append(position)
    return None if images is None else images[: len(kept)], np.array(kept, np.int64)
