"""Large float32 arrays go through compiled kernels: values and gradients are those of the float64 NumPy rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.core.primitive import PRIMITIVES
from pullback.rules.compiled import SMALL, worth_compiling

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 30, 31, 16))
PADDING = ((1, 1), (1, 1))

CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "3x3": ("conv2d", (IMAGES, RNG.normal(size=(3, 3, 16, 24))), {"stride": (1, 1), "padding": PADDING, "groups": 1}),
    "5x5 stride 2": (
        "conv2d",
        (IMAGES, RNG.normal(size=(5, 5, 16, 24))),
        {"stride": (2, 2), "padding": ((2, 2), (2, 2)), "groups": 1},
    ),
    "groups": ("conv2d", (IMAGES, RNG.normal(size=(3, 3, 8, 40))), {"stride": (1, 1), "padding": PADDING, "groups": 2}),
    "uneven padding": (
        "conv2d",
        (IMAGES, RNG.normal(size=(3, 3, 16, 24))),
        {"stride": (1, 1), "padding": ((0, 1), (1, 0)), "groups": 1},
    ),
    "max pool": (
        "max_pool2d",
        (RNG.normal(size=(8, 64, 63, 16)),),
        {"window": (3, 3), "stride": (2, 2), "padding": PADDING},
    ),
    "batch norm": (
        "batch_norm",
        (3.0 + RNG.normal(size=(9, 60, 61, 17)), RNG.normal(size=17), RNG.normal(size=17)),
        {"eps": 1e-5},
    ),
    "adam step": (
        "adam_step",
        (
            RNG.normal(size=(500, 301)),
            RNG.normal(size=(500, 301)),
            RNG.uniform(0.1, 1.0, (500, 301)),
            np.array(0.9),
            np.array(1e-3),
        ),
        {"b1": 0.9, "b2": 0.999},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_compiled_is_the_rule(name: str) -> None:
    primitive_name, args, params = CASES[name]
    primitive = PRIMITIVES[primitive_name]
    y64, pullback64 = pb.vjp(lambda *xs: primitive(*xs, **params), *args)
    y32, pullback32 = pb.vjp(lambda *xs: primitive(*xs, **params), *[a.astype(np.float32) for a in args])
    cotangent = pb.tree.map(lambda y: np.random.default_rng(1).normal(size=y.shape), y64)
    if isinstance(cotangent, tuple):  # the batch's statistics, which nothing differentiates
        cotangent = (cotangent[0], *[np.zeros_like(c) for c in cotangent[1:]])
    single = pb.tree.map(lambda c: c.astype(np.float32), cotangent)
    results = zip(pb.tree.leaves((y32, pullback32(single))), pb.tree.leaves((y64, pullback64(cotangent))), strict=True)
    for ours, exact in results:
        assert ours.dtype == np.float32
        assert np.max(np.abs(ours - exact)) < 5e-5 * np.max(np.abs(exact))


def test_only_large_float32_arrays_are_compiled() -> None:
    large = np.zeros(1, np.float32)
    assert worth_compiling(SMALL, large, large)
    assert not worth_compiling(SMALL - 1, large)
    assert not worth_compiling(SMALL, large, np.zeros(1))
