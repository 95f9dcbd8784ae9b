"""A function of one array as an ONNX model: its recorded program, operator by operator.

Whatever the function is made of is found by running it, so a network needs no description of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.errors import ConfigError
from pullback.program.ir import Program, Step
from pullback.program.passes import optimise
from pullback.program.recording import Recorded, record

OPSET, IR_VERSION = 17, 9  # of 2022: what any onnxruntime in use can read
_BATCH = 11  # the size with which the program is recorded, unlikely to be that of anything else


def to_onnx(
    f: Callable[[Any], Any], shape: tuple[int, ...], *, input_name: str = "input", output_name: str = "output",
    notes: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """f as the content of an ONNX file, with one float32 input (n, *shape) and one output (n, ...), for any n.

    `notes` become the model's metadata. Arrays that f finds elsewhere, such as the parameters of a network, are part of
    the model. Raises ConfigError where f uses a function that has no operator here.
    """
    from onnx import TensorProto, helper

    leaves, structure = tree.flatten(((np.zeros((_BATCH, *shape), np.float32),), {}))
    with np.errstate(all="ignore"):  # the numbers it is recorded with mean nothing
        recorded = record(f, leaves, structure)
    if recorded.written or len(recorded.program.outputs) != 1:
        raise ConfigError("to_onnx: expected a function of one array that changes no state, with one result")
    program = optimise(_with_state(recorded))
    graph = _Graph(program, input_name)
    for step in program.steps:
        graph.add(step)
    output = program.outputs[0]
    graph.node("Identity", [graph.name(output)], output_name)
    made: list[str | int | None] = ["n", *program.types[output].shape[1:]]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "pullback",
            [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, made)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pullback",
    )
    helper.set_model_props(model, dict(notes or {}))
    return bytes(model.SerializeToString())


def _with_state(recorded: Recorded) -> Program:
    """The program with the state that it reads, such as running statistics, as constants."""
    program = recorded.program
    state = {place: holder.value for place, holder in zip(program.inputs[1:], recorded.read, strict=True)}
    return replace(program, inputs=program.inputs[:1], constants={**program.constants, **state})


class _Graph:
    """The nodes and constants so far."""

    def __init__(self, program: Program, input_name: str) -> None:
        self.program = program
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: dict[int, str] = {program.inputs[0]: input_name}

    def add(self, step: Step) -> None:
        """Append the operators of a step."""
        rule = _RULES.get(step.primitive.name)
        if rule is None:
            known = ", ".join(sorted(_RULES))
            raise ConfigError(
                f"to_onnx: {step.primitive.name} at {step.source} has no operator here; these have: {known}"
            )
        self._names[step.outputs[0]] = rule(self, step)

    def name(self, place: int) -> str:
        """The name of a value; a constant is put into the model when it is first used."""
        if place not in self._names:
            value = self.program.constants[place]
            dtype = np.asarray(value).dtype
            self._names[place] = self.constant(np.asarray(value, np.float32 if dtype.kind == "f" else dtype))
        return self._names[place]

    def operand(self, place: int) -> str:
        """A value for arithmetic, in which ONNX mixes no types: whole numbers become float32."""
        value = self.program.constants.get(place)
        if value is not None and np.asarray(value).dtype.kind in "iub":
            return self.constant(np.asarray(value, np.float32))
        return self.name(place)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def shape(self, place: int) -> tuple[int, ...]:
        return self.program.types[place].shape


Rule = Callable[[_Graph, Step], str]


def _plain(operator: str) -> Rule:
    def rule(graph: _Graph, step: Step) -> str:
        return graph.node(operator, [graph.operand(place) for place in step.inputs])

    return rule


def _channels_first(graph: _Graph, x: str) -> str:
    return graph.node("Transpose", [x], perm=[0, 3, 1, 2])


def _channels_last(graph: _Graph, x: str) -> str:
    return graph.node("Transpose", [x], perm=[0, 2, 3, 1])


def _pads(step: Step) -> list[int]:
    (top, bottom), (left, right) = step.params["padding"]
    return [top, left, bottom, right]


def _convolution(graph: _Graph, step: Step) -> str:
    image, weight = step.inputs
    kernel = graph.program.constants.get(weight)
    if kernel is None:
        w = graph.node("Transpose", [graph.name(weight)], perm=[3, 2, 0, 1])
    else:
        w = graph.constant(np.asarray(kernel, np.float32).transpose(3, 2, 0, 1))
    y = graph.node(
        "Conv", [_channels_first(graph, graph.name(image)), w],
        strides=list(step.params["stride"]), pads=_pads(step), group=step.params["groups"],
    )  # fmt: skip
    return _channels_last(graph, y)


def _window(step: Step) -> dict[str, Any]:
    (rows, columns), (down, right) = step.params["window"], step.params["stride"]
    return {"kernel_shape": [rows, columns], "strides": [down, right], "pads": _pads(step)}


def _max_pool(graph: _Graph, step: Step) -> str:
    x = _channels_first(graph, graph.name(step.inputs[0]))
    return _channels_last(graph, graph.node("MaxPool", [x], **_window(step)))


def _mean_pool(graph: _Graph, step: Step) -> str:
    x = _channels_first(graph, graph.name(step.inputs[0]))
    counted = int(step.params["count_include_pad"])
    return _channels_last(graph, graph.node("AveragePool", [x], count_include_pad=counted, **_window(step)))


def _reduction(operator: str) -> Rule:
    def rule(graph: _Graph, step: Step) -> str:
        axis = step.params.get("axis")
        rank = len(graph.shape(step.inputs[0]))
        axes = list(range(rank)) if axis is None else sorted(k % rank for k in np.atleast_1d(axis).tolist())
        keep = int(bool(step.params.get("keepdims", False)))
        x = graph.name(step.inputs[0])
        if operator == "ReduceSum":  # whose axes are an input since opset 13
            return graph.node(operator, [x, graph.constant(np.array(axes, np.int64))], keepdims=keep)
        return graph.node(operator, [x], axes=axes, keepdims=keep)

    return rule


def _reshape(graph: _Graph, step: Step) -> str:
    new = list(graph.shape(step.outputs[0]))
    if new and new[0] == _BATCH == graph.shape(step.inputs[0])[0]:
        new[0] = 0  # as it is
    elif _BATCH in new:
        new[new.index(_BATCH)] = -1
    return graph.node("Reshape", [graph.name(step.inputs[0]), graph.constant(np.array(new, np.int64))])


def _broadcast(graph: _Graph, step: Step) -> str:
    new = [1 if n == _BATCH else n for n in graph.shape(step.outputs[0])]  # 1 leaves the other operand's size
    return graph.node("Expand", [graph.name(step.inputs[0]), graph.constant(np.array(new, np.int64))])


def _transpose(graph: _Graph, step: Step) -> str:
    return graph.node("Transpose", [graph.name(step.inputs[0])], perm=list(step.params["axes"]))


def _concatenate(graph: _Graph, step: Step) -> str:
    return graph.node("Concat", [graph.name(place) for place in step.inputs], axis=step.params["axis"])


def _matmul(graph: _Graph, step: Step) -> str:
    return graph.node("MatMul", [graph.name(place) for place in step.inputs])


def _nothing(graph: _Graph, step: Step) -> str:
    return graph.name(step.inputs[0])


def _softmax(operator: str) -> Rule:
    def rule(graph: _Graph, step: Step) -> str:
        return graph.node(operator, [graph.name(step.inputs[0])], axis=step.params["axis"])

    return rule


def _square(graph: _Graph, step: Step) -> str:
    x = graph.name(step.inputs[0])
    return graph.node("Mul", [x, x])


_RULES: dict[str, Rule] = {
    "add": _plain("Add"), "subtract": _plain("Sub"), "multiply": _plain("Mul"), "divide": _plain("Div"),
    "power": _plain("Pow"), "maximum": _plain("Max"), "minimum": _plain("Min"), "negative": _plain("Neg"),
    "absolute": _plain("Abs"), "exp": _plain("Exp"), "log": _plain("Log"), "sqrt": _plain("Sqrt"),
    "tanh": _plain("Tanh"), "sigmoid": _plain("Sigmoid"), "softplus": _plain("Softplus"), "erf": _plain("Erf"),
    "relu": _plain("Relu"), "sin": _plain("Sin"), "cos": _plain("Cos"), "square": _square,
    "greater": _plain("Greater"), "less": _plain("Less"), "where": _plain("Where"),
    "conv2d": _convolution, "max_pool2d": _max_pool, "avg_pool2d": _mean_pool,
    "mean": _reduction("ReduceMean"), "sum": _reduction("ReduceSum"), "max": _reduction("ReduceMax"),
    "min": _reduction("ReduceMin"), "reshape": _reshape, "broadcast_to": _broadcast, "transpose": _transpose,
    "concatenate": _concatenate, "matmul": _matmul, "copy": _nothing, "positive": _nothing,
    "softmax": _softmax("Softmax"), "log_softmax": _softmax("LogSoftmax"),
}  # fmt: skip
