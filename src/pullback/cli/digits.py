"""`pullback digits`: handwritten digits as image files, to try things on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pullback.cli.options import Options
from pullback.data.digits import write_digits


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Write handwritten digits as image files without labels, and their true classes beside them. Needs no network.

    Example: pullback digits digits && pullback distill digits/images --teacher digits --image-size 8
    """

    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder to make: images/ and truth.csv."""

    def run(self) -> int:
        images, truth = write_digits(Path(self.folder))
        count = sum(1 for _ in images.glob("*.png"))
        self.show({"images": str(images), "truth": str(truth), "count": count}, _text(images, truth, count))
        return 0


def _text(images: Path, truth: Path, count: int) -> str:
    folder = shlex.quote(str(images))
    return (
        f"{count:,} images in {images}, their true classes in {truth}\n\n"
        f"Next:\n  pullback distill {folder} --teacher digits --image-size 8"
    )
