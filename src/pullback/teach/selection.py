"""Which of a table's labels to use: `Selection`, kept beside the labels. All labels stay in the table."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.errors import ConfigError, DataError

FILE = "selection.toml"


@dataclass(frozen=True)
class Selection:
    """Which labels to use. It changes no label, and can be changed at any time."""

    min_confidence: float = 0.0
    """Leave out images whose most probable class has a lower probability."""
    max_per_class: int | None = None
    """Of each class use only so many images, the most certain ones; None: all."""
    balance: bool = False
    """Use equally many images of each class that has any: as many as the smallest has."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min confidence: expected a number from 0 to 1, got {self.min_confidence}")
        if self.max_per_class is not None and self.max_per_class < 1:
            raise ConfigError(f"max per class: expected at least 1 image, got {self.max_per_class}")

    def rows(self, labels: NDArray[np.int64], confidences: NDArray[np.float32]) -> NDArray[np.int64]:
        """The positions of the images to use, ascending, of images with these labels (N,) and confidences (N,)."""
        rows = np.flatnonzero(confidences >= np.float32(self.min_confidence))
        if not len(rows) or (self.max_per_class is None and not self.balance):
            return rows
        counts = np.bincount(labels[rows])
        limits = [counts[counts > 0].min()] if self.balance else []
        limits += [self.max_per_class] if self.max_per_class is not None else []
        # By class, within it by falling confidence; lexsort is stable, so that ties keep the order of the table.
        order = rows[np.lexsort((-confidences[rows], labels[rows]))]
        starts = np.concatenate([[0], np.cumsum(counts)])[labels[order]]
        return np.sort(order[np.arange(len(order)) - starts < min(limits)])

    def write(self, folder: Path) -> None:
        """Keep the selection beside the labels in a folder."""
        import tomli_w

        given = {name: value for name, value in asdict(self).items() if value is not None}
        files.replace(folder / FILE, tomli_w.dumps(given).encode())

    @classmethod
    def read(cls, folder: Path) -> Selection:
        """The selection beside the labels; all images where there is none. Raises DataError if it is damaged."""
        path = folder / FILE
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} is not a selection of labels ({error}): mend it, or delete it to use all"
            ) from None
