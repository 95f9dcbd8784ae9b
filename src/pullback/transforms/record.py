"""One run of a function as a flat list of steps: every primitive applied, in order, whoever applied it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.tensor import Tensor
from pullback.core.trace import Recording, Step


class Record(NamedTuple):
    """The steps of one run, and its result. `print(record)` shows a line for each step."""

    inputs: list[str]
    steps: list[Step]
    result: Any

    def counts(self) -> dict[str, int]:
        """How often each primitive was applied."""
        return dict(Counter(step.primitive.name for step in self.steps).most_common())

    def __str__(self) -> str:
        lines = [f"%{i} = input {name}" for i, name in enumerate(self.inputs)]
        for step in self.steps:
            inputs = ", ".join(
                f"%{x}" if known else _short(x) for x, known in zip(step.inputs, step.refers, strict=True)
            )
            params = "".join(f", {name}={value}" for name, value in step.params.items())
            places = ", ".join(f"%{place}" for place in step.outputs)
            kinds = ", ".join(f"{y.dtype}{list(y.shape)} {y.nbytes} B" for y in step.outputs.values())
            lines.append(f"{places} = {step.primitive.name}({inputs}{params})  {kinds}  # {step.source}")
        return "\n".join(lines)


def _short(x: Any) -> str:
    return repr(x) if np.ndim(x) == 0 else f"constant{list(np.shape(x))}"


def record(f: Callable[..., Any], *args: Any) -> Record:
    """Runs `f(*args)` once and notes every application of a primitive, those of backward rules and optimisers
    included."""
    leaves, structure = tree.flatten(args)
    arrays = [k for k, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | np.generic | float | Tensor)]
    paths = structure.paths()
    with Recording(len(arrays)) as trace:
        for place, k in enumerate(arrays):
            value = leaves[k] if isinstance(leaves[k], Tensor) else np.asarray(leaves[k])[()]
            leaves[k] = Tensor(value, trace, place)
        result = tree.map(trace.lower, f(*structure.unflatten(leaves)))
    return Record([paths[k] for k in arrays], trace.steps, result)
