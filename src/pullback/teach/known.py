"""What a table knows already: which files of a listing have a label, and which contents have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.data.source import Listing
from pullback.errors import ConfigError
from pullback.teach.kind import LabelKind
from pullback.teach.shards import shard_paths
from pullback.teach.table import LabelTable, leading_bits


class Known:
    """The labels there were before. A million of them take some hundred megabytes, and a second to compare."""

    def __init__(self, out: Path, kind: LabelKind) -> None:
        """Raises ConfigError where the labels in `out` were made with other settings."""
        self._table = LabelTable(out) if shard_paths(out) else None
        self._paths: set[str] = set()
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._digests: NDArray[np.uint64] = np.empty(0, np.uint64)
        if self._table is None:
            return
        difference = self._table.kind.difference(kind)
        if difference:
            raise ConfigError(f"{out} holds labels with {difference}; choose another folder, or repeat those settings")
        self._paths = set(self._table.paths)
        # Also of rows that were replaced or removed: what comes back need not be labelled again.
        digests = leading_bits(self._table.written("sha256"))
        self._order = np.argsort(digests, kind="stable")
        self._digests = digests[self._order]

    def __contains__(self, path: str) -> bool:
        """Whether an image of this path has a label, of whatever content."""
        return path in self._paths

    def compare(self, listing: Listing) -> tuple[list[int], list[str]]:
        """The positions in the listing of what has no label, as far as length and time tell; paths that are gone."""
        if self._table is None:
            return list(range(len(listing))), []
        import pyarrow as pa
        import pyarrow.compute as pc

        listed = pa.array(listing.paths, pa.string())
        row = pc.index_in(listed, value_set=self._table.column("path")).fill_null(-1).to_numpy()
        same = row >= 0
        for name in ("bytes", "modified_ns"):
            before = self._table.column(name).to_numpy()
            same &= before[row] == np.array(getattr(listing, name), np.int64)
        present = pc.is_in(self._table.column("path"), value_set=listed).to_numpy()
        gone = self._table.column("path").filter(pa.array(~present)).to_pylist()
        # What lies in a folder that cannot be listed at the moment is not gone.
        closed = tuple(path for path in listing.refused if path.endswith("/"))
        return list(map(int, np.flatnonzero(~same))), [path for path in gone if not path.startswith(closed or ("\0",))]

    def row(self, sha256: str) -> int | None:
        """The newest row with a label of this content, of all rows ever written; None where there is none."""
        if self._table is None:
            return None
        digest = np.uint64(int(sha256[:16], 16))
        first, end = np.searchsorted(self._digests, digest, "left"), np.searchsorted(self._digests, digest, "right")
        for position in range(int(end) - 1, int(first) - 1, -1):
            row = int(self._order[position])
            if self._table.written("sha256")[row].as_py() == sha256:
                return row
        return None

    def answer(self, sha256: str) -> Any:
        """The row of a content that has a label, a pyarrow Table of one row."""
        row = self.row(sha256)
        if self._table is None or row is None:
            raise KeyError(sha256)
        return self._table.written_row(row)
