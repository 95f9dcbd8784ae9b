"""A pretrained network run in onnxruntime: `Teacher` turns a batch of RGB images into class probabilities.

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
from pullback.teach.onnx_file import first_line, open_model
from pullback.teach.spec import CHANNELS, TeacherSpec, find_spec

CLASS_LISTS = ("classes", "labels", "imagenet1k_labels", "imagenet_class_index", "imagenet_classes")
"""Names under which a class list is looked for beside the model, as .json or .txt, after the model's own name."""


class Teacher:
    """An ONNX file that gives the class probabilities of RGB images.

    Attributes: `path`; `sha256` of the file (and of weights beside it); `spec`, the description with nothing left open;
    `classes`, one ClassName for each class; `size`, height and width of the images it takes.

    Several threads may share one teacher; on a CPU that is faster than one caller with several threads.
    """

    def __init__(
        self,
        path: str | Path,
        spec: TeacherSpec | None = None,
        *,
        toml: str | Path | None = None,
        threads: int = 1,
    ) -> None:
        """Load the model and check it against its description.

        Args:
            path: the ONNX file.
            spec: the description, or a part of it; `find_spec` tells where the rest comes from.
            toml: the file of the description, if it is not `<model>.toml` or `teacher.toml` beside the model.
            threads: threads of one call.

        Raises:
            TeacherError: the file cannot be read or run, or does not fit its description.
        """
        self.path = Path(path)
        self._session, self.sha256 = open_model(self.path, threads)
        described = find_spec(self.path, self.sha256, spec or TeacherSpec(), toml)
        self._factor, self._offset = described.affine()
        self._background = bool(described.background)
        self._input, self._batch, self._layout, self.size = self._check_input(described)
        self._output, outputs, kind = self._check_output(described)
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
            raise TeacherError(f"teacher '{self.path}': expected images {expected}, got {images.shape} {images.dtype}")
        chosen = self.classes if classes is None else classes
        answers = self._run(images)[:, [c.index + self._background for c in chosen]]
        return softmax(answers) if self._logits else renormalised(answers)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's raw output for any number of images; a model of fixed batch size gets its batches, padded."""
        inputs = self._prepared(images)
        if self._batch is None:
            return self._call(inputs)
        padding = np.zeros((-len(inputs) % self._batch, *inputs.shape[1:]), np.float32)
        padded = np.concatenate([inputs, padding])
        parts = [self._call(padded[start : start + self._batch]) for start in range(0, len(padded), self._batch)]
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

    def _call(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (output,) = self._session.run([self._output], {self._input: inputs})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise TeacherError(
                f"teacher '{self.path}': it fails on an input {_shown(inputs.shape)}: {first_line(error)}"
            ) from None
        return np.asarray(output)

    def _check_input(self, spec: TeacherSpec) -> tuple[str, int | None, str, tuple[int, int]]:
        """The input's name, batch size (None if any will do), layout and image size, where the description fits it."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise TeacherError(f"teacher '{self.path}': expected one input, the images; it has {len(inputs)}: {names}")
        name, kind, shape = inputs[0].name, inputs[0].type, list(inputs[0].shape)
        found = f"its input '{name}' is {kind} {_shown(shape)}"
        if kind != "tensor(float)" or len(shape) != 4:
            raise TeacherError(
                f"teacher '{self.path}': expected a float32 input of four axes, a batch of images; {found}"
            )
        looks = _layout(shape)
        layout = spec.layout or looks
        if layout is None:
            raise TeacherError(f"teacher '{self.path}': {found}, which leaves the layout open; give NCHW or NHWC")
        height, width = shape[2:] if layout == "NCHW" else shape[1:3]
        size = spec.size or ((height, width) if _fixed(height) and _fixed(width) else None)
        if size is None:
            raise TeacherError(
                f"teacher '{self.path}': {found}, which leaves the image size open; give it, such as 224"
            )
        expected = ("n", CHANNELS, *size) if layout == "NCHW" else ("n", *size, CHANNELS)
        if any(_fixed(axis) and axis != wanted for axis, wanted in zip(shape[1:], expected[1:], strict=True)):
            hint = f"; it looks like {looks}" if looks not in (None, layout) else ""
            raise TeacherError(
                f"teacher '{self.path}': its description says {layout} {_shown(expected)}, but {found}{hint}"
            )
        return name, shape[0] if _fixed(shape[0]) else None, layout, size

    def _check_output(self, spec: TeacherSpec) -> tuple[str, int, str]:
        """The first output's name, width and kind, seen by running the model on noise: what it says may be wrong."""
        self._output = name = self._session.get_outputs()[0].name
        noise = np.random.default_rng(0).integers(0, 256, (2, *self.size, CHANNELS), np.uint8)
        answers = self._run(noise)
        found = f"its output '{name}' is {answers.dtype} {_shown(('n', *answers.shape[1:]))}"
        if answers.ndim != 2 or answers.dtype != np.float32 or len(answers) != len(noise):
            raise TeacherError(f"teacher '{self.path}': expected a float32 output (n, classes); {found}")
        if not np.isfinite(answers).all():
            raise TeacherError(
                f"teacher '{self.path}': {found} and not finite on random pixels; check scale, mean and std"
            )
        sums_to_one = (answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)
        kind = "probabilities" if sums_to_one else "logits"
        if spec.output not in (None, kind):
            behaves = "sums to one" if sums_to_one else "does not sum to one"
            raise TeacherError(
                f"teacher '{self.path}': its description says {spec.output}, but its output '{name}' {behaves}"
            )
        return name, answers.shape[1], kind

    def _check_classes(self, outputs: int) -> list[ClassName]:
        """The class list, which must have a class for each output; numbered classes where there is no list."""
        expected = outputs - self._background
        path = self._class_list()
        if path is None:
            return [ClassName(index, str(index)) for index in range(expected)]
        classes = read_classes(path)
        if len(classes) != expected:
            remedy = "give the class list that belongs to it"
            if len(classes) == outputs - 1:
                remedy = "if output 0 is a background class, say background = true"
            raise TeacherError(
                f"teacher '{self.path}': it has {outputs} outputs{' with the background' if self._background else ''}, "
                f"but the class list '{path}' has {len(classes)} classes; {remedy}"
            )
        return classes

    def _class_list(self) -> Path | None:
        folder, stem = self.path.parent, self.path.stem
        if self.spec.classes is not None:
            return folder / self.spec.classes
        names = (f"{stem}_classes", f"{stem}_labels", *CLASS_LISTS)
        candidates = (folder / f"{name}.{ending}" for name in names for ending in ("json", "txt"))
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


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(axis) for axis in shape)})"
