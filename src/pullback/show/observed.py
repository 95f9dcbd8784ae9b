"""One run of a function with everything kept: every application of a primitive, every value, and the names that the
program gives them. What a check walks back through, in as many altered ways as it has hypotheses."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.context import context, journal
from pullback.core.primitive import Elementwise, Params, Primitive, as_operand, unbroadcast
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View, plain_value
from pullback.core.trace import Trace
from pullback.errors import ShapeError

Plain = np.ndarray[Any, Any]
Edit = Callable[["Application", int, Any, Any], Any]
"""(application, input, cotangent of the output, contribution) -> the contribution to use instead; None for nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Application:
    """One application of a primitive, with its values."""

    primitive: Any
    values: tuple[Any, ...]  # of the inputs, plain
    sources: tuple[int | None, ...]  # the places of the inputs that are differentiated
    params: Params
    result: Any  # an array, or a tuple of arrays
    places: tuple[int, ...]  # of the outputs
    saved: Any  # by a fused primitive
    source: Source
    number: int  # in the order of the run

    @property
    def tracked(self) -> tuple[int, ...]:
        """The inputs that a cotangent can reach."""
        return self._plan.inputs  # type: ignore[no-any-return]

    @property
    def _plan(self) -> Any:
        mask = sum(1 << i for i, place in enumerate(self.sources) if place is not None)
        return self.primitive.plan(mask, len(self.values))

    @property
    def kept(self) -> tuple[int, ...]:
        """What the rules save: positions in (inputs..., output). A fused primitive may save any of its inputs."""
        return tuple(range(len(self.values))) if self.primitive.opens else self._plan.keep

    def contributions(
        self, g: Any, values: Sequence[Any] | None = None, result: Any = None, params: Params | None = None
    ) -> dict[int, Any]:
        """What the rules make of a cotangent, by input; with other values, result or parameters in what was saved."""
        plan, altered = self._plan, values is not None or params is not None
        values = self.values if values is None else tuple(values)
        result = self.result if result is None else result
        params = self.params if params is None else params
        if self.primitive.opens:
            saved = self.primitive.run(values, params)[1] if altered else self.saved
            found = self.primitive.gradients(saved, g, plan, params)
        else:
            saved = plan.save([*values, result])
            shapes = [np.shape(self.values[i]) for i in plan.inputs]
            found = [pull(g, saved, shape, params) for pull, shape in zip(plan.pulls, shapes, strict=True)]
        return {i: self._fit(i, c) for i, c in zip(plan.inputs, found, strict=True) if c is not None}

    def spread_out(self, g: Any) -> dict[int, Any]:
        """The contributions of an elementwise primitive before they are summed over the axes that were broadcast."""
        plan = self._plan
        saved, shapes = plan.save([*self.values, self.result]), [np.shape(self.values[i]) for i in plan.inputs]
        found = [pull(g, saved, shape, self.params) for pull, shape in zip(plan.pulls, shapes, strict=True)]
        return dict(zip(plan.inputs, found, strict=True))

    def _fit(self, i: int, contribution: Any) -> Any:
        shape = np.shape(self.values[i])
        if np.shape(contribution) == shape:
            return contribution
        if isinstance(self.primitive, Elementwise):
            return unbroadcast(contribution, shape)
        problem = f"its rule returned a gradient of shape {np.shape(contribution)} for an input of shape {shape}"
        raise ShapeError(self.primitive.name, problem)

    def zero_or(self, given: dict[int, Any]) -> Any:
        """The cotangent of the output from those of its places; zero for a part that nothing used."""
        parts = self.result if isinstance(self.result, tuple) else (self.result,)
        filled = tuple(given.get(p, np.zeros_like(part)) for p, part in zip(self.places, parts, strict=True))
        return filled if isinstance(self.result, tuple) else filled[0]


class Observation(Trace):
    """The trace that keeps everything. With `opened`, fused primitives are run as their references."""

    def __init__(self, opened: bool = False) -> None:
        super().__init__()
        self.opened = opened
        self.counter = itertools.count()
        self.applications: list[Application] = []
        self.values: dict[int, Plain] = {}
        self.constants: list[tuple[Primitive, Any, Source]] = []  # untracked results, such as masks

    def lift(self, value: Plain) -> Tensor:
        place = next(self.counter)
        self.values[place] = value
        return Tensor(value, self, place)

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        if self.opened and primitive.opens and primitive.reference is not None:  # type: ignore[attr-defined]
            return primitive.open(args, params)  # type: ignore[attr-defined]
        places = tuple(self.node_of(arg) for arg in args)
        values = tuple(plain_value(arg) if isinstance(arg, Tensor) else as_operand(primitive, arg) for arg in args)
        if not primitive.differentiable or context.barrier > self.level:
            y = primitive.fn(*values, **params)
            self.constants.append((primitive, y, user_line()))
            return y
        saved = None
        if primitive.opens:
            y, saved = primitive.run(values, params)  # type: ignore[attr-defined]
        else:
            y = primitive.fn(*values, **params)
        parts = y if isinstance(y, tuple) else (y,)
        if all(place is None for place in places):
            results = [Tensor(part, self, None) for part in parts]
        else:
            results = [self.lift(part) for part in parts]
            outputs = tuple(result._node for result in results)
            self.applications.append(
                Application(primitive, values, places, params, y, outputs, saved, user_line(), len(self.applications))
            )
        if primitive.view:
            View.link(args[0], results[0], lambda plain: primitive.fn(plain, **params))
        return tuple(results) if isinstance(y, tuple) else results[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """What a run left: its applications in order, its values by place, its outputs, and names."""

    inputs: dict[str, int]  # the places of the floating-point leaves of the arguments, by name
    outputs: list[Plain]
    output_places: list[int | None]
    output_structure: tree.Structure
    applications: list[Application]
    values: dict[int, Plain]
    constants: list[tuple[Primitive, Any, Source]]
    names: dict[str, Any]  # the local variables of f at its end: a place, or a plain array

    def pull(self, cotangents: Sequence[Any], edit: Edit | None = None) -> dict[int, Any]:
        """The cotangent of every place, from those of the outputs."""
        seeds: dict[int, Any] = {}
        for place, g in zip(self.output_places, cotangents, strict=True):
            if place is not None:
                seeds[place] = seeds[place] + g if place in seeds else g
        return self.pull_from(seeds, edit)

    def pull_from(self, seeds: dict[int, Any], edit: Edit | None = None, before: int | None = None) -> dict[int, Any]:
        """The cotangent of every place, from those given at any places, through the applications before a number."""
        adjoints = dict(seeds)
        for application in reversed(self.applications[:before]):
            if application.places[0] not in adjoints and len(application.places) == 1:
                continue
            given = {place: adjoints[place] for place in application.places if place in adjoints}
            if not given:
                continue
            g = application.zero_or(given)
            for i, contribution in application.contributions(g).items():
                if edit is not None:
                    contribution = edit(application, i, g, contribution)
                if contribution is None:
                    continue
                place = application.sources[i]
                assert place is not None
                adjoints[place] = adjoints[place] + contribution if place in adjoints else contribution
        return adjoints

    def gradient(self, adjoints: dict[int, Any], name: str) -> Plain:
        """The gradient of an input by name; zero where nothing arrived."""
        place = self.inputs[name]
        value = self.values[place]
        return np.asarray(adjoints.get(place, np.zeros_like(value)))

    def describe(self, place: int) -> str:
        """A value in words: the name that the program gives it, or how and where it was made."""
        for name, own in self.inputs.items():
            if own == place:
                return name
        for name, held in self.names.items():
            if isinstance(held, int) and held == place:
                return name
        if place in self.output_places:
            return "the output"
        for application in self.applications:
            if place in application.places:
                source = application.sources[0] if application.sources else None
                if source is not None and application.primitive.name in _SAME_NUMBERS:
                    return _SAME_NUMBERS[application.primitive.name].format(self.describe(source))
                return f"the result of {application.primitive.name}{in_line(application.source)}"
        return "a constant"


_SAME_NUMBERS = {"reshape": "{}", "broadcast_to": "{}", "copy": "{}", "transpose": "{}^T", "getitem": "a part of {}"}


def in_line(source: Source) -> str:
    """The program's line in words, shortened; nothing where it cannot be read."""
    text = source.text if len(source.text) <= 60 else f"{source.text[:57]}..."
    return f" in `{text}`" if text else ""


def leaves_by_name(f: Callable[..., Any], args: Sequence[Any]) -> tuple[dict[str, Any], tree.Structure]:
    """The leaves of the arguments by name, such as `H`, or `params['H']` inside a container."""
    leaves, structure = tree.flatten(tuple(args))
    parameters = parameter_names(f, len(args))
    named: dict[str, Any] = {}
    for path, leaf in zip(structure.paths(), leaves, strict=True):
        number, _, rest = path.removeprefix("[").partition("]")
        separator = "." if rest and rest[0] not in "[." else ""
        named[f"{parameters[int(number)]}{separator}{rest}"] = leaf
    return named, structure


def parameter_names(f: Callable[..., Any], count: int) -> list[str]:
    """The names of the first positional parameters of f."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return [f"x{i + 1}" for i in range(count)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "x")
    return names[:count] + [f"{rest}{i + 1}" for i in range(count - len(names))]


def is_float(x: Any) -> bool:
    """Whether a leaf is differentiated: a float, or an array of them."""
    return isinstance(x, float) or getattr(getattr(x, "dtype", None), "kind", "") == "f"


def observe(
    f: Callable[..., Any], args: Sequence[Any], opened: bool = False, trace: Observation | None = None
) -> Observed:
    """Runs `f(*args)` once, with its floating-point leaves tracked, on a trace of its own or on the one given.

    The state of modules is afterwards as before."""
    named, structure = leaves_by_name(f, args)
    with restored_state(), trace or Observation(opened) as trace:
        lifted: list[Any] = []
        inputs: dict[str, int] = {}
        for name, leaf in named.items():
            if is_float(leaf):
                leaf = trace.lift(np.asarray(leaf)[()])
                inputs[name] = leaf._node
            lifted.append(leaf)
        with local_names(f) as found:
            result = f(*structure.unflatten(lifted))
        outputs, output_structure = tree.flatten(result)
        kept = {name: x for name, x in found.items() if _is_numeric(x)}
        names = {name: trace.node_of(x) if isinstance(x, Tensor) else np.asarray(x) for name, x in kept.items()}
        places = [trace.node_of(y) for y in outputs]
        plain = [np.asarray(plain_value(y)) for y in outputs]
    return Observed(inputs, plain, places, output_structure, trace.applications, trace.values, trace.constants, names)


def _is_numeric(x: Any) -> bool:
    return isinstance(x, Tensor | np.ndarray | np.number | int | float)


@contextmanager
def restored_state() -> Iterator[None]:
    """Inside, modules may change their state, such as running statistics; afterwards it is what it was."""
    with journal() as changes:
        try:
            yield
        finally:
            for holder, value in changes:
                holder.value = value


@contextmanager
def local_names(f: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Inside, a call of f leaves its local variables here when it returns."""
    function = inspect.unwrap(f)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    found: dict[str, Any] = {}

    def on_event(frame: Any, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is code:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield found
    finally:
        sys.setprofile(before)
