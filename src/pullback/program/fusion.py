"""Fusion of operations with what is before and behind them, so that what is elementwise costs no pass of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pullback.core.primitive import PRIMITIVES, Params
from pullback.program import operations
from pullback.program.ir import Program, Step, Type
from pullback.program.operations import Operation
from pullback.program.passes import dead_code
from pullback.rules import nn, optim

FUSING = ("winograd", "bfloat16", "bfloat16x3")
"""The algorithms of convolution that do the work of their neighbours as they load and store, and not as a pass."""

ONCE = 64
"""Channels of a result for which these algorithms read an operand once."""


def fuse(program: Program) -> Program:
    """All fusions, each checked, in an order in which one clears the way for the next."""
    for change in (
        relu_into_affine, masks, masks_into_normalisation, moments_into_stores, sums_into_stores, gradients_into_loads,
        affines_into_loads, adam_updates, accumulations, products_into_sums, rows_into_products, masks_into_products,
    ):  # fmt: skip
        program = dead_code(change(program)).check(change.__name__)
    return program


def relu_into_affine(program: Program) -> Program:
    """relu(x scale + shift) is one pass, if nothing else takes what is inside."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is nn.relu:
            at = graph.maker(step.inputs[0], operations.affine)
            if at is not None and graph.is_only_use(step.inputs[0], number) and not graph.steps[at].params["relu"]:
                graph.steps[at] = graph.steps[at]._replace(params={"relu": True}, outputs=step.outputs)
                graph.remove(number)
    return graph.program()


def masks(program: Program) -> Program:
    """g times (relu(x scale + shift) > 0): the mask is found from x, and the ReLU's result is not kept for it."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not PRIMITIVES["multiply"]:
            continue
        for g, mask in (step.inputs, step.inputs[::-1]):
            y = graph.positive(mask)
            if y is None or program.types[g] != program.types[y]:
                continue
            at = graph.maker(y, operations.affine)
            if at is not None and graph.steps[at].params["relu"]:
                inputs = (g, *graph.steps[at].inputs)
                graph.steps[number] = Step(operations.through_relu, inputs, {}, step.outputs, step.source, (0,))
    return graph.program()


def masks_into_normalisation(program: Program) -> Program:
    """The adjoint of a batch norm with a ReLU behind it masks the gradient as it reads it."""
    graph = _Graph(program)
    for step in program.steps:
        if step.primitive is not operations.through_relu:
            continue
        g, x, scale, shift = step.inputs
        users = [k for k in graph.users[step.outputs[0]] if k is not None]
        if len(users) == len(graph.users[step.outputs[0]]) and all(
            graph.steps[k].primitive in (operations.norm_sums, operations.norm_gradient)
            and graph.steps[k].inputs[:2] == (step.outputs[0], x)
            and len(graph.steps[k].inputs) == 5
            for k in users
        ):
            for k in users:
                read = graph.steps[k]
                graph.steps[k] = read._replace(inputs=(g, *read.inputs[1:], scale, shift))
    return graph.program()


def moments_into_stores(program: Program) -> Program:
    """The moments of what a convolution makes are found as it stores."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is operations.moments:
            at = graph.makers.get(step.inputs[0])
            if at is not None and _does_more(graph.steps[at], "forward") and len(graph.steps[at].outputs) == 1:
                graph.steps[at] = _with(graph.steps[at], (), {}, step.outputs)
                graph.remove(number)
    return graph.program()


def sums_into_stores(program: Program) -> Program:
    """The mask of a ReLU, and the sums that its batch norm's adjoint needs, are found where the gradient is stored."""
    graph = _Graph(program)
    types = dict(program.types)
    for number, step in enumerate(program.steps):
        if step.primitive is not operations.norm_sums or len(step.inputs) != 7:
            continue
        g, x, gamma, mean, variance, scale, shift = step.inputs
        at = graph.makers.get(g)
        if at is None or not _does_more(graph.steps[at], "input_adjoint", operations.max_pool_adjoint):
            continue
        if any(graph.makers.get(place, -1) > at for place in (x, scale, shift, mean)):
            continue
        readers = [k for k in graph.users[g] if k != number]
        if "store" in graph.steps[at].params or not all(
            k is not None
            and graph.steps[k].primitive is operations.norm_gradient
            and graph.steps[k].inputs[:2] == (g, x)
            and graph.steps[k].inputs[5:] == (scale, shift)
            for k in readers
        ):
            continue
        sums = max(types) + 1
        channels = types[gamma].shape[0]
        types[sums] = Type((2, channels), np.dtype(np.float64))
        graph.steps[at] = _with(graph.steps[at], (x, scale, shift, mean), {"store": True}, (sums,))
        rows = int(np.prod(types[x].shape)) // channels
        graph.steps[number] = step._replace(
            primitive=operations.norm_coefficients,
            inputs=(sums, gamma, mean, variance),
            params={**step.params, "rows": rows},
        )
        for k in readers:
            if k is not None:  # the gradient is masked by now
                graph.steps[k] = graph.steps[k]._replace(inputs=graph.steps[k].inputs[:5])
    return replace(graph.program(), types=types)


def gradients_into_loads(program: Program) -> Program:
    """What a batch norm passes back is computed where the convolution before it reads it.

    Not for many channels: the kernels read a gradient once for each `ONCE` channels, and would compute it as often.
    """
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not operations.norm_gradient:
            continue
        readers = [graph.steps[k] for k in graph.users[step.outputs[0]] if k is not None]
        made = [program.types[reader.outputs[0]].shape for reader in readers if _direction(reader) == "input_adjoint"]
        if all(shape[-1] <= ONCE for shape in made):
            kind = "masked" if len(step.inputs) == 7 else "norm"
            places = {"input_adjoint": 0, "weight_adjoint": 1}
            _read_instead(graph, number, places, {"load_gradient": kind})
    return graph.program()


def affines_into_loads(program: Program) -> Program:
    """The affine map of a batch norm, with its ReLU, is applied where a convolution or a pool reads."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is operations.affine:
            kind = "relu" if step.params["relu"] else "affine"
            _read_instead(graph, number, {"forward": 0, "weight_adjoint": 0, "pool": 0}, {"load": kind})
    return graph.program()


def _read_instead(graph: _Graph, number: int, places: Mapping[str, int], params: Params) -> None:
    """Have all users of a step's result read its first input, and do its work as they load; if all of them can.

    `places` are the positions, by direction, at which a user may take it.
    """
    step = graph.steps[number]
    result = step.outputs[0]
    changed = {}
    for k in graph.users[result]:
        user = None if k is None else graph.steps[k]
        direction = None if user is None else _direction(user)
        if k is None or user is None or direction is None or direction not in places:
            return
        position = places[direction]
        if user.inputs.count(result) != 1 or user.inputs[position] != result or params.keys() & user.params.keys():
            return
        inputs = list(user.inputs)
        inputs[position] = step.inputs[0]
        # Behind the operands come the inputs of `load`, then those of `load_gradient`, then those of `store`.
        before = 1 if direction == "pool" else 2
        if "load_gradient" in params and "load" in user.params:
            before += 2
        inputs[before:before] = step.inputs[1:]
        changed[k] = user._replace(inputs=tuple(inputs), params={**user.params, **params})
    graph.steps.update(changed)
    graph.remove(number)


def _direction(step: Step) -> str | None:
    """Of a convolution that does more as it loads and stores, its direction; "pool" for max pooling."""
    if step.primitive is operations.max_pool:
        return "pool"
    return next((each for each in operations.DIRECTIONS if _does_more(step, each)), None)


def _does_more(step: Step, direction: str, *others: Operation) -> bool:
    """Whether a step is a convolution of this direction, or one of `others`, that has other work done on the way."""
    fusing = (operations.convolution(direction, name) for name in FUSING)
    return any(step.primitive is each for each in (*fusing, *others))


def _with(step: Step, inputs: tuple[int, ...], params: Params, outputs: tuple[int, ...]) -> Step:
    """The step with more inputs, parameters and results."""
    made = (*step.outputs, *outputs)
    return step._replace(
        inputs=(*step.inputs, *inputs),
        params={**step.params, **params},
        outputs=made,
        parts=tuple(range(len(made))),
    )


def adam_updates(program: Program) -> Program:
    """p + rate * direction, with the direction of `adam_step` (plus decay p): the parameters move in the same pass."""
    graph = _Graph(program)
    add = PRIMITIVES["add"]
    for number, step in enumerate(program.steps):
        if step.primitive is not add or not graph.all_float32(step):
            continue
        p, scaled = step.inputs
        found = graph.scaled(scaled, number)
        if found is None or program.types[p] != program.types[scaled]:
            continue
        at, direction, rate = found
        decay = 0.0
        decayed = graph.maker(direction, add)
        if decayed is not None and graph.is_only_use(direction, at):
            inner, weight = program.steps[decayed].inputs
            product = graph.scaled(weight, decayed)
            if product is None or product[1] != p or product[2] not in program.constants:
                continue
            decay, direction, at = float(program.constants[product[2]]), inner, decayed
        moved = graph.maker(direction, optim.adam_step)
        if moved is None or not graph.is_only_use(direction, at):
            continue
        (g, m, v, scale, eps), kept = program.steps[moved].inputs, program.steps[moved].params
        moments = program.steps[moved].outputs[1:]
        if any(user is not None and user < number for place in moments for user in graph.users[place]):
            continue
        outputs = (step.outputs[0], *moments)
        params = {**kept, "decay": decay}
        graph.steps[number] = Step(
            operations.adam, (p, g, m, v, scale, eps, rate), params, outputs, step.source, (0, 1, 2)
        )
        graph.remove(moved)
    return graph.program()


def accumulations(program: Program) -> Program:
    """x + a b, and x + v put at an index of zeros: what is added goes to where x is, and takes no memory of its own.

    So the gradients of weights that are used again and again, as in a recurrent network, are summed up.
    """
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not PRIMITIVES["add"]:
            continue
        for x, term in (step.inputs, step.inputs[::-1]):
            at = graph.makers.get(term)
            if at is None or at not in graph.steps or not graph.is_only_use(term, number):
                continue
            made = graph.steps[at]
            if program.types[x] != program.types[term] or program.types[x].dtype.kind != "f" or x == term:
                continue
            operation: Operation
            if made.primitive is PRIMITIVES["matmul"] and len(program.types[term].shape) == 2:
                operation, params = operations.multiply_accumulate, {}
            elif made.primitive is PRIMITIVES["index_add"] and len(made.inputs) == 1:
                operation, params = operations.index_accumulate, {"template": made.params["template"]}
            else:
                continue
            graph.steps[number] = Step(operation, (x, *made.inputs), params, step.outputs, step.source, (0,))
            graph.remove(at)
            break
    return graph.program()


def products_into_sums(program: Program) -> Program:
    """x + number a b, or less that: the product is added to x, as in a step of gradient descent, and kept nowhere."""
    graph = _Graph(program)
    add, subtract = PRIMITIVES["add"], PRIMITIVES["subtract"]
    for number, step in enumerate(program.steps):
        if step.primitive not in (add, subtract) or not graph.all_float32(step):
            continue
        for x, term in (step.inputs, step.inputs[::-1])[: 2 if step.primitive is add else 1]:
            scaled = graph.scaled(term, number)
            product, user = (term, number) if scaled is None else (scaled[1], scaled[0])
            at = graph.product(product, user)
            if at is None or x == product or program.types[x] != program.types[step.outputs[0]]:
                continue
            params = {**graph.steps[at].params, "sign": 1.0 if step.primitive is add else -1.0}
            inputs = (*graph.steps[at].inputs, x)
            if scaled is not None:
                inputs, params = (*inputs, scaled[2]), {**params, "scaled": True}
                graph.remove(scaled[0])
            operation = operations.matmul("panels", adding=True)
            graph.steps[number] = Step(operation, inputs, params, step.outputs, step.source, (0,))
            graph.remove(at)
            break
    return graph.program()


def rows_into_products(program: Program) -> Program:
    """a b + row, and the ReLU of it: a layer of neurons is one step."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not PRIMITIVES["add"] or not graph.all_float32(step):
            continue
        for product, row in (step.inputs, step.inputs[::-1]):
            at = graph.product(product, number)
            if at is None or program.types[row].shape != program.types[product].shape[1:]:
                continue
            made = graph.steps[at]
            inputs, params = (*made.inputs, row), {**made.params, "row": True}
            graph.steps[number] = made._replace(inputs=inputs, params=params, outputs=step.outputs)
            graph.remove(at)
            users = graph.users[step.outputs[0]]
            relu = users[0] if len(users) == 1 else None
            if relu is not None and graph.steps[relu].primitive is nn.relu:
                params = {**params, "ending": "relu"}
                graph.steps[relu] = made._replace(inputs=inputs, params=params, outputs=graph.steps[relu].outputs)
                graph.remove(number)
            break
    return graph.program()


def masks_into_products(program: Program) -> Program:
    """a b times (y > 0), the adjoint of a ReLU: the product is masked as it is stored."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not PRIMITIVES["multiply"]:
            continue
        for product, mask in (step.inputs, step.inputs[::-1]):
            at, y = graph.product(product, number), graph.positive(mask)
            if at is not None and y is not None and program.types[y] == program.types[product]:
                made = graph.steps[at]
                params = {**made.params, "ending": "mask"}
                graph.steps[number] = made._replace(inputs=(*made.inputs, y), params=params, outputs=step.outputs)
                graph.remove(at)
                break
    return graph.program()


class _Graph:
    """A program whose steps can be replaced and removed, and who makes and takes each value."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.steps: dict[int, Step] = dict(enumerate(program.steps))
        self.makers = {place: k for k, step in enumerate(program.steps) for place in step.outputs}
        self.users: dict[int, list[int | None]] = defaultdict(list)
        """The numbers of the steps that take a value; None for the result of the program."""
        for k, step in enumerate(program.steps):
            for place in dict.fromkeys(step.inputs):
                self.users[place].append(k)
        for place in program.outputs:
            self.users[place].append(None)

    def maker(self, place: int, primitive: object) -> int | None:
        """The number of the step that makes a value, if it is still there and applies this primitive."""
        number = self.makers.get(place)
        return number if number in self.steps and self.steps[number].primitive is primitive else None

    def is_only_use(self, place: int, number: int) -> bool:
        return self.users[place] == [number]

    def scaled(self, place: int, user: int) -> tuple[int, int, int] | None:
        """For a value that only `user` takes, and that is an array times one number: (the step, array, number)."""
        number = self.maker(place, PRIMITIVES["multiply"])
        if number is None or not self.is_only_use(place, user):
            return None
        types = self._program.types
        for array, factor in (self.steps[number].inputs, self.steps[number].inputs[::-1]):
            if types[array] == types[place] and not types[factor].shape:
                return number, array, factor
        return None

    def positive(self, mask: int) -> int | None:
        """The y of a mask y > 0."""
        number = self.maker(mask, PRIMITIVES["greater"])
        y, bound = (None, None) if number is None else self.steps[number].inputs
        return None if bound is None or not _is_zero(self._program, bound) else y

    def product(self, place: int, user: int) -> int | None:
        """The number of the step that makes a value that only `user` takes, if it is a plain product of matrices."""
        number = self.maker(place, operations.matmul("panels"))
        plain = number is not None and self.steps[number].params.keys() == {"left", "right"}
        return number if plain and self.is_only_use(place, user) else None

    def all_float32(self, step: Step) -> bool:
        return all(self._program.types[place].dtype == np.float32 for place in (*step.inputs, *step.outputs))

    def remove(self, number: int) -> None:
        del self.steps[number]

    def program(self) -> Program:
        return replace(self._program, steps=tuple(self.steps[k] for k in sorted(self.steps)))


def _is_zero(program: Program, place: int) -> bool:
    return place in program.constants and not np.any(program.constants[place])
