"""What a verdict rests on: the true and the claimed gradients at several points and for several cotangents, and how a
backward altered in one place would have come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.tensor import plain_value
from pullback.show.claimed import Claimed, Failure
from pullback.show.differences import sweep
from pullback.show.observed import Application, Edit, Observed, is_float, leaves_by_name, restored_state

Plain = np.ndarray[Any, Any]

EXACT = 1e-6  # relative; equal formulas differ by rounding, about 1e-15 times what they add up
COARSE = 2e-3  # where the claimed gradient is in float32


class Edge(NamedTuple):
    """One step of the walk back: what an application's rule hands to one of its inputs."""

    application: Application
    input: int
    cotangent: Any
    contribution: Any

    @property
    def key(self) -> tuple[int, int]:
        """The same step in another run of the same program."""
        return self.application.number, self.input


@dataclasses.dataclass
class Sample:
    """The gradients for one cotangent at one point."""

    point: Point
    cotangents: list[Plain]  # one for each output
    claims: dict[str, Plain]

    @property
    def u(self) -> Plain:
        """The cotangent of the only, or the first, output."""
        return self.cotangents[0]

    def cut(self, application: Application, i: int, g: Any, contribution: Any) -> Any:
        """An edit that leaves out what cancels altogether: the maximum that is subtracted before an exponential."""
        return None if (application.number, i) in self.point.cancelling else contribution

    def edge(self, key: tuple[int, int]) -> Edge:
        """The edge of an application's number and an input. Raises IndexError where this run has none."""
        if key not in self._by_key:
            raise IndexError(f"no such step: {key}")
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[tuple[int, int], Edge]:
        return {edge.key: edge for edge in self.edges}

    @cached_property
    def _walk(self) -> tuple[dict[int, Any], list[Edge]]:
        edges: list[Edge] = []

        def note(application: Application, i: int, g: Any, contribution: Any) -> Any:
            if self.cut(application, i, g, contribution) is None:
                return None
            edges.append(Edge(application, i, g, contribution))
            return contribution

        observed = self.point.observed
        assert observed is not None
        return observed.pull(self.cotangents, note), edges

    @property
    def adjoints(self) -> dict[int, Any]:
        """The true cotangent of every value of the run."""
        return self._walk[0]

    @property
    def edges(self) -> list[Edge]:
        """Every step of the true walk back, in its order, latest first."""
        return self._walk[1]

    def true(self, name: str) -> Plain:
        """The true gradient of an input."""
        if self.point.observed is None:
            return self.point.by_differences(name, self.cotangents)
        return self.point.observed.gradient(self.adjoints, name)

    def scale(self, name: str) -> float:
        """The size of what is added up to the gradient of an input: rounding is relative to it, not to the sum."""
        value = np.asarray(self.point.leaves[name])
        sizes = [float(np.max(np.abs(self.true(name)), initial=0.0))]
        observed = self.point.observed
        if observed is not None:
            place = observed.inputs[name]
            sizes += [_largest(e.contribution) for e in self.edges if e.application.sources[e.input] == place]
            flow = max(_largest(g) * _largest(y) for g, y in zip(self.cotangents, observed.outputs, strict=True))
            sizes.append(1e-3 * flow / (_largest(value) or 1.0))
        return max(sizes)

    def altered(self, name: str, change: Edit) -> Plain:
        """The gradient of an input as a backward would give it whose steps are changed."""
        observed = self.point.observed
        assert observed is not None

        def edit(application: Application, i: int, g: Any, contribution: Any) -> Any:
            kept = self.cut(application, i, g, contribution)
            return None if kept is None else change(application, i, g, kept)

        return observed.gradient(observed.pull(self.cotangents, edit), name)


@dataclasses.dataclass
class Point:
    """The arguments at which gradients are compared, and the run there."""

    forward: Callable[..., Any]
    args: tuple[Any, ...]
    observed: Observed | None  # None where f cannot be traced: then the truth comes from differences
    outputs: list[Plain]

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """The leaves that are differentiated."""
        return {name: np.asarray(leaf)[()] for name, leaf in self.named.items() if is_float(leaf)}

    @cached_property
    def named(self) -> dict[str, Any]:
        """Every leaf of the arguments by name, those that are held too."""
        return leaves_by_name(self.forward, self.args)[0]

    @cached_property
    def cancelling(self) -> set[tuple[int, int]]:
        """The steps into a maximum or minimum that change no gradient: what is subtracted cancels again."""
        if self.observed is None:
            return set()
        observed, found = self.observed, set()
        shifts = [a for a in observed.applications if a.primitive.name in ("max", "min") and a.tracked]
        if not shifts:
            return set()
        rng = np.random.default_rng(0)
        us = [np.asarray(rng.normal(size=y.shape))[()] for y in observed.outputs]
        whole = observed.pull(us)
        for shift in shifts:

            def without(application: Application, i: int, g: Any, c: Any, number: int = shift.number) -> Any:
                return None if application.number == number else c

            other = observed.pull(us, without)
            if all(_agree(observed.gradient(whole, n), observed.gradient(other, n)) for n in observed.inputs):
                found.add((shift.number, 0))
        return found

    @cached_property
    def jacobians(self) -> dict[str, list[Plain]]:
        """By differences: for each input, the derivative of each output by each entry, `(*input, *output)`."""
        return {name: self._jacobian(name) for name in self.leaves}

    def _jacobian(self, name: str) -> list[Plain]:
        value: Plain = np.asarray(self.leaves[name], np.float64)
        sizes: Plain = np.asarray(np.maximum(np.abs(value), 0.1))
        rows: list[Plain] = []
        for index in np.ndindex(value.shape):
            direction = np.zeros(value.shape)
            direction[index] = sizes[index]

            def along(t: float, direction: Plain = direction) -> Plain:
                return self.flat(name, value + t * direction)

            rows.append(sweep(along).value / direction[index])
        whole = np.stack(rows) if rows else np.zeros((0, sum(y.size for y in self.outputs)))
        cuts = np.cumsum([y.size for y in self.outputs])[:-1]
        parts = np.split(whole, cuts, axis=1)
        return [part.reshape(value.shape + y.shape) for part, y in zip(parts, self.outputs, strict=True)]

    def by_differences(self, name: str, cotangents: Sequence[Plain]) -> Plain:
        total = np.zeros(np.shape(self.leaves[name]))
        for jacobian, u in zip(self.jacobians[name], cotangents, strict=True):
            total = total + np.tensordot(jacobian, u, axes=np.ndim(u))
        return total

    def flat(self, name: str, value: Plain) -> Plain:
        """All outputs as one vector, with another value for one input."""
        return flat_outputs(self.forward, self.with_leaves({name: value}))

    def with_leaves(self, others: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments with other values for some of the inputs."""
        named, structure = leaves_by_name(self.forward, self.args)
        changed = (others.get(name, leaf) for name, leaf in named.items())
        return tuple(structure.unflatten(changed))


@dataclasses.dataclass
class Case:
    """One input's evidence, over all samples. The first point is the one the user gave; the others are near it."""

    name: str
    samples: list[Sample]
    nearby: list[Sample]
    again: Callable[[tuple[Any, ...]], Sample | None] | None = None  # a sample at other arguments

    @property
    def first(self) -> Sample:
        return self.samples[0]

    @property
    def claim(self) -> Plain:
        return self.first.claims[self.name]

    @property
    def truth(self) -> Plain:
        return self.first.true(self.name)

    @property
    def value(self) -> Plain:
        return np.asarray(self.first.point.leaves[self.name])

    @cached_property
    def tolerance(self) -> float:
        return EXACT if self.claim.dtype == np.float64 and self.first.point.observed is not None else COARSE

    def error(self, sample: Sample, predicted: Any, claim: Any = None) -> float:
        """How far a claim is from what is predicted, relative to the size of the gradient."""
        claim = sample.claims[self.name] if claim is None else claim
        if predicted is None or np.shape(predicted) != np.shape(claim):
            return np.inf
        difference = float(np.max(np.abs(np.asarray(predicted) - claim), initial=0.0))
        size = max(_largest(claim), _largest(predicted), 1e-6 * sample.scale(self.name))
        return 0.0 if difference == 0.0 else difference / size if np.isfinite(difference) and size else np.inf

    def explained(self, predict: Callable[[Sample], Any]) -> float | None:
        """The largest error of a prediction over the samples; None where it does not explain the claims."""
        worst = 0.0
        for sample in self.samples:
            try:
                with np.errstate(all="ignore"):
                    worst = max(worst, self.error(sample, predict(sample)))
            except (ValueError, TypeError, IndexError, np.linalg.LinAlgError):
                return None
            if worst > self.tolerance:
                return None
        return worst

    def holds_nearby(self, predict: Callable[[Sample], Any]) -> bool:
        """Whether a prediction is right at the points near by too, as a true explanation is."""
        try:
            with np.errstate(all="ignore"):
                return all(self.error(sample, predict(sample)) <= 100 * self.tolerance for sample in self.nearby)
        except (ValueError, TypeError, IndexError, np.linalg.LinAlgError):
            return False


def flat_outputs(f: Callable[..., Any], args: Sequence[Any]) -> Plain:
    """All outputs of a plain run as one vector of float64."""
    with restored_state():
        parts = [np.ravel(np.asarray(plain_value(y), np.float64)) for y in tree.leaves(f(*args))]
    return np.concatenate(parts) if parts else np.zeros(0)


def samples_at(
    point: Point, claims: Claimed, rng: np.random.Generator, count: int, cotangents: list[Any] | None = None
) -> Iterator[Sample | Failure]:
    """Samples for random cotangents, or for those given, with what the backward makes of each; a failure where it
    raised."""
    observed = point.observed
    structure = tree.flatten(point.forward(*point.args))[1] if observed is None else observed.output_structure
    for _ in range(count if cotangents is None else 1):
        drawn = [np.asarray(rng.normal(size=y.shape))[()] for y in point.outputs] if cotangents is None else cotangents
        found = claims.gradients(structure.unflatten(drawn), point.args)
        yield found if isinstance(found, Failure) else Sample(point, drawn, found)


def _agree(a: Plain, b: Plain) -> bool:
    return bool(np.max(np.abs(a - b), initial=0.0) <= 1e-11 * (_largest(a) + 1e-300))


def _largest(x: Any) -> float:
    return float(np.max(np.abs(x), initial=0.0))
