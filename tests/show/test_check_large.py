"""`pb.check` on networks and on large arrays: it stays quick, and says that it samples."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn


def network(depth: int) -> Any:
    layers: list[Any] = []
    channels = 3
    for number in range(depth):
        layers += [nn.Conv2d(channels, 8, 3, padding="same", rng=number), nn.BatchNorm(8), nn.ReLU()]
        channels = 8
    return nn.Sequential(*layers)


def loss(model: Any, x: Any, targets: Any) -> Any:
    return np.mean((np.mean(model(x), axis=(1, 2)) - targets) ** 2)


def examples(count: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, size, size, 3)), rng.normal(size=(count, 8))


def test_a_network_with_its_state() -> None:
    model = network(3)
    before = [np.array(leaf) for leaf in pb.tree.leaves(model)]
    report = pb.check(loss, model, *examples(2, 6))
    assert report
    assert all(comparison.ok for comparison in report.comparisons)
    assert {rule.primitive for rule in report.rules} >= {"conv2d", "batch_norm", "relu", "mean"}
    assert "are float32" in report.notes[0] or "is float32" in report.notes[0]
    assert any("along random directions" in note for note in report.notes)
    for leaf, old in zip(pb.tree.leaves(model), before, strict=True):
        np.testing.assert_array_equal(leaf, old)


@pytest.mark.slow
def test_thirty_layers_in_under_a_minute() -> None:
    start = time.perf_counter()
    assert pb.check(loss, network(30), *examples(4, 12))
    assert time.perf_counter() - start < 60


def test_a_large_array_is_sampled_and_the_report_says_so() -> None:
    x = np.random.default_rng(0).normal(size=300_000)
    report = pb.check(lambda x: np.sum(np.sin(x)), x, backward=lambda g, x: -g * np.cos(x))
    assert report.verdicts["x"].cause == "sign"
    own = pb.check(lambda x: np.sum(np.sin(x)), x)
    assert own
    assert any("300,000 inputs" in note for note in own.notes)
