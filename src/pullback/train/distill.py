"""Distillation: a folder of images without labels and a pretrained teacher in, a small trained network out.
Label, split, train, compare with the teacher; each part goes on where it was when the job is called again after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pullback import files
from pullback.data import Splits, open_source
from pullback.errors import ConfigError
from pullback.teach import ClassName, Labelling, Selection, Teacher, label_folder, select_classes
from pullback.train.config import Settings, read_config, resolved
from pullback.train.evaluate import Evaluation, evaluate
from pullback.train.export import export
from pullback.train.labelled import Recipe, Targets, class_names, labels_folder, read_labelled, split_labelled
from pullback.train.loop import Result, fit, resume
from pullback.train.page import report

SUMMARY = "summary.json"

_ALL = Selection()


@dataclass(frozen=True)
class Distillation:
    """What came of a distillation; kept as `summary.json` in the run folder."""

    run: str
    """The run folder."""
    folder: str
    """The folder of images."""
    teacher: str
    """Name of the teacher."""
    teacher_sha256: str
    """SHA-256 of its file."""
    classes: tuple[str, ...]
    """The classes, in the order of the network's outputs."""
    targets: Targets
    """What the network was trained on: soft or hard labels."""
    image_shape: tuple[int, ...]
    """Height, width and channels of the network's input."""
    train_images: int
    """Images trained on."""
    held_out_images: int
    """Images kept out of training."""
    skipped_images: int
    """Images that could not be labelled, or not be read again; `labels/skipped.json` tells why."""
    agreement: float | None
    """Part of the held-out images of which network and teacher find the same class most probable, between 0 and 1."""
    best_agreement: float | None
    """The highest agreement at any evaluation. It was chosen by these very images, so that it flatters."""
    loss: float | None
    """Mean cross-entropy of the network with the targets of the held-out images, nats."""
    class_agreement: dict[str, float]
    """The agreement on the images of each of the teacher's classes."""
    labelling_images_per_second: float
    """Images labelled a second, with reading, resizing and writing."""
    train_images_per_second: float
    """Training images a second."""
    train_seconds: float
    """Time spent in training steps, seconds."""
    step: int
    """Training steps done."""
    steps: int
    """Training steps of the whole run."""
    signal: int | None
    """Number of the signal that ended the job early; None where it is complete."""
    settings: dict[str, Any]
    """The settings of the network and its training."""
    command: str
    """The command that repeats the job; empty where it was called from Python."""
    report: str | None
    """The report, an HTML page; None where there is none."""
    network: str | None
    """The network as an ONNX file, from pixels to logits; None where there is none."""


def distill(
    folder: str | Path,
    teacher: Teacher,
    out: str | Path,
    student: Settings,
    *,
    classes: str | Path | Iterable[str | int] | None = None,
    targets: Targets = "soft",
    held_out: float = 0.1,
    temperature: float = 1.0,
    interpolation: str = "bicubic",
    tta: str = "none",
    top_k: int | None = None,
    selection: Selection = _ALL,
    workers: int | None = None,
    quiet: bool = False,
    on_labelling: Callable[[int, int], None] | None = None,
    on_caching: Callable[[int, int], None] = lambda done, total: None,
    command: str = "",
    bare: bool = False,
) -> Distillation:
    """Label the images of `folder` with `teacher`, train `student` on them, and compare the two on held-out images.

    Called again with the same arguments it continues: no image is labelled twice, and training goes on from its last
    checkpoint. Copies of one file are never both trained on and held out.

    Args:
        folder: images of any size and mode, in any tree. They are only read.
        teacher: gives the labels.
        out: the run folder, outside of `folder`.
        student: the network and its training; `data` in it is ignored.
        classes: restrict the labels to these (see `select_classes`); all of the teacher's if None.
        targets: train on the teacher's probabilities ("soft"), on its most probable class ("hard"), or on the mean of
            the two ("both").
        held_out: part of the images to compare on, between 0 and 1.
        temperature: of the teacher's probabilities in training; above 1 they are softer.
        interpolation: how images are resized, by Pillow's name; `auto` for the way that suits the teacher.
        tta: `flip` for labels that are the mean of the answers to an image and to its mirror image.
        top_k: keep only the k highest probabilities of each image; all if None.
        selection: which labelled images to use, to train on and to compare with.
        workers: threads that label; the number of processors if None.
        quiet: show no progress of the training.
        on_labelling, on_caching: called as `on_labelling(done, total)` while images are labelled, and resized.
        command: what the report says repeats the job.
        bare: leave out the report and the ONNX file at the end.

    Raises:
        DataError: the folder cannot be used.
        TeacherError: the teacher fails.
        ConfigError: a setting is wrong, or is not that of the run in `out`.
        RunError: `out` is in use or cannot be written, or its data have changed.
    """
    source, out = open_source(Path(folder).resolve()), Path(out)
    recipe = Recipe(str(source.root), targets, temperature, held_out, _interpolation(out, interpolation))
    chosen = select_classes(teacher.classes, classes)
    student = replace(resolved(student), data=str(out.resolve()))
    _check_out(source.root, out)
    _check_same_job(out, recipe, student, selection)
    with files.locked(files.make_folder(out) / ".job.lock", "distilled"):  # training has a lock of its own
        labelling = label_folder(
            source.root,
            teacher,
            labels_folder(out),
            classes=[c.index for c in chosen],
            top_k=top_k,
            interpolation=recipe.interpolation,
            tta=tta,
            workers=workers,
            on_progress=on_labelling,
        )
        recipe = replace(recipe, interpolation=labelling.labels.kind.interpolation)
        recipe.write(out)
        selection.write(labels_folder(out))
        splits = split_labelled(read_labelled(out, recipe, student.image_size, workers, on_caching), recipe)
        begun = (out / "config.toml").exists()
        result = resume(out, splits, quiet=quiet) if begun else fit(student, out, splits, quiet=quiet)
        evaluation = evaluate(out, splits.test) if result.signal is None else None
        summary = replace(
            _summary(recipe, teacher, chosen, labelling, splits, result, evaluation, student), command=command
        )
        files.replace(out / SUMMARY, json.dumps(asdict(summary), indent=1).encode())
        if result.signal is None and not bare:
            summary = replace(summary, report=str(report(out)), network=export(out).path)
            files.replace(out / SUMMARY, json.dumps(asdict(summary), indent=1).encode())
        return summary


def _interpolation(out: Path, asked: str) -> str:
    """What `auto` came to be in a job that goes on; else what was asked for."""
    before = Recipe.read(out)
    return before.interpolation if asked == "auto" and before is not None else asked


def _check_out(folder: Path, out: Path) -> None:
    """Before anything is made: the user's folder is only read."""
    if out.resolve().is_relative_to(folder):
        raise ConfigError(
            f"{out} lies inside the folder of images, {folder}, which is only read: choose another place."
        )


def _check_same_job(out: Path, recipe: Recipe, student: Settings, selection: Selection) -> None:
    """Raises ConfigError where the run in `out` was begun with other settings; `label_folder` checks its own."""
    pairs = []
    before = Recipe.read(out)
    if before is not None:
        pairs.append((asdict(before), asdict(recipe)))
        pairs.append((asdict(Selection.read(labels_folder(out))), asdict(selection)))
    if (out / "config.toml").exists():
        settings = read_config(out / "config.toml").settings
        if student.steps is None and student.time_budget is not None:
            settings = replace(settings, steps=None)  # chosen to fit the budget
        pairs.append((asdict(settings), asdict(student)))
    for old, new in pairs:
        for name in old:
            if old[name] != new[name]:
                raise ConfigError(
                    f"{out} was begun with {name} {old[name]}, this asks for {new[name]}: "
                    f"repeat the settings to continue it, or choose another folder."
                )


def _summary(
    recipe: Recipe,
    teacher: Teacher,
    classes: Sequence[ClassName],
    labelling: Labelling,
    splits: Splits,
    result: Result,
    evaluation: Evaluation | None,
    student: Settings,
) -> Distillation:
    return Distillation(
        run=result.run,
        folder=recipe.folder,
        teacher=str(teacher.spec.name),
        teacher_sha256=teacher.sha256,
        classes=class_names(classes),
        targets=recipe.targets,
        image_shape=splits.train.image_shape,
        train_images=len(splits.train),
        held_out_images=len(splits.test),
        skipped_images=len(labelling.skipped) + len(splits.skipped),
        agreement=evaluation.accuracy if evaluation else result.accuracy,
        best_agreement=result.best_accuracy,
        loss=evaluation.loss if evaluation else result.loss,
        class_agreement=evaluation.class_accuracy if evaluation else {},
        labelling_images_per_second=labelling.labels.images_per_second,
        train_images_per_second=result.images_per_second,
        train_seconds=result.train_seconds,
        step=result.step,
        steps=result.steps,
        signal=result.signal,
        settings=asdict(student),
        command="",
        report=None,
        network=None,
    )
