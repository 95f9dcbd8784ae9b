"""When a rule hands its work to a compiled kernel: for float32 arrays, and enough work to be worth compiling for."""

from __future__ import annotations

import numpy as np

from pullback.core.tensor import Array

SMALL = 1 << 22  # elementary operations; below, plain NumPy takes a few milliseconds at most


def worth_compiling(operations: int, *arrays: Array) -> bool:
    """Whether a kernel serves these arrays. Kernels are compiled on first use, which takes seconds, and cached on
    disk."""
    return operations >= SMALL and all(a.dtype == np.float32 for a in arrays)
