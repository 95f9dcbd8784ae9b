"""Two-dimensional convolution and its two adjoints, each a sum of shifted matrix products.

Images are channels-last `(N, H, W, C)`, kernels `(kh, kw, C / groups, O)`. No im2col matrix is ever built: entry (tap)
`r, c` of the kernel multiplies a rectangle of the image by the matrix `w[r, c]`, and the three maps differ only in
which of the three operands is the result:

    conv2d                  y[outputs] += x[inputs] @ w[r, c]
    conv2d_input_adjoint    x[inputs]  += y[outputs] @ w[r, c].T
    conv2d_weight_adjoint   w[r, c]    += x[inputs].T @ y[outputs]

Each is bilinear, and the adjoints of each are the other two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Multilinear
from pullback.core.tensor import Array
from pullback.errors import ShapeError
from pullback.rules.compiled import worth_compiling
from pullback.rules.windows import Padding, Pair, Tap, output_size, taps

__all__ = ["conv2d", "conv2d_input_adjoint", "conv2d_weight_adjoint"]

NO_PADDING: Padding = ((0, 0), (0, 0))
THIN = 32  # with so few input channels times kernel columns, matrix products are mostly additions of outputs
BLOCK_BYTES = 1 << 19  # what one block adds up stays in the second-level cache of one core while all taps pass over it


def _kernels(x: Array, w: Array, multiplications: int, padding: Padding) -> Any:
    """The compiled kernels where they serve, which is also only for equal padding on both sides; else None."""
    if not worth_compiling(multiplications, x, w) or any(before != after for before, after in padding):
        return None
    from pullback.kernels import convolution

    return convolution


def _conv2d(x: Array, w: Array, *, stride: Pair = (1, 1), padding: Padding = NO_PADDING, groups: int = 1) -> Array:
    """Cross-correlation of images with a kernel: what neural networks call convolution.

    Args:
        x: images `(N, H, W, C)`.
        w: kernel `(kh, kw, C / groups, O)`.
        stride: rows and columns from one window to the next.
        padding: zeros around the images, `((top, bottom), (left, right))`.
        groups: channels are cut into that many equal parts that do not mix.

    Returns:
        `(N, H', W', O)` with `H' = (H + top + bottom - kh) // stride + 1`, and likewise W'.
    """
    grid = _grid(x, w, stride, padding, groups)
    if (kernels := _kernels(x, w, len(x) * grid.outputs[0] * grid.outputs[1] * w.size // groups, padding)) is not None:
        return kernels.forward(x, w, stride, (padding[0][0], padding[1][0]), groups)
    if grid.is_thin(x, groups):
        x, grid = grid.widen(x)
        w = w.reshape(*grid.kernel, x.shape[3], w.shape[3])
    y = np.empty((len(x), *grid.outputs, w.shape[3]), np.result_type(x, w))
    kernel = _split_kernel(w, groups)
    for images in grid.image_blocks(len(x), _bytes_per_column(x, y)):
        sources = _to_runs(x[images], groups, grid.stride[1], y.dtype)
        [total] = _zero_runs(y[images].shape, groups, 1, y.dtype)
        scratch = _Scratch(y.dtype)
        for tap in grid.taps(images, total[0].nbytes):
            target = total[tap.y]
            target += scratch.product(sources[tap.phase][tap.x], kernel[tap.r, tap.c])
        _from_runs([total], y[images])
    return y


def _grid(x: Array, w: Array, stride: Pair, padding: Padding, groups: int) -> _Grid:
    if len(x.shape) != 4 or len(w.shape) != 4 or x.shape[3] != w.shape[2] * groups or w.shape[3] % groups:
        expected = f"x (N, H, W, C) and w (kh, kw, C / {groups}, O)"
        raise ShapeError("conv2d", f"expected {expected}, got {x.shape} and {w.shape}")
    return _Grid(x.shape[1:3], w.shape[:2], stride, padding)


def _blank(x: Array, w: Array, *, stride: Pair = (1, 1), padding: Padding = NO_PADDING, groups: int = 1) -> Array:
    grid = _grid(x, w, stride, padding, groups)
    return np.zeros((len(x), *grid.outputs, w.shape[3]), np.result_type(x, w))


def _conv2d_input_adjoint(
    v: Array, w: Array, *, size: Pair, stride: Pair = (1, 1), padding: Padding = NO_PADDING, groups: int = 1
) -> Array:
    """The adjoint of `x -> conv2d(x, w)`: from `(N, H', W', O)` to images `(N, *size, C)`. `size` is (H, W)."""
    grid = _Grid(size, w.shape[:2], stride, padding)
    shape = _images(v, w, size, groups)
    if (kernels := _kernels(v, w, v.size * w.size // w.shape[3], padding)) is not None:
        return kernels.input_adjoint(v, w, shape, stride, (padding[0][0], padding[1][0]), groups)
    x = np.empty(shape, np.result_type(v, w))
    kernel = np.swapaxes(_split_kernel(w, groups), -1, -2)
    for images in grid.image_blocks(len(x), _bytes_per_column(x, v)):
        [source] = _to_runs(v[images], groups, 1, x.dtype)
        totals = _zero_runs(x[images].shape, groups, stride[1], x.dtype)
        scratch = _Scratch(x.dtype)
        for tap in grid.taps(images, totals[0][0].nbytes):
            target = totals[tap.phase][tap.x]
            target += scratch.product(source[tap.y], kernel[tap.r, tap.c])
        _from_runs(totals, x[images])
    return x


def _conv2d_weight_adjoint(
    x: Array, v: Array, *, kernel: Pair, stride: Pair = (1, 1), padding: Padding = NO_PADDING, groups: int = 1
) -> Array:
    """The adjoint of `w -> conv2d(x, w)`: from `(N, H', W', O)` to kernels `(*kernel, C / groups, O)`."""
    shape = _weights(x, v, kernel, groups)
    if (kernels := _kernels(x, v, v.size * kernel[0] * kernel[1] * shape[2], padding)) is not None:
        return kernels.weight_adjoint(x, v, shape, stride, (padding[0][0], padding[1][0]), groups)
    grid = _Grid(x.shape[1:3], kernel, stride, padding)
    if grid.is_thin(x, groups):
        x, grid = grid.widen(x)
    dtype = np.result_type(x, v)
    total = np.zeros((*grid.kernel, groups, x.shape[3] // groups, v.shape[3] // groups), dtype)
    for images in grid.image_blocks(len(x), _bytes_per_column(x, v)):
        sources = _to_runs(x[images], groups, grid.stride[1], dtype)
        [target] = _to_runs(v[images], groups, 1, dtype)
        # Adding up a kernel costs as much as a few rows: with many channels a block is all rows, with few it is short.
        for tap in grid.taps(images, sources[0][0].nbytes + target[0].nbytes, at_least=total[0, 0].nbytes):
            total[tap.r, tap.c] += _inner_product(sources[tap.phase][tap.x], target[tap.y])
    return np.moveaxis(total, 2, 3).reshape(shape)


def _images(v: Array, w: Array, size: Pair, groups: int) -> tuple[int, ...]:
    return len(v), *size, w.shape[2] * groups


def _weights(x: Array, v: Array, kernel: Pair, groups: int) -> tuple[int, ...]:
    return *kernel, x.shape[3] // groups, v.shape[3]


conv2d: Multilinear = Multilinear(
    _conv2d,
    lambda g, w, shape, stride, padding, groups: conv2d_input_adjoint(
        g, w, size=shape[1:3], stride=stride, padding=padding, groups=groups
    ),
    lambda g, x, shape, stride, padding, groups: conv2d_weight_adjoint(
        x, g, kernel=shape[:2], stride=stride, padding=padding, groups=groups
    ),
    name="conv2d",
    blank=_blank,
)
conv2d_input_adjoint: Multilinear = Multilinear(
    _conv2d_input_adjoint,
    lambda g, w, stride, padding, groups: conv2d(g, w, stride=stride, padding=padding, groups=groups),
    lambda g, v, shape, stride, padding, groups: conv2d_weight_adjoint(
        g, v, kernel=shape[:2], stride=stride, padding=padding, groups=groups
    ),
    name="conv2d_input_adjoint",
    blank=lambda v, w, *, size, groups=1, **_: np.zeros(_images(v, w, size, groups), np.result_type(v, w)),
)
conv2d_weight_adjoint: Multilinear = Multilinear(
    _conv2d_weight_adjoint,
    lambda g, v, shape, stride, padding, groups: conv2d_input_adjoint(
        v, g, size=shape[1:3], stride=stride, padding=padding, groups=groups
    ),
    lambda g, x, stride, padding, groups: conv2d(x, g, stride=stride, padding=padding, groups=groups),
    name="conv2d_weight_adjoint",
    blank=lambda x, v, *, kernel, groups=1, **_: np.zeros(_weights(x, v, kernel, groups), np.result_type(x, v)),
)


# -- runs: the layout in which a rectangle is a stack of contiguous matrices -------------------------------
# Pixels are kept as (row, column, image), so that neighbouring columns of all images together are one long matrix, and
# what a tap reads from one row is a contiguous part of it. With a column stride s, columns 0, s, 2s, ... are one such
# array, columns 1, s + 1, ... the next: s phases. Arrays are (H, groups, W * N, C / groups).
def _as_runs(buffer: Array, groups: int) -> Array:
    """The `(H, W, N, C)` array seen as (H, groups, W * N, C / groups)."""
    h, w, n, c = buffer.shape
    return np.swapaxes(buffer.reshape(h, w * n, groups, c // groups), 1, 2)


def _to_runs(images: Array, groups: int, phases: int, dtype: Any) -> list[Array]:
    columns = (images[:, :, phase::phases].transpose(1, 2, 0, 3) for phase in range(phases))
    return [_as_runs(np.array(part, dtype, order="C"), groups) for part in columns]


def _zero_runs(shape: tuple[int, ...], groups: int, phases: int, dtype: Any) -> list[Array]:
    n, h, w, c = shape
    return [_as_runs(np.zeros((h, len(range(phase, w, phases)), n, c), dtype), groups) for phase in range(phases)]


def _from_runs(runs: list[Array], images: Array) -> None:
    n, h, _, c = images.shape
    for phase, run in enumerate(runs):
        images[:, :, phase :: len(runs)] = np.swapaxes(run, 1, 2).reshape(h, -1, n, c).transpose(2, 0, 1, 3)


def _split_kernel(w: Array, groups: int) -> Array:
    """The kernel as (kh, kw, groups, C / groups, O / groups)."""
    kh, kw, c, o = w.shape
    return np.ascontiguousarray(np.moveaxis(w.reshape(kh, kw, c, groups, o // groups), 3, 2))


def _bytes_per_column(x: Array, y: Array) -> int:
    """Bytes of one row of one image, counting input and output."""
    return int(x.shape[2] * x.shape[3] + y.shape[2] * y.shape[3]) * int(x.dtype.itemsize)


# -- which rectangles meet ---------------------------------------------------------------------------------
class _Meeting(NamedTuple):
    """What one kernel entry joins: a part of the input's runs of one phase and a part of the output's."""

    r: int
    c: int
    phase: int
    x: tuple[slice, slice, slice]
    y: tuple[slice, slice, slice]


class _Grid:
    """The positions of a kernel on an image."""

    def __init__(self, size: Pair, kernel: Pair, stride: Pair, padding: Padding) -> None:
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        rows, columns = (output_size(*axis) for axis in zip(size, kernel, stride, padding, strict=True))
        if rows < 1 or columns < 1:
            raise ShapeError("conv2d", f"a kernel {kernel} does not fit in images {size} with padding {padding}")
        self.outputs = (rows, columns)

    def is_thin(self, x: Array, groups: int) -> bool:
        """Whether to bring the columns of the kernel into the channels, as for colour images."""
        return groups == 1 and self.kernel[1] > 1 and x.shape[3] * self.kernel[1] <= THIN

    def widen(self, x: Array) -> tuple[Array, _Grid]:
        """The images with what the columns of a kernel read side by side in the channels, and the one-column grid."""
        (n, h, w, c), width = x.shape, self.kernel[1]
        wide = np.zeros((n, h, self.outputs[1], width, c), x.dtype)
        for tap in taps(w, width, self.stride[1], self.padding[1]):
            wide[:, :, tap.outputs, tap.index] = x[:, :, tap.inputs]
        grid = _Grid((h, self.outputs[1]), (self.kernel[0], 1), (self.stride[0], 1), (self.padding[0], (0, 0)))
        return wide.reshape(n, h, self.outputs[1], width * c), grid

    def image_blocks(self, count: int, row_bytes: int) -> Iterator[slice]:
        """Blocks of images such that one row of each block fits in the cache."""
        step = max(1, BLOCK_BYTES // row_bytes)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def taps(self, images: slice, row_bytes: int, at_least: int = 0) -> Iterator[_Meeting]:
        """Every kernel entry on every block of output rows; a block is about BLOCK_BYTES, or `at_least`."""
        n = images.stop - images.start
        step = max(1, max(BLOCK_BYTES, at_least) // max(1, row_bytes))
        columns = taps(self.size[1], self.kernel[1], self.stride[1], self.padding[1])
        for start in range(0, self.outputs[0], step):
            block = (start, min(start + step, self.outputs[0]))
            for row in taps(self.size[0], self.kernel[0], self.stride[0], self.padding[0], block):
                for column in columns:
                    yield self._meeting(row, column, n)

    def _meeting(self, row: Tap, column: Tap, n: int) -> _Meeting:
        first, phase = divmod(column.start, self.stride[1])
        width = (column.high - column.low) * n
        x = (row.inputs, slice(None), slice(first * n, first * n + width))
        y = (row.outputs, slice(None), slice(column.low * n, column.low * n + width))
        return _Meeting(row.index, column.index, phase, x, y)


# -- the products ------------------------------------------------------------------------------------------
class _Scratch:
    """Products written into one buffer that is used again and again, and so stays in the cache."""

    def __init__(self, dtype: Any) -> None:
        self.buffer = np.empty(0, dtype)

    def product(self, a: Array, b: Array) -> Array:
        """`a @ b` for runs (rows, groups, M, K) and matrices (groups, K, P), laid out like runs."""
        rows, groups, m, _ = a.shape
        p = b.shape[-1]
        size = rows * groups * m * p
        if size > self.buffer.size:
            self.buffer = np.empty(size, self.buffer.dtype)
        out = np.swapaxes(self.buffer[:size].reshape(rows, m, groups, p), 1, 2)
        if a.shape[-1] == 1:  # depthwise: a multiplication of columns is what is left of the matrix product
            return np.multiply(a, b, out=out)
        return np.matmul(a, b, out=out)


def _inner_product(a: Array, b: Array) -> Array:
    """`a.T @ b` over all pixels, for runs (rows, groups, M, K) and (rows, groups, M, P): (groups, K, P)."""
    groups, k, p = a.shape[1], a.shape[3], b.shape[3]
    a, b = (np.swapaxes(run, 1, 2).reshape(-1, groups, run.shape[3]) for run in (a, b))
    if k == p == 1:
        return np.einsum("mgi,mgi->gi", a, b)[..., None]
    return np.matmul(a.transpose(1, 2, 0), b.transpose(1, 0, 2))
