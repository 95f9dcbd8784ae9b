"""Runs from begin to end: what they leave behind, and that an interruption leaves no trace in the metrics."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import pullback as pb
from pullback import files
from pullback.data import Batch, Dataset, Splits, load_digits
from pullback.errors import ConfigError, DataError, NonFiniteError, RunError
from pullback.files import JsonLines, locked
from pullback.train import Run, Settings, evaluate, fit, loop, predict, resume
from pullback.train.curves import draw_curves

SETTINGS = Settings(
    model="mlp", hidden=(16,), steps=11, eval_every=5, log_every=4, checkpoint_every=0.0, lr=3e-3, seed=1
)
"""A checkpoint after every step; rows of training metrics, evaluations and the end fall on different steps."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of so short a run would go into its picture and into waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # matters where the power fails, which no test lets happen
    monkeypatch.setattr(loop, "draw_curves", lambda path, rows, title: files.replace(path, title.encode()))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    fit(SETTINGS, folder, quiet=True)
    return folder


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes()


def finish(folder: Path) -> None:
    """Resume the run as a user would, or begin it where it had not yet come to be one."""
    if (folder / "config.toml").exists():
        resume(folder, quiet=True)
    else:
        fit(SETTINGS, folder, quiet=True)


# -- what a run leaves behind -----------------------------------------------------------------------------------------
def test_a_run_learns_and_leaves_everything_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", draw_curves)
    folder = tmp_path / "run"
    result = fit(Settings(model="mlp", epochs=5, lr=3e-3), folder, quiet=True)
    assert result.signal is None
    assert result.step == result.steps == 5 * (1438 // 64)
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        ".lock", "config.toml", "metrics.jsonl", "timing.jsonl", "curves.png",
        "checkpoints/last.safetensors", "checkpoints/best.safetensors",
    }  # fmt: skip
    rows = Run.open(folder).metrics()
    validation = [row for row in rows if row["split"] == "validation"]
    assert [row["step"] for row in validation] == [22, 44, 66, 88, 110]
    assert validation[-1]["accuracy"] == result.accuracy
    assert max(row["accuracy"] for row in validation) == result.best_accuracy
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 400


def test_the_metrics_are_those_of_the_network(unbroken: Path) -> None:
    """The last validation metrics, once more in plain NumPy and float64 from the weights in the checkpoint."""
    _, model, _ = Run.open(unbroken).checkpoint("last")
    weights = sorted((a for a in model.values() if a.ndim == 2), key=lambda a: -a.shape[0])
    biases = sorted((a for a in model.values() if a.ndim == 1), key=lambda a: -a.shape[0])
    train, test = load_digits()
    pixels = train.images / 255
    x = ((test.images / 255 - pixels.mean()) / pixels.std()).reshape(len(test), -1)
    logits = np.maximum(x @ weights[0] + biases[0], 0) @ weights[1] + biases[1]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    row = Run.open(unbroken).metrics()[-1]
    assert (row["step"], row["split"]) == (11, "validation")
    assert row["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == test.labels), abs=1e-12)
    assert row["loss"] == pytest.approx(-log_p[np.arange(len(test)), test.labels].mean(), rel=1e-5)

    result = evaluate(unbroken)
    assert (result.loss, result.accuracy, result.images) == (row["loss"], row["accuracy"], len(test))
    hits_of_3 = (logits.argmax(axis=1) == 3)[test.labels == 3]
    assert result.class_accuracy["3"] == pytest.approx(hits_of_3.mean(), abs=1e-12)
    predictions = predict(unbroken, test.images)
    assert [p.label for p in predictions] == [str(k) for k in logits.argmax(axis=1)]
    assert predictions[7].probability == pytest.approx(np.exp(log_p[7]).max(), rel=1e-5)
    assert list(predictions[7].top.values()) == sorted(predictions[7].top.values(), reverse=True)


def test_training_rows_are_means_over_all_images_since_the_row_before(tmp_path: Path) -> None:
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    fit(replace(SETTINGS, steps=25, log_every=1), often, quiet=True)
    fit(replace(SETTINGS, steps=25, log_every=5), seldom, quiet=True)

    def training(folder: Path) -> list[tuple[float, float]]:
        return [(row["loss"], row["accuracy"]) for row in Run.open(folder).metrics() if row["split"] == "training"]

    expected = np.array(training(often)).reshape(5, 5, 2).mean(axis=1)
    np.testing.assert_allclose(training(seldom), expected, rtol=1e-12)


def test_the_seed_decides(unbroken: Path, tmp_path: Path) -> None:
    fit(SETTINGS, tmp_path / "same", quiet=True)
    fit(replace(SETTINGS, seed=2), tmp_path / "other", quiet=True)
    assert metrics(tmp_path / "same") == metrics(unbroken)
    assert metrics(tmp_path / "other") != metrics(unbroken)


def test_best_is_the_checkpoint_of_the_highest_accuracy(unbroken: Path) -> None:
    position, _, _ = Run.open(unbroken).checkpoint("best")
    validation = [row for row in Run.open(unbroken).metrics() if row["split"] == "validation"]
    best = max(validation, key=lambda row: row["accuracy"])
    assert (position.step, position.best_accuracy) == (best["step"], best["accuracy"])
    assert evaluate(unbroken, checkpoint="best").accuracy == best["accuracy"]


def test_soft_targets(tmp_path: Path) -> None:
    """One-hot probabilities are another way to write class numbers: the metrics are the same to rounding."""
    hard = load_digits()
    soft = Splits(*(Dataset(d.images, np.eye(10, dtype=np.float32)[d.labels], d.classes, "soft") for d in hard))
    fit(SETTINGS, tmp_path / "hard", quiet=True)
    fit(SETTINGS, tmp_path / "soft", data=soft, quiet=True)
    a, b = (Run.open(tmp_path / name).metrics() for name in ("hard", "soft"))
    np.testing.assert_allclose([row["loss"] for row in a], [row["loss"] for row in b], rtol=1e-4)


@pytest.mark.parametrize("model", ["mlp", "levels-cnn"])
def test_a_compiled_run_and_an_eager_one_agree(model: str, tmp_path: Path) -> None:
    small = {"levels": (4, 8), "repeats": 1} if model == "levels-cnn" else {}
    settings = Settings(model=model, steps=20, log_every=5, lr=1e-3, **small)
    for eager in (False, True):
        fit(replace(settings, eager=eager), tmp_path / str(eager), quiet=True)
    a, b = (Run.open(tmp_path / name).metrics() for name in ("False", "True"))
    np.testing.assert_allclose([row["loss"] for row in a], [row["loss"] for row in b], rtol=1e-3)


# -- interruptions ----------------------------------------------------------------------------------------------------
class Killed(BaseException):
    """Stands for SIGKILL inside a test: nothing in the code may catch it."""


Instrument = Callable[[pytest.MonkeyPatch, Callable[[], bool]], None]
"""Puts instants into the code; at each it asks the function whether this is the one to be killed at."""


def survived_instants(unbroken: Path, tmp_path: Path, instrument: Instrument) -> int:
    """Kill a run at its first instant, another at its second, ... until one reaches its end; return how many were.

    Each is resumed, and its metrics must be those of the unbroken run.
    """
    for number in count():
        folder = tmp_path / str(number)
        instants = map(number.__eq__, count())
        with pytest.MonkeyPatch.context() as patch:
            instrument(patch, partial(next, instants))
            try:
                fit(SETTINGS, folder, quiet=True)
            except Killed:
                pass
            else:
                return number
        finish(folder)
        assert metrics(folder) == metrics(unbroken)
    raise AssertionError("unreachable")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_rename(unbroken: Path, tmp_path: Path, after: bool) -> None:
    """Each rename puts a file into its place: the configuration, every checkpoint and the curves."""
    rename = os.replace

    def instrument(patch: pytest.MonkeyPatch, is_the_one: Callable[[], bool]) -> None:
        def killed(source: Path, target: Path) -> None:
            the_one = is_the_one()
            if the_one and not after:
                raise Killed
            rename(source, target)
            if the_one:
                raise Killed

        patch.setattr(os, "replace", killed)

    # A checkpoint for each step at least; the configuration, the first checkpoint, the curves.
    assert survived_instants(unbroken, tmp_path, instrument) >= 11 + 3


def test_killed_within_any_line(unbroken: Path, tmp_path: Path) -> None:
    """Each row of metrics and of timing, torn in the middle."""
    append = JsonLines.append

    def instrument(patch: pytest.MonkeyPatch, is_the_one: Callable[[], bool]) -> None:
        def killed(lines: JsonLines, row: dict[str, Any]) -> None:
            append(lines, row)
            if is_the_one():
                os.truncate(lines.path, lines.size - 5)
                raise Killed

        patch.setattr(JsonLines, "append", killed)

    assert survived_instants(unbroken, tmp_path, instrument) == 3 + 3 + 3  # rows of training, validation and timing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["step", "evaluate"])
def test_a_signal_ends_the_run_in_good_order(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, where: str
) -> None:
    folder = tmp_path / "run"
    work = getattr(loop._Trainer, where)

    def interrupted(trainer: Any, *args: Any) -> Any:
        if trainer.position.step == 5:
            signal.raise_signal(number)
        return work(trainer, *args)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, where, interrupted)
        result = fit(replace(SETTINGS, checkpoint_every=60.0), folder, quiet=True)
    assert signal.getsignal(number) is before
    assert result.signal == number
    assert result.step == (6 if where == "step" else 5)  # the step is finished, an evaluation is put off
    assert resume(folder, quiet=True).signal is None
    assert metrics(folder) == metrics(unbroken)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_all_that_a_network_and_an_optimiser_remember_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Literal["sgd", "rmsprop", "adamw"]
) -> None:
    """Batch norm's running statistics, momentum, the step of the schedule and of the augmentation."""
    momentum = 0.0 if optimizer == "adamw" else 0.9
    settings = Settings(
        model="cnn", levels=(4, 4), repeats=1, augment=("flip", "crop"), batch_size=32,
        optimizer=optimizer, momentum=momentum, weight_decay=1e-2, schedule="cosine", warmup=0.3,
        steps=9, eval_every=4, log_every=1, checkpoint_every=0.0,
    )  # fmt: skip
    fit(settings, tmp_path / "whole", quiet=True)
    step = loop._Trainer.step

    def killed(trainer: Any, batch: Batch) -> None:
        step(trainer, batch)
        if trainer.position.step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, "step", killed)
        with pytest.raises(Killed):
            fit(settings, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_resuming_a_complete_run_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = fit(SETTINGS, folder, quiet=True)
    before = metrics(folder)
    assert resume(folder, quiet=True) == first
    assert metrics(folder) == before


def test_going_back_to_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """... which is not the last, and where the way forward again is killed at its first step."""
    folder = tmp_path / "run"
    result = fit(replace(SETTINGS, lr=0.3, optimizer="sgd"), folder, quiet=True)
    assert result.best_step < result.step  # so high a learning rate lets the accuracy fall
    before = metrics(folder)

    def killed(trainer: Any, batch: Batch) -> None:
        assert trainer.position.step == result.best_step
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, "step", killed)
        with pytest.raises(Killed):
            resume(folder, checkpoint="best", quiet=True)
    assert len(metrics(folder)) < len(before)
    resume(folder, quiet=True)
    assert metrics(folder) == before


def test_another_version_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fit(SETTINGS, folder, quiet=True)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(f'pullback = "{pb.__version__}"', 'pullback = "0.0.1"'))
    with pytest.warns(UserWarning, match=r"was begun by pullback 0\.0\.1 and goes on with"):
        resume(folder, quiet=True)


# -- what goes wrong --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [0, 1, 5, 30])
def test_a_full_disk_loses_nothing(unbroken: Path, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "run"
    sync = os.fsync
    calls = iter(range(1000))

    def full(handle: int) -> None:
        if next(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="the disk is full"):
            fit(SETTINGS, folder, quiet=True)
    finish(folder)
    assert metrics(folder) == metrics(unbroken)


def test_a_diverging_run_names_the_step_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"after \d+ steps.*lower one than lr 1e\+30.*pb.trace_nans"):
        fit(replace(SETTINGS, optimizer="sgd", lr=1e30), tmp_path / "run", quiet=True)
    assert all(np.isfinite(row["loss"]) for row in Run.open(tmp_path / "run").metrics())


def test_two_processes_do_not_train_in_one_folder(unbroken: Path) -> None:
    with locked(unbroken / ".lock"), pytest.raises(RunError, match="is being trained by another process"):
        resume(unbroken, quiet=True)


def test_a_run_is_not_overwritten(unbroken: Path) -> None:
    before = metrics(unbroken)
    with pytest.raises(RunError, match=r"already holds a run. Continue it with `pullback resume"):
        fit(SETTINGS, unbroken, quiet=True)
    assert metrics(unbroken) == before


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train, test = load_digits()
    fit(SETTINGS, folder, data=Splits(train, test), quiet=True)
    pixels = train.images.copy()
    pixels[700, 3, 3, 0] ^= 1
    changed = Splits(Dataset(pixels, train.labels, train.classes, train.name), test)
    with pytest.raises(RunError, match="'digits' have changed since the run began"):
        resume(folder, data=changed, quiet=True)
    resume(folder, data=Splits(train, test), quiet=True)


def test_a_damaged_checkpoint_is_refused_and_the_other_offered(unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fit(SETTINGS, folder, quiet=True)
    path = folder / "checkpoints" / "last.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)
    for use in (lambda: resume(folder, quiet=True), lambda: evaluate(folder)):
        with pytest.raises(RunError, match=r"last.safetensors is damaged.*`--checkpoint best`"):
            use()
    resume(folder, checkpoint="best", quiet=True)
    assert metrics(folder) == metrics(unbroken)


@pytest.mark.parametrize(
    ("other", "message"),
    [({"hidden": (17,)}, "holds another network"), ({"optimizer": "sgd"}, "was written with another optimiser")],
)
def test_a_foreign_checkpoint_is_refused(unbroken: Path, tmp_path: Path, other: dict[str, Any], message: str) -> None:
    folder = tmp_path / "other"
    fit(replace(SETTINGS, **other), folder, quiet=True)
    path = folder / "checkpoints" / "last.safetensors"
    path.write_bytes((unbroken / "checkpoints" / "last.safetensors").read_bytes())
    with pytest.raises(RunError, match=message):
        resume(folder, quiet=True)


def test_lost_metrics_are_noticed(tmp_path: Path) -> None:
    fit(SETTINGS, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics.jsonl does not hold the"):
        resume(tmp_path / "run", quiet=True)


def test_images_of_another_shape_are_refused(unbroken: Path, tmp_path: Path) -> None:
    train, test = load_digits()
    wide = Dataset(np.zeros((3, 8, 9, 1), np.uint8), np.zeros(3, np.int64), test.classes, "wide")
    with pytest.raises(DataError, match=r"training images are \(8, 8, 1\).*validation images \(8, 9, 1\)"):
        fit(SETTINGS, tmp_path / "run", data=Splits(train, wide), quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"wide: expected images \(8, 8, 1\)"):
        evaluate(unbroken, data=wide)
    with pytest.raises(DataError, match=r"expected images uint8 \(N, 8, 8, 1\).*got uint8 \(3, 8, 9, 1\)"):
        predict(unbroken, wide.images)


# -- how a run ends, and what is kept ---------------------------------------------------------------------------------
def test_a_time_budget_ends_the_run_in_good_order(tmp_path: Path) -> None:
    result = fit(replace(SETTINGS, steps=None, epochs=None, time_budget="2s"), tmp_path / "fitted", quiet=True)
    assert result.step == result.steps > 1
    assert result.train_seconds < 10
    assert Run.open(tmp_path / "fitted").config.settings.steps is not None  # so that it resumes with the same schedule
    cut = fit(replace(SETTINGS, steps=1_000_000, epochs=None, time_budget="0.5s"), tmp_path / "cut", quiet=True)
    assert 0 < cut.step < 1_000_000
    assert cut.accuracy is not None
    assert Run.open(tmp_path / "cut").metrics()[-1]["step"] == cut.step


def test_patience_ends_a_run_that_does_not_improve(tmp_path: Path) -> None:
    settings = replace(SETTINGS, lr=1e-12, steps=400, epochs=None, eval_every=5, patience=3)
    result = fit(settings, tmp_path / "run", quiet=True)
    assert result.step == result.best_step + 15


@pytest.mark.parametrize("how", [{"warmup_steps": 8}, {"warmup_epochs": 2.0}, {"warmup": 0.1}])
def test_the_warm_up_by_steps_by_epochs_and_by_part(tmp_path: Path, how: dict[str, Any]) -> None:
    """The learning rate rises for 8 steps of 80, and is the highest at the step behind them."""
    train, test = load_digits()
    few = Splits(train.subset(range(4 * 64)), test)
    settings = Settings(model="mlp", hidden=(4,), schedule="cosine", steps=80, log_every=1, **how)
    fit(settings, tmp_path / "run", data=few, quiet=True)
    rates = [row["learning_rate"] for row in Run.open(tmp_path / "run").metrics() if row["split"] == "training"]
    assert int(np.argmax(rates)) == 8
    np.testing.assert_allclose(rates[:8], settings.lr * np.arange(1, 9) / 9)
    with pytest.raises(ConfigError, match=r"warm-up of 90 steps is not shorter than the run of 80"):
        fit(replace(settings, warmup=0.05, warmup_epochs=None, warmup_steps=90), tmp_path / "long", data=few)


def test_averaged_weights_of_any_schedule(tmp_path: Path) -> None:
    settings = replace(SETTINGS, schedule="one-cycle", warmup=0.3, average=0.9, steps=20, epochs=None)
    result = fit(settings, tmp_path / "run", quiet=True)
    assert evaluate(tmp_path / "run").accuracy == result.accuracy


def test_averaged_weights_are_what_is_evaluated(tmp_path: Path) -> None:
    settings = replace(SETTINGS, average=0.99, steps=60, epochs=None)
    result = fit(settings, tmp_path / "run", quiet=True)
    assert evaluate(tmp_path / "run").accuracy == result.accuracy
    plain = fit(replace(settings, average=0.0), tmp_path / "plain", quiet=True)
    assert plain.loss != result.loss
    assert Run.open(tmp_path / "run").metrics()[0] == Run.open(tmp_path / "plain").metrics()[0]  # no step is changed


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from pullback.nn import models\n\n"
        "def build(input_shape, classes, seed):\n    return models.mlp(input_shape, classes, (7,), seed=seed)\n"
    )
    result = fit(replace(SETTINGS, build=f"{file}:build", steps=3, epochs=None), tmp_path / "run", quiet=True)
    assert result.step == 3
    assert evaluate(tmp_path / "run").images > 0
    with pytest.raises(ConfigError, match="defines no function other"):
        fit(replace(SETTINGS, build=f"{file}:other", steps=3, epochs=None), tmp_path / "other", quiet=True)
    with pytest.raises(ConfigError, match=r"expected FILE\.py:FUNCTION"):
        replace(SETTINGS, build="nothing")
