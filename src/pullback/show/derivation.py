"""`pb.derive`: the gradient of a running NumPy program, derived in mathematics, with a numeric check beside every line.

Each line is the trace of the primitive's own rule, run on symbols."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from pullback.core.primitive import Primitive
from pullback.errors import ConfigError, DtypeError
from pullback.show import render_markup
from pullback.show.algebra import atomic, constant, plus, scaled, substituted, symbol, times
from pullback.show.closing import LARGEST, Closing
from pullback.show.expression import Expression, Partial, Symbol
from pullback.show.folding import fold
from pullback.show.jacobians import structure
from pullback.show.layout import Style
from pullback.show.lines import Entry, Formula, Line
from pullback.show.notation import LEGENDS, TIES
from pullback.show.render_text import TITLES, render, render_table
from pullback.show.running import Run, Variable, plain_run, run
from pullback.show.simplify import simplify
from pullback.show.slopes import against_slope, relative, slope, typical, ways
from pullback.show.symbolic import as_expression, can_be_read
from pullback.show.tangents import Tangents
from pullback.show.walk import Edge, Walk
from pullback.show.words import reason

SAME = 1e-9
"""Relative difference of two runs that counts as none."""
SINGLY = 8
"""So many inputs are checked one by one against differences of the whole program; more of them together."""


class Derivation:
    """A derivation. `print` shows it; `lines` holds it; `closed_form` has the gradient of each input."""

    def __init__(self, walk: Walk, f: Callable[..., Any], wrt: Sequence[str], style: Style, mode: str) -> None:
        self._walk, self._f, self._wrt, self.style, self.mode = walk, f, list(wrt), style, mode
        self.values: dict[str, Any] = walk.values

    @cached_property
    def lines(self) -> list[Line]:
        """Every line, in order: the program, the derivatives of its steps, the walk back (or, in forward mode, the
        tangents), the closed forms."""
        return [line for _, lines in self.parts() for line in lines]

    @cached_property
    def forward(self) -> list[Line]:
        """The program, one application of a function a line."""
        walk = self._walk
        entries = []
        for v in [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden]:
            e = walk.forward[v]
            error = relative(walk.number(e), v.value)
            source = v.step.source.text if v.step else ""
            entries.append(Entry(v, symbol(v.name, v.shape), e, error, source=source))
        return self._lines("forward", entries)

    @cached_property
    def jacobians(self) -> list[Line]:
        """The local derivative of each step: a Jacobian by its structure for each vector or number that it depends on,
        or its differential where there are matrices."""
        walk = self._walk
        entries: list[Entry] = []
        for y in [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden]:
            edges = walk.edges_from(y)
            own = {x: self._jacobian(y, x, group) for x, group in edges.items()}
            entries += [entry for entry in own.values() if entry is not None]
            others = [x for x, entry in own.items() if entry is None]
            if others and y in self._tangents.expressions:
                entries.append(self._differential(y, others, own))
        return self._lines("jacobian", entries)

    def _jacobian(self, y: Variable, x: Variable, edges: list[Edge]) -> Entry | None:
        of, by = Symbol(y.name, y.shape), Symbol(x.name, x.shape)
        parts = [edge.expression for edge in edges if edge.expression is not None]
        e = simplify(plus(*parts), self._walk.conditions) if parts else constant(0, x.shape)
        if structure(e, Partial(of, by)) is None:
            return None
        error = max(max(edge.error for edge in edges), *[other.error for other in self._walk.between(x, y)])
        return Entry(y, atomic(Partial(of, by)), e, error)

    def _differential(self, y: Variable, moving: Sequence[Variable], every: Iterable[Variable]) -> Entry:
        """The tangent of a variable while only some of those that it depends on move."""
        entry = self._tangent(y)
        still = {f"{x.name}_dot": constant(0, x.shape) for x in every if x not in moving}
        why = "with the rest held still" if still else ""
        return replace(entry, expression=substituted(entry.expression, still), reason=why)

    def _tangent(self, v: Variable) -> Entry:
        e = simplify(self._tangents.expressions[v], self._walk.conditions)
        return Entry(v, symbol(v.name, v.shape, "tangent"), e, self._tangents.error_of(v))

    @cached_property
    def _tangents(self) -> Tangents:
        inputs = self._walk.run.inputs
        return Tangents(self._walk, ways({name: inputs[name].shape for name in self._moving}, 3))

    @cached_property
    def tangents(self) -> list[Line]:
        """The tangent of each variable, in the order of the program."""
        walk, known = self._walk, self._tangents.expressions
        shown = [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden and v in known]
        return self._lines("tangent", [self._tangent(v) for v in shown])

    @cached_property
    def backward(self) -> list[Line]:
        """The adjoint of each variable, in reverse order: the chain rule applied once a line."""
        walk = self._walk
        entries = []
        for v in walk.reached():
            e = walk.shown_adjoint(v)
            left = symbol(v.name, v.shape, "adjoint")
            entries.append(Entry(v, left, e, walk.error_of(v), reason(walk, v)))
        return self._lines("backward", entries)

    @cached_property
    def closed(self) -> list[Line]:
        """The gradient of each input with the adjoints of all steps put in, simplified; and of the values that a loop
        carries, in terms of those of the next iteration."""
        if self.mode == "forward":
            return self._lines("closed", list(self._closed_tangents.values()))
        closing, walk = self._closing, self._walk
        entries = [closing.entry(v, walk.error_of(v)) for v in closing.recurrences()]
        entries += [self._closed_entries[name] for name in self._wrt]
        return self._lines("closed", entries)

    def _lines(self, part: str, entries: Sequence[Entry]) -> list[Line]:
        return [Line(part, e, self.style) for e in fold(entries, self._walk, part in ("backward", "closed"))]

    @cached_property
    def _closing(self) -> Closing:
        return Closing(self._walk)

    @cached_property
    def _closed_entries(self) -> dict[str, Entry]:
        inputs = self._walk.run.inputs
        entries = {name: self._closing.entry(inputs[name], 0.0) for name in self._wrt}
        errors = self._slope_errors({name: self._walk.number(e.expression) for name, e in entries.items()})
        for name, e in entries.items():
            tape = self._walk.adjoint_values.get(inputs[name], np.zeros(inputs[name].shape))
            own = relative(self._walk.number(e.expression), tape)
            entries[name] = replace(e, error=max(own, errors[name]))
        return entries

    @cached_property
    def _closed_tangents(self) -> dict[str, Entry]:
        """The tangent of each output in terms of those of the inputs."""
        walk, tangents = self._walk, self._tangents
        known: dict[str, Expression] = {}
        for v, e in tangents.expressions.items():
            if v not in walk.hidden:
                whole = simplify(substituted(e, known), walk.definitions)
                if whole.cost <= LARGEST or v in walk.run.outputs:
                    known[f"{v.name}_dot"] = whole
        entries = {}
        moves = {name: tangents.values[f"{name}_dot"] for name in self._moving}
        for k, y in enumerate(walk.run.outputs):
            if y in tangents.expressions:
                found, rough = slope(partial(self._moved_output, moves, k))
                e = known[f"{y.name}_dot"]
                number = e.evaluate(**tangents.values)
                error = 0.0 if np.any(rough) else relative(number, found)
                entries[y.name] = Entry(y, symbol(y.name, y.shape, "tangent"), e, error)
        return entries

    @property
    def _moving(self) -> list[str]:
        return [name for name in self._wrt if name in self._walk.run.inputs]

    def _moved(self, moves: Mapping[str, Any], t: float) -> list[Any]:
        return self._f(**{name: t * way for name, way in moves.items()})  # type: ignore[no-any-return]

    def _moved_output(self, moves: Mapping[str, Any], k: int, t: float) -> Any:
        return self._moved(moves, t)[k]

    def _slope_errors(self, gradients: Mapping[str, Any]) -> dict[str, float]:
        """The error of each gradient against differences of the whole program, along random directions."""
        groups = [[name] for name in gradients] if len(gradients) <= SINGLY else [list(gradients)]
        errors = dict.fromkeys(gradients, 0.0)
        for group in groups:
            for seed in (1, 2) if len(group) == 1 else (1,):
                moves = ways({name: np.shape(gradients[name]) for name in group}, seed)
                units = {name: typical(self.values[name]) for name in group}
                found, rough = slope(partial(self._along, {name: way * units[name] for name, way in moves.items()}))
                flat = np.concatenate([np.ravel(gradients[name]) * units[name] for name in group])
                way = np.concatenate([np.ravel(moves[name]) for name in group])
                error = 0.0 if np.any(rough) else against_slope(flat, way, float(found), 1e-12)
                errors |= {name: max(errors[name], error) for name in group}
        return errors

    def _along(self, moves: Mapping[str, Any], t: float) -> float:
        pairs = zip(self._walk.cotangents, self._moved(moves, t), strict=True)
        return sum(float(np.vdot(g, y)) for g, y in pairs)

    @cached_property
    def closed_form(self) -> dict[str, Formula]:
        """The gradient of each input in terms of the variables of the forward pass; in forward mode, the tangent of
        each output in terms of those of the inputs."""
        if self.mode == "forward":
            return {name: self._formula(entry) for name, entry in self._closed_tangents.items()}
        folded = {line.variable: line.entry for line in self.closed if not line.span}
        entries = {name: folded.get(name, self._closed_entries[name]) for name in self._wrt}
        return {name: self._formula(entry) for name, entry in entries.items()}

    def table(self) -> str:
        """Both modes side by side, for small programs: each variable with its value, its tangent when one input moves
        at unit speed (a column an input, for numbers; along random directions for arrays), and its adjoint."""
        return render_table(self._walk, self._moving)

    def updates(self, rate: str = "alpha") -> dict[str, Formula]:
        """A step of gradient descent: each input minus the rate times its gradient in closed form."""
        steps = {}
        for name in self._moving:
            v, entry = self._walk.run.inputs[name], self._closed_entries[name]
            e = plus(symbol(v.name, v.shape), scaled(times(symbol(rate), entry.expression), -1))
            steps[name] = self._formula(Entry(v, symbol(v.name, v.shape), e, entry.error))
        return steps

    def formula(self, f: Callable[..., Any]) -> Formula:
        """What a NumPy function of variables of this derivation means, to compare with a closed form.

        Its parameters are named like the variables, `x`, and their adjoints, `x_bar`.
        """
        e = simplify(as_expression(f, self._numbers), self._walk.definitions)
        first = next(iter(self._walk.run.inputs.values()))
        return self._formula(Entry(first, e, e, 0.0))

    def _formula(self, entry: Entry) -> Formula:
        return Formula(entry, self.style, self._numbers, self._walk.definitions)

    @property
    def _numbers(self) -> dict[str, Any]:
        """The arrays that the symbols of this derivation stand for."""
        return self._tangents.values if self.mode == "forward" else self.values

    @property
    def max_error(self) -> float:
        """The largest relative error of any line."""
        return max((line.error for line in self.lines), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether every line agrees with the program."""
        return all(line.ok for line in self.lines)

    @property
    def name(self) -> str:
        """The name of the function."""
        return self._walk.label

    def parts(self) -> list[tuple[str, list[Line]]]:
        """The parts that have lines, each with its title."""
        parts = {"forward": self.forward}
        if self.mode == "forward":
            parts |= {"tangent": self.tangents}
        else:
            parts |= {"jacobian": self.jacobians, "backward": self.backward}
        return [(TITLES[part], lines) for part, lines in {**parts, "closed": self.closed}.items() if lines]

    def legend(self) -> list[str]:
        """What the notation means, where it is not usual."""
        used = {step.primitive.name for step in self._walk.run.steps}
        choices = [step.values for step in self._walk.run.steps if step.primitive.name in ("maximum", "minimum")]
        ties = [TIES] if any(not np.any(np.equal(*values)) for values in choices) else []
        return [text for name, text in LEGENDS.items() if name in used] + ties

    def __str__(self) -> str:
        return render(self, colour=False)

    def text(self, colour: bool = True) -> str:
        """The derivation for a terminal, with colours."""
        return render(self, colour=colour)

    def markdown(self) -> str:
        """The derivation as Markdown with LaTeX."""
        return render_markup.markdown(self)

    def latex(self) -> str:
        """The derivation as a LaTeX document."""
        return render_markup.latex(self)

    def html(self) -> str:
        """The derivation as an HTML page with MathML, that needs no network."""
        return render_markup.page(self)

    def _repr_html_(self) -> str:
        return render_markup.fragment(self)

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        lines = [
            {
                "part": line.part,
                "variable": line.variable,
                "text": line.text,
                "latex": line.latex,
                "span": line.span,
                "reason": line.reason,
                "error": line.error if np.isfinite(line.error) else None,
                "ok": line.ok,
            }
            for line in self.lines
        ]
        closed = {name: {"text": str(form), "latex": form.latex()} for name, form in self.closed_form.items()}
        return {"name": self.name, "ok": self.ok, "lines": lines, "closed_form": closed}


def derive(
    f: Callable[..., Any],
    *args: Any,
    wrt: str | Sequence[str] | None = None,
    names: Mapping[str, Any] | None = None,
    mode: str = "reverse",
    cotangent: Any = None,
    open: bool | Sequence[str] = (),
    bars: bool = False,
    layout: str = "column",
    fold: bool = True,
) -> Derivation:
    """The gradient of `f(*args)` derived line by line, each line checked against numbers.

    Args:
        f: a function of arrays, or of trees of them, as for `pb.grad`; its result may be of any shape.
        args: where it is run. Floating-point arrays become inputs, in float64.
        wrt: the inputs to give closed forms for; all by default. A name is that of the parameter, with the path in it.
        names: names of sizes, `{"x": "K"}` or `{"X": ("N", "C")}` for the axes of an input.
        cotangent: the gradient of the loss with respect to the result, where that is not a scalar; random by default.
        open: the names of fused primitives to open into their references; True for all.
        mode: "reverse", or "forward": the tangent of each variable along directions of the inputs.
        bars: write adjoints as x̄ instead of ∂e/∂x.
        layout: "column" (gradients have the shape of the variable) or "row" (those of vectors are rows, and the chain
            rule multiplies from the right; those of matrices keep their shape).
        fold: write patterns that repeat once, with an index.

    Raises:
        DtypeError: no argument is a floating-point array.
        ConfigError: `wrt` or `names` names what is not there; or f gave other values the second time.
    """
    if mode not in ("reverse", "forward") or layout not in ("column", "row"):
        raise ConfigError(
            f"derive: expected mode 'reverse' or 'forward' and layout 'column' or 'row', got {mode!r} and {layout!r}"
        )
    labels = _labels(f, len(args))
    opens = _opens(open)
    ran = run(f, args, labels, opens)
    if not ran.inputs:
        raise DtypeError("derive: expected at least one floating-point array among the arguments, got none")
    if not ran.outputs:
        raise ConfigError("derive: the result does not depend on any floating-point argument")
    _check_repeatable(ran, plain_run(f, args, labels, {}))
    cotangents = _cotangents(ran, cotangent)
    label = f.name if isinstance(f, Primitive) else getattr(f, "__name__", type(f).__name__)
    walk = Walk(ran, cotangents, label, fold)
    wanted = [wrt] if isinstance(wrt, str) else list(ran.inputs if wrt is None else wrt)
    wanted = [name for name in wanted if wrt is not None or ran.inputs[name] in walk.adjoint]
    for name in wanted:
        if name not in ran.inputs:
            raise ConfigError(f"derive: wrt names {name!r}; the inputs are {', '.join(ran.inputs)}")
    style = Style(_loss(ran), bars, layout == "row", _sizes(ran, names or {}))

    def again(**changes: Any) -> list[Any]:
        return plain_run(f, args, labels, changes)

    return Derivation(walk, again, wanted, style, mode)


def _check_repeatable(ran: Run, again: Sequence[Any]) -> None:
    """Refuses a function that gives other values when it is run again, as nothing about it could be checked."""
    for y, second in zip(ran.outputs, again, strict=False):
        same = np.array_equal(y.value, second, equal_nan=True)
        if not same and relative(y.value, second, 1e-12) > SAME:
            raise ConfigError(
                "derive: the result was another when f was run again: it must make its "
                "random numbers by a generator of its own, with a seed, and change nothing outside"
            )


def _labels(f: Callable[..., Any], count: int) -> list[str]:
    if isinstance(f, Primitive) and len(f.inputs) >= count:
        return list(f.inputs[:count])
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "x")
    return names + [f"{rest}{n}" for n in range(1, count - len(names) + 1)]


def _opens(which: bool | Sequence[str]) -> Callable[..., bool]:
    def opens(primitive: Any, values: Sequence[Any], params: Any) -> bool:
        wanted = which if isinstance(which, bool) else primitive.name in which
        return wanted or not can_be_read(primitive, values, params)

    return opens


def _cotangents(ran: Run, given: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    if given is not None:
        return [np.asarray(given, dtype=np.float64)] if len(ran.outputs) == 1 else [np.asarray(g, float) for g in given]
    return [rng.normal(size=y.shape) if y.shape else np.float64(1.0) for y in ran.outputs]


def _loss(ran: Run) -> str:
    if len(ran.outputs) == 1 and not ran.outputs[0].shape:
        return ran.outputs[0].name
    taken = {v.name for v in ran.variables()}
    return next(name for name in ("e", "L", "loss", "objective") if name not in taken)


def _sizes(ran: Run, names: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    found: dict[int, str] = {}
    for path, axes in names.items():
        if path not in ran.inputs:
            raise ConfigError(f"derive: names has {path!r}; the inputs are {', '.join(ran.inputs)}")
        shape = ran.inputs[path].shape
        axes = (axes,) if isinstance(axes, str) else tuple(axes)
        if len(axes) != len(shape):
            raise ConfigError(f"derive: names[{path!r}] has {len(axes)} names for the shape {shape}")
        for size, name in zip(shape, axes, strict=True):
            if name and found.setdefault(size, name) != name:
                raise ConfigError(f"derive: {found[size]} and {name} are both {size}; call with sizes that differ")
    return tuple(found.items())
