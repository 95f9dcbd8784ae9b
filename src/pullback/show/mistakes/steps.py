"""The steps of a walk back that lead to an input, singly and, where a line of a loop made several, together; and what
comes out when they are changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pullback.show.evidence import Case, Edge, Plain, Sample
from pullback.show.observed import Application, Observed, in_line

REDUCTIONS = {"sum", "mean", "max", "min", "euclidean_norm"}

Change = Callable[[Sample, Application, int, Any, Any, int], Any]
"""(sample, application, input, cotangent, contribution, how manieth of its step) -> the contribution to use."""


class Ref(NamedTuple):
    """A value of the run, wherever the run is made: a place, a constant, or an input of an application."""

    kind: str
    first: int
    second: int = 0

    def of(self, observed: Observed) -> Any:
        """The value in one run."""
        if self.kind == "place":
            return observed.values[self.first]
        if self.kind == "constant":
            return observed.constants[self.first][1]
        return observed.applications[self.first].values[self.second]

    def place(self, observed: Observed) -> int | None:
        """Its place, where it is a tracked value."""
        if self.kind == "place":
            return self.first
        return observed.applications[self.first].sources[self.second] if self.kind == "input" else None

    def describe(self, observed: Observed) -> str:
        """In words."""
        place = self.place(observed)
        if place is not None:
            return observed.describe(place)
        value = self.of(observed)
        for name, held in observed.names.items():
            if held is value:
                return name
        if self.kind == "constant":
            primitive, _, source = observed.constants[self.first]
            return f"the result of {primitive.name}{in_line(source)}"
        return "a constant of the function"


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One input of an application, or of all those that the same line of the program made."""

    keys: tuple[tuple[int, int], ...]
    edges: tuple[Edge, ...]  # of the first sample
    repeated: bool = False  # whether it is one of those that a loop made

    @property
    def application(self) -> Application:
        return self.edges[0].application

    @property
    def input(self) -> int:
        return self.edges[0].input

    @cached_property
    def order(self) -> dict[tuple[int, int], int]:
        return {key: k for k, key in enumerate(self.keys)}

    def predict(self, sample: Sample, name: str, change: Change) -> Plain:
        """The gradient of an input if a backward changed this step."""
        if len(self.keys) == 1:
            return self._predict_one(sample, name, change)

        def edit(application: Application, i: int, g: Any, contribution: Any) -> Any:
            k = self.order.get((application.number, i))
            return contribution if k is None else change(sample, application, i, g, contribution, k)

        return sample.altered(name, edit)

    def _predict_one(self, sample: Sample, name: str, change: Change) -> Plain:
        """Gradients are linear in what a single step hands on, so that only the difference has to be walked back."""
        observed, edge = sample.point.observed, sample.edge(self.keys[0])
        assert observed is not None
        application, i, g, contribution = edge
        changed = change(sample, application, i, g, contribution, 0)
        difference = -contribution if changed is None else changed - contribution
        source = application.sources[i]
        assert source is not None
        walked = observed.pull_from({source: difference}, sample.cut, application.number)
        return np.asarray(sample.true(name) + observed.gradient(walked, name))

    @property
    def line(self) -> str:
        """The program's line in words."""
        return in_line(self.application.source)

    def describe(self) -> str:
        """The step in words."""
        every = " (at every pass of the loop)" if len(self.keys) > 1 else ""
        return f"{self.application.primitive.name}{self.line}{every}"


def steps(case: Case) -> list[Step]:
    """Every step on a path to the input, singly, then those that several applications of one line share."""
    observed = case.first.point.observed
    if observed is None:
        return []
    reached = _descendants(observed, observed.inputs[case.name])
    edges = [e for e in case.first.edges if e.application.sources[e.input] in reached]
    lines: dict[Any, list[Edge]] = {}
    for edge in reversed(edges):  # in the order of the program
        lines.setdefault((*_line(edge.application), edge.input), []).append(edge)
    shared = [Step(tuple(e.key for e in group), tuple(group)) for group in lines.values() if len(group) > 1]
    many = {edge.key for group in lines.values() if len(group) > 2 for edge in group}
    singles = [Step((edge.key,), (edge,), edge.key in many) for edge in edges]
    return singles + shared


def _line(a: Application) -> tuple[Any, ...]:
    """What the applications that one line of a loop makes have in common."""
    return a.primitive.name, a.source.file, a.source.line, *map(np.shape, a.values)


def _descendants(observed: Observed, place: int) -> set[int]:
    """The places that depend on one, itself included."""
    found = {place}
    for application in observed.applications:
        if any(source in found for source in application.sources):
            found.update(application.places)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The part of a gradient that comes by some steps, all of which carry the same part."""

    steps: tuple[Step, ...]
    value: Plain  # in the first sample

    def predict(self, sample: Sample, name: str, factor: float) -> Plain:
        """The gradient if this part were multiplied by a factor."""
        whole = sample.true(name)
        return np.asarray(whole + (factor - 1.0) * self.of(sample, name))

    def of(self, sample: Sample, name: str) -> Plain:
        """This part of the gradient in another sample."""
        without = self.steps[0].predict(sample, name, lambda *_: None)
        return np.asarray(sample.true(name) - without)

    @property
    def statistic(self) -> Step | None:
        """The reduction on the way, as of a mean or of a normaliser."""
        return next((s for s in self.steps if s.application.primitive.name in REDUCTIONS), None)

    def describe(self, observed: Observed) -> str:
        """The path in words, by the name of a value on it or by the line where it ends."""
        for step in self.steps:
            for place in step.application.places:
                held = [n for n, p in observed.names.items() if isinstance(p, int) and p == place]
                if held and place not in observed.output_places:
                    return f"the path through {held[0]}"
        return f"the path through {self.steps[-1].describe()}"


def parts(case: Case, candidates: Sequence[Step]) -> list[Part]:
    """The parts of a gradient that are not the whole of it and not nothing, each once."""
    found: list[tuple[list[Step], Plain]] = []
    truth = case.truth
    size = max(float(np.max(np.abs(truth), initial=0.0)), 1e-6 * case.first.scale(case.name))
    for step in candidates:
        value = truth - step.predict(case.first, case.name, lambda *_: None)
        largest = float(np.max(np.abs(value), initial=0.0))
        if largest <= 1e-9 * size or _close(value, truth, size):
            continue
        for group, known in found:
            if _close(value, known, largest):
                group.append(step)
                break
        else:
            found.append(([step], value))
    return [Part(tuple(group), value) for group, value in found]


def _close(a: Plain, b: Plain, size: float) -> bool:
    return bool(np.max(np.abs(a - b), initial=0.0) <= 1e-9 * size)


def candidates(step: Step, shape: tuple[int, ...], observed: Observed) -> Iterator[tuple[Ref, ...]]:
    """The values of the run that have a shape and might be mistaken for another: for a step made by a loop, one for
    each pass, or the same for all."""
    count = len(step.keys)
    seen: set[int] = set()
    for ref in _single_values(observed):
        value = ref.of(observed)
        if np.shape(value) == shape and id(value) not in seen:
            seen.add(id(value))
            yield (ref,) * count
    if count > 1:
        for sequence in _sequences(observed, count):
            if all(np.shape(ref.of(observed)) == shape for ref in sequence):
                yield sequence


def _single_values(observed: Observed) -> Iterator[Ref]:
    for place in observed.values:
        yield Ref("place", place)
    for k, (_, value, _) in enumerate(observed.constants):
        if isinstance(value, np.ndarray):
            yield Ref("constant", k)
    for application in observed.applications:
        for i, (value, source) in enumerate(zip(application.values, application.sources, strict=True)):
            if source is None and isinstance(value, np.ndarray):
                yield Ref("input", application.number, i)


def _sequences(observed: Observed, count: int) -> Iterator[tuple[Ref, ...]]:
    """What a line of a loop took and gave, pass by pass."""
    lines: dict[Any, list[Application]] = {}
    for a in observed.applications:
        lines.setdefault(_line(a), []).append(a)
    for group in lines.values():
        if len(group) == count:
            yield tuple(Ref("place", a.places[0]) for a in group)
            for i in range(len(group[0].values)):
                yield tuple(Ref("input", a.number, i) for a in group)
