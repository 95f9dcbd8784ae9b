"""Ways of resizing compared: the answers are the teacher's, the recommendation follows its rule, names are escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pullback.data import open_source, read_image
from pullback.errors import DataError
from pullback.show.resize_page import resize_page
from pullback.teach import Teacher, label_folder
from pullback.teach.interpolation import METHODS, Comparison, compare_interpolations


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).save(folder / f"<b>{index}.png")
    (folder / "<b>2.png").write_text("no image")
    return folder


def test_answers(colours: Any, folder: Path) -> None:
    teacher = Teacher(colours.model(), colours.SPEC)
    seen: list[tuple[int, int]] = []
    comparison = compare_interpolations(
        open_source(folder),
        teacher,
        teacher.classes,
        sample=5,
        workers=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert comparison.paths == [f"<b>{index}.png" for index in (0, 4, 6, 9)]
    assert list(comparison.skipped) == ["<b>2.png"]
    for m, method in enumerate(METHODS):
        images = np.stack([read_image(folder / p, teacher.size, resample=method) for p in comparison.paths])
        np.testing.assert_array_equal(comparison.images[m], images)
        np.testing.assert_allclose(comparison.probabilities[m], colours.probabilities(images), rtol=1e-3)
    assert seen[-1] == (24, 30)
    page = resize_page(comparison, [c.short for c in teacher.classes], "colours", "photos", 3)
    assert page.count("<figure>") == 18
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def comparison(support: list[list[float]]) -> Comparison:
    """Two classes; each method gives class 0 these probabilities."""
    p = np.array(support, np.float32)
    images = np.zeros((*p.shape, 1, 1, 3), np.uint8)
    return Comparison(METHODS, [str(i) for i in range(p.shape[1])], images, np.stack([p, 1 - p], axis=2), {})


def test_recommendation() -> None:
    even = [[0.8, 0.9, 0.8, 0.9]] * 6
    assert comparison(even).recommended() == "bicubic"
    better = [*even[:2], [0.9, 0.95, 0.9, 0.95], *even[3:]]
    assert comparison(better).recommended() == "bilinear"
    noisy = [*even[:2], [0.99, 0.85, 0.99, 0.85], *even[3:]]  # ahead in the mean, but not clearly
    assert comparison(noisy).recommended() == "bicubic"
    outlier = [[0.0, 0.1, 0.0, 0.1], *even[1:]]  # certain, but of what the others deny
    assert comparison(outlier).recommended() == "bicubic"
    np.testing.assert_array_equal(comparison(outlier).agreement[0], [1, 0, 0, 0, 0, 0])


def test_auto(colours: Any, folder: Path, tmp_path: Path) -> None:
    """The recommendation is kept to when the job continues, whatever a new sample would say."""
    teacher = Teacher(colours.model(), colours.SPEC)
    expected = compare_interpolations(open_source(folder), teacher, teacher.classes).recommended()
    labels = label_folder(folder, teacher, tmp_path / "labels", interpolation="auto").labels
    assert labels.kind.interpolation == expected
    label_folder(folder, teacher, tmp_path / "box", interpolation="box")
    assert label_folder(folder, teacher, tmp_path / "box", interpolation="auto").labels.kind.interpolation == "box"


def test_nothing_to_compare(colours: Any, tmp_path: Path) -> None:
    teacher = Teacher(colours.model(), colours.SPEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        compare_interpolations(open_source(tmp_path / "empty"), teacher, teacher.classes)
    (tmp_path / "empty" / "a.png").write_text("none")
    with pytest.raises(DataError, match="no image of the sample can be read"):
        compare_interpolations(open_source(tmp_path / "empty"), teacher, teacher.classes)
