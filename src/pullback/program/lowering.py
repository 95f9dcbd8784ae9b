"""Lowering: steps that a compiled kernel serves become operations, which write into memory that the plan gives them.

A batch norm comes apart here: its moments, the affine map of a pixel, and for the adjoint two sums and an affine map of
two arrays. `fusion.py` then joins these with what is around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from pullback.core.primitive import PRIMITIVES, Params
from pullback.errors import ConfigError
from pullback.program import operations
from pullback.program.ir import Program, Step, Type
from pullback.rules import convolution, indexing, linalg, nn, optim, pooling
from pullback.rules.compiled import worth_compiling

Precision = Literal["float32", "float32-fast", "bfloat16"]
"""The arithmetic of the products in convolutions and products of matrices, at the least."""
ALGORITHMS = ("winograd", "shifted", "scattered", "tiny", "pointwise", "depthwise", "bfloat16x3", "bfloat16")
"""The algorithms of convolution; no single one serves every shape."""


def check_algorithms(asked: Mapping[str, str]) -> dict[str, str]:
    """The algorithms that a user asks for; raises ConfigError for a name that means nothing."""
    for name, algorithm in asked.items():
        for what, known in ((name, operations.DIRECTIONS.values()), (algorithm, ALGORITHMS)):
            if what not in known:
                raise ConfigError(f"pb.compile: algorithms: expected one of {', '.join(known)}, got {what!r}")
    return dict(asked)


def check_precision(asked: Precision) -> Precision:
    """The precision itself; raises ConfigError for one that there is not."""
    if asked not in get_args(Precision):
        raise ConfigError(f"pb.compile: precision: expected one of {', '.join(get_args(Precision))}, got {asked!r}")
    return asked


def lower(program: Program, algorithms: Mapping[str, str] | None = None, precision: Precision = "float32") -> Program:
    """The program with operations for all steps that kernels serve, if any of them is worth compiling kernels for.

    `algorithms` are those of convolution to use, by the name of the primitive, where they can serve and `precision`
    allows their arithmetic.
    """
    lowering = _Lowering(program, algorithms or {}, precision)
    if not any(lowering.is_worth_it(step) for step in program.steps):
        return program
    for step in program.steps:
        rule = _RULES.get(_function(step))
        if rule is None or not lowering.is_float32(step) or not rule(step, lowering):
            lowering.steps.append(step)
    return replace(program, steps=tuple(lowering.steps), types=lowering.types)


class _Lowering:
    """The steps so far, and the types of the places that they add."""

    def __init__(self, program: Program, algorithms: Mapping[str, str], precision: Precision) -> None:
        self.program = program
        self.algorithms = algorithms
        self.precision = precision
        self.types = dict(program.types)
        self.steps: list[Step] = []
        self.makers = {place: step for step in program.steps for place in step.outputs}
        self.gradients: dict[int, int] = {}
        """Of what a loss has saved, the gradient that was found with the loss."""

    def add(
        self,
        step: Step,
        operation: operations.Operation,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        **params: Any,
    ) -> bool:
        """An operation in the place of `step`, or of a part of it. Always true, as rules say whether they apply."""
        self.steps.append(Step(operation, inputs, params, outputs, step.source, tuple(range(len(outputs)))))
        return True

    def new(self, shape: tuple[int, ...], dtype: Any = np.float32) -> int:
        """A place for one more value."""
        place = max(self.types) + 1
        self.types[place] = Type(shape, np.dtype(dtype))
        return place

    def is_worth_it(self, step: Step) -> bool:
        """Whether the work of a step alone is worth a kernel: about what the rules ask when they run by themselves."""
        work = _WORK.get(_function(step))
        shapes = [self.types[place].shape for place in (*step.inputs, *step.outputs)]
        return work is not None and self.is_float32(step) and worth_compiling(work(step, shapes))

    def is_float32(self, step: Step) -> bool:
        """Whether all arrays are float32, those of positions aside, and none is empty."""
        types = [self.types[place] for place in (*step.inputs, *step.outputs)]
        return all(each.dtype == np.float32 or each.dtype.kind in "ui" or not each.shape for each in types) and all(
            each.nbytes for each in types
        )


def _function(step: Step) -> Any:
    """What a step applies: a primitive, or the function that is one half of a fused primitive."""
    return step.primitive.whole or step.primitive


# -- rules: each adds operations and says true, or does nothing and says false ----------------------------------------
def _convolution(direction: str) -> Callable[[Step, _Lowering], bool]:
    def rule(step: Step, to: _Lowering) -> bool:
        if any(before != after for before, after in step.params["padding"]):
            return False
        from pullback.kernels import convolution as kernels

        first, second = (to.types[place].shape for place in step.inputs)
        result = to.types[step.outputs[0]].shape
        x, w = {
            "forward": (first, second),
            "input_adjoint": (result, second),
            "weight_adjoint": (first, result),
        }[direction]
        (top, _), (left, _) = step.params["padding"]
        geometry = {name: step.params[name] for name in ("stride", "padding", "groups")}
        preferred = to.algorithms.get(operations.DIRECTIONS[direction])
        algorithm = kernels.choose(
            direction, x, w, geometry["stride"], (top, left), geometry["groups"], preferred, to.precision
        )
        return to.add(step, operations.convolution(direction, algorithm), step.inputs, step.outputs, **geometry)

    return rule


def _max_pool(step: Step, to: _Lowering) -> bool:
    """Both the largest pixel and its place are found in one pass, so that `max_pool2d_choices` has nothing to do."""
    if not _pools(step.params):
        return False
    places = next(
        (
            later.outputs[0]
            for later in to.program.steps
            if later.primitive is pooling.choices and later.inputs == (step.inputs[0], step.outputs[0])
        ),
        None,
    )
    if places is None:
        places = to.new(to.types[step.outputs[0]].shape, np.uint8)
    window = {name: step.params[name] for name in ("window", "stride", "padding")}
    return to.add(step, operations.max_pool, step.inputs, (step.outputs[0], places), **window)


def _choices(step: Step, to: _Lowering) -> bool:
    maker = to.makers.get(step.inputs[1])
    return maker is not None and maker.primitive is pooling.max_pool2d and to.is_float32(maker) and _pools(maker.params)


def _scatter(step: Step, to: _Lowering) -> bool:
    if not _pools(step.params):
        return False
    window = {name: step.params[name] for name in ("window", "stride", "padding")}
    return to.add(step, operations.max_pool_adjoint, step.inputs, step.outputs, **window)


def _pools(params: Params) -> bool:
    """Whether the kernels serve a window: its places fit in a byte, and the padding is equal on both sides."""
    (rows, columns), padding = params["window"], params["padding"]
    return rows * columns <= 255 and all(before == after for before, after in padding)


def _batch_norm(step: Step, to: _Lowering) -> bool:
    x, gamma, beta = step.inputs
    y, mean, variance = step.outputs
    channels = to.types[gamma].shape
    scale, shift = to.new(channels), to.new(channels)
    to.add(step, operations.moments, (x,), (mean, variance))
    to.add(step, operations.norm_affine, (mean, variance, gamma, beta), (scale, shift), eps=step.params["eps"])
    return to.add(step, operations.affine, (x, scale, shift), (y,), relu=False)


def _batch_norm_backward(step: Step, to: _Lowering) -> bool:
    x, gamma, mean, variance, g, of_mean, of_variance = step.inputs
    if not (_is_zero(to.program, of_mean) and _is_zero(to.program, of_variance)):
        return False
    dx, dgamma, dbeta = step.outputs
    parts = tuple([to.new(to.types[gamma].shape) for _ in range(3)])
    to.add(step, operations.norm_sums, (g, x, gamma, mean, variance), (dgamma, dbeta, *parts), eps=step.params["eps"])
    return to.add(step, operations.norm_gradient, (g, x, *parts), (dx,))


def _layer_norm(step: Step, to: _Lowering) -> bool:
    return len(step.outputs) == 3 and to.add(
        step, operations.layer_norm, step.inputs, step.outputs, eps=step.params["eps"]
    )


def _layer_norm_backward(step: Step, to: _Lowering) -> bool:
    return to.add(step, operations.layer_norm_adjoint, step.inputs, step.outputs)


def _add_rows(step: Step, to: _Lowering) -> bool:
    if len(step.inputs) != 2 or len(step.params["template"]) != 1 or len(step.params["size"]) != 2:
        return False
    v, places = (to.types[place] for place in step.inputs)
    rows = places.dtype.kind in "iu" and v.shape == (*places.shape, step.params["size"][1])
    return rows and to.add(step, operations.add_rows, step.inputs, step.outputs)


def _cross_entropy(step: Step, to: _Lowering) -> bool:
    """The loss and its gradient are found together, from the labels themselves where the targets are made of them."""
    logits, targets = step.inputs
    shape, saved = to.types[logits].shape, step.outputs[1:]
    adjoints = [each for each in to.program.steps if not set(saved).isdisjoint(each.inputs)]
    taken = {place for each in to.program.steps for place in each.inputs} | set(to.program.outputs)
    if len(shape) != 2 or not all(
        _function(each) is nn.softmax_cross_entropy.backward and each.outputs[1] not in taken for each in adjoints
    ):
        return False  # more is asked for than the gradient by the logits
    maker = to.makers.get(targets)
    if maker is not None and maker.primitive is nn.one_hot and len(to.types[maker.inputs[0]].shape) == 1:
        targets = maker.inputs[0]
    alone = len(adjoints) == 1 and np.all(to.program.constants.get(adjoints[0].inputs[-1], 0.0) == 1.0)
    gradient = adjoints[0].outputs[0] if alone else to.new(shape)
    to.gradients.update(dict.fromkeys(saved, gradient))
    return to.add(step, operations.cross_entropy, (logits, targets), (step.outputs[0], gradient))


def _cross_entropy_backward(step: Step, to: _Lowering) -> bool:
    gradient = to.gradients.get(step.inputs[0])
    if gradient is not None and gradient != step.outputs[0]:
        inputs = (gradient, step.inputs[-1])
        to.steps.append(Step(PRIMITIVES["multiply"], inputs, {}, step.outputs[:1], step.source))
    return gradient is not None


def _matmul(step: Step, to: _Lowering) -> bool:
    """A transposed factor is read as it lies."""
    if any(len(to.types[place].shape) != 2 for place in (*step.inputs, *step.outputs)):
        return False
    factors, transposed = [], []
    for place in step.inputs:
        maker = to.makers.get(place)
        turned = maker is not None and maker.primitive is PRIMITIVES["transpose"] and maker.params["axes"] == (1, 0)
        factors.append(maker.inputs[0] if maker is not None and turned else place)
        transposed.append(turned)
    if all(transposed):
        return False
    from pullback.kernels import matmul as kernels

    left, right = transposed
    (rows, columns), depth = to.types[step.outputs[0]].shape, to.types[step.inputs[0]].shape[1]
    algorithm = kernels.choose(rows, depth, columns, to.precision)
    return to.add(step, operations.matmul(algorithm), tuple(factors), step.outputs, left=left, right=right)


def _is_zero(program: Program, place: int) -> bool:
    constant = program.constants.get(place)
    return constant is not None and not np.any(constant)


_RULES: dict[Any, Callable[[Step, _Lowering], bool]] = {
    convolution.conv2d: _convolution("forward"),
    convolution.conv2d_input_adjoint: _convolution("input_adjoint"),
    convolution.conv2d_weight_adjoint: _convolution("weight_adjoint"),
    pooling.max_pool2d: _max_pool,
    pooling.choices: _choices,
    pooling.max_pool2d_scatter: _scatter,
    nn.batch_norm.forward: _batch_norm,
    nn.batch_norm.backward: _batch_norm_backward,
    nn.layer_norm.forward: _layer_norm,
    nn.layer_norm.backward: _layer_norm_backward,
    nn.softmax_cross_entropy.forward: _cross_entropy,
    nn.softmax_cross_entropy.backward: _cross_entropy_backward,
    linalg.matmul: _matmul,
    indexing.index_add: _add_rows,
}


# -- how much work a step is, in elementary operations ---------------------------------------------------------------
def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=int))


_WORK: dict[Any, Callable[[Step, list[tuple[int, ...]]], int]] = {
    convolution.conv2d: lambda step, shapes: _size(shapes[2]) * _size(shapes[1][:3]),
    convolution.conv2d_input_adjoint: lambda step, shapes: _size(shapes[0]) * _size(shapes[1][:3]),
    convolution.conv2d_weight_adjoint: lambda step, shapes: _size(shapes[1]) * _size(shapes[2][:3]),
    nn.batch_norm.forward: lambda step, shapes: 8 * _size(shapes[0]),
    nn.layer_norm.forward: lambda step, shapes: 8 * _size(shapes[0]),
    linalg.matmul: lambda step, shapes: _size(shapes[0]) * shapes[1][-1] if len(shapes[1]) == 2 else 0,
    optim.adam_step: lambda step, shapes: 32 * _size(shapes[0]),
}
