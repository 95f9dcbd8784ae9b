"""A program: the primitives of one run of a function as a flat list in static single assignment form.

Every value has a place, a number that is given once; constants have places too. Passes take a program and return one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Params, Primitive
from pullback.core.source import Source
from pullback.errors import PullbackError


class Type(NamedTuple):
    """What is known of a value before it is computed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scalar: bool = False
    """A NumPy scalar (or a Python number) and not an array: what NumPy makes where a result has no axes."""

    @classmethod
    def of(cls, value: Any) -> Type:
        if isinstance(value, np.ndarray):
            return cls(value.shape, value.dtype)
        if isinstance(value, np.generic | float | int):
            return cls((), np.dtype(getattr(value, "dtype", type(value))), True)
        return cls((), np.dtype(object), True)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Step(NamedTuple):
    """One application of a primitive."""

    primitive: Primitive
    inputs: tuple[int, ...]
    params: Params
    outputs: tuple[int, ...]
    source: Source
    parts: tuple[int, ...] | None = None
    """Of a primitive that returns a tuple: the positions of the outputs in it. None for one result."""
    fixed: tuple[tuple[int, Any], ...] = ()
    """The parts of that tuple that are no arrays, with their positions."""

    def run(self, values: list[Any]) -> list[Any]:
        """The outputs for the values of the inputs, unchecked."""
        y = self.primitive.fn(*values, **self.params)
        return [y] if self.parts is None else [y[k] for k in self.parts]


@dataclass(frozen=True)
class Program:
    """Inputs, constants and steps, in an order in which each value is there before it is used."""

    inputs: tuple[int, ...]
    constants: dict[int, Any]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    types: dict[int, Type]

    def check(self, after: str = "the recording") -> Program:
        """The program itself; raises PullbackError where it is not well-formed, naming the pass that did it."""
        known = {*self.inputs, *self.constants}
        for step in self.steps:
            if missing := [place for place in step.inputs if place not in known]:
                raise PullbackError(f"after {after}, {step.primitive.name} takes %{missing[0]}, which nothing has made")
            if again := [place for place in step.outputs if place in known]:
                raise PullbackError(f"after {after}, {step.primitive.name} makes %{again[0]} a second time")
            known.update(step.outputs)
        if missing := [place for place in self.outputs if place not in known]:
            raise PullbackError(f"after {after}, the output %{missing[0]} is made by no step")
        if missing := [place for place in known if place not in self.types]:
            raise PullbackError(f"after {after}, %{missing[0]} has no type")
        for place, value in self.constants.items():
            if Type.of(value)[:2] != self.types[place][:2]:
                raise PullbackError(f"after {after}, the constant %{place} is no {self.types[place]}")
        return self

    def lines(self, notes: Callable[[int], str] = lambda number: "") -> list[str]:
        """A line for each input and step, with `notes(number of the step)` before the source line."""
        lines = [f"%{place} = input  {self.types[place]}" for place in self.inputs]
        for number, step in enumerate(self.steps):
            inputs = ", ".join(self._operand(place) for place in step.inputs)
            params = "".join(f", {name}={value}" for name, value in step.params.items())
            made = ", ".join(f"%{place}" for place in step.outputs)
            kinds = ", ".join(f"{self.types[place]} {self.types[place].nbytes} B" for place in step.outputs)
            lines.append(f"{made} = {step.primitive.name}({inputs}{params})  {kinds}{notes(number)}  # {step.source}")
        return [*lines, f"return {', '.join(self._operand(place) for place in self.outputs)}"]

    def _operand(self, place: int) -> str:
        if place not in self.constants:
            return f"%{place}"
        value = self.constants[place]
        return f"constant{list(np.shape(value))}" if np.ndim(value) else repr(value)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def is_array(x: Any) -> bool:
    """Whether a part of a result is a value of the program, and not a number or an option that stays what it is."""
    return isinstance(x, np.ndarray | np.generic)


def is_python_number(x: Any) -> bool:
    """Whether x takes its dtype from what it meets: NumPy's float64 is a Python float too, but does not."""
    return isinstance(x, float | int) and not isinstance(x, np.generic)
