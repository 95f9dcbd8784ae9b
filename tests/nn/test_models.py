"""The networks by name: layers as described, reproducible, and able to learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.nn.models import MODELS, cifar_cnn, levels_cnn, mlp


def test_cifar_cnn_is_as_described() -> None:
    model = cifar_cnn()
    convolutions = [m for _, m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.outputs for c in convolutions] == [64, 128, 256, 256, 512, 512, 512, 512]
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    kernels = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
    assert nn.count_parameters(model) == kernels + 512 * 10 + 10
    lines = str(model).splitlines()
    pools = [line.split()[2:6] for line in lines if "MaxPool2d" in line]
    assert pools[0] == ["(N,", "16,", "16,", "64)"]
    assert pools[-1] == ["(N,", "1,", "1,", "512)"]


def test_levels_cnn_is_as_described() -> None:
    model = levels_cnn((16, 16, 3), 7, levels=(4, 8), repeats=2, extra=(16,))
    names = [line.split()[0] for line in str(model).splitlines()[2:-2]]
    level = ["conv0", "norm0", "relu0", "conv1", "norm1", "relu1"]
    expected = [f"level0.{n}" for n in level] + ["pool0"] + [f"level{i}.{n}" for i in (1, 2) for n in level]
    assert names == [*expected, "mean", "output"]
    assert "(N, 8, 8, 16)" in str(model), "extra levels are not pooled"
    assert model(np.zeros((2, 16, 16, 3), np.float32)).shape == (2, 7)


def test_mlp_is_as_described() -> None:
    model = mlp((8, 8, 1), 10, (20, 30))
    assert nn.count_parameters(model) == 64 * 20 + 20 + 20 * 30 + 30 + 30 * 10 + 10
    assert nn.count_parameters(mlp((8,), 3, ())) == 8 * 3 + 3


@pytest.mark.parametrize("name", ["mlp", "levels-cnn"])  # cifar-cnn has the layers of levels-cnn, and is large
def test_models_are_reproducible_and_learn(name: str, rng: np.random.Generator) -> None:
    options = {"levels-cnn": {"levels": (4, 8), "repeats": 1}}.get(name, {})
    model, same, other = (MODELS[name]((9, 7, 1), 3, seed=seed, **options) for seed in (1, 1, 2))
    for path, value in model.state().items():
        np.testing.assert_array_equal(value, same.state()[path])
    assert any(not np.array_equal(value, other.state()[path]) for path, value in model.parameters().items())

    labels = np.arange(12) % 3
    x = (0.3 * rng.standard_normal((12, 9, 7, 1)) + labels[:, None, None, None]).astype(np.float32)
    step = pb.value_and_grad(lambda model: nn.softmax_cross_entropy(model(x), labels))
    losses = []
    for _ in range(30):
        loss, gradient = step(model)
        losses.append(float(loss))
        model = pb.tree.map(lambda w, g: w - 0.1 * g, model, gradient)
    assert losses[-1] < 0.5 * losses[0]
    assert {leaf.dtype for leaf in pb.tree.leaves(model)} == {np.dtype(np.float32)}
