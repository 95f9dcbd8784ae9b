"""Forward mode: the tangent of each variable as an expression of the tangents of those before it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pullback.core.primitive import Fused, Linear
from pullback.core.tensor import Tensor
from pullback.core.trace import Forward
from pullback.show.algebra import symbol
from pullback.show.expression import Expression
from pullback.show.running import Step, Variable
from pullback.show.slopes import norm, relative, slope, typical
from pullback.show.symbolic import Symbolic, pushed
from pullback.show.walk import Pair, Walk


class Tangents:
    """The tangents of a walk's variables along given directions of its inputs."""

    def __init__(self, walk: Walk, directions: Mapping[str, Any]) -> None:
        self.walk = walk
        self.expressions: dict[Variable, Expression] = {}
        self.numbers: dict[Variable, Any] = {}
        self.errors: dict[Variable, float] = {}
        self.values: dict[str, Any] = dict(walk.values)
        for name, direction in directions.items():
            v = walk.run.inputs[name]
            self.numbers[v] = self.values[f"{name}_dot"] = np.asarray(direction, float)
        with np.errstate(all="ignore"):
            for step in walk.run.steps:
                if any(x in self.numbers for x in step.inputs if isinstance(x, Variable)):
                    self._push(step)

    def _push(self, step: Step) -> None:
        arguments = [self.walk.pair(x) for x in step.inputs]
        outputs = [self.walk.pair(y) for y in step.outputs]
        moving = [self._tangent(x) if i in step.tracked else None for i, x in enumerate(step.inputs)]
        if all(t is None for t in moving):
            return
        if isinstance(step.primitive, Fused):
            every = _through_reference(step.primitive, arguments, moving, step.params)
        else:
            every = [pushed(step.primitive, arguments, outputs[0], moving, step.params)]
        for k, (y, e) in enumerate(zip(step.outputs, every, strict=True)):
            self.expressions[y] = e
            self.numbers[y] = e.evaluate(**self.values)
            self.errors[y] = self._error(step, moving, k, self.numbers[y])
            if y not in self.walk.hidden:
                self.values[f"{y.name}_dot"] = self.numbers[y]

    def _tangent(self, x: Any) -> Pair | None:
        """The tangent of an input of a step, as others refer to it, and its number."""
        if not isinstance(x, Variable) or x not in self.numbers:
            return None
        by_name = x.kind != "step" or x not in self.walk.hidden
        return symbol(x.name, x.shape, "tangent") if by_name else self.expressions[x], self.numbers[x]

    def _error(self, step: Step, moving: list[Pair | None], k: int, number: Any) -> float:
        """The error of a tangent against differences of the step itself; 0 where a kink leaves nothing to compare."""
        # A difference of two is exact for a function of the second degree, as a product of two that move is.
        exact = isinstance(step.primitive, Linear) and sum(p is not None for p in moving) <= 2
        pairs = [(v, p[1]) for v, p in zip(step.values, moving, strict=True) if p is not None]
        unit = min(typical(v) / typical(t) for v, t in pairs)
        found, rough = slope(partial(self._along, step, moving, k, unit), exact)
        found = found / unit
        keep = ~np.asarray(rough)
        floor = 1e-6 * sum(norm(p[1]) for p in moving if p is not None)  # what may cancel
        return relative(np.where(keep, number, 0.0), np.where(keep, found, 0.0), floor)

    def _along(self, step: Step, moving: list[Pair | None], k: int, unit: float, t: float) -> Any:
        values = [x if p is None else x + t * unit * p[1] for x, p in zip(step.values, moving, strict=True)]
        y = step.primitive.fn(*values, **step.params)
        return y[k] if type(y) is tuple else y

    def error_of(self, v: Variable) -> float:
        """The error of the line of a variable: that of its own step, and of those without a line that lead to it."""
        hidden = [x for x in v.step.inputs if isinstance(x, Variable) and x in self.walk.hidden] if v.step else []
        return max([self.errors.get(v, 0.0), *[self.error_of(x) for x in hidden]])


def _through_reference(
    primitive: Fused, arguments: list[Pair], moving: list[Pair | None], params: Any
) -> list[Expression]:
    """The tangents of a fused primitive's outputs, by those of its reference, or by its own rule for them."""
    with Symbolic() as symbols, Forward() as forward:
        values = [symbols.tensor(*pair) for pair in arguments]
        lifted = [
            v if t is None else Tensor(v, forward, symbols.tensor(*t)) for v, t in zip(values, moving, strict=True)
        ]
        result = primitive(*lifted, **params)
        parts = result if type(result) is tuple else (result,)
        return [symbols.expression(forward.node_of(part)) for part in parts]
