"""`pullback encode`: what a layer of a run's network makes of the images in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pullback.cli.options import Options, RunFolder
from pullback.cli.progress import Progress
from pullback.train.encode import Encoded, encode


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Features of images: the output of a layer of a run's network, a row an image.

    Example: pullback encode runs/photos photos --layer mean --out features.parquet
    """

    folder: RunFolder
    """Run folder."""
    images: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images in any tree; or a .zip, a .tar or an .npz file of them."""
    layer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The layer, by its path, such as mean or level2.relu1; always needed."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "features.parquet"
    """File to write, .parquet or .npz: path, and features (N, D) float32."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to use."""

    def run(self) -> int:
        with Progress("encoding", "images", quiet=self.json) as progress:
            result = encode(
                self.folder, self.images, self.layer or "", self.out, checkpoint=self.checkpoint, on_progress=progress
            )
        self.show(result, _text(result))
        return 0


def _text(result: Encoded) -> str:
    skipped = f", {len(result.skipped):,} skipped" if result.skipped else ""
    return f"{result.path}  {result.images:,} images, {result.features:,} features of {result.layer}{skipped}"
