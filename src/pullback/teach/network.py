"""What a teacher runs, wherever it comes from: `Network`, and `open_network`, which finds it by what the user wrote."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.teach.classes import ClassName
from pullback.teach.spec import TeacherSpec

ENGINES = ("onnxruntime", "pullback")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Network:
    """A pretrained network that is not yet checked against its description."""

    source: str
    """What the user wrote, for messages."""
    sha256: str
    """Of its file, or of its weights where there is no file."""
    run: Callable[[NDArray[np.float32]], NDArray[Any]]
    """Inputs of four axes to the raw output. Raises TeacherError where it fails."""
    input_shape: Sequence[Any]
    """Of a batch: whole numbers where an axis is fixed, anything else where it is free."""
    spec: TeacherSpec = field(default_factory=TeacherSpec)
    """What is known of it; the user's own description goes before."""
    classes: Sequence[ClassName] | None = None
    """Its class list, if it brings one."""
    file: Path | None = None
    """The model's file: a description and a class list are looked for beside it."""
    parallel: bool = True
    """Whether several threads at once are of use; otherwise it has threads of its own, or works on another device."""
    device: str = "cpu"


def open_network(which: str | Path, *, threads: int = 1, engine: str = "onnxruntime", device: str = "auto") -> Network:
    """The network that `which` names: a file, a known name, a name with the library it is from, or PACKAGE:CALLABLE.

    Raises TeacherError where there is none, with the nearest known name or with how to install what it needs.
    """
    from pullback.teach import adapters, onnx_file
    from pullback.teach.known_teachers import EMBEDDED, KNOWN, open_embedded, open_known

    if engine not in ENGINES or device not in DEVICES:
        raise TeacherError(
            f"expected the engine {' or '.join(ENGINES)} on {', '.join(DEVICES)}; got {engine}, {device}"
        )
    name, path = str(which), Path(which)
    if name == EMBEDDED and not path.is_file():
        return open_embedded(threads, device)
    if name in KNOWN and not path.is_file():
        return open_known(name, threads, engine, device)
    if engine == "pullback":
        raise TeacherError(f"teacher '{name}': only {', '.join(KNOWN)} can run on pullback itself")
    library, _, rest = name.partition(":")
    if rest and library in adapters.LIBRARIES:
        return adapters.LIBRARIES[library](rest, device)
    if path.suffix.lower() in _NO_MODELS:
        raise TeacherError(f"teacher '{name}': {_NO_MODELS[path.suffix.lower()]}; export the network to ONNX")
    if path.suffix.lower() == ".onnx" or path.exists():
        return onnx_file.open_onnx(path, threads, device)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name):
        return adapters.open_callable(name)
    near = difflib.get_close_matches(name, [*KNOWN, EMBEDDED], n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise TeacherError(
        f"teacher '{name}': {hint}expected an ONNX file, one of {', '.join(KNOWN)}, {EMBEDDED}, keras:NAME, timm:NAME, "
        "torchvision:NAME, tfhub:URL or PACKAGE:CALLABLE; `pullback teachers` lists some"
    )


_PICKLE = "it is a pickle, a program that loading would run, and is not loaded"
_NO_MODELS = {
    **dict.fromkeys((".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin"), _PICKLE),
    **dict.fromkeys((".h5", ".keras", ".pb", ".tflite", ".safetensors"), "it is not an ONNX file"),
}
