"""Labels in the forms that other tools read: folders by class, and CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.data.source import FolderImages, open_source
from pullback.errors import ConfigError, DataError
from pullback.teach.table import LabelTable


def export_folders(
    table: LabelTable,
    rows: NDArray[np.int64],
    images: Path,
    out: Path,
    how: Literal["links", "copies"] = "links",
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make `out/CLASS/PATH` for each of these rows of the table, a link to the image or a copy. Returns their number.

    The class folders are named by WordNet id where there is one, otherwise by name; `out/classes.json` tells the names.
    Images of an archive are copied. Files that are there already are left as they are.

    Raises ConfigError where `out` lies inside `images` or links are asked of an archive, DataError where an image
    cannot be read, RunError where a file cannot be written.
    """
    source = open_source(images)
    if out.resolve().is_relative_to(images.resolve()):
        raise ConfigError(f"{out} lies inside the folder of images, {images}, which is only read; choose another place")
    if how == "links" and not isinstance(source, FolderImages):
        raise ConfigError(f"{images} is an archive, to whose images there can be no links: export copies")
    folders = [c.wnid or _file_name(c.short) for c in table.kind.classes]
    files.make_folder(out)
    names = {c.wnid or _file_name(c.short): c.name for c in table.kind.classes}
    files.replace(out / "classes.json", json.dumps(names, indent=1, ensure_ascii=False).encode())
    ordered = source.ordered(table.column("path").take(rows).to_pylist())
    label = dict(zip(table.column("path").to_pylist(), table.labels.tolist(), strict=True))
    for done, (path, read) in enumerate(zip(ordered, source.contents(ordered), strict=True), 1):
        target = _below(out / folders[label[path]], path)
        try:
            if not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                if how == "links":
                    target.symlink_to((images / path).resolve())
                else:
                    content = read()
                    files.replace(target, content if isinstance(content, bytes) else _png(content))
        except DataError as error:
            raise DataError(f"{images / path}: {error}") from None
        except OSError as error:
            raise files.cannot_write(target, error) from None
        if on_progress is not None:
            on_progress(done, len(ordered))
    return len(ordered)


def export_csv(table: LabelTable, rows: NDArray[np.int64], out: Path, probabilities: bool = False) -> int:
    """Write these rows of the table as CSV: file, class, WordNet id, confidence, entropy. Returns their number.

    With `probabilities`, a column for each class follows. Raises RunError where the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = table.class_names
    writer.writerow(["file", "class", "wnid", "confidence", "entropy", *(names if probabilities else ())])
    labels, confidences = table.labels[rows], table.confidences[rows]
    entropies = table.column("entropy").take(rows).to_pylist()
    soft = table.probabilities()[rows] if probabilities else None
    for i, path in enumerate(table.column("path").take(rows).to_pylist()):
        wnid = table.kind.classes[labels[i]].wnid or ""
        row = [path, names[labels[i]], wnid, f"{confidences[i]:.6g}", f"{entropies[i]:.6g}"]
        writer.writerow(row if soft is None else [*row, *(f"{p:.6g}" for p in soft[i])])
    files.make_folder(out.parent)
    files.replace(out, text.getvalue().encode())
    return len(rows)


def _file_name(name: str) -> str:
    """A class's name as that of a folder, on any system."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", name).strip(" .") or "_"


def _below(folder: Path, path: str) -> Path:
    """The place of a path below a folder; a row of an .npz file becomes a PNG file.

    An archive may name any path: empty parts, which would make it absolute, and parts that lead out, are left out.
    """
    target = folder.joinpath(*(part for part in path.split("/") if part not in ("", ".", "..")))
    return target if target.suffix else target.with_name(f"{target.name}.png")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
