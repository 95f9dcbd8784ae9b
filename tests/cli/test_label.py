"""`pullback label` from the command line."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pullback.teach import LabelTable


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An ONNX file whose logits are the mean red, green and blue of the image."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "rgb", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    path = tmp_path / "teacher" / "rgb.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    (path.parent / "classes.txt").write_text("red\ngreen\nblue")
    (path.parent / "teacher.toml").write_text("mean = 128\nstd = 16\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Forty images, each of one colour with noise, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        pixels = rng.integers(0, 100, (10, 9, 3))
        pixels[..., index % 5 % 3] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    (folder / "no\x1b[2Jne.png").write_text("no image")
    return folder


def test_label_and_again(call: Any, teacher: Path, folder: Path, tmp_path: Path) -> None:
    words = ("label", folder, "--teacher", teacher, "--out", tmp_path / "labels")
    first = call(*words)
    assert first.code == 0, first.err
    assert "40, of which 40 are used" in first.out
    assert "\x1b" not in first.out
    again = call(*words, "--max-per-class", "5", "--json")
    record = json.loads(again.out)
    assert (record["images"], record["labelled"], record["skipped"], record["selected"]) == (40, 0, 1, 15)
    assert again.err == ""
    table = LabelTable(tmp_path / "labels")
    assert [table.column("class")[i].as_py() for i in range(5)] == ["red", "green", "blue", "red", "green"]
    assert len(table.selected()) == 15


def test_two_at_once(call: Any, teacher: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with (tmp_path / "labels" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = call("label", folder, "--teacher", teacher, "--out", tmp_path / "labels")
    assert outcome.code == 2
    assert "is being labelled by another process" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "red,gren"), "did you mean 'green'"),
        (("--min-confidence", "2"), "min confidence: expected a number from 0 to 1"),
        (("--batch-size", "0"), "batch size"),
        (("--teacher", "none.onnx"), "none.onnx"),
    ],
)
def test_wrong_options(
    call: Any, teacher: Path, folder: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = call("label", folder, "--teacher", teacher, "--out", tmp_path / "labels", *words)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "labels").exists()


def test_no_teacher(call: Any, folder: Path) -> None:
    assert "no teacher given" in call("label", folder).err


def test_teachers(call: Any) -> None:
    outcome = call("teachers")
    assert outcome.code == 0
    assert "efficientnet-lite0" in outcome.out
    listed = json.loads(call("teachers", "--json").out)
    assert {"name", "parameters", "accuracy", "size", "licence", "installed", "install"} <= listed[0].keys()


def test_labels(call: Any, teacher: Path, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    call("label", folder, "--teacher", teacher, "--out", labels)
    outcome = call("labels", labels)
    assert outcome.code == 0, outcome.err
    assert "red" in outcome.out
    assert (labels / "sheet.html").read_text().count("<figure>") > 30
    exported = call("labels", labels, "--export", "csv", "--max-per-class", "4", "--page", "none", "--json")
    assert json.loads(exported.out)["exported"] == 12
    assert len((labels / "labels.csv").read_text().splitlines()) == 13
    folders = call("labels", labels, "--export", "imagefolder", "--to", tmp_path / "sorted")
    assert folders.code == 0, folders.err
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 40
    assert call("labels", tmp_path / "none").code == 2


def test_resize_preview(call: Any, teacher: Path, folder: Path, tmp_path: Path) -> None:
    outcome = call("resize-preview", folder, "--teacher", teacher, "--out", tmp_path / "page.html", "--shown", "2")
    assert outcome.code == 0, outcome.err
    assert "recommended: " in outcome.out
    assert (tmp_path / "page.html").read_text().count("<figure>") == 12
    assert call("resize-preview", folder, "--teacher", teacher, "--sample", "1").code == 2
