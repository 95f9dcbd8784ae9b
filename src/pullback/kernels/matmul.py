"""Matrix products without BLAS, whose threads would keep spinning on the cores that the next kernel needs.
A matrix product is a convolution of one pixel: rows are pixels, columns are channels. So the packing and blocking of
`shifted` serve here, and the products with a transposed factor are that convolution's adjoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.errors import ShapeError
from pullback.kernels import runtime, shifted

_ONE, _NONE = (1, 1), (0, 0)


def product(a: Any, b: Any, out: Any = None) -> Any:
    """a b, for float32 a (M, K) and b (K, N)."""
    result = _result("a b", a, b, a.shape[1], b.shape[0], (a.shape[0], b.shape[1]), out)
    if not _empty(result, a):
        shifted.forward(_pixels(a), _taps(b), result[None, None], _ONE, _NONE, 1)
    return result


def product_transposed_right(a: Any, b: Any, out: Any = None) -> Any:
    """a b^T, for float32 a (M, K) and b (N, K)."""
    result = _result("a b^T", a, b, a.shape[1], b.shape[1], (a.shape[0], b.shape[0]), out)
    if not _empty(result, a):
        shifted.input_adjoint(_pixels(a), _taps(b), result[None, None], _ONE, _NONE, 1)
    return result


def product_transposed_left(a: Any, b: Any, out: Any = None) -> Any:
    """a^T b, for float32 a (K, M) and b (K, N)."""
    result = _result("a^T b", a, b, a.shape[0], b.shape[0], (a.shape[1], b.shape[1]), out)
    if not _empty(result, a):
        shifted.weight_adjoint(_pixels(a), _pixels(b), result[None, None], _ONE, _NONE, 1)
    return result


def _pixels(matrix: Any) -> Any:
    return np.ascontiguousarray(matrix, np.float32)[None, None]


_taps = _pixels


def _result(name: str, a: Any, b: Any, depth: int, other: int, shape: tuple[int, int], out: Any) -> Any:
    if depth != other:
        raise ShapeError(f"product {name}", f"the inner sizes differ, a {a.shape} and b {b.shape}")
    if out is None:
        return runtime.empty(shape)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeError(f"product {name}", f"expected out as contiguous float32 {shape}, got {out.dtype} {out.shape}")
    return out


def _empty(result: Any, a: Any) -> bool:
    """Fill a result that has no terms; the kernels expect at least one."""
    if a.size and result.size:
        return False
    result[...] = 0.0
    return True
