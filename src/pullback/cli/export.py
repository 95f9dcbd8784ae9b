"""`pullback export`: a run's network as a file for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pullback.cli.options import Options, RunFolder
from pullback.train.export import Export, export


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Write a run's network for use elsewhere. What was written is read again and compared on real images.

    Example: pullback export runs/photos --format onnx
    """

    folder: RunFolder
    """Run folder."""
    format: Literal["onnx", "safetensors", "keras"] = "onnx"
    """onnx and keras: from pixels (float32, 0 to 255, channels last) to logits. safetensors: the arrays alone."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; where not given, network.FORMAT in the run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to export."""

    def run(self) -> int:
        result = export(self.folder, self.out, self.format, self.checkpoint)
        self.show(result, _text(result))
        return 0


def _text(result: Export) -> str:
    return (
        f"{result.path}  {result.bytes:,} bytes\n"
        f"read again, it differs by {result.largest_difference:.1e} of the largest logit on {result.images} images"
    )
