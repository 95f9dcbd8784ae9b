"""How the labels of a table were made: `LabelKind`, kept in every shard, so that no two kinds are ever mixed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pullback.teach.classes import ClassName
from pullback.teach.teacher import Teacher

FORMAT = "pullback-labels-3"


@dataclass(frozen=True)
class LabelKind:
    """How the labels of a table were made. Tables of different kinds must not be mixed."""

    teacher: str
    teacher_sha256: str
    preprocessing: dict[str, Any]
    classes: tuple[ClassName, ...]
    """The classes that the probabilities are over, in order; `label` counts them from 0."""
    interpolation: str
    top_k: int | None
    """How many probabilities are kept for each image; None for all."""
    tta: str = "none"
    """Test-time augmentation: `none`, or `flip` for the mean of the answers to the image and to its mirror image."""

    @classmethod
    def of(
        cls, teacher: Teacher, classes: Sequence[ClassName], interpolation: str, top_k: int | None, tta: str = "none"
    ) -> LabelKind:
        """The kind of label that this teacher gives with these settings."""
        spec = asdict(teacher.spec)
        # Not the layout: it is how the same pixels are handed over, and differs between the engines of one teacher.
        preprocessing = {name: spec[name] for name in ("size", "scale", "mean", "std", "output", "background")}
        # As JSON gives it back, so that a stored kind compares equal.
        plain = json.loads(json.dumps(preprocessing))
        return cls(str(teacher.spec.name), teacher.sha256, plain, tuple(classes), interpolation, top_k, tta)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: bytes | str) -> LabelKind:
        """The kind that `to_json` wrote. Raises ValueError, TypeError or KeyError for any other text."""
        fields = dict(json.loads(text))
        if fields.pop("format") != FORMAT:
            raise ValueError
        return cls(**fields | {"classes": tuple(ClassName(**c) for c in fields["classes"])})

    def difference(self, other: LabelKind) -> str | None:
        """The first setting that is not the same, in words; None where the kinds agree."""
        if self.classes != other.classes:
            return f"{_listed(self.classes)} instead of {_listed(other.classes)}"
        for name, ours in asdict(self).items():
            theirs = asdict(other)[name]
            if ours != theirs:
                return f"{name} {ours} instead of {theirs}"
        return None


def _listed(classes: Sequence[ClassName]) -> str:
    names = ", ".join(c.short for c in classes[:3])
    return f"{len(classes)} classes ({names}{', ...' if len(classes) > 3 else ''})"
