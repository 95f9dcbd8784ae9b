"""`pullback predict`: the class of image files, according to a run's network."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from pullback.cli.options import Options, RunFolder
from pullback.cli.terminal import one_line, visible
from pullback.data import read_images
from pullback.errors import ConfigError, DataError
from pullback.train import Run, predict


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """The class of image files, according to a run's network. They are resized to the size of the training images."""

    folder: RunFolder
    """Run folder."""
    images: Annotated[list[str], tyro.conf.arg(metavar="IMAGE...")]
    """Image files: PNG, JPEG, WebP, BMP, GIF or TIFF."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to use."""

    def run(self) -> int:
        """Exit code 2 where a file could not be read; the others are predicted all the same."""
        if not self.images:
            raise ConfigError("no image given: expected `pullback predict RUN IMAGE...`.")
        height, width, channels = Run.open(self.folder).config.facts.image_shape
        read = list(read_images(self.images, (height, width), channels=channels))
        good = [image for _, image in read if not isinstance(image, DataError)]
        predictions = iter(predict(self.folder, np.stack(good), self.checkpoint) if good else [])
        records: list[dict[str, Any]] = []
        for path, image in read:
            outcome = {"error": str(image)} if isinstance(image, DataError) else asdict(next(predictions))
            records.append({"image": str(path), **outcome})
        for record in records:
            if "error" in record:
                print(f"error: {visible(record['error'])}", file=sys.stderr)
        self.show(records, _text([record for record in records if "error" not in record]))
        return 2 if len(good) < len(read) else 0


def _text(records: list[dict[str, Any]]) -> str:
    names = [one_line(Path(record["image"]).name) for record in records]
    width = max(map(len, names), default=0)
    lines = []
    for name, record in zip(names, records, strict=True):
        others = ", ".join(f"{other} {probability:.1%}" for other, probability in list(record["top"].items())[1:3])
        lines.append(f"{name:{width}}  {record['label']}  {record['probability']:.1%}  (then {others})")
    return "\n".join(lines)
