"""The judge of derivatives for these tests: central differences in float64, sharing no code with pullback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb

STEP = 1e-5


@pytest.fixture
def check_gradients(rng: np.random.Generator) -> Callable[..., None]:
    """`check_gradients(f, *inputs)`: reverse mode in every array of the inputs, modules included, and forward mode.

    f may return any tree of arrays; a random projection makes it one number. Up to 12 random elements of each array are
    perturbed. The state of modules is put back before every evaluation.
    """

    def check(f: Callable[..., Any], *inputs: Any, tolerance: float = 1e-7) -> None:
        buffers = [b for x in inputs if isinstance(x, pb.nn.Module) for b in x.buffers().values()]
        before = [buffer.value for buffer in buffers]
        weights: list[Any] = []

        def loss(*args: Any) -> Any:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.update(value)
            outputs = pb.tree.leaves(f(*args))
            if not weights:
                weights.extend(rng.standard_normal(y.shape) for y in outputs)
            return sum(np.sum(y * w) for y, w in zip(outputs, weights, strict=True))

        loss(*inputs)
        leaves, structure = pb.tree.flatten(inputs)
        gradients = pb.tree.leaves(pb.grad(loss, argnums=tuple(range(len(inputs))))(*inputs))
        tangents = [rng.standard_normal(leaf.shape) for leaf in leaves]
        _, slope = pb.jvp(loss, inputs, structure.unflatten(tangents))
        expected_slope = sum(np.sum(g * t) for g, t in zip(gradients, tangents, strict=True))
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-9)

        for k, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
            assert gradient.shape == leaf.shape
            assert gradient.dtype == leaf.dtype
            for i in rng.permutation(leaf.size)[:12]:
                values = []
                for step in (STEP, -STEP):
                    moved = leaf.copy()
                    moved.flat[i] += step
                    values.append(float(loss(*structure.unflatten([*leaves[:k], moved, *leaves[k + 1 :]]))))
                slope = (values[0] - values[1]) / (2 * STEP)
                place = f"{structure.paths()[k]}, element {i}"
                np.testing.assert_allclose(gradient.flat[i], slope, rtol=tolerance, atol=tolerance, err_msg=place)

    return check
