"""Shapes of convolutions with ragged edges, and which algorithms serve them."""

from __future__ import annotations

from pullback.kernels import winograd

# images, height, width, inputs, outputs, kernel, stride, padding, groups
SHAPES = [
    (1, 5, 7, 3, 5, (3, 3), 1, 1, 1),
    (7, 31, 29, 3, 48, (3, 3), 1, 1, 1),
    (33, 2, 2, 64, 64, (3, 3), 1, 1, 1),
    (7, 1, 1, 48, 100, (3, 3), 1, 1, 1),
    (2, 8, 8, 64, 64, (3, 3), 1, 1, 1),
    (3, 9, 6, 100, 48, (3, 3), 1, 0, 1),
    (1, 6, 6, 5, 70, (3, 3), 1, 2, 1),
    (2, 4, 5, 200, 130, (3, 3), 1, (1, 0), 1),
    (1, 1, 1, 64, 3, (1, 1), 1, 0, 1),
    (7, 5, 7, 100, 64, (1, 1), 1, 0, 1),
    (33, 5, 7, 48, 5, (1, 1), 1, 0, 1),
    (1, 31, 29, 3, 100, (1, 1), 1, 0, 1),
    (2, 13, 14, 48, 24, (1, 1), 2, 0, 1),
    (3, 31, 29, 3, 100, (3, 3), 2, 1, 1),
    (2, 16, 16, 17, 70, (5, 5), 1, 2, 1),
    (2, 14, 13, 3, 24, (7, 7), 2, 3, 1),
    (2, 8, 8, 16, 16, (3, 3), 3, 0, 1),
    (2, 9, 12, 6, 5, (2, 4), (1, 2), (0, 1), 1),
    (3, 15, 11, 6, 10, (3, 3), 2, 1, 2),
    (2, 6, 6, 12, 12, (3, 3), 1, 1, 12),
    (2, 7, 7, 48, 96, (3, 3), 1, 1, 3),
    (1, 5, 7, 3, 3, (3, 3), 1, 1, 3),
    (7, 31, 29, 48, 48, (3, 3), 2, 1, 48),
    (33, 5, 7, 100, 100, (5, 5), 1, 2, 100),
    (2, 31, 29, 5, 5, (5, 5), 2, 2, 5),
    (1, 9, 12, 100, 100, (2, 4), (1, 2), (0, 1), 100),
    (2, 8, 8, 16, 16, (3, 3), 4, 0, 16),
]
ERROR_BOUNDS = {"winograd": winograd.ERROR_BOUND, "bfloat16": 2e-2, "bfloat16x3": 3e-5}
"""The largest error relative to the largest result that an algorithm may have, where that is not `EXACT`."""
EXACT = 1e-5
CASES = [
    (shape, algorithm)
    for shape in SHAPES
    for algorithm in ("shifted", "winograd", "tiny", "depthwise", "pointwise", "bfloat16", "bfloat16x3")
    if algorithm == "shifted"
    or (algorithm.startswith("bfloat16") and shape[6] == 1 and shape[8] == 1)
    or (algorithm == "winograd" and shape[5] == (3, 3) and shape[6] == 1 and shape[8] == 1)
    or (algorithm == "tiny" and shape[0] * shape[1] * shape[2] <= 1024 and shape[8] == 1)
    or (algorithm == "pointwise" and shape[5:] == ((1, 1), 1, 0, 1))
    or (algorithm == "depthwise" and shape[3] == shape[4] == shape[8])
]
