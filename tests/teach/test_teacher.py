"""Teachers: their answers against NumPy, and every way in which a file and its description may disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pullback.errors import TeacherError
from pullback.teach import Teacher, TeacherSpec, select_classes

FORMS = [
    {},
    {"layout": "NHWC"},
    {"batch": 4},
    {"layout": "NHWC", "batch": 1},
    {"size": ("height", "width")},
    {"softmax": True},
]


@pytest.fixture
def pixels(colours: Any, rng: np.random.Generator) -> Any:
    """Seven images, no multiple of any fixed batch size above."""
    return rng.integers(0, 256, (7, *colours.SIZE, 3), np.uint8)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_answers(colours: Any, pixels: Any, form: dict[str, Any]) -> None:
    teacher = Teacher(colours.model(**form), replace(colours.SPEC, size=colours.SIZE))
    assert teacher.size == colours.SIZE
    assert teacher.spec.layout == form.get("layout", "NCHW")
    assert teacher.spec.output == ("probabilities" if form.get("softmax") else "logits")
    answers = teacher.probabilities(pixels)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, colours.probabilities(pixels), rtol=1e-4)


@pytest.mark.parametrize("softmax", [False, True])
def test_restricted_answers_are_renormalised(colours: Any, pixels: Any, softmax: bool) -> None:
    teacher = Teacher(colours.model(softmax=softmax), colours.SPEC)
    chosen = select_classes(teacher.classes, "rock,green")
    np.testing.assert_allclose(
        teacher.probabilities(pixels, chosen), colours.probabilities(pixels, (3, 1)), rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("softmax", [False, True])
def test_background_class(colours: Any, pixels: Any, softmax: bool) -> None:
    path = colours.model(background=True, softmax=softmax)
    with pytest.raises(TeacherError, match=r"5 outputs.*has 4 classes; .*say background = true"):
        Teacher(path, colours.SPEC)
    teacher = Teacher(path, replace(colours.SPEC, background=True))
    np.testing.assert_allclose(teacher.probabilities(pixels), colours.probabilities(pixels), rtol=1e-3, atol=1e-7)


def test_scale_counts_pixels_from_0_to_1(colours: Any, pixels: Any) -> None:
    mean, std = (tuple(v / 255 for v in values) for values in (colours.MEAN, colours.STD))
    teacher = Teacher(colours.model(), TeacherSpec(scale=1 / 255, mean=mean, std=std))
    np.testing.assert_allclose(teacher.probabilities(pixels), colours.probabilities(pixels), rtol=1e-4)


def test_several_threads_share_a_teacher(colours: Any, pixels: Any) -> None:
    teacher = Teacher(colours.model(), colours.SPEC)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(teacher.probabilities, [pixels[i : i + 1] for i in range(7)] * 5))
    np.testing.assert_allclose(np.concatenate(answers), np.tile(colours.probabilities(pixels), (5, 1)), rtol=1e-4)


def test_toml_beside_the_model(colours: Any, pixels: Any) -> None:
    path = colours.model()
    listed = colours.class_list(("a", "b", "c", "d")).rename(path.parent / "letters.json")
    toml = 'name = "colours 1"\nsize = [8, 10]\nlayout = "NCHW"\nmean = [100, 110, 120]\nstd = [50, 60, 70]\n'
    (path.parent / "teacher.toml").write_text(toml + f'output = "logits"\nclasses = "{listed.name}"\n')
    teacher = Teacher(path)
    assert teacher.spec.name == "colours 1"
    assert [c.name for c in teacher.classes] == ["a", "b", "c", "d"]
    np.testing.assert_allclose(teacher.probabilities(pixels), colours.probabilities(pixels), rtol=1e-4)


def test_options_go_before_the_toml(colours: Any) -> None:
    path = colours.model()
    (path.parent / "teacher.toml").write_text("mean = 1\nstd = 2\nscale = 3")
    (path.parent / "colours.toml").write_text("mean = 4\nstd = 5")
    (path.parent / "other.toml").write_text("mean = 6\nstd = 7")
    assert Teacher(path).spec.mean == (4.0,)
    assert Teacher(path, TeacherSpec(mean=(8.0,))).spec.mean == (8.0,)
    other = Teacher(path, toml=path.parent / "other.toml").spec
    assert (other.mean, other.std, other.scale) == ((6.0,), (7.0,), 1.0)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("meen = 1", "unknown key 'meen'; did you mean 'mean'"),
        ("mean = [1, 2]", "mean must be one or three finite numbers"),
        ("mean = nan", "mean must be one or three finite numbers"),
        ('mean = "127"', "mean must be one or three finite numbers"),
        ("std = 0", "std must be one or three numbers above 0"),
        ("size = [224]", "size must be two positive whole numbers"),
        ('layout = "HWC"', "layout must be 'NCHW' or 'NHWC'"),
        ("scale = 0", "scale must be"),
        ("scale =", "cannot be read"),
    ],
)
def test_wrong_toml(colours: Any, toml: str, message: str) -> None:
    path = colours.model()
    (path.parent / "teacher.toml").write_text(toml)
    with pytest.raises(TeacherError, match=message) as error:
        Teacher(path)
    assert str(path.parent / "teacher.toml") in str(error.value)


def test_pixel_statistics_are_never_guessed(colours: Any) -> None:
    with pytest.raises(TeacherError, match="does not give mean and std"):
        Teacher(colours.model())


@pytest.mark.parametrize(
    ("form", "wrong", "parts"),
    [
        ({}, {"layout": "NHWC"}, ["NHWC (n, 8, 10, 3)", "(n, 3, 8, 10)", "it looks like NCHW"]),
        ({"layout": "NHWC"}, {"layout": "NCHW"}, ["NCHW (n, 3, 8, 10)", "(n, 8, 10, 3)", "it looks like NHWC"]),
        ({}, {"size": (10, 8)}, ["(n, 3, 10, 8)", "(n, 3, 8, 10)"]),
        ({}, {"size": None, "output": "probabilities"}, ["says probabilities", "its output does not sum to one"]),
        ({"softmax": True}, {"output": "logits"}, ["says logits", "its output sums to one"]),
        ({"size": ("h", "w")}, {"size": None}, ["leaves the image size open"]),
        ({}, {"mean": (0.0,), "std": (1e-36,)}, ["not finite on random pixels; check scale, mean and std"]),
    ],
)
def test_description_that_does_not_fit(colours: Any, form: Any, wrong: Any, parts: list[str]) -> None:
    path = colours.model(**form)
    spec = replace(colours.SPEC, size=colours.SIZE)
    with pytest.raises(TeacherError) as error:
        Teacher(path, replace(spec, **wrong))
    for part in [str(path), *parts]:
        assert part in str(error.value)


def test_class_count_that_does_not_fit(colours: Any) -> None:
    path = colours.model()
    listed = colours.class_list(("a", "b", "c", "d", "e"))
    with pytest.raises(TeacherError) as error:
        Teacher(path, colours.SPEC)
    for part in (str(path), "4 outputs", str(listed), "5 classes"):
        assert part in str(error.value)


def test_classes_without_a_list_are_numbers(colours: Any) -> None:
    path = colours.model()
    (path.parent / "classes.json").unlink()
    assert [c.name for c in Teacher(path, colours.SPEC).classes] == ["0", "1", "2", "3"]
    with pytest.raises(TeacherError, match=r"class list '.*none\.txt': cannot be read"):
        Teacher(path, replace(colours.SPEC, classes="none.txt"))


def break_text(path: Path) -> None:
    path.write_text("this is no model")


def break_empty(path: Path) -> None:
    path.write_bytes(b"")


def break_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def break_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [Path.unlink, break_text, break_empty, break_truncated, break_folder])
def test_files_that_are_no_models(colours: Any, damage: Callable[[Path], None]) -> None:
    path = colours.model()
    damage(path)
    with pytest.raises(TeacherError, match="ONNX") as error:
        Teacher(path, colours.SPEC)
    assert str(path) in str(error.value)


def test_custom_operators_are_refused(colours: Any) -> None:
    import onnx

    path = colours.model()
    model = onnx.load(path)
    model.graph.node[-1].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TeacherError, match="onnxruntime cannot run it"):
        Teacher(path, colours.SPEC)


def test_weights_in_a_file_beside_the_model(colours: Any, pixels: Any) -> None:
    path = colours.model(weights="colours.onnx.data")
    teacher = Teacher(path, colours.SPEC)
    np.testing.assert_allclose(teacher.probabilities(pixels), colours.probabilities(pixels), rtol=1e-4)
    assert teacher.sha256 != hashlib.sha256(path.read_bytes()).hexdigest()  # other weights, another teacher
    (path.parent / "colours.onnx.data").unlink()
    with pytest.raises(TeacherError, match=r"weights 'colours\.onnx\.data' are missing"):
        Teacher(path, colours.SPEC)


@pytest.mark.parametrize("outside", ["../secret", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(colours: Any, outside: str) -> None:
    import onnx

    path = colours.model(weights="inside")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = outside
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TeacherError, match=r"refused.*outside its folder"):
        Teacher(path, colours.SPEC)


def test_a_link_out_of_the_folder_is_refused(colours: Any, tmp_path: Path) -> None:
    path = colours.model(weights="inside")
    (path.parent / "inside").rename(tmp_path / "elsewhere")
    (path.parent / "inside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TeacherError, match=r"refused.*outside its folder"):
        Teacher(path, colours.SPEC)


def test_images_of_another_size_are_refused(colours: Any) -> None:
    teacher = Teacher(colours.model(), colours.SPEC)
    with pytest.raises(TeacherError, match=r"expected images \(N, 8, 10, 3\) uint8, got \(1, 10, 8, 3\)"):
        teacher.probabilities(np.zeros((1, 10, 8, 3), np.uint8))


def test_known_teacher_needs_no_description(data_folder: Path, tmp_path: Path) -> None:
    teacher = Teacher(data_folder / "teacher" / "efficientnet_lite0_224.onnx")
    assert (teacher.spec.name, teacher.size, len(teacher.classes)) == ("efficientnet-lite0", (224, 224), 1000)
    assert teacher.classes[571].short == "gas pump"
    (tmp_path / "renamed.onnx").symlink_to(teacher.source)  # known by its content
    assert Teacher(tmp_path / "renamed.onnx").spec == teacher.spec
