"""Fingerprints of arrays that the tape relies on and that the user could still change.

An array saved for the backward pass and changed afterwards gives a wrong gradient in silence. Arrays that nobody can
write to (read-only, as the data pipeline makes them) need no fingerprint and cost nothing."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from pullback.core.source import Source, user_line
from pullback.errors import MutationError

_SMALL = 1 << 14  # bytes; below, a checksum of all bytes costs less than two NumPy reductions
_LANES = 512


def is_exposed(x: Any) -> bool:
    """Whether somebody can still write to this array, directly or through the array it is a view of."""
    while isinstance(x, np.ndarray):
        if x.flags.writeable:
            return True
        x = x.base
    return False


def fingerprint(x: np.ndarray[Any, Any]) -> int:
    """A number that changes when any element does, at about the speed of reading the array twice.

    Large arrays are read as a matrix of 64-bit words whose column sums and row sums (modulo 2**64) are hashed: a
    changed word changes one of each, and so does moving a word to another place, unless row and column stay the same.
    """
    if x.nbytes <= _SMALL:
        return zlib.crc32(x.tobytes())
    flat = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    body = flat.size // (8 * _LANES) * (8 * _LANES)
    words = flat[:body].view(np.uint64).reshape(-1, _LANES)
    sums = zlib.crc32(
        words.sum(axis=0, dtype=np.uint64).tobytes(), zlib.crc32(words.sum(axis=1, dtype=np.uint64).tobytes())
    )
    return zlib.crc32(flat[body:].tobytes(), sums)


class Guard:
    """One array as it was when a rule saved it."""

    __slots__ = ("array", "before", "source", "what")

    def __init__(self, array: np.ndarray[Any, Any], what: str) -> None:
        self.array = array
        self.before = fingerprint(array)
        self.what = what
        self.source: Source = user_line()

    def verify(self) -> None:
        """Raises MutationError where the array is no longer what it was."""
        if fingerprint(self.array) != self.before:
            raise MutationError(
                f"{self.what}, of shape {self.array.shape}, was changed after it had been saved for the backward "
                f"pass at {self.source}. The gradient would be wrong. Work on a copy: `a = a.copy()` before the change."
            )
