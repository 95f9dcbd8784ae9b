"""A small teacher made on the spot, whose answers NumPy can compute too, and images for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pullback.teach import TeacherSpec


class Colours:
    """A teacher that goes by the mean colour: the mean of `(pixel - MEAN) / STD`, times WEIGHT, plus BIAS."""

    SIZE = (8, 10)
    NAMES = ("red", "green", "blue", "grey stone, rock")
    WNIDS = ("n00000001", "n00000002", "n00000003", "n00000004")
    WEIGHT = np.array([[4, -1, -1, 0.5], [-1, 4, -1, 0.5], [-1, -1, 4, 0.5]], np.float32)
    BIAS = np.array([0.1, 0.2, 0.3, -0.4], np.float32)
    MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    SPEC = TeacherSpec(mean=MEAN, std=STD)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the teacher must answer to images (N, H, W, 3), in float64."""
        inputs = (pixels.astype(np.float64) - self.MEAN) / self.STD
        return np.asarray(inputs.mean(axis=(1, 2)) @ self.WEIGHT.astype(np.float64) + self.BIAS)

    def probabilities(self, pixels: NDArray[np.uint8], columns: tuple[int, ...] = (0, 1, 2, 3)) -> NDArray[np.float64]:
        """The same as probabilities of some of the classes."""
        powers = np.exp(self.logits(pixels)[:, columns])
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def model(
        self,
        *,
        layout: str = "NCHW",
        batch: int | str = "n",
        size: tuple[int | str, int | str] = SIZE,
        softmax: bool = False,
        background: bool = False,
        weights: str | None = None,
    ) -> Path:
        """The teacher's file, with its class list beside it. `weights` names a file that is to hold them instead."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        shape = [batch, 3, *size] if layout == "NCHW" else [batch, *size, 3]
        planes = [0, 1, 2, 3] if layout == "NCHW" else [0, 3, 1, 2]
        nodes = [
            helper.make_node("Transpose", ["images"], ["planes"], perm=planes),
            helper.make_node("GlobalAveragePool", ["planes"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["means"]),
            helper.make_node("Gemm", ["means", "weight", "bias"], ["scores"]),
            helper.make_node("Softmax" if softmax else "Identity", ["scores"], ["answers"]),
        ]
        ahead = int(background)
        weight = numpy_helper.from_array(np.pad(self.WEIGHT, ((0, 0), (ahead, 0))), "weight")
        bias = numpy_helper.from_array(np.pad(self.BIAS, (ahead, 0), constant_values=2), "bias")
        if weights is not None:
            content = weight.raw_data
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=weights)
            weight.external_data.add(key="length", value=str(len(content)))
        graph = helper.make_graph(
            nodes,
            "colours",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("answers", TensorProto.FLOAT, [batch, len(self.BIAS) + ahead])],
            [weight, bias],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = self.folder / "teacher" / "colours.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString())
        if weights is None:
            onnx.checker.check_model(model)
        else:
            (path.parent / weights).write_bytes(content)
        self.class_list(self.NAMES)
        return path

    def class_list(self, names: tuple[str, ...]) -> Path:
        """The class list beside the teacher, with names of one's own."""
        path = self.folder / "teacher" / "classes.json"
        classes = [{"index": i, "wnid": self.WNIDS[i % 4], "name": name} for i, name in enumerate(names)]
        path.write_text(json.dumps(classes))
        return path

    def images(self, count: int = 30, seed: int = 0, name: str = "images") -> Path:
        """A folder of PNG files of the teacher's size in two subfolders, each with noise around a random colour."""
        rng = np.random.default_rng(seed)
        for index in range(count):
            pixels = rng.integers(0, 256, 3) + rng.integers(-30, 30, (*self.SIZE, 3))
            path = self.folder / name / "ab"[index % 2] / f"image {index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        return self.folder / name

    def pixels(self, folder: Path, paths: list[str]) -> NDArray[np.uint8]:
        """The images at these paths, (N, H, W, 3)."""
        return np.stack([np.asarray(Image.open(folder / path).convert("RGB")) for path in paths])


@pytest.fixture
def colours(tmp_path: Path) -> Colours:
    """The teacher and its images, in a folder of their own."""
    return Colours(tmp_path)
