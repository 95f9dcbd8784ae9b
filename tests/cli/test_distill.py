"""`pullback distill` from the command line: folder and teacher in, trained network out, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pullback.cli.main import main
from pullback.files import locked
from pullback.teach import LabelTable

CLASSES = ("red", "green", "blue")
TEACHER = ["--teacher-mean", "128", "--teacher-std", "16"]
STUDENT = [
    "--levels",
    "8",
    "--repeats",
    "1",
    "--image-size",
    "8",
    "--batch-size",
    "16",
    "--lr",
    "0.02",
    "--augment",
    "flip",
    "--bare",
]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An ONNX file whose logits are the mean red, green and blue of the image."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "rgb", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    path = tmp_path / "teacher" / "rgb.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    (path.parent / "classes.txt").write_text("\n".join(CLASSES))
    return path


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """120 images around a random colour each, of several sizes, and two files that are none."""
    for index in range(120):
        size = (8, 8, 3) if index % 3 else (20, 10, 3)
        pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-20, 20, size), 0, 255)
        path = tmp_path / "photos" / f"{index % 4}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "photos" / "text.png").write_text("no image")
    (tmp_path / "photos" / "empty.jpg").touch()
    return tmp_path / "photos"


def command(folder: Path, teacher: Path, out: Path, *options: str) -> list[str]:
    return ["distill", str(folder), "--teacher", str(teacher), "--out", str(out), *TEACHER, *STUDENT, *options]


def run_json(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_folder_to_network(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], targets: str
) -> None:
    out = tmp_path / "run"
    result = run_json(
        capsys, command(folder, teacher, out, "--epochs", "15", "--held-out", "0.3", "--targets", targets)
    )
    assert result["train_images"] + result["held_out_images"] == 120
    assert 20 <= result["held_out_images"] <= 52
    assert result["skipped_images"] == 2
    assert (result["classes"], result["image_shape"], result["targets"]) == (list(CLASSES), [8, 8, 3], targets)
    assert result["agreement"] > 0.75
    assert set(result["class_agreement"]) <= set(CLASSES)
    assert result == json.loads((out / "summary.json").read_text())
    table = LabelTable(out / "labels")
    colours = np.stack(
        [
            np.asarray(Image.open(folder / path).resize((12, 12), Image.Resampling.BICUBIC)).mean((0, 1))
            for path in table.paths
        ]
    )
    np.testing.assert_array_equal(table.labels, colours.argmax(axis=1))
    image = Image.new("RGB", (8, 8), (20, 230, 30))
    image.save(tmp_path / "green.png")
    assert main(["predict", str(out), str(tmp_path / "green.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["label"] == "green"
    # The run knows where its data came from, as any other run does.
    assert run_json(capsys, ["evaluate", str(out)])["accuracy"] == result["agreement"]
    assert run_json(capsys, ["resume", str(out)])["accuracy"] == result["agreement"]


def test_a_student_beside_its_teacher_and_the_truth(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    distilled = run_json(capsys, command(folder, teacher, out, "--epochs", "8", "--held-out", "0.3"))
    # The truth is what the teacher says, but for one image.
    table = LabelTable(out / "labels")
    held_out = np.flatnonzero(table.held_out(0.3))
    rows = {table.paths[k]: CLASSES[table.labels[k]] for k in held_out}
    wrong = next(iter(rows))
    rows[wrong] = CLASSES[(CLASSES.index(rows[wrong]) + 1) % 3]
    lines = [f"{path},{name}" for path, name in rows.items()]
    truth = tmp_path / "truth.csv"
    truth.write_text("\n".join(["file,class", *lines[:-1], f"{lines[-1].split(',')[0]},purple"]))
    result = run_json(capsys, ["evaluate", str(out), "--truth", str(truth)])
    assert result["agreement"]["accuracy"] == distilled["agreement"]
    assert result["unknown"] == 1
    assert result["teacher"]["images"] == len(rows) - 1
    assert result["teacher"]["accuracy"] == pytest.approx(1 - 1 / (len(rows) - 1))
    assert np.sum(result["student"]["confusion"]) == len(rows) - 1
    assert 0 <= result["student"]["calibration_error"] <= 1
    # In another place, the class is the folder's name; the teacher labels the images there when it is asked.
    for k, path in enumerate(rows):
        place = tmp_path / "named" / CLASSES[table.labels[table.paths.index(path)]] / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((folder / path).read_bytes())
    there = run_json(capsys, ["evaluate", str(out), str(tmp_path / "named")])
    assert there["agreement"] is None
    assert there["student"]["images"] == len(rows)
    both = run_json(capsys, ["evaluate", str(out), str(tmp_path / "named"), "--teacher", str(teacher), *TEACHER])
    assert both["teacher"]["accuracy"] == 1.0
    assert both["agreement"]["accuracy"] == both["student"]["accuracy"] == there["student"]["accuracy"]
    assert main(["evaluate", str(out), "--truth", str(truth)]) == 0
    assert "teacher, with the truth" in capsys.readouterr().out
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert main(["evaluate", str(out), "--truth", str(tmp_path / "bad.csv")]) == 2
    assert "expected the columns file and class" in capsys.readouterr().err


def test_a_report_and_the_network_are_left_behind(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = folder / "<script>alert(1)</script>.png"
    strange.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (250, 5, 5)).save(strange)
    out = tmp_path / "run"
    arguments = [word for word in command(folder, teacher, out, "--steps", "6") if word != "--bare"]
    result = run_json(capsys, arguments)
    page = Path(result["report"]).read_text()
    for words in (
        "Agreement by class",
        "Worst images",
        "Calibration and confusion",
        "The flow of gradients",
        "step 6 (last):",
        "Memory",
        "a step as a compiled program",
        "level0.conv0",
        "--levels 8",
        "the file is empty",
        "copies of other images",
        "onnxruntime",
        "SHA-256",
    ):
        assert words in page, words
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert result["command"].startswith(f"pullback distill {folder} --teacher {teacher}")
    assert Path(result["network"]).stat().st_size > 1000
    csv, events = tmp_path / "metrics.csv", tmp_path / "events"
    assert main(["report", str(out), "--csv", str(csv), "--tensorboard", str(events)]) == 0
    assert csv.read_text().splitlines()[0] == "step,split,loss,accuracy,learning_rate"
    content = next(events.iterdir()).read_bytes()
    assert b"validation/loss" in content
    assert int.from_bytes(content[:8], "little") == len(b"\x09" + 8 * b"\0" + b"\x1a\x0dbrain.Event:2")
    assert main(["report", str(out), "--csv", "metrics.txt"]) == 2
    truth = tmp_path / "truth.csv"
    table = LabelTable(out / "labels")
    names = (CLASSES[label] for label in table.labels)
    truth.write_text("\n".join(["file,class", *(f'"{p}",{c}' for p, c in zip(table.paths, names, strict=True))]))
    assert main(["report", str(out), "--truth", str(truth), "--out", str(tmp_path / "true.html")]) == 0
    page = (tmp_path / "true.html").read_text()
    assert "With the truth" in page
    assert "<td>right</td>" in page
    assert "100.00%" in page  # the teacher's, as the truth is what it says


def test_the_digits_and_their_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits", str(tmp_path / "digits")]) == 0
    images = tmp_path / "digits" / "images"
    assert len(list(images.glob("*.png"))) == 1097
    capsys.readouterr()
    options = ["--image-size", "8", "--levels", "8", "--repeats", "1", "--steps", "2", "--bare", "--out"]
    result = run_json(capsys, ["distill", str(images), "--teacher", "digits", *options, str(tmp_path / "run")])
    assert result["teacher"] == "digits"
    truth = str(tmp_path / "digits" / "truth.csv")
    assert run_json(capsys, ["evaluate", str(tmp_path / "run"), "--truth", truth])["teacher"]["accuracy"] > 0.93


def test_text_for_people(folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, teacher, tmp_path / "run", "--steps", "3", "--classes", "green,red")) == 0
    out, err = capsys.readouterr()
    for part in (
        "rgb, 2 classes, soft labels",
        "2 skipped",
        "3 of 3 steps",
        "of the held-out images",
        "pullback predict",
    ):
        assert part in out
    assert "labelling 122 of 122 images" in err


def test_the_same_command_again_does_nothing_twice(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(folder, teacher, tmp_path / "run", "--steps", "6", "--eval-every", "3")
    first = run_json(capsys, arguments)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = run_json(capsys, arguments)
    assert again == first
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert len(list((tmp_path / "run" / "labels").glob("*.parquet"))) == 1


KILLED = """
import os, signal, sys
from pullback.cli.main import main
replace, left = os.replace, int(sys.argv[1])
def replace_or_die(source, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
sys.exit(main(sys.argv[2:]))
"""


def test_killed_between_any_two_files(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL before the first, third, fifth and last file is complete: labels and metrics as in the unbroken run."""
    options = ("--steps", "6", "--eval-every", "2", "--checkpoint-every", "0")
    whole = run_json(capsys, command(folder, teacher, tmp_path / "whole", *options))
    arguments = command(folder, teacher, tmp_path / "broken", *options)
    for write in (1, 3, 5, 5):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(write), *arguments], capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    broken = run_json(capsys, arguments)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert metrics[0] == metrics[1]
    assert (broken["agreement"], broken["loss"]) == (whole["agreement"], whole["loss"])
    rows = [
        LabelTable(tmp_path / name / "labels").rows.select(["path", "sha256", "label"]) for name in ("whole", "broken")
    ]
    assert rows[0].sort_by("path").equals(rows[1].sort_by("path"))


def test_labels_are_chosen_and_made_as_told(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resizing that is found out and kept to, mirror images, and only some of the labels."""
    ways = ["--interpolation", "auto", "--tta", "flip", "--top-k", "2"]
    options = ("--steps", "4", *ways, "--min-confidence", "0.6", "--max-per-class", "25", "--balance")
    first = run_json(capsys, command(folder, teacher, tmp_path / "run", *options))
    assert run_json(capsys, command(folder, teacher, tmp_path / "run", *options)) == first
    table = LabelTable(tmp_path / "run" / "labels")
    used = table.selected()
    assert first["train_images"] + first["held_out_images"] == len(used) < len(table) == 120
    assert table.confidences[used].min() >= 0.6
    counts = np.bincount(table.labels[used])
    assert len(set(counts.tolist())) == 1
    assert counts[0] <= 25
    assert (table.kind.tta, table.kind.top_k) == ("flip", 2)
    assert f'interpolation = "{table.kind.interpolation}"' in (tmp_path / "run" / "distill.toml").read_text()
    assert main(command(folder, teacher, tmp_path / "run", *options[:-1])) == 2
    assert "was begun with balance True, this asks for False" in capsys.readouterr().err


def test_two_at_once(folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / ".job.lock"):
        assert main(command(folder, teacher, tmp_path / "run", "--steps", "1")) == 2
    assert "is being distilled by another process. Wait until it has ended" in capsys.readouterr().err
    assert main(command(folder, teacher, tmp_path / "run", "--steps", "1")) == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a small disk so many kilobytes; what is on it stays."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> bool:
        return (
            shutil.which("mount") is not None
            and subprocess.run(["mount", *options, place], check=False).returncode == 0
        )

    if sys.platform != "linux" or os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        pytest.skip("only the superuser of Linux can make a disk")

    def size(kilobytes: int) -> Path:
        assert mount("-o", f"remount,size={kilobytes}k")
        return place

    yield size
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_at_every_stage(
    folder: Path,
    teacher: Path,
    tmp_path: Path,
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each time it says so and keeps what there is; with more room it goes on, to the end of the unbroken run."""
    options = ("--steps", "6", "--eval-every", "3", "--checkpoint-every", "0")
    whole = run_json(capsys, command(folder, teacher, tmp_path / "whole", *options))
    arguments = command(folder, teacher, tmp_path / "disk" / "run", *options)
    stopped = set()
    for kilobytes in range(8, 400, 8):
        disk(kilobytes)
        code = main(arguments)
        err = capsys.readouterr().err
        if code == 0:
            break
        assert code == 2
        assert "the disk is full" in err
        assert "Traceback" not in err
        stopped.add(Path(err.split("cannot write ")[1].split(":")[0]).name)
    assert {"part-00000.parquet", "00000.npy"} < stopped, stopped
    assert len(stopped) > 4
    metrics = [(folder / "metrics.jsonl").read_bytes() for folder in (tmp_path / "whole", tmp_path / "disk" / "run")]
    assert metrics[0] == metrics[1]
    found = json.loads((tmp_path / "disk" / "run" / "summary.json").read_text())
    assert (found["agreement"], found["loss"]) == (whole["agreement"], whole["loss"])


def test_other_settings_in_the_same_run(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(folder, teacher, out, "--steps", "2")) == 0
    for options, message in [
        (["--steps", "3"], "was begun with steps 2, this asks for 3"),
        (["--steps", "2", "--targets", "hard"], "was begun with targets soft, this asks for hard"),
        (["--steps", "2", "--held-out", "0.5"], "was begun with held_out 0.1, this asks for 0.5"),
        (["--steps", "2", "--classes", "red,blue"], "holds labels with 3 classes"),
    ]:
        capsys.readouterr()
        assert main(command(folder, teacher, out, *options)) == 2
        assert message in capsys.readouterr().err
    next((folder / "1").glob("*.png")).unlink()
    assert main(command(folder, teacher, out, "--steps", "2")) == 2
    assert "have changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "missing"}, "does not exist"),
        ({"folder": "teacher"}, "no images in"),
        ({"teacher": "photos/0/000.png"}, "it is not an ONNX model"),
        ({"teacher": "none.onnx"}, "cannot read it (No such file or directory)"),
        ({"out": "photos/run"}, "lies inside the folder of images"),
        ({"out": "photos/text.png/run"}, "lies inside the folder of images"),
        ({"out": "teacher/rgb.onnx"}, "cannot write"),
        ({"options": ["--classes", "red,grren"]}, "did you mean 'green'"),
        ({"options": ["--held-out", "0"]}, "held_out: expected a number above 0 and below 1"),
        ({"options": ["--held-out", "1e-9"]}, "is held out"),
        ({"options": ["--teacher-mean", "1,2"]}, "options of the teacher: teacher description: mean must be"),
        ({"options": ["--teacher-size", "24"]}, "its description says NCHW (n, 3, 24, 24), but its input is"),
        ({"options": ["--teacher-layout", "NHWC"]}, "it looks like NCHW"),
        ({"options": ["--teacher-output", "probabilities"]}, "does not sum to one"),
        ({"options": ["--teacher-background"]}, "3 outputs with the background, but the class list"),
    ],
)
def test_wrong_input(
    folder: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    """A message that names what is wrong, exit code 2, no traceback, and the user's files as they were."""
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = {"folder": "photos", "teacher": "teacher/rgb.onnx", "out": "run"} | change
    paths = (tmp_path / given[name] for name in ("folder", "teacher", "out"))
    assert main(command(*paths, "--steps", "2", *given.get("options", []))) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def test_no_teacher(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", str(folder)]) == 2
    assert "--teacher NAME|FILE.onnx" in capsys.readouterr().err


def test_copies_are_never_on_both_sides(
    folder: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every image twice: each side holds whole pairs, so that its size is even."""
    shutil.copytree(folder, folder / "again")
    result = run_json(capsys, command(folder, teacher, tmp_path / "run", "--steps", "1", "--held-out", "0.4"))
    assert result["train_images"] + result["held_out_images"] == 240
    assert result["held_out_images"] % 2 == 0
    assert result["held_out_images"] > 20
