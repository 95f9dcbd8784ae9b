"""The page of a run: what it says of a run that is no distillation, and of very many classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pullback.data import Dataset, Splits
from pullback.train import Settings, fit
from pullback.train.evaluate import Evaluation
from pullback.train.page import report
from pullback.train.page_answers import answers_parts


def test_a_run_on_labelled_images(tmp_path: Path) -> None:
    fit(Settings(model="mlp", hidden=(8,), steps=20, lr=3e-3), tmp_path / "run", quiet=True)
    page = report(tmp_path / "run").read_text()
    assert "<pre>pullback train mlp --hidden 8 --lr 0.003 --steps 20</pre>" in page
    for heading in ("Curves", "Accuracy by class", "Calibration and confusion", "The flow of gradients", "Memory"):
        assert f"<h2>{heading}</h2>" in page
    assert "teacher" not in page
    assert "CutMix" not in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_of_mixed_images_the_training_accuracy_says_so(tmp_path: Path) -> None:
    fit(Settings(model="mlp", hidden=(8,), steps=2, augment=("cutmix",)), tmp_path / "run", quiet=True)
    assert "accuracy is that on mixed images (CutMix)" in report(tmp_path / "run").read_text()


def test_very_many_classes(rng: np.random.Generator) -> None:
    """The classes at either end are listed, and the most frequent confusion is the one that was put there."""
    names = tuple(f"class {k}" for k in range(60))
    labels = np.repeat(np.arange(60), 4)
    found = np.full((240, 60), 0.001, np.float32)
    found[np.arange(240), labels] = 0.9
    found[28:31, 7], found[28:31, 3] = 0.1, 0.8  # of class 7, three of four are taken for class 3
    images = rng.integers(0, 256, (240, 4, 4, 3), np.uint8)
    data = Splits(Dataset(images, labels, names, "train"), Dataset(images, labels, names, "test"))
    page = "\n".join(answers_parts(Evaluation.of(found, labels, names), found, data, "Accuracy"))
    assert "<td>class 7</td><td>class 3</td><td class=n>3</td><td class=n>75.0%</td>" in page
    lowest = page[page.index("Lowest") :]
    assert re.search(r"<td>([^<]*)</td>", lowest).group(1) == "class 7"  # type: ignore[union-attr]
    best = page[page.index("Best images") :]
    shown = re.findall(r"<figcaption>(class \d+) ", best)
    assert len(set(shown)) == len(shown) == 16  # one of each class


@pytest.mark.parametrize("right", [0, 1])
def test_all_right_or_all_wrong(right: int) -> None:
    labels = np.array([0, 0, 1])
    found = np.eye(2, dtype=np.float32)[labels if right else 1 - labels]
    images = np.zeros((3, 4, 4, 1), np.uint8)
    data = Splits(Dataset(images, labels, ("a", "b"), "train"), Dataset(images, labels, ("a", "b"), "test"))
    page = "\n".join(answers_parts(Evaluation.of(found, labels, data.test.classes), found, data, "Accuracy"))
    assert ("No image is taken for one of another class" in page) == bool(right)
