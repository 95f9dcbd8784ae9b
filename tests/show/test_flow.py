"""The flow of activations and gradients: the numbers, and what is found in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn, optim
from pullback.cli.main import main
from pullback.show.flow import Flow
from pullback.train.config import Settings
from pullback.train.loop import fit

RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(64, 20)), RNG.integers(0, 5, 64)


def deep(activation: Any, scale: float = 1.0, layers: int = 9) -> Any:
    parts: list[tuple[str, nn.Module]] = []
    for i in range(layers):
        linear = nn.Linear(20 if i == 0 else 40, 40, rng=i, dtype=np.float64)
        linear.weight = linear.weight * scale
        parts += [(f"layer{i}", linear), (f"act{i}", activation())]
    return nn.Sequential(*parts, ("out", nn.Linear(40, 5, rng=99, dtype=np.float64)))


def of(flow: Flow, name: str) -> Any:
    return next(layer for layer in flow.layers if layer.name == name)


def test_the_numbers_are_those_of_the_gradient() -> None:
    model = deep(nn.Tanh, layers=2)

    def loss(model: Any) -> Any:
        return nn.softmax_cross_entropy(model(BATCH[0]), BATCH[1])

    value, gradient = pb.value_and_grad(loss)(model)
    flow = pb.flow(model, BATCH, optimizer=optim.sgd(0.5))
    assert flow.loss == pytest.approx(value)
    assert [layer.name for layer in flow.layers] == ["layer0", "act0", "layer1", "act1", "out"]
    parts = [gradient.layer1.weight, gradient.layer1.bias]
    norm = np.sqrt(sum(np.sum(g**2) for g in parts))
    assert of(flow, "layer1").weight_gradient == pytest.approx(norm)
    weight = np.sqrt(np.sum(model.layer1.weight**2) + np.sum(model.layer1.bias**2))
    assert of(flow, "layer1").update_ratio == pytest.approx(0.5 * norm / weight)
    h = np.tanh(model.layer0(BATCH[0]))
    assert of(flow, "act0").activation == pytest.approx(np.linalg.norm(h))
    assert of(flow, "act0").saturated == pytest.approx(np.mean(np.abs(h) > 0.97))
    rest = nn.Sequential(model.layer1, nn.Tanh(), model.out)
    back = pb.grad(lambda h: nn.softmax_cross_entropy(rest(h), BATCH[1]))(h)
    assert of(flow, "act0").gradient == pytest.approx(np.linalg.norm(back))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (deep(nn.Sigmoid), "Gradients shrink 29,000x from out to layer0, 3.1x a layer"),
        (deep(nn.ReLU, 0.3), "Gradients shrink"),
        (deep(nn.ReLU, 0.3), "Activations shrink"),
        (deep(nn.ReLU, 3.0), "Gradients grow"),
        (deep(nn.ReLU, 3.0), "Activations grow"),
        (deep(nn.Tanh, 8.0, 2), "are saturated"),
        (deep(nn.Tanh), "Nothing out of the ordinary"),
    ],
)
def test_findings(model: Any, words: str) -> None:
    findings = pb.flow(model, BATCH).findings
    assert any(words in finding for finding in findings), findings


def test_dead_units_and_paths_that_are_cut() -> None:
    model = deep(nn.ReLU, layers=2)
    model.layer1.bias = np.where(np.arange(40) < 20, -1e3, 0.0)
    flow = pb.flow(model, BATCH)
    assert of(flow, "act1").dead == pytest.approx(0.5, abs=0.1)
    assert any("of the units of act1 are dead" in f for f in flow.findings)
    model.layer1.bias = np.full(40, -1e3)
    assert "No gradient reaches layer0, act0, layer1" in pb.flow(model, BATCH).findings[0]
    model.layer0.weight = np.full_like(model.layer0.weight, np.nan)
    with np.errstate(all="ignore"):
        assert "layer0 are not finite" in pb.flow(model, BATCH).findings[0]


def test_steps_that_are_too_long_or_too_short() -> None:
    model = deep(nn.Tanh, layers=2)
    assert "the learning rate is high" in pb.flow(model, BATCH, optimizer=optim.adam(0.5)).findings[0]
    assert "hardly moves" in pb.flow(model, BATCH, optimizer=optim.adam(1e-9)).findings[0]


def test_convolutions_and_plots(tmp_path: Path) -> None:
    model = nn.models.levels_cnn((8, 8, 3), 4, (4, 8), 1)
    before = {name: buffer.value.copy() for name, buffer in model.buffers().items()}
    flow = pb.flow(model, (RNG.normal(size=(4, 8, 8, 3)).astype(np.float32), np.arange(4)))
    assert of(flow, "level0.relu0").dead is not None
    assert of(flow, "pool0").weight is None
    for name, buffer in model.buffers().items():
        np.testing.assert_array_equal(buffer.value, before[name])
    assert flow.save(tmp_path / "flow.svg").read_text().startswith("<?xml")
    assert flow._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(pb.ConfigError, match=r"\.png"):
        flow.save(tmp_path / "flow.docx")


def test_wrong_arguments() -> None:
    with pytest.raises(pb.ConfigError, match="expected a network"):
        pb.flow(np.tanh, BATCH)
    with pytest.raises(pb.ConfigError, match=r"a batch of \(inputs, targets\)"):
        pb.flow(deep(nn.ReLU), BATCH[0])


def test_along_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    fit(Settings(model="mlp", hidden=(8,), steps=30, eval_every=15, eager=True), run, quiet=True)
    assert main(["flow", str(run), "--json", "--images", "20"]) == 0
    told = json.loads(capsys.readouterr().out)
    titles = [point["title"] for point in told["points"]]
    assert titles[0] == "step 0"
    assert titles[-1].startswith("step 30")
    assert told["points"][0]["loss"] > told["points"][-1]["loss"]
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    assert main(["flow", str(tmp_path)]) == 2
    assert main(["flow", str(run), "--images", "0"]) == 2
