"""Images that occur several times in a table: the same content, and contents that look alike."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 64

_BLOCK = 1 << 20  # pairs compared at a time


def equal_groups(digests: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Rows of equal content, from the leading bits of their hashes (N,): groups of two or more, the largest first."""
    return _groups(np.arange(len(digests)), digests)


def similar_groups(hashes: NDArray[np.uint64], distance: int) -> list[NDArray[np.int64]]:
    """Rows whose perceptual hashes (N,) differ in at most `distance` bits, directly or through others.

    Groups of two or more, the largest first. Images of one colour have the hash 0, which says nothing: they are left
    out. Two hashes that differ in d bits agree wholly in at least one of d + 1 parts: only such pairs are compared.
    """
    distinct, place = np.unique(hashes, return_inverse=True)
    parent = np.arange(len(distinct))
    for first, second in _candidates(distinct, distance + 1):
        near = np.bitwise_count(distinct[first] ^ distinct[second]) <= distance
        for a, b in zip(first[near].tolist(), second[near].tolist(), strict=True):
            parent[_root(parent, a)] = _root(parent, b)
    joined = np.flatnonzero(parent != np.arange(len(parent)))
    root = np.arange(len(distinct))
    root[joined] = [_root(parent, i) for i in joined.tolist()]
    rows = np.flatnonzero(hashes != 0)
    return _groups(rows, root[place[rows]])


def _groups(rows: NDArray[np.int64], keys: NDArray[Any]) -> list[NDArray[np.int64]]:
    """The rows that share a key, where they are two or more; the largest group first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(rows)])
    lengths = np.diff(starts, append=len(rows))
    groups = [rows[order[i : i + n]] for i, n in zip(starts[lengths > 1], lengths[lengths > 1], strict=True)]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _candidates(hashes: NDArray[np.uint64], parts: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of positions of hashes other than 0 that agree in one of so many parts of their bits, in blocks."""
    present = np.flatnonzero(hashes != 0)
    edges = [round(BITS * part / parts) for part in range(parts + 1)]
    for low, high in pairwise(edges):
        part = (hashes[present] >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = present[np.argsort(part, kind="stable")]
        part.sort()
        ends = np.flatnonzero(np.concatenate([part[1:] != part[:-1], [True]])) + 1 if len(part) else part.astype(int)
        lengths = np.diff(ends, prepend=0)
        # The entry k places further on, for every k while any bucket is so long: whole buckets in a few array steps.
        last = np.repeat(ends, lengths)
        position = np.arange(len(order))
        step = 1
        while len(position):
            position = position[position + step < last[position]]
            for start in range(0, len(position), _BLOCK):
                block = position[start : start + _BLOCK]
                yield order[block], order[block + step]
            step += 1


def _root(parent: NDArray[np.int64], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i
