"""The options by which a command is told of a teacher: which one, and what it expects and returns."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal

from pullback.errors import ConfigError
from pullback.teach import Teacher, TeacherSpec

_ELSEWHERE = ("teacher_engine", "device")  # these say how the teacher is run, not what it is


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

    teacher_engine: Literal["onnxruntime", "pullback"] = "onnxruntime"
    """What runs a teacher that is known by name."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher runs; auto: on a GPU where one can be used."""

    def open(self, source: str | None) -> Teacher:
        """The teacher, checked against the description as far as it was given."""
        if source is None:
            raise ConfigError("no teacher given: expected --teacher NAME|FILE.onnx|PACKAGE:CALLABLE.")
        # A function of the user's own is looked for where the command is called, as `python -m` does it.
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return Teacher(source, self.spec(), engine=self.teacher_engine, device=self.device)

    def spec(self) -> TeacherSpec:
        """The description as far as it was given."""
        given: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _ELSEWHERE and value not in (None, (), False, "auto"):
                given[field.name.removeprefix("teacher_")] = value
        if len(given.get("size", ())) == 1:
            given["size"] *= 2
        return TeacherSpec.from_mapping(given, "options of the teacher")
