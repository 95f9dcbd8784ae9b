"""Whatever a user gets wrong is answered by one message that says what is wrong and what to do, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pullback.cli import main as entry
from pullback.errors import DataError
from pullback.train import Settings, fit

if TYPE_CHECKING:
    from conftest import Call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean `pullback train`?"),
        (["train", "mpl"], "unknown value 'mpl'. Did you mean 'mlp'?"),
        (["train"], "Required"),
        (["train", "mlp", "--data", "digit"], "Did you mean 'digits'?"),
        (["train", "mlp", "--data", "no/such/folder"], "'no/such/folder' is neither a known data set nor a folder"),
        (["train", "mlp", "--optimiser", "sgd"], "--optimizer"),
        (["train", "mlp", "--optimizer", "adm"], "Did you mean 'adam'?"),
        (["train", "mlp", "--schedule", "cosin"], "Did you mean 'cosine'?"),
        (["train", "mlp", "--augment", "flop"], "Did you mean 'flip'?"),
        (["train", "mlp", "--hidden", "100,x"], "Error parsing --hidden: expected a whole number, got 'x'"),
        (["train", "mlp", "--batch-size", "1.5"], "Error parsing --batch-size: expected a whole number, got '1.5'"),
        (["train", "mlp", "--lr", "-1"], "lr: expected a number above 0, got -1.0"),
        (["train", "mlp", "--steps", "5", "--epochs", "5"], "give one of them"),
        (["train", "mlp", "--levels", "8"], "levels has no effect with model 'mlp'"),
        (["train", "mlp", "--batch-size", "5000"], "do not fill one batch of 5000"),
        (["train", "mlp", "--optimizer", "sgd", "--lr", "1e30"], "lower one than lr 1e+30"),
        (["resume", "no-such-run"], "there is no run folder no-such-run"),
        (["evaluate", "."], "is not a run folder"),
        (["predict", "no-such-run", "image.png"], "there is no run folder no-such-run"),
        (["models", "--image-shape", "32,32"], "expected --image-shape HEIGHT,WIDTH,CHANNELS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")  # messages in one line each
    outcome = call(*words)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert outcome.out == ""


def test_debug_shows_the_traceback(call: Call) -> None:
    with pytest.raises(DataError):
        entry.main(["train", "mlp", "--data", "no/such/folder", "--debug"])


def test_an_error_of_our_own_says_how_to_report_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(entry, "_run", broken)
    outcome = call("models", "--json")
    assert outcome.code == 1
    assert "unexpected ZeroDivisionError: oops" in outcome.err
    assert "`pullback models --json --debug`" in outcome.err


# -- folders of images ------------------------------------------------------------------------------------------------
def train_on(call: Call, folder: Path, run: Path) -> tuple[int, str]:
    outcome = call("train", "mlp", "--data", folder, "--steps", "2", "--batch-size", "4", "--out", run)
    return outcome.code, outcome.err


def test_unreadable_files_are_set_aside_and_reported(call: Call, photographs: Path, tmp_path: Path) -> None:
    (photographs / "dark" / "notes.txt").write_text("not an image")
    (photographs / "dark" / "text.png").write_text("not an image either")
    whole = (photographs / "light" / "0.png").read_bytes()
    (photographs / "light" / "torn.png").write_bytes(whole[: len(whole) // 2])
    code, err = train_on(call, photographs, tmp_path / "run")
    assert code == 0
    assert err.startswith("warning: ")
    for name in ("notes.txt", "text.png", "torn.png"):
        assert name in err
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_an_empty_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, err = train_on(call, tmp_path / "empty", tmp_path / "run")
    assert code == 2
    assert "holds no images" in err
    assert not (tmp_path / "run").exists()


def test_changed_data(call: Call, photographs: Path, tmp_path: Path) -> None:
    assert train_on(call, photographs, tmp_path / "run")[0] == 0
    shutil.copy(photographs / "dark" / "0.png", photographs / "light" / "extra.png")
    for command in ("resume", "evaluate"):
        outcome = call(command, tmp_path / "run")
        assert outcome.code == 2
        assert "have changed since the run began" in outcome.err


# -- predict ----------------------------------------------------------------------------------------------------------
def test_predict_reports_what_it_cannot_read_and_predicts_the_rest(
    call: Call, digits_run: Path, photographs: Path, tmp_path: Path
) -> None:
    good = photographs / "dark" / "0.png"
    text = tmp_path / "text.png"
    text.write_text("not an image")
    missing = tmp_path / "missing.png"
    outcome = call("predict", digits_run, text, good, missing, "--json")
    assert outcome.code == 2
    first, second, third = json.loads(outcome.out)
    assert "not an image" in first["error"]
    assert second["label"] in "0123456789"
    assert "no such file" in third["error"]
    assert str(text) in outcome.err
    assert str(missing) in outcome.err


def test_predict_without_an_image(call: Call, digits_run: Path) -> None:
    outcome = call("predict", digits_run)
    assert outcome.code == 2
    assert "no image given" in outcome.err


# -- run folders ------------------------------------------------------------------------------------------------------
@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


@pytest.mark.parametrize("command", ["resume", "evaluate", "predict"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 of PyTorch", b"\xff" * 1000], ids=["empty", "zip", "noise"])
def test_a_foreign_checkpoint(call: Call, run: Path, photographs: Path, command: str, content: bytes) -> None:
    (run / "checkpoints" / "last.safetensors").write_bytes(content)
    images = [photographs / "dark" / "0.png"] if command == "predict" else []
    outcome = call(command, run, *images)
    assert outcome.code == 2
    assert "last.safetensors is damaged" in outcome.err
    assert "`--checkpoint best`" in outcome.err
    assert call(command, run, *images, "--checkpoint", "best").code == 0


def test_a_damaged_configuration(call: Call, run: Path) -> None:
    path = run / "config.toml"
    path.write_text(path.read_text().replace("batch_size", "bach_size"))
    outcome = call("resume", run)
    assert outcome.code == 2
    assert "unknown key 'bach_size'. Did you mean 'batch_size'?" in outcome.err


def test_a_run_is_not_overwritten(call: Call, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = call("train", "mlp", "--out", run)
    assert outcome.code == 2
    assert f"Continue it with `pullback resume {run}`" in outcome.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    outcome = call("train", "mlp", "--out", tmp_path / "sealed" / "run")
    assert outcome.code == 2
    assert "cannot write" in outcome.err


def test_a_run_folder_that_is_a_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    outcome = call("train", "mlp", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert f"cannot write {tmp_path / 'run'}" in outcome.err


def test_fit_needs_no_command_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        fit(Settings(model="mlp", data="digit"), tmp_path / "run")
