"""The geometry that direct convolution and its input adjoint share: both add up taps over a lattice of target pixels.
With respect to its input, the adjoint of a convolution with stride s is s x s convolutions with stride 1: the pixels of
the input fall into classes by their remainder modulo s, and each class sees every s-th tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Pair = tuple[int, int]


class Taps(NamedTuple):
    """Taps along one axis: `number` source pixels from pixel x step + shift; tap t is weight first + t x stride."""

    number: int
    shift: int
    step: int
    first: int
    stride: int


class Lattice(NamedTuple):
    """Target pixels along one axis: start, start + step, ... (`number` of them)."""

    number: int
    start: int
    step: int


Correlation = tuple[list[Taps], list[Lattice]]
"""For rows and for columns: which taps are added up, and for which target pixels."""


def of_forward(output_size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Correlation:
    """The convolution itself: all taps, at every output pixel."""
    taps = [Taps(kernel[axis], -padding[axis], stride[axis], 0, 1) for axis in range(2)]
    return taps, [Lattice(output_size[axis], 0, 1) for axis in range(2)]


def of_input_adjoint(input_size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Iterator[Correlation]:
    """One correlation for each class of input pixels; some have no tap, and their sums are zero."""
    for class_y in range(min(stride[0], input_size[0])):
        for class_x in range(min(stride[1], input_size[1])):
            classes = (class_y, class_x)
            taps = [_adjoint_taps(kernel[axis], classes[axis] + padding[axis], stride[axis]) for axis in range(2)]
            pixels = [Lattice(-(-(input_size[axis] - classes[axis]) // stride[axis]), classes[axis], stride[axis])
                      for axis in range(2)]  # fmt: skip
            yield taps, pixels


def _adjoint_taps(size: int, place: int, stride: int) -> Taps:
    """The taps i with (place - i) divisible by the stride, from the last to the first, so that sources ascend."""
    count = len(range(place % stride, size, stride))
    last = place % stride + (count - 1) * stride
    return Taps(count, (place - last) // stride, 1, last, -stride)
