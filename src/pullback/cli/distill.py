"""`pullback distill`: a folder of unlabelled images and a pretrained teacher in; a small trained network out."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pullback.cli.options import Options
from pullback.errors import ConfigError
from pullback.teach import Teacher, TeacherSpec
from pullback.train import Settings
from pullback.train.distill import Distillation, distill
from pullback.train.report import LINE_EVERY, duration


@dataclass(frozen=True)
class Description:
    """What the teacher expects and returns; found in `teacher.toml` beside it, or built in, where not given."""

    teacher_size: tuple[int, ...] = ()
    """Height and width of the teacher's input, or one number for both, pixels; none: as the model says."""
    teacher_layout: Literal["auto", "NCHW", "NHWC"] = "auto"
    """Whether the channels come first (NCHW) or last; auto: as the model says."""
    teacher_scale: float | None = None
    """The teacher's input is (pixel x scale - mean) / std, with RGB pixels from 0 to 255."""
    teacher_mean: tuple[float, ...] = ()
    """One number, or one for each channel."""
    teacher_std: tuple[float, ...] = ()
    """One number, or one for each channel."""
    teacher_output: Literal["auto", "logits", "probabilities"] = "auto"
    """What the teacher returns; auto: seen from its answers."""
    teacher_classes: str | None = None
    """Class list (JSON, or text with a name a line); not given: looked for beside the model."""
    teacher_background: bool = False
    """The teacher's first output is a background class that is not in the class list."""

    def spec(self) -> TeacherSpec:
        """The description as far as it was given."""
        given: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in (None, (), False, "auto"):
                given[field.name.removeprefix("teacher_")] = value
        if len(given.get("size", ())) == 1:
            given["size"] *= 2
        return TeacherSpec.from_mapping(given, "options of the teacher")


@dataclass(frozen=True)
class Student(Settings):
    """The network and its training."""

    model: Literal["mlp", "cnn", "cifar-cnn", "levels-cnn"] = "levels-cnn"
    data: tyro.conf.Suppress[str] = ""
    image_size: int | None = 64
    """Side of the square that each image is resized to for the network, pixels."""
    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "adamw"
    schedule: Literal["constant", "cosine", "one-cycle", "exponential", "staircase"] = "cosine"
    augment: tuple[Literal["flip", "crop"], ...] = ("flip", "crop")


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Label a folder of images with a pretrained network, and train a small one on the labels.

    The same command goes on with what was interrupted.

    Example: pullback distill photos --teacher efficientnet_lite0_224.onnx --classes tench,church --out runs/photos
    """

    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images in any tree, of any size. They are only read."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """The pretrained network; always needed."""
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to make, or to continue; where not given, runs/distill-FOLDER."""
    classes: str = "all"
    """Classes to choose from: names, WordNet ids or numbers with commas between, or a file with one a line."""
    targets: Literal["soft", "hard"] = "soft"
    """Train on the teacher's probabilities (soft), or on its most probable class (hard)."""
    held_out: float = 0.1
    """Part of the images that is kept out of training to compare the network with its teacher."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bicubic"
    """How images are resized."""
    workers: int | None = None
    """Threads that label; not given: one for each processor."""
    description: tyro.conf.OmitArgPrefixes[Description]
    student: tyro.conf.OmitArgPrefixes[Student]

    def run(self) -> int:
        if self.teacher is None:
            raise ConfigError("no teacher given: expected `pullback distill FOLDER --teacher FILE.onnx`.")
        result = distill(
            self.folder,
            Teacher(self.teacher, self.description.spec()),
            self.out or Path("runs") / f"distill-{Path(self.folder).resolve().name}",
            Settings(**{field.name: getattr(self.student, field.name) for field in fields(Settings)}),
            classes=self.classes,
            targets=self.targets,
            held_out=self.held_out,
            interpolation=self.interpolation,
            workers=self.workers,
            quiet=self.json,
            on_labelling=None if self.json else _LabellingProgress(),
        )
        self.show(result, _text(result))
        return 0 if result.signal is None else 128 + result.signal


class _LabellingProgress:
    """A line every few seconds on the standard error, rewritten in place on a terminal."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        terminal = sys.stderr.isatty()
        if now - self._last < (0.25 if terminal else LINE_EVERY) and done < total:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        line = f"labelling {done:,} of {total:,} images, {rate:,.0f} images/s{left}"
        print(
            f"\r{line:79}" if terminal else line,
            end="" if terminal and done < total else "\n",
            file=sys.stderr,
            flush=True,
        )


def _text(result: Distillation) -> str:
    lines = [
        f"{'run folder':21}{result.run}",
        f"{'teacher':21}{result.teacher}, {len(result.classes)} classes, {result.targets} labels",
        f"{'images':21}{result.train_images:,} to train on, {result.held_out_images:,} held out, "
        f"{result.skipped_images:,} skipped",
        f"{'labelling':21}{result.labelling_images_per_second:,.0f} images/s",
        f"{'training':21}{result.step} of {result.steps} steps in {duration(result.train_seconds)}, "
        f"{result.train_images_per_second:,.0f} images/s",
    ]
    if result.agreement is not None:
        lines.append(f"{'agreement':21}{result.agreement:.2%} of the held-out images: the teacher's class")
    if result.class_agreement:
        width = max(map(len, result.class_agreement)) + 2
        lines += ["", "agreement by class of the teacher:"]
        lines += [f"  {name:{width}}{agreement:.1%}" for name, agreement in result.class_agreement.items()]
    run = shlex.quote(result.run)
    if result.signal is not None:
        name = signal.Signals(result.signal).name
        lines += ["", f"Interrupted by {name}; everything is saved. Go on with the same command."]
    else:
        lines += ["", "Next:", f"  pullback evaluate {run}", f"  pullback predict {run} IMAGE..."]
    return "\n".join(lines)
