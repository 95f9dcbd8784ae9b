"""Training: batches in, metrics and checkpoints out. `fit` begins a run, `resume` goes on with an interrupted one.

A run is a function of its configuration and its data. Each batch follows from the seed and its step, and a checkpoint
holds everything else that a step depends on, so that a run killed at any instant repeats the steps since its last
checkpoint and writes the very metrics that it would have written.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import pullback as pb
from pullback import files, nn, optim
from pullback.core import tree
from pullback.data import DATASETS, Batch, Splits
from pullback.errors import NonFiniteError, RunError
from pullback.files import JsonLines
from pullback.train.build import (
    averaged,
    build_batches,
    build_model,
    build_optimizer,
    build_schedule,
    check_same,
    load_again,
    load_data,
    measure,
    normalise,
    run_length,
)
from pullback.train.checkpoint import Position, save
from pullback.train.config import Config, Settings, resolved, seconds_of
from pullback.train.curves import draw_curves
from pullback.train.evaluate import Evaluation, evaluate_dataset, hits, load_arrays
from pullback.train.report import Report, report_for
from pullback.train.run import Run
from pullback.train.signals import Stop, stop_on_signals

_TRIAL = 12  # steps that are timed to fit a run into a time budget
_OF_BUDGET = 0.92
DRAW_EVERY = 30.0  # seconds between two drawings of the curves; the last one is always drawn


@dataclass(frozen=True)
class Result:
    """Where a run stands when `fit` or `resume` returns."""

    run: str
    """The run folder."""
    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""
    signal: int | None
    """Number of the signal that ended the run before its last step; None where it is complete."""
    loss: float | None
    """Validation loss at the last evaluation, nats; None before the first."""
    accuracy: float | None
    """Validation accuracy at the last evaluation, between 0 and 1; None before the first."""
    best_accuracy: float | None
    """The highest validation accuracy, between 0 and 1; None before the first evaluation."""
    best_step: int
    """The step of `best_accuracy`."""
    train_seconds: float
    """Time spent in training steps, evaluations and checkpoints not counted, seconds."""
    images_per_second: float
    """Training images a second of `train_seconds`."""


def fit(settings: Settings, out: str | Path, data: Splits | None = None, quiet: bool = False) -> Result:
    """Train a network from the start, into the new run folder `out`.

    `data` stands in for the data set that `settings.data` names. SIGINT and SIGTERM end the run in good order, with a
    checkpoint. Raises ConfigError, DataError, RunError (the folder is in use, holds a run, or cannot be written) and
    NonFiniteError (the loss is no longer a number).
    """
    Run.check_free(Path(out))
    if settings.data not in DATASETS and Path(settings.data).exists():
        settings = replace(settings, data=str(Path(settings.data).resolve()))  # so that `resume` works from anywhere
    settings = resolved(settings)
    splits = load_data(settings) if data is None else data
    config = Config(pb.__version__, settings, measure(splits))
    if settings.time_budget is not None and settings.steps is None and settings.epochs is None:
        config = replace(config, settings=replace(settings, steps=_affordable_steps(config, splits)))
    trainer = _Trainer(config, splits)  # before the folder, so that a wrong setting leaves none behind
    with Run.begin(Path(out), config) as run:
        return _train(trainer, run, quiet)


def resume(run: str | Path, data: Splits | None = None, checkpoint: str = "last", quiet: bool = False) -> Result:
    """Go on with the run in the folder `run` from its checkpoint `last`, or go back to its checkpoint `best`.

    `data` is needed where the run was begun with data of its own. Raises as `fit` does, and RunError where the data
    have changed or the checkpoint cannot be used. Warns where another version of pullback began the run.
    """
    opened = Run.open(run)
    if opened.config.pullback != pb.__version__:
        warnings.warn(
            f"{run} was begun by pullback {opened.config.pullback} and goes on with {pb.__version__}: "
            f"its metrics may differ from those of an unbroken run",
            stacklevel=2,
        )
    with opened.lock():
        if data is None:
            data = load_again(opened.config)
        else:
            check_same(opened.config, data)
        trainer = _Trainer(opened.config, data)
        trainer.restore(opened, checkpoint)
        if checkpoint != "last" and opened.began():
            # At once, because the metrics are cut next, and `last` would then know of rows that are gone.
            files.replace(opened.checkpoint_path("last"), opened.checkpoint_path(checkpoint).read_bytes())
        return _train(trainer, opened, quiet)


class _Trainer:
    """A run in memory: what it is made of, and the state that a checkpoint holds."""

    def __init__(self, config: Config, splits: Splits) -> None:
        self.settings, facts = config.settings, config.facts
        self.batches = build_batches(self.settings, facts, splits.train)
        self.validation = splits.test
        self.normalise = normalise(facts)
        self.steps = run_length(self.settings, len(self.batches))
        self.eval_every = self.settings.eval_every or len(self.batches)
        self.schedule = build_schedule(self.settings, self.steps, len(self.batches))
        self.optimizer = build_optimizer(self.settings, self.schedule)
        update = training_step(self.optimizer)
        # Parameters and the optimiser's state are updated in place.
        compiled = pb.compile(update, donate=(0, 1), precision=self.settings.precision)
        self.update = update if self.settings.eager else compiled
        # The state: all that a step changes.
        self.model = build_model(self.settings, facts.image_shape, len(facts.classes))
        self.optimizer_state = self.optimizer.init(self.model)
        self.position = Position()

    def restore(self, run: Run, checkpoint: str) -> None:
        """Take over the state of a checkpoint. Raises RunError where it cannot be used."""
        if not run.began():
            return
        path = run.checkpoint_path(checkpoint)
        self.position, model, optimizer = run.checkpoint(checkpoint)
        load_arrays(self.model, model, path)
        leaves, structure = tree.flatten(self.optimizer_state)
        expected = {name: (a.shape, a.dtype) for name, a in zip(structure.paths(), leaves, strict=True)}
        if expected != {name: (a.shape, a.dtype) for name, a in optimizer.items()}:
            raise RunError(f"{path} was written with another optimiser than that of {run.config_path}: train again.")
        self.optimizer_state = structure.unflatten([optimizer[name] for name in expected])

    def step(self, batch: Batch) -> None:
        """One step of gradient descent. Raises NonFiniteError where the loss is not a number, after which the state is
        not to be used: the last checkpoint is."""
        began = time.perf_counter()
        position = self.position
        self.model, self.optimizer_state, loss, logits = self.update(
            self.model, self.optimizer_state, batch.images, batch.targets
        )
        if not math.isfinite(loss):
            raise NonFiniteError(self._diverged("the training loss", loss))
        for array in tree.leaves(self.model):
            array.flags.writeable = False  # then nothing can change it behind the tape's back, and nothing has to watch
        position.step += 1
        position.seen += len(logits)
        position.loss_sum += float(loss) * len(logits)
        position.correct += int(np.count_nonzero(hits(logits, batch.targets)))
        position.images += len(logits)
        position.train_seconds += time.perf_counter() - began

    def evaluated_model(self) -> Any:
        """The network whose accuracy counts: with the averaged parameters, where they are kept."""
        average = averaged(self.settings, self.optimizer_state)
        return self.model if average is None else average

    def check_end(self) -> None:
        """Make this step the last one where the time is up, or where patience has come to its end."""
        settings, position = self.settings, self.position
        if settings.time_budget is not None and position.train_seconds >= seconds_of(settings.time_budget):
            self.steps = min(self.steps, position.step)
        if settings.patience is not None and position.best_accuracy >= 0:
            worse = (position.evaluated - position.best_step) // self.eval_every
            if worse >= settings.patience:
                self.steps = min(self.steps, position.step)

    def evaluate(self, stop: Stop) -> Evaluation | None:
        """Evaluate on the validation images; None where `stop` came to be set. Raises NonFiniteError as `step` does."""
        result = evaluate_dataset(self.evaluated_model(), self.validation, self.normalise, stop)
        if result and not math.isfinite(result.loss):
            raise NonFiniteError(self._diverged("the validation loss", result.loss))
        return result

    def _diverged(self, what: str, value: float) -> str:
        return (
            f"{what} is {float(value)} after {self.position.step} steps. Most often the learning rate is too high: "
            f"try a lower one than lr {self.settings.lr:g}. `pb.trace_nans()` finds the operation that made it."
        )

    def evaluation_is_due(self) -> bool:
        """Whether the validation images are to be evaluated before the next step."""
        step = self.position.step
        return step > self.position.evaluated and (step % self.eval_every == 0 or step == self.steps)

    def row_is_due(self) -> bool:
        """Whether a row of training metrics is to be written."""
        return self.position.step % self.settings.log_every == 0 or self.position.step == self.steps


class _Output:
    """The files that a run in training writes."""

    def __init__(self, run: Run, metrics: JsonLines, timing: JsonLines) -> None:
        self.run = run
        self.metrics = metrics
        self.timing = timing
        self.saved = self.drawn = time.monotonic()

    @classmethod
    @contextmanager
    def open(cls, run: Run, position: Position) -> Iterator[_Output]:
        """The files, cut back to where they were at `position`. Raises RunError where they were cut or edited since."""
        with (
            closing(JsonLines(run.metrics_path, position.metrics_size)) as metrics,
            closing(JsonLines(run.timing_path, position.timing_size)) as timing,
        ):
            yield cls(run, metrics, timing)

    def save(self, trainer: _Trainer, name: str) -> None:
        """Write the checkpoint `name`, after the rows that it knows of."""
        for lines in (self.metrics, self.timing):
            lines.sync()
        trainer.position.metrics_size = self.metrics.size
        trainer.position.timing_size = self.timing.size
        optimizer, structure = tree.flatten(trainer.optimizer_state)
        arrays = dict(zip(structure.paths(), map(np.asarray, optimizer), strict=True))
        save(self.run.checkpoint_path(name), trainer.position, trainer.model.state(), arrays)
        self.saved = time.monotonic()

    def draw(self, trainer: _Trainer) -> None:
        """Draw the curves of the rows so far."""
        title = f"{trainer.settings.model} on {Path(trainer.settings.data).name}"
        draw_curves(self.run.curves_path, self.run.metrics(), title)
        self.drawn = time.monotonic()


def _affordable_steps(config: Config, splits: Splits) -> int:
    """How many steps fit in the time budget, with the evaluations between them, by a short trial; at least one."""
    settings = config.settings
    assert settings.time_budget is not None
    short = replace(settings, steps=_TRIAL, warmup_steps=None, warmup_epochs=None)  # whose rates do not matter
    trial = _Trainer(replace(config, settings=short), splits)
    seconds = []
    for batch in trial.batches.iterate(0, _TRIAL):
        before = trial.position.train_seconds
        trial.step(batch)
        seconds.append(trial.position.train_seconds - before)
    # The first steps compile; a little is left over for a busier machine.
    return max(1, int(_OF_BUDGET * seconds_of(settings.time_budget) / float(np.median(seconds[2:]))))


def _train(trainer: _Trainer, run: Run, quiet: bool) -> Result:
    """Train until the last step, or until a signal asks to stop."""
    position = trainer.position
    with (
        _Output.open(run, position) as output,
        closing(report_for(quiet, trainer.steps, position.step)) as report,
        stop_on_signals() as stop,
        np.errstate(all="ignore"),  # a loss that is no longer a number is an error of its own
    ):
        batches = trainer.batches.iterate(position.step, trainer.steps)
        if not run.began():
            output.save(trainer, "last")  # from here on there is always one to go back to
        while not stop:
            trainer.check_end()
            if trainer.evaluation_is_due():
                _evaluate(trainer, output, report, stop)
                trainer.check_end()
            if stop or position.step == trainer.steps:
                break
            trainer.step(next(batches))
            report.step(position)
            if trainer.row_is_due():
                output.metrics.append(_training_row(trainer))
                position.loss_sum, position.correct, position.seen = 0.0, 0, 0
            if time.monotonic() - output.saved > trainer.settings.checkpoint_every:
                output.save(trainer, "last")
        if stop:
            output.save(trainer, "last")
        output.draw(trainer)
    return _result(trainer, run, stop)


def _evaluate(trainer: _Trainer, output: _Output, report: Report, stop: Stop) -> None:
    position = trainer.position
    result = trainer.evaluate(stop)
    if result is None:  # it is made up for on resuming
        return
    position.evaluated = position.step
    report.evaluated(position.step, result.loss, result.accuracy)
    row = {"step": position.step, "split": "validation", "loss": result.loss, "accuracy": result.accuracy}
    output.metrics.append(row)
    output.timing.append(
        {"step": position.step, "train_seconds": position.train_seconds, "evaluation_seconds": result.seconds}
    )
    if result.accuracy > position.best_accuracy:
        position.best_accuracy, position.best_step = result.accuracy, position.step
        # Before `last`: killed between the two, the run goes back to the step before and writes both again.
        output.save(trainer, "best")
    output.save(trainer, "last")
    if time.monotonic() - output.drawn > DRAW_EVERY:
        output.draw(trainer)


def _training_row(trainer: _Trainer) -> dict[str, Any]:
    position = trainer.position
    return {
        "step": position.step,
        "split": "training",
        "loss": position.loss,
        "accuracy": position.accuracy,
        "learning_rate": float(trainer.schedule(position.step - 1)),
    }


def _result(trainer: _Trainer, run: Run, stop: Stop) -> Result:
    position = trainer.position
    validation = [row for row in run.metrics() if row["split"] == "validation"]
    last = validation[-1] if validation else {"loss": None, "accuracy": None}
    return Result(
        run=str(run.folder),
        step=position.step,
        steps=trainer.steps,
        signal=None if position.evaluated == trainer.steps else stop.signal,
        loss=last["loss"],
        accuracy=last["accuracy"],
        best_accuracy=position.best_accuracy if validation else None,
        best_step=position.best_step,
        train_seconds=position.train_seconds,
        images_per_second=position.images_per_second,
    )


def training_step(optimizer: optim.Transform) -> Callable[..., Any]:
    """(network, the optimiser's state, images, targets) -> the new ones of both, the loss and the logits."""

    def loss(model: Any, images: Any, targets: Any) -> tuple[Any, Any]:
        logits = model(images)
        return nn.softmax_cross_entropy(logits, targets), logits

    def update(model: Any, state: Any, images: Any, targets: Any) -> tuple[Any, Any, Any, Any]:
        (value, logits), gradients = pb.value_and_grad(loss, has_aux=True)(model, images, targets)
        updates, state = optimizer.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, value, logits

    return update
