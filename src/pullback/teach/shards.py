"""The files of a label table: Parquet shards that are only ever added whole, and merged as they grow many.

A later row of the same path replaces an earlier one, and a row without a label says that the image is gone.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.errors import DataError
from pullback.teach.kind import LabelKind

KIND, SECONDS = b"pullback.kind", b"pullback.seconds"
"""Keys of a shard's metadata: how its labels were made, and how long that took."""

MERGE = 16
"""So many shards in a row become one, and so many of those again: a table of any length has few files."""

MERGED_BYTES = 64 * 1024 * 1024
"""What merging makes is never longer, so that its memory stays bounded."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image as it was when it was labelled."""

    path: str
    """Relative to the folder or archive of images, with forward slashes."""
    sha256: str
    bytes: int
    modified_ns: int
    perceptual_hash: int = 0
    """64 bits that differ little between images that look alike."""


@dataclass(frozen=True, order=True)
class Place:
    """A shard's file by its name: `part-00007.parquet`, or `part-00000-00015.parquet` for several merged into one."""

    first: int
    last: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> Place:
        """Raises DataError where the name is not that of a shard."""
        numbers = re.fullmatch(r"part-(\d+)(?:-(\d+))?\.parquet", path.name)
        if numbers is None:
            raise DataError(f"{path} is not a shard of a label table: remove it from the folder")
        return cls(int(numbers[1]), int(numbers[2] or numbers[1]), path)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a table, in the order in which they were written."""
    return [place.path for place in shard_places(folder)[0]]


def shard_places(folder: Path) -> tuple[list[Place], list[Place]]:
    """The shards in order, and those that are left over from a merge which was killed before it had removed them."""
    places = sorted((Place.of(path) for path in folder.glob("part-*.parquet")), key=lambda p: (p.first, -p.last))
    kept: list[Place] = []
    left_over: list[Place] = []
    for place in places:
        (left_over if kept and place.last <= kept[-1].last else kept).append(place)
    return kept, left_over


@dataclass(frozen=True)
class Shard:
    """One file of a table, and what its metadata say; the rows are read column by column."""

    path: Path
    kind_json: bytes
    seconds: float
    rows: int
    footer: Any

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Raises DataError where the file is damaged or none of ours."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            footer = pq.read_metadata(path)
            metadata = footer.metadata
            return cls(path, metadata[KIND], float(metadata[SECONDS]), footer.num_rows, footer)
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
            raise _damaged(path) from None

    def kind(self) -> LabelKind:
        """How its labels were made."""
        try:
            return LabelKind.from_json(self.kind_json)
        except (ValueError, TypeError, KeyError):
            raise _damaged(self.path) from None

    def read(self, columns: Sequence[str] | None = None) -> Any:
        """Some of its columns, or all, as a pyarrow Table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # A plain file, not a data set: pyarrow would otherwise read meaning into the names of the folders.
            with pq.ParquetFile(self.path, metadata=self.footer) as file:
                rows = file.read(columns=None if columns is None else list(columns))
        except FileNotFoundError:
            raise DataError(f"{self.path} is gone: the table was added to meanwhile; open it again") from None
        except (pa.ArrowException, OSError, ValueError, KeyError):
            raise _damaged(self.path) from None
        return rows.replace_schema_metadata(None)


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged, or was not written by this version: delete it, and its images are labelled again"
    )


class LabelWriter:
    """Appends to the table in a folder, a shard at a time: after so many rows or seconds, and as the block ends.

    A kill loses the rows since the last shard, and never damages one.
    """

    def __init__(self, folder: Path, kind: LabelKind, shard_rows: int, shard_seconds: float) -> None:
        self.folder = files.make_folder(folder)
        self.kind = kind
        self.shard_rows = shard_rows
        self.shard_seconds = shard_seconds
        places, left_over = shard_places(folder)
        for place in left_over:
            place.path.unlink(missing_ok=True)
        self._next = max((place.last for place in places), default=-1) + 1
        self._pending: list[Any] = []
        self._gathered = 0
        self._since = time.monotonic()

    def __enter__(self) -> LabelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def append(self, images: Sequence[LabelledImage], probabilities: NDArray[np.float32]) -> None:
        """Add one row for each image, with its probabilities (N, K)."""
        if not images:
            return
        # Made into columns a shard at a time: many small steps would take the interpreter from those that decode.
        if not (self._pending and isinstance(self._pending[-1], _Rows)):
            self._pending.append(_Rows())
        self._pending[-1].images.extend(images)
        self._pending[-1].probabilities.append(probabilities)
        self._added(len(images))

    def copy(self, rows: Any, images: Sequence[LabelledImage]) -> None:
        """Add the answers in `rows`, of the same contents, for images at other paths or of other times."""
        for name in ("path", "bytes", "modified_ns"):
            values = [getattr(image, name) for image in images]
            field = rows.schema.field(name)
            rows = rows.set_column(rows.schema.get_field_index(name), field, [_array(values, field.type)])
        self._pending.append(rows)
        self._added(len(images))

    def remove(self, paths: Sequence[str]) -> None:
        """Say of images that they are gone."""
        import pyarrow as pa

        if not paths:
            return
        columns = [_array(paths, f.type) if f.name == "path" else pa.nulls(len(paths), f.type) for f in self._schema]
        self._pending.append(pa.table(columns, schema=self._schema))
        self._added(len(paths))

    def flush(self) -> None:
        """Write what has gathered as a shard."""
        import pyarrow as pa

        if not self._pending:
            return
        now = time.monotonic()
        rows = pa.concat_tables([p.to_arrow(self.kind) if isinstance(p, _Rows) else p for p in self._pending])
        _write(self.folder / f"part-{self._next:05d}.parquet", rows, self.kind, now - self._since)
        self._next += 1
        self._pending, self._gathered = [], 0
        self._since = now
        self._merge()

    @property
    def _schema(self) -> Any:
        return _to_arrow(self.kind, [], np.empty((0, len(self.kind.classes)), np.float32)).schema

    def _added(self, rows: int) -> None:
        self._gathered += rows
        if self._gathered >= self.shard_rows or time.monotonic() - self._since >= self.shard_seconds:
            self.flush()

    def _merge(self) -> None:
        """Make one shard of the last 16 if their numbers fill a group, and one of 16 such groups."""
        width = MERGE
        while self._next % width == 0:
            first = self._next - width
            group = [place for place in shard_places(self.folder)[0] if place.first >= first]
            if len(group) < 2 or sum(place.path.stat().st_size for place in group) > MERGED_BYTES:
                return
            merge_shards(self.folder, group)
            width *= MERGE


@dataclass
class _Rows:
    """Labelled images that are not columns yet."""

    images: list[LabelledImage] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)

    def to_arrow(self, kind: LabelKind) -> Any:
        return _to_arrow(kind, self.images, np.concatenate(self.probabilities))


def merge_shards(folder: Path, group: Sequence[Place]) -> None:
    """Put the rows of several shards in a row into one. At every instant the table holds each row once."""
    import pyarrow as pa

    shards = [Shard.open(place.path) for place in group]
    rows = pa.concat_tables([shard.read() for shard in shards])
    target = folder / f"part-{group[0].first:05d}-{group[-1].last:05d}.parquet"
    _write(target, rows, shards[0].kind(), sum(shard.seconds for shard in shards))
    for place in group:
        with suppress(FileNotFoundError):
            place.path.unlink()


def _write(path: Path, rows: Any, kind: LabelKind, seconds: float) -> None:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    table = rows.combine_chunks().replace_schema_metadata({KIND: kind.to_json(), SECONDS: repr(seconds)})
    pq.write_table(table, content, compression="zstd")
    files.replace(path, content.getvalue())


def _to_arrow(kind: LabelKind, images: Sequence[LabelledImage], probabilities: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    label = probabilities.argmax(axis=1)
    # 0 log 0 is 0; the smallest positive float32 keeps the logarithm finite there.
    logarithm = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    columns = {
        "path": _array([image.path for image in images], pa.string()),
        "sha256": _array([image.sha256 for image in images], pa.string()),
        "bytes": _array([image.bytes for image in images], pa.int64()),
        "modified_ns": _array([image.modified_ns for image in images], pa.int64()),
        "perceptual_hash": _array([image.perceptual_hash for image in images], pa.uint64()),
        "label": _array(label, pa.int32()),
        "class": _array([kind.classes[i].short for i in label], pa.string()),
        "confidence": pa.array(probabilities.max(axis=1, initial=0)),
        "entropy": pa.array(-(probabilities * logarithm).sum(axis=1)),
    }
    if kind.top_k is None:
        columns["probabilities"] = _list_array(probabilities)
    else:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, : kind.top_k]
        columns["top_classes"] = _list_array(top.astype(np.int32))
        columns["top_probabilities"] = _list_array(np.take_along_axis(probabilities, top, axis=1))
    for name in ("teacher", "teacher_sha256", "interpolation"):
        columns[name] = _array([getattr(kind, name)] * len(images), pa.string())
    return pa.table(columns)


def _array(values: Any, kind: Any) -> Any:
    import pyarrow as pa

    return pa.array(values, kind)


def _list_array(matrix: NDArray[Any]) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])
