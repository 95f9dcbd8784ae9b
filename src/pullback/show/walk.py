"""A run as mathematics: which values are variables and what they are called, each as an expression of those before it,
and its adjoint as an expression of the adjoints of those after it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from pullback.core.primitive import Elementwise, Fused, Linear, Multilinear, Selection
from pullback.errors import ShapeError
from pullback.show.algebra import constant, plus, symbol
from pullback.show.expression import Expression
from pullback.show.loops import Loop, find_loops
from pullback.show.meaning import meaning
from pullback.show.running import UNNAMED, Opened, Run, Step, Variable
from pullback.show.simplify import Definitions, renamed, simplify
from pullback.show.slopes import against_slope, directions, norm, relative, slope, typical
from pullback.show.symbolic import by_reference, fused_gradients, literal, pulled

Pair = tuple[Expression, Any]
BOOKKEEPING = {"reshape", "transpose", "astype", "copy", "broadcast_to"}
"""They move numbers and compute none: they are written as part of the step that they belong to."""

SUMS = {"add", "subtract"}


@dataclass
class Edge:
    """How the adjoint of a step's output flows to one of its inputs."""

    step: Step
    input: int
    origin: Variable  # the variable whose adjoint it starts from
    expression: Expression | None  # None where the rule's result does not fit
    problem: str = ""
    error: float = 0.0
    kinks: int = 0
    size: float = 0.0  # of what is added up along a random direction


@dataclass
class Walk:
    """The variables of a run with their expressions, forward and backward."""

    run: Run
    cotangents: list[Any]
    label: str  # the name of the function
    fold: bool = True  # whether patterns that repeat are looked for

    forward: dict[Variable, Expression] = field(default_factory=dict)  # of every variable, in terms of those before it
    adjoint: dict[Variable, Expression] = field(default_factory=dict)  # in terms of those after it
    edges: dict[Variable, list[Edge]] = field(default_factory=dict)  # by the variable that they end at
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):  # what is not a number has an infinite error
            self.adjoint_values = self.run.adjoints(self.cotangents)
            self._name()
            self._go_forward()
            self._go_backward()

    # -- which values are variables ----------------------------------------------------------------------------------
    @cached_property
    def consumers(self) -> dict[Variable, list[Step]]:
        """The steps that use each value."""
        found: dict[Variable, list[Step]] = defaultdict(list)
        for step in self.run.steps:
            for x in step.inputs:
                if isinstance(x, Variable):
                    found[x].append(step)
        return found

    @cached_property
    def hidden(self) -> set[Variable]:
        """Values without a name of their own, that are written as part of the step that uses them or made them."""
        hidden: set[Variable] = set()
        proper = {v for step in self.run.steps for v in step.outputs if not self.moves(step)}
        for step in self.run.steps:
            y = step.outputs[0]
            if not step.tracked and not y.name and y not in self.run.outputs:
                hidden.add(y)  # masks, positions: constants of the derivation
            source = next((x for x in step.inputs if isinstance(x, Variable) and x.kind == "step"), None)
            if not self.moves(step) or source is None:
                continue
            alone = not source.name and self.consumers[source] == [step] and source not in self.run.outputs
            if alone and source in proper:
                hidden.add(source)
                proper.add(y)
        for step in self.run.steps:
            y = step.outputs[0]
            if y not in proper and not y.name and y not in self.run.outputs:
                hidden.add(y)
            if y in proper and not y.name and (self._is_dot(step) or self._is_summand(step)):
                hidden.add(y)
        return hidden

    def moves(self, step: Step) -> bool:
        """Whether a step only moves or scales numbers: then it is written as part of a step beside it."""
        name, others = step.primitive.name, [x for x in step.inputs if not isinstance(x, Variable)]
        if name == "getitem":
            return all(isinstance(p, int | np.integer) or p is ... or p == slice(None) for p in step.params["template"])
        scales = (
            name in ("multiply", "divide") and len(others) == 1 and isinstance(step.inputs[0], Variable | float | int)
        )
        return (
            name in BOOKKEEPING
            or name == "negative"
            or (scales and (name == "multiply" or step.inputs[1] is others[0]))
        )

    def _is_dot(self, step: Step) -> bool:
        """Whether it is the product of two vectors that the next step, and nothing else, sums."""
        y, users = step.outputs[0], self.consumers[step.outputs[0]]
        shapes = [np.shape(x.value) for x in step.inputs if isinstance(x, Variable)]
        product = (
            step.primitive.name == "multiply" and len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) == 1
        )
        return (
            product
            and len(users) == 1
            and users[0].primitive.name == "sum"
            and users[0].source == step.source
            and y.part == 0
        )

    def _is_summand(self, step: Step) -> bool:
        """Whether it is a sum or a product of matrices that goes nowhere but into the next sum."""
        y = step.outputs[0]
        users = self.consumers[y]
        if y in self.run.outputs or len(users) != 1 or users[0].primitive.name not in SUMS:
            return False
        made: Step | None = step
        while made is not None and self.moves(made):
            made = next(x.step for x in made.inputs if isinstance(x, Variable))
        return made is not None and made.primitive.name in (*SUMS, "matmul")

    # -- names -------------------------------------------------------------------------------------------------------
    def _name(self) -> None:
        for n, y in enumerate(self.run.outputs):
            if not y.name:
                y.name = self._output_name(n)
        self.loops = self._name_loops() if self.fold else []
        inside = {v for loop in self.loops for v in loop.places}
        shown = [v for step in self.run.steps for v in step.outputs if v not in self.hidden and v not in inside]
        counts = Counter(v.name for v in shown if v.name)
        taken = {*self.run.inputs, *counts, *[b for loop in self.loops for b in loop.bases.values()]}
        letter = next((c for c in "xauvzst" if not any(re.fullmatch(rf"{c}_?\d*", name) for name in taken)), "q")
        inside_names = {b for loop in self.loops for b in loop.bases.values()}
        seen: Counter[str] = Counter()
        unnamed = 0
        for v in shown:
            if not v.name:
                unnamed += 1
                v.name = f"{letter}{unnamed}"
            elif counts[v.name] > 1 or v.name in self.run.inputs or v.name in inside_names:
                seen[v.name] += 1
                v.name += "'" * (v.name in inside_names) + f"_{seen[v.name]}" * (
                    counts[v.name] > 1 or v.name in self.run.inputs
                )
        for n, c in enumerate(self.run.constants):
            c.name = c.name or f"c{n + 1}"
            if c.name in self.run.inputs:
                c.name += "_held"

    def _name_loops(self) -> list[Loop]:
        """The loops whose iterations show the same values, those named by what they are and their iteration."""
        kept: list[Loop] = []
        used = {*self.run.inputs}
        letters = iter("aubscdfgkoprwyz")
        for loop in find_loops(self.run):
            rows = [
                [self.run.steps[loop.start + r * loop.period + k].outputs[0] for r in range(loop.count)]
                for k in range(loop.period)
            ]
            for row in rows:
                if len({v in self.hidden for v in row}) > 1:  # as where the last iteration ends in the result
                    self.hidden.difference_update(row)
            shown = {k: row for k, row in enumerate(rows) if row[0] not in self.hidden}
            called = {k: next((v.name for v in row if v.name), "") for k, row in shown.items()}
            letter = next(c for c in letters if c not in used)
            counts, seen = Counter(called.values()), Counter[str]()
            for k, row in shown.items():
                seen[called[k]] += 1
                number = str(seen[called[k]]) if counts[called[k]] > 1 else ""
                base = (called[k] or letter) + number
                while base in {b for other in kept for b in other.bases.values()}:
                    base += "'"
                loop.bases[k] = base
                for r, v in enumerate(row):
                    v.name = f"{base}_{r + 1}"
            kept.append(loop)
        return kept

    def _output_name(self, n: int) -> str:
        taken = {*self.run.inputs, *[v.name for v in self.run.variables()]}
        usual = ["y", "out"] if self.run.outputs[n].shape else [self.label if len(self.label) < 6 else "f", "e", "loss"]
        number = str(n + 1) if len(self.run.outputs) > 1 else ""
        return next(
            (name + number for name in usual if name.isidentifier() and name + number not in taken), f"result{n}"
        )

    # -- forward -----------------------------------------------------------------------------------------------------
    def _go_forward(self) -> None:
        for v in (*self.run.inputs.values(), *self.run.constants):
            self.forward[v] = symbol(v.name, v.shape)
            self.values[v.name] = v.value
        for step in self.run.steps:
            for y in step.outputs:
                self.forward[y] = meaning(step.primitive, [self.written(x) for x in step.inputs], step.params, y.shape)
                if y not in self.hidden:
                    self.values[y.name] = y.value

    @cached_property
    def definitions(self) -> Definitions:
        """Each variable of the program in terms of those before it."""
        known = Definitions.none()._replace(occurs=self._occurs)
        for v in [v for step in self.run.steps for v in step.outputs if v not in self.hidden]:
            known.add(v.name, self.forward[v], named=v.depth < UNNAMED)
            if v.step is not None and isinstance(v.step.primitive, Fused) and v.step.primitive.reference is not None:
                pattern = by_reference(v.step.primitive, [self.pair(x) for x in v.step.inputs], v.step.params, v.part)
                known.patterns[v.name] = renamed(pattern, known)
        return known

    def _occurs(self, condition: Expression) -> bool:
        """Whether a condition holds anywhere in this run; it may, where it is on what the run has no number for."""
        return not all(name in self.values for name in condition.symbols) or bool(np.any(self.number(condition)))

    @cached_property
    def conditions(self) -> Definitions:
        """The definitions as far as lines need them: for conditions in terms of what they depend on."""
        return self.definitions._replace(first={}, named=dict.fromkeys(self.definitions.patterns))

    def written(self, x: Any) -> Expression:
        """A value as others refer to it: by its name, or by its expression where it has none."""
        if not isinstance(x, Variable):
            return literal(x)
        return self.forward[x] if x in self.hidden or x.kind != "step" else symbol(x.name, x.shape)

    def pair(self, x: Any) -> Pair:
        """A value as others refer to it, and its number."""
        return self.written(x), x.value if isinstance(x, Variable) else x

    # -- backward ----------------------------------------------------------------------------------------------------
    def _go_backward(self) -> None:
        arriving: dict[Variable, list[Edge]] = defaultdict(list)
        for y, g in zip(self.run.outputs, self.cotangents, strict=True):
            if y.shape:
                self.values[f"{y.name}_bar"] = g
        opened = {v: o for o in self.run.opened for v in o.outputs}
        for step in reversed(self.run.steps):
            reached = [y for y in step.outputs if y in self.adjoint_values and (arriving[y] or y in self.run.outputs)]
            if not reached:
                continue
            for y in reached:
                self._sum_up(y, arriving[y])
            for edge in self._edges(step, reached):
                arriving[step.inputs[edge.input]].append(edge)
        for v in self.run.inputs.values():
            if v in self.adjoint_values:
                self._sum_up(v, arriving[v])
        for o in dict.fromkeys(opened.values()):
            self._compare_fused(o)

    def _sum_up(self, v: Variable, arriving: list[Edge]) -> None:
        """The adjoint of a variable: what arrives from each use, added up."""
        self.edges[v] = arriving
        parts = [e.expression for e in arriving if e.expression is not None]
        if v in self.run.outputs:
            given = [g for y, g in zip(self.run.outputs, self.cotangents, strict=True) if y is v]
            own = constant(float(given[0])) if not v.shape else symbol(v.name, v.shape, "adjoint")
            parts = [own, *parts]
        self.adjoint[v] = plus(*parts) if parts else constant(0, v.shape)
        if v not in self.hidden and not (v in self.run.outputs and not arriving):
            self.values[f"{v.name}_bar"] = self.adjoint_values[v]

    def reached(self) -> list[Variable]:
        """The variables that a gradient reaches, from the last to the inputs."""
        steps = [v for step in self.run.steps for v in step.outputs if v not in self.hidden]
        every = [*steps[::-1], *self.run.inputs.values()]
        return [v for v in every if v in self.adjoint and self.edges.get(v)]

    def shown_adjoint(self, v: Variable) -> Expression:
        """The adjoint of a variable as its line shows it."""
        e = self.adjoint[v]
        return e if self.loops and len(e.terms) > 2 else simplify(e, self.conditions)

    def cotangent(self, v: Variable) -> Pair:
        """The adjoint of a variable as others refer to it, and its number."""
        by_name = v not in self.hidden and not (v in self.run.outputs and not v.shape)
        return symbol(v.name, v.shape, "adjoint") if by_name else self.adjoint[v], self.adjoint_values[v]

    def _edges(self, step: Step, reached: Sequence[Variable]) -> list[Edge]:
        origin = reached[0] if reached[0] not in self.hidden else self.edges[reached[0]][0].origin
        arguments = [self.pair(x) for x in step.inputs]
        found = []
        if isinstance(step.primitive, Fused):
            every = self._fused(step, arguments, reached)
            for i in sorted(step.tracked):
                if every[i] is not None:
                    found.append(self._checked(Edge(step, i, origin, every[i])))
            return found
        y = reached[0]
        for i in sorted(step.tracked):
            if step.primitive.rule(i) is None:
                continue
            edge = Edge(step, i, origin, None)
            try:
                edge.expression = pulled(step.primitive, i, arguments, self.pair(y), self.cotangent(y), step.params)
            except ShapeError as error:
                edge.problem, edge.error = str(error), np.inf
            found.append(self._checked(edge))
        return found

    def _fused(self, step: Step, arguments: Sequence[Any], reached: Sequence[Variable]) -> list[Expression | None]:
        outputs = [self.pair(y) for y in step.outputs]
        seeds = [self.cotangent(y) if y in reached else (constant(0, y.shape), np.zeros(y.shape)) for y in step.outputs]
        return fused_gradients(step.primitive, arguments, outputs, seeds, step.params)  # type: ignore[arg-type]

    # -- checks ------------------------------------------------------------------------------------------------------
    def _checked(self, edge: Edge) -> Edge:
        """The edge with the error of the rule at these numbers, against differences of the primitive itself."""
        if edge.expression is None:
            return edge
        step, i = edge.step, edge.input
        values = step.values
        gradient = self.number(edge.expression)
        g = [self.adjoint_values.get(y, np.zeros(y.shape)) for y in step.outputs]
        primitive = step.primitive
        for direction in directions(np.shape(values[i]), 2):
            found, rough = self._slopes(step, i, direction)
            if any(np.any(r) for r in rough) and isinstance(primitive, Elementwise | Selection):
                alike = np.shape(values[i]) == step.outputs[0].shape
                if alike:  # near 0 a logarithm needs steps in proportion to the element
                    size = np.abs(values[i])
                    direction = np.where(rough[0] & (size > 0), direction * size / typical(values[i]), direction)
                    found, rough = self._slopes(step, i, direction)
                edge.kinks = int(sum(np.sum(r) for r in rough))
                if not alike:
                    continue
                direction = np.where(rough[0], 0.0, direction)  # the elements at a kink stay where they are
                found, rough = self._slopes(step, i, direction)
            total = sum(float(np.vdot(a, b)) for a, b in zip(g, found, strict=True))
            floor = norm([norm(a * b) for a, b in zip(g, found, strict=True)])
            edge.size = max(edge.size, floor)
            edge.error = max(edge.error, against_slope(gradient, direction, total, floor))
        return edge

    def _slopes(self, step: Step, i: int, direction: Any) -> tuple[list[Any], list[Any]]:
        """The slopes of the outputs of a step as one input moves, and where they cannot be told."""
        unit = typical(step.values[i])
        run = _along(step.primitive, step.values, i, direction * unit, step.params)
        linear = isinstance(step.primitive, Linear)
        pairs = [slope(partial(_part, run, k), linear) for k in range(len(step.outputs))]
        return [found / unit for found, _ in pairs], [rough for _, rough in pairs]

    def _compare_fused(self, o: Opened) -> None:
        """The backward of a fused primitive, as the tape runs it, against what its reference derives."""
        values = [x.value if isinstance(x, Variable) else x for x in o.inputs]
        y, saved = o.primitive.run(values, o.params)
        g = [self.adjoint_values.get(v, np.zeros(v.shape)) for v in o.outputs]
        tracked = [i for i, x in enumerate(o.inputs) if isinstance(x, Variable) and x in self.adjoint_values]
        plan = o.primitive.plan(sum(1 << i for i in tracked), len(values))
        every = o.primitive.gradients(saved, tuple(g) if type(y) is tuple else g[0], plan, o.params)
        for i, gradient in zip(plan.inputs, every, strict=True):
            for direction in directions(np.shape(values[i]), 2):
                run = _along(o.primitive, values, i, direction, o.params)
                total = sum(float(np.vdot(a, slope(partial(_part, run, k))[0])) for k, a in enumerate(g))
                error = against_slope(gradient, direction, total, 0.0)
                for edge in self.edges.get(o.inputs[i], []):
                    edge.error = max(edge.error, error)

    def number(self, e: Expression) -> Any:
        """The value of an expression in this run."""
        return e.evaluate(**self.values)

    def error_of(self, v: Variable) -> float:
        """The error of the line of an adjoint: the mathematics against the tape, and each rule against differences."""
        if any(e.problem for e in self.edges[v]):
            return np.inf
        leading = self.leading(v)
        floor = max((e.size for e in self.edges[v]), default=0.0)
        own = relative(self.number(self.adjoint[v]), self.adjoint_values[v], floor)
        return max([own, *[e.error for e in leading]])

    def edges_from(self, y: Variable) -> dict[Variable, list[Edge]]:
        """The edges by which the adjoint of a variable flows to others, by the variable that they end at."""
        return self._edges_by_origin.get(y, {})

    @cached_property
    def _edges_by_origin(self) -> dict[Variable, dict[Variable, list[Edge]]]:
        found: dict[Variable, dict[Variable, list[Edge]]] = defaultdict(dict)
        for x, edges in self.edges.items():
            for edge in edges if x not in self.hidden else ():
                found[edge.origin].setdefault(x, []).append(edge)
        return found

    def between(self, x: Variable, y: Variable) -> list[Edge]:
        """The edges on the way from one variable to another, through values without a line of their own."""
        return [edge for edge in self.leading(x) if edge.origin is y]

    def leading(self, v: Variable) -> list[Edge]:
        """The edges that lead to a variable, through values without a line of their own."""
        found = []
        for edge in self.edges.get(v, []):
            found.append(edge)
            for y in edge.step.outputs:
                if y in self.hidden:
                    found += self.leading(y)
        return found


def _part(run: Callable[[float], tuple[Any, ...]], k: int, t: float) -> Any:
    return run(t)[k]


def _along(
    primitive: Any, values: Sequence[Any], i: int, direction: Any, params: Any
) -> Callable[[float], tuple[Any, ...]]:
    """The outputs of a primitive as its input i moves along a direction."""
    known: dict[float, tuple[Any, ...]] = {}
    linear = isinstance(primitive, Multilinear)

    def at(t: float) -> tuple[Any, ...]:
        if t not in known:
            moved = t * direction if linear else values[i] + t * direction
            y = primitive.fn(*values[:i], moved, *values[i + 1 :], **params)
            known[t] = y if type(y) is tuple else (y,)
        return known[t]

    return at
