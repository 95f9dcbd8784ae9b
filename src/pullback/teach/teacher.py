"""A pretrained network with its description: `Teacher` turns a batch of RGB images into class probabilities.

Its description is checked against the model's real input and output before the first image is labelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.teach.classes import ClassName, read_classes
from pullback.teach.network import open_network
from pullback.teach.spec import CHANNELS, TeacherSpec, find_spec, shown

CLASS_LISTS = ("classes", "labels", "imagenet1k_labels", "imagenet_class_index", "imagenet_classes")
"""Names under which a class list is looked for beside the model, as .json or .txt, after the model's own name."""


class Teacher:
    """A pretrained network that gives the class probabilities of RGB images.

    Attributes: `source`, what it was opened by; `sha256` of its file, or of its weights; `spec`, the description with
    nothing left open; `classes`, one ClassName for each class; `size`, height and width of the images it takes;
    `parallel`, whether several threads that share it are faster than one; `device`, what it runs on.
    """

    def __init__(
        self,
        source: str | Path,
        spec: TeacherSpec | None = None,
        *,
        toml: str | Path | None = None,
        threads: int = 1,
        engine: str = "onnxruntime",
        device: str = "auto",
    ) -> None:
        """Load the network and check it against its description.

        Args:
            source: an ONNX file; a known name such as `efficientnet-lite0`; `keras:NAME`, `timm:NAME`,
                `torchvision:NAME`, `tfhub:URL`; or `PACKAGE:CALLABLE`, a function of yours (see docs/labelling.md).
            spec: the description, or a part of it; `find_spec` tells where the rest comes from.
            toml: the file of the description, if it is not `<model>.toml` or `teacher.toml` beside the model.
            threads: threads of one call.
            engine: what runs a known network: `onnxruntime`, or `pullback` itself.
            device: `cpu`, `cuda`, or `auto` for a GPU where there is one that can be used.

        Raises:
            TeacherError: the network cannot be found, read or run, or does not fit its description.
        """
        self.source = source
        self._network = network = open_network(source, threads=threads, engine=engine, device=device)
        self.sha256, self.parallel, self.device = network.sha256, network.parallel, network.device
        described = find_spec(spec or TeacherSpec(), network.spec, network.file, toml)
        self._factor, self._offset = described.affine()
        self._background = bool(described.background)
        self._batch, self._layout, self.size = self._check_input(described)
        outputs, kind = self._check_output(described)
        self._logits = kind == "logits"
        self.spec = dataclasses.replace(described, size=self.size, layout=self._layout, output=kind)
        self.classes = self._check_classes(outputs)

    def probabilities(
        self, images: NDArray[np.uint8], classes: Sequence[ClassName] | None = None
    ) -> NDArray[np.float32]:
        """The probability of each class for each image, (N, K); NaN in the rows where the model gives no finite answer.

        Args:
            images: (N, H, W, 3), RGB, of the teacher's size.
            classes: restrict the answer to these, in this order, renormalised to sum to one.
        """
        if images.shape[1:] != (*self.size, CHANNELS) or images.dtype != np.uint8:
            expected = f"(N, {self.size[0]}, {self.size[1]}, {CHANNELS}) uint8"
            raise TeacherError(
                f"teacher '{self.source}': expected images {expected}, got {images.shape} {images.dtype}"
            )
        chosen = self.classes if classes is None else classes
        answers = self._run(images)[:, [c.index + self._background for c in chosen]]
        return softmax(answers) if self._logits else renormalised(answers)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's raw output for any number of images; a model of fixed batch size gets its batches, padded."""
        inputs = self._prepared(images)
        if self._batch is None:
            return self._network.run(inputs)
        padding = np.zeros((-len(inputs) % self._batch, *inputs.shape[1:]), np.float32)
        padded = np.concatenate([inputs, padding])
        parts = [self._network.run(padded[start : start + self._batch]) for start in range(0, len(padded), self._batch)]
        return np.concatenate(parts)[: len(inputs)]

    def _prepared(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        factor, offset = self._factor, self._offset
        if self._layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
            factor, offset = factor[:, None, None], offset[:, None, None]
        inputs = np.empty(images.shape, np.float32)
        np.copyto(inputs, images)
        inputs *= factor
        inputs += offset
        return inputs

    def _check_input(self, spec: TeacherSpec) -> tuple[int | None, str, tuple[int, int]]:
        """The input's batch size (None if any will do), layout and image size, where the description fits it."""
        shape = list(self._network.input_shape)
        found = f"its input is {shown(shape)}"
        looks = _layout(shape)
        layout = spec.layout or looks
        if layout is None:
            raise TeacherError(f"teacher '{self.source}': {found}, which leaves the layout open; give NCHW or NHWC")
        height, width = shape[2:] if layout == "NCHW" else shape[1:3]
        size = spec.size or ((height, width) if _fixed(height) and _fixed(width) else None)
        if size is None:
            raise TeacherError(
                f"teacher '{self.source}': {found}, which leaves the image size open; give it, such as 224"
            )
        expected = ("n", CHANNELS, *size) if layout == "NCHW" else ("n", *size, CHANNELS)
        if any(_fixed(axis) and axis != wanted for axis, wanted in zip(shape[1:], expected[1:], strict=True)):
            hint = f"; it looks like {looks}" if looks not in (None, layout) else ""
            raise TeacherError(
                f"teacher '{self.source}': its description says {layout} {shown(expected)}, but {found}{hint}"
            )
        return shape[0] if _fixed(shape[0]) else None, layout, size

    def _check_output(self, spec: TeacherSpec) -> tuple[int, str]:
        """The output's width and kind, seen by running the network on noise: what it says may be wrong."""
        noise = np.random.default_rng(0).integers(0, 256, (2, *self.size, CHANNELS), np.uint8)
        answers = self._run(noise)
        found = f"its output is {answers.dtype} {shown(('n', *answers.shape[1:]))}"
        if answers.ndim != 2 or answers.dtype != np.float32 or len(answers) != len(noise):
            raise TeacherError(f"teacher '{self.source}': expected a float32 output (n, classes); {found}")
        if not np.isfinite(answers).all():
            raise TeacherError(
                f"teacher '{self.source}': {found} and not finite on random pixels; check scale, mean and std"
            )
        sums_to_one = (answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)
        kind = "probabilities" if sums_to_one else "logits"
        if spec.output not in (None, kind):
            behaves = "sums to one" if sums_to_one else "does not sum to one"
            raise TeacherError(f"teacher '{self.source}': its description says {spec.output}, but its output {behaves}")
        return answers.shape[1], kind

    def _check_classes(self, outputs: int) -> list[ClassName]:
        """The class list, which must have a class for each output; numbered classes where there is no list."""
        expected = outputs - self._background
        path = self._class_list()
        if path is None and self._network.classes is not None and len(self._network.classes) == expected:
            return list(self._network.classes)
        if path is None:
            return [ClassName(index, str(index)) for index in range(expected)]
        classes = read_classes(path)
        if len(classes) != expected:
            remedy = "give the class list that belongs to it"
            if len(classes) == outputs - 1:
                remedy = "if output 0 is a background class, say background = true"
            counted = f"{outputs} outputs{' with the background' if self._background else ''}"
            raise TeacherError(
                f"teacher '{self.source}': it has {counted}, "
                f"but the class list '{path}' has {len(classes)} classes; {remedy}"
            )
        return classes

    def _class_list(self) -> Path | None:
        file = self._network.file
        if self.spec.classes is not None:
            return (Path() if file is None else file.parent) / self.spec.classes
        if file is None:
            return None
        names = (f"{file.stem}_classes", f"{file.stem}_labels", *CLASS_LISTS)
        candidates = (file.parent / f"{name}.{ending}" for name in names for ending in ("json", "txt"))
        return next((path for path in candidates if path.is_file()), None)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(logits) / sum(exp(logits)) of each row, without overflow; NaN in the rows with a NaN or an infinity."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def renormalised(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to sum to one; a row of zeros, which says nothing about these classes, becomes even."""
    total = probabilities.sum(axis=1, keepdims=True)
    silent = total == 0
    return np.asarray(np.where(silent, np.float32(1), probabilities) / np.where(silent, probabilities.shape[1], total))


def _layout(shape: Sequence[Any]) -> str | None:
    """Where the three channels are, if the shape of a model's input tells."""
    first, last = shape[1] == CHANNELS, shape[3] == CHANNELS
    return "NCHW" if first and not last else "NHWC" if last and not first else None


def _fixed(axis: Any) -> bool:
    """Whether an axis has one length; onnxruntime gives a name, None or -1 where it has any."""
    return isinstance(axis, int) and axis > 0
