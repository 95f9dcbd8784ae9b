"""Sliding windows along an axis: which outputs a window's entry (a tap) serves, and which inputs it reads for them.

Padding is never stored: a tap that would look past the border serves fewer outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def output_size(size: int, window: int, stride: int, padding: Pair) -> int:
    """How many windows fit along an axis of `size` entries with `padding` before and after it."""
    return (size + padding[0] + padding[1] - window) // stride + 1


@dataclass(frozen=True)
class Tap:
    """Entry `index` of the window: outputs `low:high` read the inputs `start, start + stride, ...`."""

    index: int
    low: int
    high: int
    start: int
    stride: int

    @property
    def outputs(self) -> slice:
        return slice(self.low, self.high)

    @property
    def inputs(self) -> slice:
        return slice(self.start, self.start + (self.high - self.low - 1) * self.stride + 1, self.stride)


def taps(size: int, window: int, stride: int, padding: Pair, within: Pair | None = None) -> list[Tap]:
    """The taps along one axis that read anything, for the outputs `within` (by default all)."""
    first, last = within or (0, output_size(size, window, stride, padding))
    found = []
    for index in range(window):
        offset = index - padding[0]
        low = max(first, -(offset // stride))
        high = min(last, (size - 1 - offset) // stride + 1)
        if low < high:
            found.append(Tap(index, low, high, low * stride + offset, stride))
    return found
