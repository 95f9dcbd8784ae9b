"""What a layer of a trained network makes of images: features, for search, clustering or another classifier."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.data import open_source
from pullback.errors import ConfigError, DataError
from pullback.nn.module import watching
from pullback.train.build import normalise
from pullback.train.evaluate import BATCH, trained_model
from pullback.train.labelled import Recipe
from pullback.train.run import Run


@dataclass(frozen=True)
class Encoded:
    """Features that were written."""

    path: str
    """The file."""
    layer: str
    """The layer whose output they are."""
    images: int
    """Images encoded."""
    features: int
    """Numbers for each image."""
    skipped: dict[str, str]
    """Images that could not be read, with the reason."""


def encode(
    run: str | Path,
    folder: str | Path,
    layer: str,
    out: str | Path,
    *,
    checkpoint: str = "last",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Write the output of `layer` for each image of a folder or archive, flattened, to a .parquet or .npz file.

    The file has the columns (or arrays) `path` and `features` (N, D), float32.

    Raises ConfigError where there is no such layer, or the file is of another kind; DataError where no image can be
    read.
    """
    path = Path(out)
    if path.suffix not in (".parquet", ".npz"):
        raise ConfigError(f"{path}: expected a file that ends in .parquet or .npz")
    opened = Run.open(run)
    model = trained_model(opened, checkpoint).eval()
    modules = dict(model.modules())
    if layer not in modules:
        raise ConfigError(f"the network has no layer {layer!r}; it has {', '.join(filter(None, modules))}")
    source, skipped = open_source(folder), {}
    listing = source.listing()
    skipped.update(listing.refused)
    paths: list[str] = []
    features: list[NDArray[np.float32]] = []
    for names, images in _batches(opened, source, listing.paths, skipped):
        paths += names
        features.append(_output(model, modules[layer], normalise(opened.config.facts)(images)))
        on_progress(len(paths) + len(skipped), len(listing) + len(listing.refused))
    if not paths:
        raise DataError(f"{folder}: none of its images can be read")
    found = np.concatenate(features)
    files.replace(path, (_parquet if path.suffix == ".parquet" else _npz)(paths, found))
    return Encoded(str(path), layer, len(paths), found.shape[1], skipped)


def _batches(run: Run, source: Any, paths: list[str], skipped: dict[str, str]) -> Iterator[tuple[list[str], Any]]:
    """Images of the network's size, some at a time; those that cannot be read go to `skipped`."""
    height, width, channels = run.config.facts.image_shape
    recipe = Recipe.read(Path(run.config.settings.data))
    resample = recipe.interpolation if recipe is not None else "bicubic"
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    for image in source.images(paths, (height, width), channels=channels, resample=resample):
        if image.image is None:
            skipped[image.path] = image.problem or "cannot be read"
            continue
        names.append(image.path)
        images.append(image.image)
        if len(images) == BATCH:
            yield names, np.stack(images)
            names, images = [], []
    if images:
        yield names, np.stack(images)


def _output(model: Any, layer: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the layer gives while the network runs, a row an image."""
    seen: list[Any] = []

    def note(module: Any, outputs: Any) -> None:
        if module is layer:
            seen.append(np.asarray(outputs))

    with watching(note):
        model(images)
    return np.ascontiguousarray(seen[-1].reshape(len(images), -1), np.float32)


def _parquet(paths: list[str], features: NDArray[np.float32]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": paths, "features": rows}), buffer)
    return buffer.getvalue()


def _npz(paths: list[str], features: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, path=np.array(paths, str), features=features)
    return buffer.getvalue()
