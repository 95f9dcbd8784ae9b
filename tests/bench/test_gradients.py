"""The gradients of the networks that are measured: no farther from float64 than PyTorch's in float32, three times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.bench import in_torch
from pullback.bench.networks import CIFAR_CNN, CNN64, Network


def batch(network: Network, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(network.batch, *network.input_shape)).astype(np.float32)
    return images, rng.integers(network.classes, size=network.batch)


def by_torch(network: Network, images: Any, labels: Any, dtype: str, layout: str) -> list[Any]:
    """The gradient of each parameter, in the order of the layers."""
    torch = in_torch.load()
    to = {"dtype": getattr(torch, dtype), "memory_format": getattr(torch, layout)}
    model = in_torch.twin(network.build()).to(**to).train()
    logits = model(torch.from_numpy(images).permute(0, 3, 1, 2).to(**to))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    return [parameter.grad.double().numpy() for parameter in model.parameters()]


def as_in_torch(gradient: Any) -> Any:
    gradient = gradient.astype(np.float64)
    return gradient.transpose(3, 2, 0, 1) if gradient.ndim == 4 else gradient.T


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize(("network", "batches"), [(CIFAR_CNN, 5), (CNN64, 3)], ids=["cifar-cnn", "cnn64"])
def test_gradients_are_as_near_to_float64_as_those_of_pytorch(network: Network, batches: int) -> None:
    """Rounding now and then decides a ReLU or a maximum of ours, or of theirs, which moves all gradients before it by
    some thousandths. So several batches are looked at: an error of the arithmetic would show in each of them."""
    compute = pb.compile(pb.grad(lambda model, x, y: nn.softmax_cross_entropy(model(x), y)))
    found = []
    for seed in range(batches):
        images, labels = batch(network, seed)
        exact = by_torch(network, images, labels, "float64", "contiguous_format")
        theirs = [
            by_torch(network, images, labels, "float32", layout) for layout in ("contiguous_format", "channels_last")
        ]
        gradient = compute(network.build(), images, labels)
        ours = [as_in_torch(each) for each in pb.tree.leaves(gradient)]
        assert [each.shape for each in ours] == [each.shape for each in exact]
        distances = np.array(
            [[np.linalg.norm(a - b) for a, b in zip(each, exact, strict=True)] for each in (ours, *theirs)]
        )
        found.append(distances[0] / np.max(distances[1:], axis=0))
    worst = np.min(found, axis=0)
    assert worst.max() <= 3, dict(zip(pb.tree.paths(gradient), worst, strict=True))
