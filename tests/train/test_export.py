"""Exports give the network's own answers, wherever they are read; features are a layer's output."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pullback.errors import ConfigError, RunError
from pullback.program.onnx_export import to_onnx
from pullback.train import Settings, fit
from pullback.train import export as exporting
from pullback.train.encode import encode
from pullback.train.export import export

SETTINGS = Settings(model="levels-cnn", levels=(4, 6), repeats=1, steps=5, batch_size=32)
NETWORKS = {
    "levels": SETTINGS,
    "residual": replace(SETTINGS, model="residual"),
    "mlp": Settings(model="mlp", hidden=(12,), steps=5),
    "averaged": replace(SETTINGS, average=0.9),
}


@pytest.fixture(scope="module", params=NETWORKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / request.param
    fit(NETWORKS[request.param], folder, quiet=True)
    return folder


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_what_is_read_back_gives_the_same_answers(run: Path, kind: Any) -> None:
    result = export(run, format=kind)
    assert result.path == str(run / f"network.{kind}")
    assert result.largest_difference < 1e-5
    assert result.images == 64


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras itself
def test_keras_gives_the_same_answers(run: Path) -> None:
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("jax") is None:
        pytest.skip("needs keras and jax")
    assert export(run, format="keras").largest_difference < 1e-4


def test_an_onnx_model_takes_any_batch_and_names_its_classes(run: Path) -> None:
    import onnx
    import onnxruntime

    path = export(run).path
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path)
    for count in (1, 5):
        assert session.run(None, {"pixels": np.zeros((count, 8, 8, 1), np.float32)})[0].shape == (count, 10)
    assert '"9"' in session.get_modelmeta().custom_metadata_map["classes"]


def test_a_file_that_differs_is_not_called_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting._write_onnx
    monkeypatch.setattr(exporting, "_write_onnx", lambda *given: lambda images: write(*given)(images) + 0.01)
    with pytest.raises(RunError, match="do not use it"):
        export(run)


def test_functions_without_an_operator_are_named() -> None:
    with pytest.raises(ConfigError, match=r"cumsum at .* has no operator here"):
        to_onnx(lambda x: np.cumsum(x, axis=1), (3,))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.mean(np.tanh(x) * 2 + 1, axis=-1),
        lambda x: np.concatenate([np.maximum(x, 0.5), np.exp(-x)], axis=1).reshape(len(x), -1),
        lambda x: np.sum(np.sqrt(np.abs(x)), axis=(1, 2), keepdims=True) / np.max(x**2),
        lambda x: np.where(x > 0, x, 0.1 * x) @ np.ones((3, 2), np.float32),
        lambda x: np.transpose(x, (0, 2, 1)) - np.min(x, axis=1, keepdims=True).transpose(0, 2, 1),
    ],
)
def test_programs_as_onnx(f: Any) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(to_onnx(f, (4, 3)))
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"input": x})[0], f(x), rtol=1e-5, atol=1e-6)


def test_features_of_a_layer(run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k in range(5):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / "photos" / f"{k}.png")
    (tmp_path / "photos" / "bad.png").write_text("no image")
    result = encode(run, tmp_path / "photos", "output", tmp_path / "features.parquet")
    assert (result.images, result.features, list(result.skipped)) == (5, 10, ["bad.png"])
    table = pq.read_table(tmp_path / "features.parquet")
    encode(run, tmp_path / "photos", "output", tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz") as arrays:
        assert table["path"].to_pylist() == arrays["path"].tolist() == [f"{k}.png" for k in range(5)]
        np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), arrays["features"])
    with pytest.raises(ConfigError, match="no layer 'nothing'; it has"):
        encode(run, tmp_path / "photos", "nothing", tmp_path / "features.npz")
    with pytest.raises(ConfigError, match=r"ends in \.parquet or \.npz"):
        encode(run, tmp_path / "photos", "output", tmp_path / "features.csv")
