"""The ledger of memory, against what the allocator says."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.core.tape import Tape


def loss(model: Any, images: Any, labels: Any) -> Any:
    return nn.softmax_cross_entropy(model(images), labels)


def images(count: int, side: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)


def perceptron() -> tuple[Any, ...]:
    return loss, nn.models.mlp((16, 16, 3), 10, (512, 256, 128)), images(256, 16), np.arange(256) % 10


def convolutional() -> tuple[Any, ...]:
    return loss, nn.models.levels_cnn((32, 32, 3), 10, (16, 32), 2), images(16, 32), np.arange(16) % 10


def recurrent() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(32, 128)) / 6, "u": rng.normal(size=(128, 128)) / 12, "b": np.zeros(128)}

    def run(weights: Any, inputs: Any) -> Any:
        h = np.zeros((64, 128))
        for x in inputs:
            h = np.tanh(x @ weights["w"] + h @ weights["u"] + weights["b"])
        return np.mean(h**2)

    return run, weights, rng.normal(size=(40, 64, 32))


def allocated(f: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """Bytes held between the passes, and the peak of both together, by the allocator."""
    pb.grad(f)(*args)
    gc.collect()
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        with Tape() as tape:
            lifted = pb.tree.map(tape.lift, args[0])
            y = f(lifted, *args[1:])
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - start
        del y, lifted
        gc.collect()
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        gradients = pb.grad(f)(*args)
        peak = tracemalloc.get_traced_memory()[1] - start
        del gradients
    finally:
        tracemalloc.stop()
    return held, peak


@pytest.mark.parametrize("case", [perceptron, convolutional, recurrent])
def test_it_agrees_with_the_allocator(case: Any) -> None:
    f, *args = case()
    held, peak = allocated(f, *args)
    ledger = pb.memory(f, *args)
    assert ledger.saved == pytest.approx(held, rel=0.1)
    assert ledger.peak == pytest.approx(peak, rel=0.1)


def test_a_checkpoint_saves_what_the_ledger_says() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, model: Any) -> None:
            self.model = model

        def forward(self, x: Any) -> Any:
            for name in self.model.names:
                part = getattr(self.model, name)
                x = pb.checkpoint(part)(x) if name == "level0" else part(x)
            return x

    f, model, *rest = convolutional()
    ledger = pb.memory(f, model, *rest)
    told = next(each for each in ledger.checkpoints if each.module == "model.level0")
    held, _ = allocated(f, model, *rest)
    then, _ = allocated(f, Checkpointed(model), *rest)
    assert held - then == pytest.approx(told.saves, rel=0.1)
    assert 0 < told.part < 1
    assert told.peak < ledger.peak


def test_the_rows_say_what_by_which_why_and_until_when() -> None:
    def f(x: Any, w: Any) -> Any:
        h = np.tanh(x @ w)
        return np.sum(h * h)

    ledger = pb.memory(f, np.ones((3, 4)), np.ones((4, 5)), argnums=(0, 1))
    rows = [(e.tensor, e.operation, e.why, e.bytes, e.shared, e.freed) for e in ledger.entries]
    assert rows == [
        ("w", "matmul", "b, for ∂a", 0, "argument", "matmul"),
        ("x", "matmul", "a, for ∂b", 0, "argument", "matmul"),
        ("output of tanh", "tanh", "y, for ∂x", 120, "", "tanh"),
        ("output of tanh", "multiply", "x2, for ∂x1", 0, "kept by tanh", "tanh"),
        ("output of tanh", "multiply", "x1, for ∂x2", 0, "kept by tanh", "tanh"),
    ]
    assert ledger.saved == 120
    assert ledger.gradients == 8 * (12 + 20)
    assert ledger.entries[2].source.text == "h = np.tanh(x @ w)"
    only = pb.memory(f, np.ones((3, 4)), np.ones((4, 5)))
    assert [e.tensor for e in only.entries if e.operation == "matmul"] == ["w"]


def test_totals_by_module_add_up() -> None:
    ledger = pb.memory(*convolutional())
    parts = ["model.level0", "model.pool0", "model.level1", "model.output"]
    assert sum(ledger.by_module[part] for part in parts) == ledger.by_module["model"]
    assert ledger.by_module["model"] == sum(e.bytes for e in ledger.entries if e.module)
    text = str(ledger)
    assert "model.level0.norm0" in text
    assert "pb.checkpoint of" in text


def test_views_share_their_memory() -> None:
    def f(x: Any) -> Any:
        y = np.exp(x)
        return np.sum(np.sin(y)) + np.sum(np.cos(y.reshape(6, 2)))

    ledger = pb.memory(f, np.ones((3, 4)))
    assert ledger.saved == 96
    assert [e.bytes for e in ledger.entries] == [96, 0, 0]


def test_wrong_arguments() -> None:
    with pytest.raises(pb.DtypeError, match="argument 0"):
        pb.memory(np.sum, np.arange(3))
    with pytest.raises(pb.TreeError, match="argnums names argument 2"):
        pb.memory(np.sum, np.ones(3), argnums=2)
