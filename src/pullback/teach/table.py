"""The label table: a folder of Parquet shards, one row for each image, that only ever grows by whole shards.

Every shard carries in its metadata how its labels were made, so that labels of two kinds are never mixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.errors import ConfigError, DataError
from pullback.teach.classes import ClassName
from pullback.teach.teacher import Teacher

FORMAT = "pullback-labels-1"

KIND, SECONDS = b"pullback.kind", b"pullback.seconds"
"""Keys of a shard's metadata: how its labels were made, and how long that took."""


@dataclass(frozen=True)
class LabelKind:
    """How the labels of a table were made. Tables of different kinds must not be mixed."""

    teacher: str
    teacher_sha256: str
    preprocessing: dict[str, Any]
    classes: tuple[ClassName, ...]
    """The classes that the probabilities are over, in order; `label` counts them from 0."""
    interpolation: str
    top_k: int | None
    """How many probabilities are kept for each image; None for all."""

    @classmethod
    def of(cls, teacher: Teacher, classes: Sequence[ClassName], interpolation: str, top_k: int | None) -> LabelKind:
        """The kind of label that this teacher gives with these settings."""
        spec = asdict(teacher.spec)
        preprocessing = {
            name: spec[name] for name in ("size", "layout", "scale", "mean", "std", "output", "background")
        }
        # As JSON gives it back, so that a stored kind compares equal.
        plain = json.loads(json.dumps(preprocessing))
        return cls(str(teacher.spec.name), teacher.sha256, plain, tuple(classes), interpolation, top_k)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: bytes | str) -> LabelKind:
        fields = dict(json.loads(text))
        if fields.pop("format") != FORMAT:
            raise ValueError
        return cls(**fields | {"classes": tuple(ClassName(**c) for c in fields["classes"])})

    def difference(self, other: LabelKind) -> str | None:
        """The first setting that is not the same, in words; None where the kinds agree."""
        if self.classes != other.classes:
            return f"{_listed(self.classes)} instead of {_listed(other.classes)}"
        for name, ours in asdict(self).items():
            theirs = asdict(other)[name]
            if ours != theirs:
                return f"{name} {ours} instead of {theirs}"
        return None


@dataclass(frozen=True)
class ImageFile:
    """An image file as it was when it was labelled."""

    path: str
    """Relative to the folder of images, with forward slashes."""
    bytes: int
    modified_ns: int
    """Time of the last change, nanoseconds since 1970."""
    sha256: str = ""
    """SHA-256 of the file's content in hexadecimal; empty until `hashed`."""

    @classmethod
    def at(cls, folder: Path, path: str) -> ImageFile:
        """The file `folder/path`, not hashed. Raises OSError."""
        status = (folder / path).stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def hashed(self, folder: Path) -> ImageFile:
        """The same file with the hash of its content. Raises OSError."""
        with (folder / self.path).open("rb") as stream:
            return replace(self, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


class LabelTable:
    """The labels in a folder, one row an image: the last one written, if a file has changed and was labelled again.

    Attributes: `folder`; `kind`, how the labels were made; `rows`, the pyarrow Table, with columns `path`, `sha256`,
    `bytes`, `modified_ns` (see ImageFile), `label` (the most probable class, counted in `kind.classes`), `class` (its
    name), `confidence` (its probability), `entropy` (of the answer, nats), `probabilities` (or `top_classes` and
    `top_probabilities`), `teacher`, `teacher_sha256`, `interpolation`; `images_per_second`, the rate of labelling.
    """

    def __init__(self, folder: str | Path, columns: Sequence[str] | None = None) -> None:
        """Open a table, or only some of its columns, `path` among them.

        Raises DataError where there is none, a shard is damaged, or the shards are of several kinds.
        """
        import pyarrow as pa

        self.folder = Path(folder)
        shards = [_Shard.read(path, columns) for path in shard_paths(self.folder)]
        if not shards:
            raise DataError(f"{self.folder} holds no labels: label a folder of images first")
        self.kind = shards[0].kind
        for shard in shards:
            difference = shard.kind.difference(self.kind)
            if difference:
                raise DataError(f"{shard.path} has {difference}: keep labels of two kinds in two folders")
        rows = pa.concat_tables([shard.rows for shard in shards])
        self.images_per_second = rows.num_rows / sum(shard.seconds for shard in shards)
        self.rows = _last_of_each_path(rows)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def paths(self) -> list[str]:
        """The images' paths, relative to their folder."""
        return list(self.rows["path"].to_pylist())

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each image, (N,), counted in `kind.classes`."""
        return np.asarray(self.rows["label"].to_numpy()).astype(np.int64)

    def probabilities(self) -> NDArray[np.float32]:
        """The teacher's answers, (N, K), rows that sum to one; classes that were not kept share the rest evenly."""
        count = len(self.kind.classes)
        if self.kind.top_k is None:
            return _matrix(self.rows["probabilities"], count)
        top = _matrix(self.rows["top_probabilities"], self.kind.top_k)
        index = _matrix(self.rows["top_classes"], self.kind.top_k)
        rest = np.maximum(1 - top.sum(axis=1, keepdims=True), 0) / max(count - self.kind.top_k, 1)
        full = np.repeat(rest.astype(np.float32), count, axis=1)
        np.put_along_axis(full, index.astype(np.int64), top, axis=1)
        return full

    def held_out(self, fraction: float) -> NDArray[np.bool_]:
        """Which images are kept out of training, (N,): about `fraction` of them, decided by each file's content alone.

        Identical files therefore always fall on the same side, and no image changes sides as a folder grows.
        """
        if not 0 <= fraction <= 1:
            raise ConfigError(f"held-out fraction: expected a number from 0 to 1, got {fraction}")
        # The first 64 bits of a SHA-256 are uniform.
        position = np.array([int(digest[:16], 16) for digest in self.rows["sha256"].to_pylist()], np.float64) / 2.0**64
        return position < fraction


class LabelWriter:
    """Appends labels to the table in a folder, a shard at a time: after so many rows or seconds, and as the block ends.

    A kill loses the rows since the last shard, and never damages one.
    """

    def __init__(self, folder: Path, kind: LabelKind, shard_rows: int, shard_seconds: float) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.cannot_write(folder, error) from None
        self.folder = folder
        self.kind = kind
        self.shard_rows = shard_rows
        self.shard_seconds = shard_seconds
        self._next = max((_shard_number(path) for path in shard_paths(folder)), default=-1) + 1
        self._pending: list[Any] = []
        self._since = time.monotonic()

    def __enter__(self) -> LabelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def append(self, files: Sequence[ImageFile], probabilities: NDArray[np.float32]) -> None:
        """Add one row for each file, with its probabilities (N, K)."""
        if not files:
            return
        self._pending.append(_to_arrow(self.kind, files, probabilities))
        gathered = sum(table.num_rows for table in self._pending)
        if gathered >= self.shard_rows or time.monotonic() - self._since >= self.shard_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as a shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._pending:
            return
        now = time.monotonic()
        metadata = {KIND: self.kind.to_json(), SECONDS: repr(now - self._since)}
        rows = pa.concat_tables(self._pending).combine_chunks().replace_schema_metadata(metadata)
        content = io.BytesIO()
        pq.write_table(rows, content, compression="zstd")
        files.replace(self.folder / f"part-{self._next:05d}.parquet", content.getvalue())
        self._next += 1
        self._pending = []
        self._since = now


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a table, in the order in which they were written."""
    return sorted(folder.glob("part-*.parquet"), key=_shard_number)


def _shard_number(path: Path) -> int:
    number = path.stem.removeprefix("part-")
    if not number.isdecimal():
        raise DataError(f"{path} is not a shard of a label table: remove it from the folder")
    return int(number)


def _to_arrow(kind: LabelKind, files: Sequence[ImageFile], probabilities: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    label = probabilities.argmax(axis=1)
    # 0 log 0 is 0; the smallest positive float32 keeps the logarithm finite there.
    logarithm = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    columns = {
        "path": pa.array([file.path for file in files], pa.string()),
        "sha256": pa.array([file.sha256 for file in files], pa.string()),
        "bytes": pa.array([file.bytes for file in files], pa.int64()),
        "modified_ns": pa.array([file.modified_ns for file in files], pa.int64()),
        "label": pa.array(label.astype(np.int32)),
        "class": pa.array([kind.classes[i].short for i in label], pa.string()),
        "confidence": pa.array(probabilities.max(axis=1)),
        "entropy": pa.array(-(probabilities * logarithm).sum(axis=1)),
    }
    if kind.top_k is None:
        columns["probabilities"] = _list_array(probabilities)
    else:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, : kind.top_k]
        columns["top_classes"] = _list_array(top.astype(np.int32))
        columns["top_probabilities"] = _list_array(np.take_along_axis(probabilities, top, axis=1))
    for name in ("teacher", "teacher_sha256", "interpolation"):
        columns[name] = pa.array([getattr(kind, name)] * len(files), pa.string())
    return pa.table(columns)


def _list_array(matrix: NDArray[Any]) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])


def _matrix(column: Any, width: int) -> NDArray[Any]:
    return np.asarray(column.combine_chunks().flatten().to_numpy()).reshape(-1, width)


@dataclass(frozen=True)
class _Shard:
    """One file of a table, and what its metadata say."""

    path: Path
    rows: Any
    kind: LabelKind
    seconds: float

    @classmethod
    def read(cls, path: Path, columns: Sequence[str] | None) -> _Shard:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # A plain file, not a data set: pyarrow would otherwise read meaning into the names of the folders.
            with pq.ParquetFile(path) as file:
                rows = file.read(columns=None if columns is None else list(columns))
            metadata = rows.schema.metadata
            kind, seconds = LabelKind.from_json(metadata[KIND]), float(metadata[SECONDS])
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
            raise DataError(
                f"{path} is damaged, or was not written by this version: delete it, and its images are labelled again"
            ) from None
        return cls(path, rows.replace_schema_metadata(None), kind, seconds)


def _last_of_each_path(rows: Any) -> Any:
    last = {path: row for row, path in enumerate(rows["path"].to_pylist())}
    return rows if len(last) == rows.num_rows else rows.take(sorted(last.values()))


def _listed(classes: Sequence[ClassName]) -> str:
    names = ", ".join(c.short for c in classes[:3])
    return f"{len(classes)} classes ({names}{', ...' if len(classes) > 3 else ''})"
