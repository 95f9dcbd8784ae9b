"""A network of convolutions as an ONNX model, to be run by onnxruntime: `to_onnx`.

Channels come first in it, as ONNX's operators want them; the network itself has them last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.nn import Conv2d, GlobalAvgPool2d, Linear, Module, ReLU6, Residual, Sequential

OPSET, IR_VERSION = 17, 9  # of 2022: what any onnxruntime in use can read


def to_onnx(network: Module, size: tuple[int, int], classes: int) -> bytes:
    """The model as the content of a file: `input` float32 (n, 3, *size), `logits` (n, classes).

    Raises TeacherError for a layer that has no operator here.
    """
    from onnx import TensorProto, helper

    graph = _Graph(size)
    logits = graph.add(network, "input")
    graph.node("Identity", [logits], output="logits")
    model = helper.make_graph(
        graph.nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    return bytes(helper.make_model(model, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString())


class _Graph:
    """Nodes and constants so far; `size` is that of the image where the next layer goes."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, layer: Module, x: str) -> str:
        """Append a layer to the value x; returns the name of what it gives."""
        if isinstance(layer, Sequential):
            for name in layer.names:
                x = self.add(layer[name], x)
            return x
        if isinstance(layer, Residual) and layer.shortcut is None:
            return self.node("Add", [x, self.add(layer.branch, x)])
        if isinstance(layer, Conv2d):
            return self.convolution(layer, x)
        if isinstance(layer, ReLU6):
            return self.node("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(6))])
        if isinstance(layer, GlobalAvgPool2d):
            return self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        if isinstance(layer, Linear) and layer.bias is not None:
            return self.node("Gemm", [x, self.constant(layer.weight), self.constant(layer.bias)])
        raise TeacherError(f"a {type(layer).__name__} cannot be made into ONNX here")

    def convolution(self, layer: Conv2d, x: str) -> str:
        (top, bottom), (left, right) = layer.padding_of(self.size)
        self.size = (
            (self.size[0] + top + bottom - layer.kernel[0]) // layer.stride[0] + 1,
            (self.size[1] + left + right - layer.kernel[1]) // layer.stride[1] + 1,
        )
        inputs = [x, self.constant(layer.weight.transpose(3, 2, 0, 1))]
        inputs += [] if layer.bias is None else [self.constant(layer.bias)]
        pads = [top, left, bottom, right]
        return self.node("Conv", inputs, strides=list(layer.stride), pads=pads, group=layer.groups)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        array: NDArray[np.float32] = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = output or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name
