"""What a teacher expects and returns: `TeacherSpec`, its file `teacher.toml`, and the descriptions that are built in.

A wrong description gives wrong labels without any error: nothing in it is guessed that the model cannot confirm.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError

CHANNELS = 3


@dataclass(frozen=True)
class TeacherSpec:
    """How a teacher's input is made of RGB pixels from 0 to 255, `(pixel * scale - mean) / std`; what its output means.

    None leaves a field open: `size` and `layout` are then read off the model's input, `output` off its answers, and
    `classes` is looked for beside the model. `mean` and `std` must come from somewhere. Raises TeacherError for values
    that make no sense.
    """

    name: str | None = None
    size: tuple[int, int] | None = None
    """Height and width of the input, in pixels."""
    layout: str | None = None
    """`NCHW` (channels first) or `NHWC` (channels last)."""
    scale: float | None = None
    """Multiplies the pixel: 1 where mean and std are in 0 to 255, 1/255 where they are in 0 to 1. 1 if open."""
    mean: tuple[float, ...] | None = None
    """One number for each channel, or a single one for all."""
    std: tuple[float, ...] | None = None
    output: str | None = None
    """`logits` or `probabilities`."""
    classes: str | None = None
    """The class list's path, relative to the model's folder (in a TOML file, to that file's)."""
    background: bool | None = None
    """Whether output 0 is a background class, which the class list does not have. No if open."""

    def __post_init__(self) -> None:
        def check(condition: bool, field: str, expected: str) -> None:
            if not condition:
                raise TeacherError(f"teacher description: {field} must be {expected}, got {getattr(self, field)!r}")

        def finite(values: Any) -> bool:
            return isinstance(values, tuple) and len(values) in (1, CHANNELS) and all(_is_number(v) for v in values)

        size_ok = (
            isinstance(self.size, tuple) and len(self.size) == 2 and all(type(s) is int and s > 0 for s in self.size)
        )
        check(self.size is None or size_ok, "size", "two positive whole numbers, height and width")
        check(self.layout in (None, "NCHW", "NHWC"), "layout", "'NCHW' or 'NHWC'")
        check(self.output in (None, "logits", "probabilities"), "output", "'logits' or 'probabilities'")
        check(
            self.scale is None or (_is_number(self.scale) and self.scale != 0), "scale", "a finite number other than 0"
        )
        check(self.mean is None or finite(self.mean), "mean", "one or three finite numbers")
        check(
            self.std is None or (finite(self.std) and all(s > 0 for s in self.std)),
            "std",
            "one or three numbers above 0",
        )
        check(self.background in (None, True, False), "background", "true or false")
        check(self.name is None or isinstance(self.name, str), "name", "text")
        check(self.classes is None or isinstance(self.classes, str), "classes", "a path")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> TeacherSpec:
        """Build a description from plain values, such as a parsed TOML file; `source` names them in errors."""
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(fields))}"
                raise TeacherError(f"{source}: unknown key '{key}'; {hint}")
        plain = {key: _plain(key, value) for key, value in values.items()}
        try:
            return cls(**plain)
        except TeacherError as error:
            raise TeacherError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: str | Path) -> TeacherSpec:
        """Read a `teacher.toml`."""
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise TeacherError(f"teacher description '{path}': cannot be read ({error})") from None
        spec = cls.from_mapping(values, f"teacher description '{path}'")
        return dataclasses.replace(spec, classes=str(path.parent / spec.classes)) if spec.classes else spec

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factor and offset of each channel, (3,), such that `input = pixel * factor + offset`.

        Raises TeacherError where the description does not give them.
        """
        if self.mean is None or self.std is None:
            missing = " and ".join(field for field in ("mean", "std") if getattr(self, field) is None)
            raise TeacherError(
                f"teacher '{self.name}': its description does not give {missing}, and a guess could give wrong labels. "
                "The input is (pixel * scale - mean) / std with pixels 0 to 255: give these as options, or in a file "
                "teacher.toml beside the model, such as mean = [127.0], std = [128.0]"
            )
        scale = 1.0 if self.scale is None else self.scale
        mean, std = (np.broadcast_to(np.array(values, np.float64), CHANNELS) for values in (self.mean, self.std))
        return (scale / std).astype(np.float32), (-mean / std).astype(np.float32)

    def filled_from(self, other: TeacherSpec) -> TeacherSpec:
        """This description, with what it leaves open taken from another."""
        open_fields = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) is None}
        return dataclasses.replace(self, **{name: getattr(other, name) for name in open_fields})


def find_spec(options: TeacherSpec, network: TeacherSpec, model: Path | None, toml: str | Path | None) -> TeacherSpec:
    """The description of a network. Each of these fills what those before it leave open:

    options, the file `toml` (or else `<model>.toml` or `teacher.toml` beside the model's file), what is known of it.
    """
    beside = [] if model is None else [model.with_suffix(".toml"), model.parent / "teacher.toml"]
    files = [path for path in beside if path.is_file()][:1] if toml is None else [Path(toml)]
    spec = options
    for source in [*(TeacherSpec.read(path) for path in files), network, TeacherSpec(scale=1.0, background=False)]:
        spec = spec.filled_from(source)
    return spec


def shown(shape: Sequence[Any]) -> str:
    """A shape for people: `(n, 3, 224, 224)`."""
    return f"({', '.join(str(axis) for axis in shape)})"


def _plain(key: str, value: Any) -> Any:
    """TOML's and the command line's lists as tuples; a single number stands for every channel, or for a square."""
    if key == "size" and type(value) is int:
        return (value, value)
    if key in ("mean", "std") and _is_number(value):
        return (float(value),)
    if isinstance(value, list):
        value = tuple(value)
    if key in ("mean", "std") and isinstance(value, tuple) and all(_is_number(v) for v in value):
        return tuple(float(v) for v in value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


KNOWN = {
    # Trained by Google with TensorFlow's (pixel - 127) / 128 rather than ImageNet's mean and standard deviation.
    "efficientnet_lite0_224": TeacherSpec(
        name="efficientnet-lite0",
        size=(224, 224),
        layout="NCHW",
        scale=1.0,
        mean=(127.0,),
        std=(128.0,),
        output="logits",
        background=False,
    ),
}
"""Teachers that need no description, by file name without its ending."""

KNOWN_SHA256 = {"3758fe26e9ca8daa2919586c50e8797609fc84db84eb4e78b5e4149b3480cd5e": "efficientnet_lite0_224"}
"""The same teachers by the SHA-256 of their file, so that a renamed file is known too."""
