"""The options by which a command is told of a teacher: which one, and what it expects and returns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from pullback.teach import TeacherSpec


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
