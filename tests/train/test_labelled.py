"""The targets of a distillation: the same numbers in memory and on disk, and a disk that has no room for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pullback.errors import RunError
from pullback.teach import Teacher, TeacherSpec
from pullback.train import Settings, labelled
from pullback.train.build import fingerprint, load_data
from pullback.train.distill import distill


@pytest.fixture
def run(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a distillation on soft targets over the nine classes of a function of the mean colour."""
    (tmp_path / "mean_colour.py").write_text(
        "import numpy as np\n\ndef mean(batch):\n    return np.repeat(batch.mean(axis=(1, 2)), 3, axis=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "photos").mkdir()
    for k in range(60):
        pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-20, 20, (8, 8, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / f"{k:02}.png")
    spec = TeacherSpec(size=(8, 8), layout="NHWC", mean=(0.0,), std=(64.0,), output="logits")
    student = Settings(model="mlp", hidden=(4,), image_size=8, steps=4, batch_size=8)
    options = {"held_out": 0.3, "temperature": 2.0, "targets": "both", "top_k": 5, "bare": True, "quiet": True}
    distill(tmp_path / "photos", Teacher("mean_colour:mean", spec), tmp_path / "run", student, **options)  # type: ignore[arg-type]
    return tmp_path / "run"


def test_targets_on_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="mlp", data=str(run), image_size=8)
    whole = load_data(settings)
    monkeypatch.setattr(labelled, "IN_MEMORY", 0)
    monkeypatch.setattr("pullback.data.dataset._BLOCK", 100)  # a few rows at once
    before = sorted(run.rglob("*"))
    mapped = load_data(settings)
    assert isinstance(mapped.train.labels, np.memmap)
    assert not isinstance(whole.train.labels, np.memmap)
    for part, other in zip(whole, mapped, strict=True):
        np.testing.assert_array_equal(part.labels, other.labels)
        np.testing.assert_allclose(other.labels.sum(axis=1), 1, rtol=1e-5)
    assert fingerprint(whole) == fingerprint(mapped)
    assert sorted(run.rglob("*")) == before  # the file has no name


def test_no_room_for_targets(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "IN_MEMORY", 0)

    def full(**options: object) -> object:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(labelled.tempfile, "TemporaryFile", full)
    with pytest.raises(RunError, match="disk is full"):
        load_data(Settings(model="mlp", data=str(run), image_size=8))
