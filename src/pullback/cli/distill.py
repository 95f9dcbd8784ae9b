"""`pullback distill`: a folder of unlabelled images and a pretrained teacher in; a small trained network out."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.cli.teacher import Description
from pullback.teach import Selection
from pullback.train import Settings
from pullback.train.config import Change, words
from pullback.train.distill import Distillation, distill
from pullback.train.report import duration


@dataclass(frozen=True)
class Student(Settings):
    """The network and its training."""

    model: Annotated[
        Literal["mlp", "cnn", "cifar-cnn", "levels-cnn", "residual"], tyro.conf.arg(aliases=["--student"])
    ] = "levels-cnn"
    data: tyro.conf.Suppress[str] = ""
    image_size: int | None = 64
    """Side of the square that each image is resized to for the network, pixels."""
    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "adamw"
    schedule: Literal["constant", "cosine", "one-cycle", "exponential", "staircase"] = "cosine"
    augment: tuple[Change, ...] = ("flip", "crop")


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Label a folder of images with a pretrained network, and train a small one on the labels.

    The same command goes on with what was interrupted.

    Example: pullback distill photos --teacher efficientnet-lite0 --classes tench,church --out runs/photos
    """

    folder: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images in any tree, of any size; or a .zip, a .tar or an .npz file of them. They are only read."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.onnx|PACKAGE:CALLABLE")] = None
    """The pretrained network; always needed."""
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to make, or to continue; where not given, runs/distill-FOLDER."""
    classes: str = "all"
    """Classes to choose from: names, WordNet ids or numbers with commas between, or a file with one a line."""
    targets: Literal["soft", "hard", "both"] = "soft"
    """Train on the teacher's probabilities (soft), on its most probable class (hard), or on their mean (both)."""
    temperature: float = 1.0
    """soft and both: above 1, the teacher's probabilities are made softer."""
    held_out: float = 0.1
    """Part of the images that is kept out of training to compare the network with its teacher."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "auto"] = "bicubic"
    """How images are resized; auto: as suits the teacher best, by a sample of 64 images."""
    tta: Literal["none", "flip"] = "none"
    """Test-time augmentation of the labels; flip: the mean of the answers to the image and to its mirror image."""
    top_k: int | None = None
    """Probabilities to keep for each image; not given: all."""
    min_confidence: float = 0.0
    """Use only images of which the teacher is so certain, 0 to 1."""
    max_per_class: int | None = None
    """Use at most so many images of each class, the most certain ones."""
    balance: bool = False
    """Use equally many images of each class."""
    workers: int | None = None
    """Threads that label; not given: one for each processor."""
    bare: bool = False
    """Leave out the report and the ONNX file at the end."""
    description: tyro.conf.OmitArgPrefixes[Description]
    student: tyro.conf.OmitArgPrefixes[Student]

    def _command(self) -> str:
        """What repeats the job."""
        plain = Command(folder=self.folder, description=Description(), student=Student())
        own = words(self, plain, leave_out=("folder", "description", "student", "json", "debug"))
        parts = (own, words(self.description, Description()), words(self.student, Student()))
        return shlex.join(["pullback", "distill", self.folder, *chain(*parts)])

    def run(self) -> int:
        with (
            Progress("labelling", "images", quiet=self.json) as labelling,
            Progress("resizing", "images", quiet=self.json) as caching,
        ):
            result = distill(
                self.folder,
                self.description.open(self.teacher),
                self.out or Path("runs") / f"distill-{Path(self.folder).resolve().stem}",
                Settings(**{field.name: getattr(self.student, field.name) for field in fields(Settings)}),
                classes=self.classes,
                targets=self.targets,
                temperature=self.temperature,
                held_out=self.held_out,
                interpolation=self.interpolation,
                tta=self.tta,
                top_k=self.top_k,
                selection=Selection(self.min_confidence, self.max_per_class, self.balance),
                workers=self.workers,
                quiet=self.json,
                on_labelling=labelling,
                on_caching=caching,
                command=self._command(),
                bare=self.bare,
            )
        self.show(result, _text(result))
        return 0 if result.signal is None else 128 + result.signal


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
    if result.report is not None:
        lines += ["", f"{'report':21}{result.report}", f"{'network':21}{result.network}"]
    if result.signal is not None:
        name = signal.Signals(result.signal).name
        lines += ["", f"Interrupted by {name}; everything is saved. Go on with the same command."]
    else:
        lines += ["", "Next:", f"  pullback evaluate {run}", f"  pullback predict {run} IMAGE..."]
    return "\n".join(lines)
