"""`pb.derive`: the gradient of a running NumPy program, derived in mathematics, with a numeric check beside every line.

Each line is the trace of the primitive's own rule, run on symbols."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from pullback.errors import ConfigError, DtypeError
from pullback.show.expression import Expression, substituted, symbol
from pullback.show.layout import Style
from pullback.show.running import Run, Variable, run
from pullback.show.simplify import Definitions, same, simplify
from pullback.show.slopes import against_slope, directions, relative, slope
from pullback.show.symbolic import as_expression, can_be_read
from pullback.show.walk import Walk
from pullback.show.words import reason
from pullback.show.writers import Latex, Text

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Line:
    """One line of a derivation: an equation, why it holds, and how far its numbers are from those of the program."""

    part: str  # forward, backward or closed
    variable: str
    left: str
    left_latex: str
    expression: Expression
    style: Style
    shape: tuple[int, ...]
    reason: str
    error: float
    source: str = ""

    @cached_property
    def text(self) -> str:
        """The equation in one line of Unicode."""
        return f"{self.left} = {Text(self.style).write(self.expression)}"

    @cached_property
    def latex(self) -> str:
        """The equation in LaTeX."""
        return f"{self.left_latex} = {Latex(self.style).write(self.expression)}"

    @property
    def ok(self) -> bool:
        return self.error < TOLERANCE


class Formula:
    """The gradient of one input in closed form: `str`, `.latex()`, `.evaluate(**arrays)`, `==` with expressions."""

    def __init__(self, expression: Expression, style: Style, values: Mapping[str, Any], known: Definitions) -> None:
        self.expression, self._style, self._values, self._known = expression, style, values, known

    def __str__(self) -> str:
        return Text(self._style).write(self.expression)

    def latex(self) -> str:
        """The formula in LaTeX."""
        return Latex(self._style).write(self.expression)

    def evaluate(self, **arrays: Any) -> Any:
        """Its value; symbols that are not given have the values of the derivation's own run."""
        return self.expression.evaluate(**{**self._values, **arrays})

    def __eq__(self, other: object) -> bool:
        other = other.expression if isinstance(other, Formula) else other
        return isinstance(other, Expression) and same(self.expression, other, self._known)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Formula {self}>"


class Derivation:
    """A derivation. `print` shows it; `lines` holds it; `closed_form` has the gradient of each input."""

    def __init__(self, walk: Walk, f: Callable[[], Any], wrt: Sequence[str], style: Style) -> None:
        self._walk, self._f, self._wrt, self.style = walk, f, list(wrt), style
        self.values: dict[str, Any] = walk.values

    @cached_property
    def lines(self) -> list[Line]:
        """Every line, in order: the forward pass, the backward pass, the closed forms."""
        return [*self.forward, *self.backward, *self.closed]

    @cached_property
    def forward(self) -> list[Line]:
        """The program, one application of a function a line."""
        walk = self._walk
        shown = [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden]
        lines = []
        for v in shown:
            e = walk.forward[v]
            error = relative(e.evaluated(walk.values, {}), v.value)
            left = symbol(v.name, v.shape)
            source = str(v.step.source.text) if v.step else ""
            lines.append(self._line("forward", v, left, e, "", error, source))
        return lines

    @cached_property
    def backward(self) -> list[Line]:
        """The adjoint of each variable, in reverse order: the chain rule applied once a line."""
        walk = self._walk
        shown = [v for v in self._reached() if walk.edges[v]]
        return [
            self._line(
                "backward",
                v,
                self._adjoint(v),
                simplify(walk.adjoint[v], walk.conditions),
                reason(walk, v),
                walk.error_of(v),
            )
            for v in shown
        ]

    def _reached(self) -> list[Variable]:
        walk = self._walk
        steps = [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden]
        return [v for v in [*steps[::-1], *walk.run.inputs.values()] if v in walk.adjoint and v in walk.edges]

    def _adjoint(self, v: Variable) -> Expression:
        return symbol(v.name, v.shape, "adjoint")

    def _line(
        self, part: str, v: Variable, left: Expression, e: Expression, why: str, error: float, source: str = ""
    ) -> Line:
        return Line(
            part,
            v.name,
            Text(self.style).write(left),
            Latex(self.style).write(left),
            e,
            self.style,
            v.shape,
            why,
            error,
            source,
        )

    def formula(self, f: Callable[..., Any]) -> Formula:
        """What a NumPy function of variables of this derivation means, to compare with a closed form.

        Its parameters are named like the variables, `x`, and their adjoints, `x_bar`.
        """
        values, known = self.values, self._walk.definitions
        return Formula(simplify(as_expression(f, values), known), self.style, values, known)

    @cached_property
    def closed_form(self) -> dict[str, Formula]:
        """The gradient of each input in terms of the variables of the forward pass."""
        return {
            line.variable: Formula(line.expression, self.style, self.values, self._walk.definitions)
            for line in self.closed
        }

    @cached_property
    def closed(self) -> list[Line]:
        """The gradient of each input with the adjoints of all steps put in, simplified."""
        walk = self._walk
        replace: dict[str, Expression] = {}
        for v in self._reached():
            if walk.edges[v]:
                replace[f"{v.name}_bar"] = simplify(substituted(walk.adjoint[v], replace), walk.definitions)
        lines = []
        for name in self._wrt:
            v = walk.run.inputs[name]
            e = replace[f"{name}_bar"]
            error = max(relative(e.evaluated(walk.values, {}), walk.adjoint_values[v]), self._slope_error(name, e))
            lines.append(self._line("closed", v, self._adjoint(v), e, "", error))
        return lines

    def _slope_error(self, name: str, e: Expression) -> float:
        """The error of a gradient against differences of the whole program."""
        gradient = e.evaluated(self._walk.values, {})
        worst = 0.0
        for direction in directions(self._walk.run.inputs[name].shape, 2, seed=1):
            found, _ = slope(partial(self._along, name, direction))
            worst = max(worst, against_slope(gradient, direction, float(found), 1e-12))
        return worst

    def _along(self, name: str, direction: Any, t: float) -> float:
        outputs = self._f(**{name: t * direction})
        return sum(float(np.vdot(g, y)) for g, y in zip(self._walk.cotangents, outputs, strict=True))

    @property
    def max_error(self) -> float:
        """The largest relative error of any line."""
        return max((line.error for line in self.lines), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether every line agrees with the program."""
        return all(line.ok for line in self.lines)

    def __str__(self) -> str:
        from pullback.show.render_text import render

        return render(self)


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
) -> Derivation:
    """The gradient of `f(*args)` derived line by line, each line checked against numbers.

    Args:
        f: a function of arrays, or of trees of them, as for `pb.grad`; its result may be of any shape.
        args: where it is run. Floating-point arrays become inputs, in float64.
        wrt: the inputs to give closed forms for; all by default. A name is that of the parameter, with the path in it.
        names: names of sizes, `{"x": "K"}` or `{"X": ("N", "C")}` for the axes of an input.
        cotangent: the gradient of the loss with respect to the result, where that is not a scalar; random by default.
        open: the names of fused primitives to open into their references; True for all.
        bars: write adjoints as x̄ instead of ∂e/∂x.
        layout: "column" (gradients have the shape of the variable) or "row".

    Raises:
        DtypeError: no argument is a floating-point array.
        ConfigError: `wrt` or `names` names what is not there; or f gave other values the second time.
    """
    labels = _labels(f, len(args))
    opens = _opens(open)
    ran = run(f, args, labels, opens)
    if not ran.inputs:
        raise DtypeError("derive: expected at least one floating-point array among the arguments, got none")
    if not ran.outputs:
        raise ConfigError("derive: the result does not depend on any floating-point argument")
    cotangents = _cotangents(ran, cotangent)
    label = getattr(f, "__name__", type(f).__name__)
    walk = Walk(ran, cotangents, label)
    wanted = [wrt] if isinstance(wrt, str) else list(ran.inputs if wrt is None else wrt)
    wanted = [name for name in wanted if wrt is not None or ran.inputs[name] in walk.adjoint]
    for name in wanted:
        if name not in ran.inputs:
            raise ConfigError(f"derive: wrt names {name!r}; the inputs are {', '.join(ran.inputs)}")
    style = Style(_loss(ran), bars, layout == "row", _sizes(ran, names or {}))

    def again(**changes: Any) -> list[Any]:
        return _again(f, args, labels, changes)

    return Derivation(walk, again, wanted, style)


def _labels(f: Callable[..., Any], count: int) -> list[str]:
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


def _again(f: Callable[..., Any], args: Sequence[Any], labels: Sequence[str], changes: Mapping[str, Any]) -> list[Any]:
    from pullback.show.running import plain_run

    return plain_run(f, args, labels, changes)
