"""True classes from CSV files and from folders."""

from __future__ import annotations

import numpy as np

from pullback.teach import ClassName
from pullback.train.evaluate import Evaluation
from pullback.train.truth import true_classes

CLASSES = [
    ClassName(0, "tench, Tinca tinca", "n01440764"),
    ClassName(497, "church, church building", "n03028079"),
    ClassName(134, "crane", "n02012849"),
    ClassName(517, "crane", "n03126707"),
]


def test_classes_are_found_by_any_of_their_names() -> None:
    paths = ["a.png", "b/c.png", "d.png", "e.png", "f.png", "g.png"]
    truth = {"a.png": "Tinca tinca", "b/c.png": "n03028079", "d.png": "497", "e.png": "crane", "f.png": "moon"}
    assert true_classes(paths, CLASSES, truth).tolist() == [0, 1, 1, -1, -1, -1]


def test_a_file_is_found_by_its_name_where_no_two_share_it() -> None:
    paths = ["x/a.png", "y/b.png"]
    assert true_classes(paths, CLASSES, {"a.png": "tench", "b.png": "church"}).tolist() == [0, 1]
    assert true_classes(["z/a.png"], CLASSES, {"x/a.png": "tench", "y/a.png": "church"}).tolist() == [-1]


def test_the_innermost_folder_that_is_a_class_counts() -> None:
    paths = ["tench/more/a.png", "tench/church/b.png", "elsewhere/c.png", "n03126707/d.png", "e.png"]
    assert true_classes(paths, CLASSES, None).tolist() == [0, 1, -1, 3, -1]


def test_the_figures_of_an_evaluation() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]], np.float32)
    found = Evaluation.of(probabilities, np.array([0, 1, 1, 1]), ("a", "b"))
    assert found.accuracy == 0.75
    assert found.class_accuracy == {"a": 1.0, "b": 2 / 3}
    assert found.confusion == ((1, 0), (1, 2))
    np.testing.assert_allclose(found.loss, -np.mean(np.log([0.9, 0.2, 0.7, 0.55])), rtol=1e-6)
    # One image in each bin: distances 0.1, 0.8, 0.3 and 0.45.
    np.testing.assert_allclose(found.calibration_error, (0.1 + 0.8 + 0.3 + 0.45) / 4, rtol=1e-6)
    soft = Evaluation.of(probabilities, probabilities, ("a", "b"))
    assert soft.accuracy == 1.0
    np.testing.assert_allclose(soft.loss, -np.mean(np.sum(probabilities * np.log(probabilities), axis=1)), rtol=1e-6)


def test_the_top_five() -> None:
    probabilities = np.tile(np.linspace(0.0, 0.2, 10, dtype=np.float32), (10, 1))
    assert Evaluation.of(probabilities, np.arange(10), tuple("abcdefghij")).top5_accuracy == 0.5
