"""Each command does what its help says, as text and as JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pullback.cli.main import COMMANDS
from pullback.data import load_digits
from pullback.nn.models import MODELS
from pullback.train import Settings, evaluate, read_config

if TYPE_CHECKING:
    from conftest import Call


def test_the_overview_names_every_command(call: Call) -> None:
    for words in ((), ("--help",)):
        outcome = call(*words)
        assert outcome.code == 0
        assert all(re.search(rf"^  {name} ", outcome.out, re.MULTILINE) for name in COMMANDS)


def test_the_version(call: Call) -> None:
    assert re.fullmatch(r"pullback \d+\.\d+\.\d+\S*\n", call("--version").out)


def test_the_overview_is_quick() -> None:
    """It imports no command, and so neither NumPy nor tyro."""
    program = (
        "import sys; from pullback.cli.main import main; main(['--help']); print(*{'tyro', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(call: Call, name: str) -> None:
    outcome = call(name, "--help")
    assert outcome.code == 0
    assert f"usage: pullback {name}" in outcome.out
    assert "--json" in outcome.out


def test_every_setting_has_an_option_with_help_and_default(call: Call) -> None:
    out = " ".join(call("train", "--help").out.replace("│", " ").split())
    for field in fields(Settings):
        if field.name != "model":
            option = f"--{field.name.replace('_', '-')} "
            assert re.search(rf"{option}\S+ .{{15,}}?\(default: ", out), option
    assert "{mlp,cnn,cifar-cnn,levels-cnn,residual}" in out


def test_train_evaluate_predict(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = call(
        "train", "mlp", "--hidden", "30,20", "--steps", "80", "--lr", "3e-3", "--eval-every", "40", "--out", run
    )
    assert trained.code == 0
    assert read_config(run / "config.toml").settings == Settings(
        model="mlp", hidden=(30, 20), steps=80, lr=3e-3, eval_every=40
    )
    accuracy = evaluate(run).accuracy
    assert f"validation accuracy  {accuracy:.2%}" in trained.out
    assert f"pullback evaluate {run}" in trained.out

    evaluated = call("evaluate", run)
    assert f"accuracy  {accuracy:.2%}" in evaluated.out
    record = json.loads(call("evaluate", run, "--json").out)
    assert (record["accuracy"], record["step"], record["settings"]["hidden"]) == (accuracy, 80, [30, 20])

    test = load_digits().test
    image = tmp_path / "digit.png"
    Image.fromarray(test.images[0, :, :, 0]).save(image)
    predicted = json.loads(call("predict", run, image, "--json").out)
    assert predicted[0]["image"] == str(image)
    assert predicted[0]["label"] == str(test.labels[0])
    assert re.match(rf"digit.png  {test.labels[0]}  \d", call("predict", run, image).out)


def test_train_as_json_says_nothing_else(call: Call, tmp_path: Path) -> None:
    outcome = call("train", "mlp", "--steps", "3", "--out", tmp_path / "run", "--json")
    record = json.loads(outcome.out)
    assert (record["run"], record["step"], record["signal"]) == (str(tmp_path / "run"), 3, None)
    assert outcome.err == ""


def test_a_folder_is_found_for_the_run(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert "error" not in call("train", "mlp", "--steps", "2").err
        assert (tmp_path / "runs" / f"mlp-digits-{number}" / "config.toml").exists()


def test_a_folder_of_images_from_anywhere(
    call: Call, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path still leads to the data when the run is resumed from another folder."""
    monkeypatch.chdir(photographs.parent)
    words = ("--levels", "4,4", "--repeats", "1", "--batch-size", "8", "--epochs", "4", "--augment", "flip,crop")
    assert call("train", "cnn", "--data", photographs.name, *words, "--out", "run").code == 0
    monkeypatch.chdir(tmp_path.parent)
    assert call("resume", tmp_path / "run").code == 0
    outcome = call("predict", tmp_path / "run", *sorted(photographs.glob("*/0.png")), "--json")
    assert [set(record["top"]) for record in json.loads(outcome.out)] == [{"dark", "light"}] * 2


def test_names_that_a_terminal_would_obey(call: Call, digits_run: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "a\x1b[31m\nb.png", tmp_path / "c\x1b[2J.png"
    Image.new("RGB", (9, 9)).save(good)
    bad.write_text("no image")
    outcome = call("predict", digits_run, good, bad)
    assert outcome.code == 2
    assert "\x1b" not in outcome.out + outcome.err
    assert len(outcome.out.splitlines()) == len(outcome.err.splitlines()) == 1
    assert outcome.out.startswith(r"a\x1b[31m\nb.png  ")
    assert r"c\x1b[2J.png: not an image" in outcome.err
    assert "\x1b" not in call("predict", "no\x1b[2J", good).err


def test_predict_takes_images_of_any_kind(call: Call, digits_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (11, 9, 4), dtype=np.uint8)
    for name, image in {"rgba": pixels, "rgb": pixels[:, :, :3], "grey": pixels[:, :, 0]}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    outcome = call("predict", digits_run, *tmp_path.glob("*.png"))
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 3


def test_models(call: Call) -> None:
    records = json.loads(call("models", "--image-shape", "16,16,1", "--classes", "7", "--json").out)
    assert [record["name"] for record in records] == list(MODELS)
    text = call("models", "--image-shape", "16,16,1", "--classes", "7").out
    for record in records:
        assert sum(layer["parameters"] for layer in record["layers"]) == record["parameters"]
        assert record["layers"][-1]["output_shape"] == "(N, 7)"
        assert f"{record['parameters']:,}" in text
    mlp = records[0]
    assert mlp["parameters"] == 256 * 100 + 100 + 100 * 7 + 7


ENTRY = "import sys; from pullback.cli.main import main; sys.exit(main())"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_with_the_way_on(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-c", ENTRY, "train", "mlp", "--steps", "1000000", "--eval-every", "20", "--out", str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("step 20  validation loss") for line in process.stderr)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"Interrupted by {number.name}; everything is saved. Go on with\n  pullback resume {run}" in out
    assert "Traceback" not in err
