"""`pullback label` from the command line."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pullback.cli.progress import Progress
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
        (("--top-k", "0"), "top k: expected 1 to 3"),
        (("--teacher", "none.onnx"), "none.onnx"),
    ],
)
def test_wrong_options(
    call: Any, teacher: Path, folder: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = call("label", folder, "--teacher", teacher, "--out", tmp_path / "labels", *words)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "labels").exists()


SLOW_TEACHER = """
import pathlib, time
shown = []
def slow(batch):
    time.sleep(0.01 * len(batch))
    shown.append(batch)
    if len(shown) == 6:
        pathlib.Path("well-on-the-way").touch()
    return batch.mean(axis=(1, 2))
slow.teacher = {"size": 12, "layout": "NHWC", "mean": 128, "std": 16, "classes": ["red", "green", "blue"]}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """What was labelled is saved, and the same command goes on."""
    (tmp_path / "own.py").write_text(SLOW_TEACHER)
    words = ["label", folder, "--teacher", "own:slow", "--out", "labels", "--batch-size", "2"]
    program = "import sys; from pullback.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, words)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "well-on-the-way").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "what was labelled is saved" in errors) == (130, True), errors
    saved = len(LabelTable(tmp_path / "labels"))
    assert 0 < saved < 40
    again = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["labelled"] == 40 - saved


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What was done before does not count for the rate; a terminal gets a bar, a file lines, `--json` nothing."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with Progress("labelling", "images") as progress:
        for done in (100, 110, 200):
            progress(done, 200)
    assert capsys.readouterr().err.splitlines() == [
        "labelling 110 of 200 images, 1 images/s, 1 min 30 s left",
        "labelling 200 of 200 images, 5 images/s",
    ]
    with Progress("labelling", "images", quiet=True) as progress:
        progress(1, 1)
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress("labelling", "images", before="listing") as progress:
        progress(0, 10)
        progress(10, 10)
    assert "10/10" in capsys.readouterr().err


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
