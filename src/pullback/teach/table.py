"""Reading the labels in a folder: `LabelTable`. Columns are read when they are asked for, a million rows in a second.

How the folder is written is in `shards.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import ConfigError, DataError
from pullback.teach.selection import Selection
from pullback.teach.shards import Shard, shard_paths

IMAGES = "images.json"
"""The file beside the shards that tells where the images are: {"images": PATH}."""

_BLOCK = 4096
"""Rows whose probabilities are in memory at once: a merged shard has many more."""


class LabelTable:
    """The labels in a folder, one row an image: the last one written, if a file has changed and was labelled again.

    Attributes: `folder`; `kind`, how the labels were made; `images_per_second`, the rate of labelling.

    Columns: `path`, `sha256`, `bytes`, `modified_ns`, `perceptual_hash` (see LabelledImage), `label` (the most probable
    class, counted in `kind.classes`), `class` (its name), `confidence` (its probability), `entropy` (of the answer,
    nats), `probabilities` (or `top_classes` and `top_probabilities`), `teacher`, `teacher_sha256`, `interpolation`.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a table.

        Raises DataError where there is none, a shard is damaged, or the shards are of several kinds.
        """
        self.folder = Path(folder)
        self._shards = [Shard.open(path) for path in shard_paths(self.folder)]
        if not self._shards:
            raise DataError(f"{self.folder} holds no labels: label a folder of images first")
        self.kind = self._shards[0].kind()
        for shard in self._shards:
            # Equal text is the rule, and is compared a thousand times faster than parsed.
            difference = shard.kind_json != self._shards[0].kind_json and shard.kind().difference(self.kind)
            if difference:
                raise DataError(f"{shard.path} has {difference}: keep labels of two kinds in two folders")
        self._written: dict[str, Any] = {}
        self._columns: dict[str, Any] = {}
        self._open_shard: tuple[int, Any] = (-1, None)
        self.images_per_second = sum(s.rows for s in self._shards) / sum(s.seconds for s in self._shards)

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards) if self._kept is None else len(self._kept)

    @property
    def rows(self) -> Any:
        """Every column of every image, as a pyarrow Table. It can be large: prefer `column`."""
        import pyarrow as pa

        names = self._shards[0].footer.schema.to_arrow_schema().names
        return pa.table({name: self.column(name) for name in names})

    def column(self, name: str) -> Any:
        """One column, as a pyarrow ChunkedArray."""
        if name not in self._columns:
            written = self.written(name)
            self._columns[name] = written if self._kept is None else written.take(self._kept)
        return self._columns[name]

    def written(self, name: str) -> Any:
        """One column with every row ever written, also those that a later one replaced or removed."""
        self._read([name])
        return self._written[name]

    def written_row(self, row: int) -> Any:
        """One of all rows ever written, a pyarrow Table of one row. Rows of one shard in turn are quick."""
        ends = np.cumsum([shard.rows for shard in self._shards])
        number = int(np.searchsorted(ends, row, "right"))
        if self._open_shard[0] != number:
            self._open_shard = (number, self._shards[number].read())
        start = int(ends[number]) - self._shards[number].rows
        return self._open_shard[1].slice(row - start, 1)

    @property
    def paths(self) -> list[str]:
        """The images' paths, relative to their folder."""
        return list(self.column("path").to_pylist())

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each image, (N,), counted in `kind.classes`."""
        return np.asarray(self.column("label").to_numpy()).astype(np.int64)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Short names of the classes, told apart by WordNet id or number where two share one, as ImageNet's cranes."""
        count = Counter(c.short for c in self.kind.classes)
        return tuple(c.short if count[c.short] == 1 else f"{c.short} ({c.wnid or c.index})" for c in self.kind.classes)

    @property
    def images(self) -> Path | None:
        """The folder or archive of the images, as it was when they were labelled last; None where that is not known."""
        return images_of(self.folder)

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of the most probable class of each image, (N,)."""
        return np.asarray(self.column("confidence").to_numpy(), np.float32)

    def probabilities(self) -> NDArray[np.float32]:
        """The teacher's answers, (N, K), rows that sum to one; classes that were not kept share the rest evenly."""
        found = np.empty((len(self), len(self.kind.classes)), np.float32)
        for rows, answers in self.answers():
            found[rows] = answers
        return found

    def answers(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The same a few thousand at a time, for tables that do not fit in memory: numbers of rows, and (rows, K)."""
        whole = self.kind.top_k is None
        names = ["probabilities"] if whole else ["top_probabilities", "top_classes"]
        kept = np.arange(len(self)) if self._kept is None else self._kept
        start = 0
        for shard in self._shards:
            end = start + shard.rows
            read = shard.read(names)
            first, last = np.searchsorted(kept, (start, end))
            for rows in np.split(np.arange(first, last), range(_BLOCK, last - first, _BLOCK)):
                few = read.take(kept[rows] - start)
                yield rows, _matrix(few["probabilities"], len(self.kind.classes)) if whole else self._filled(few)
            start = end

    def _filled(self, read: Any) -> NDArray[np.float32]:
        """Rows of the most probable classes as rows of all."""
        kept, count = int(self.kind.top_k or 0), len(self.kind.classes)
        top, index = _matrix(read["top_probabilities"], kept), _matrix(read["top_classes"], kept)
        rest = np.maximum(1 - top.sum(axis=1, keepdims=True), 0) / max(count - kept, 1)
        full = np.repeat(rest.astype(np.float32), count, axis=1)
        np.put_along_axis(full, index.astype(np.int64), top, axis=1)
        return full

    def digests(self) -> NDArray[np.uint64]:
        """The first 64 bits of each image's SHA-256, (N,): a number that only equal contents share."""
        return leading_bits(self.column("sha256"))

    def held_out(self, fraction: float) -> NDArray[np.bool_]:
        """Which images are kept out of training, (N,): about `fraction` of them, decided by each file's content alone.

        Identical files therefore always fall on the same side, and no image changes sides as a folder grows.
        """
        if not 0 <= fraction <= 1:
            raise ConfigError(f"held-out fraction: expected a number from 0 to 1, got {fraction}")
        # The bits of a SHA-256 are uniform.
        return self.digests() / 2.0**64 < fraction

    def selected(self, selection: Selection | None = None) -> NDArray[np.int64]:
        """The row numbers of the images to use, ascending, by `selection` or by the one kept in the table's folder."""
        selection = Selection.read(self.folder) if selection is None else selection
        return selection.rows(self.labels, self.confidences)

    @cached_property
    def _kept(self) -> NDArray[np.int64] | None:
        """Of all rows written those that count, ascending: the last of each path, unless it removes; None for all."""
        import pyarrow.compute as pc

        self._read(["path", "label"])
        paths, label = self._written["path"], self._written["label"]
        if label.null_count == 0 and pc.count_distinct(paths).as_py() == len(paths):
            return None
        number = paths.combine_chunks().dictionary_encode().indices.to_numpy()
        last = np.zeros(int(number.max()) + 1, np.int64)
        last[number] = np.arange(len(number))  # the last of several assignments to one place stays
        gone = np.asarray(pc.is_null(label).to_numpy())
        return np.sort(last[~gone[last]])

    def _read(self, names: Sequence[str]) -> None:
        import pyarrow as pa

        missing = [name for name in names if name not in self._written]
        if missing:
            rows = pa.concat_tables([shard.read(missing) for shard in self._shards])
            self._written.update({name: rows[name] for name in missing})


def images_of(folder: Path) -> Path | None:
    """What the labels in a folder are labels of, if that is known."""
    try:
        return Path(json.loads((folder / IMAGES).read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def leading_bits(sha256: Any) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hexadecimal (a pyarrow array), (N,); 0 where there is none."""
    import pyarrow.compute as pc

    starts = pc.utf8_slice_codeunits(pc.fill_null(sha256, "0" * 64), 0, 16)
    return np.frombuffer(bytes.fromhex("".join(starts.to_pylist())), ">u8").astype(np.uint64)


def _matrix(column: Any, width: int) -> NDArray[Any]:
    return np.asarray(column.combine_chunks().flatten().to_numpy()).reshape(-1, width)
