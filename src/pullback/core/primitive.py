"""Primitives: the functions pullback knows, each declared once, by kind, with its derivative.

A rule is a function of arrays whose *parameter names* say what it needs, and therefore what the tape saves for it:

* the name of an input (as the primitive's own function calls it): that input's value
* `y`: the output; `shape`: the shape of the input being differentiated (nothing is saved for it)
* `i`, `others`: for a function of any number of inputs, which one is differentiated, and the values of the rest
* anything else: a keyword parameter of the primitive, such as `axis`

Rules are written in NumPy functions, so they are themselves differentiable, to any order.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.source import user_line
from pullback.core.tensor import RULES, UFUNC_METHODS, Array, Tensor
from pullback.errors import DtypeError, NoRuleError, PullbackError, ShapeError

PRIMITIVES: dict[str, Primitive] = {}
"""Every primitive by name: what the tests, the coverage table and the pictures enumerate."""

Function = Callable[..., Any]
Params = dict[str, Any]
Pull = Callable[[Any, tuple[Any, ...], tuple[int, ...], Params], Any]
"""(cotangent of the output, what was saved, the input's shape, keyword parameters) -> the input's cotangent."""


class Plan(NamedTuple):
    """What one application keeps and how it is pulled back, for one choice of tracked inputs. Made once per choice."""

    keep: tuple[int, ...]  # positions in (inputs..., output)
    save: Callable[[Sequence[Any]], tuple[Any, ...]]  # picks them
    inputs: tuple[int, ...]  # the inputs that receive a cotangent
    pulls: tuple[Pull, ...]  # one for each of those; none for a fused primitive, which has one backward for all
    arity: int  # of all inputs


class Primitive:
    """A function with a derivative. Call it like the function; keyword parameters are never differentiated.

    Args:
        fn: the function in plain NumPy. Its positional parameters are the inputs. If it is a function of NumPy
            itself, the primitive takes its place on tensors.
        name: its name in the registry, where it is not that of `fn`.
        domain: the interval in which tests draw the arguments of an elementwise function.
        view: whether the output may share memory with the input.
        register: whether the registry, and so every test and table, knows it.
        blank: what `fn` gives, as zeros: shapes and dtypes, and errors about them, from those of the inputs alone. It
            takes the place of much work where only these are asked for.
    """

    kind: ClassVar[str]
    differentiable: ClassVar[bool] = True
    opens: ClassVar[bool] = False  # whether traces treat it specially (see Fused)
    whole: Function | None = None  # of a half of a fused primitive, as a recording sees it: the function that it is

    def __init__(
        self,
        fn: Function,
        *,
        name: str | None = None,
        domain: tuple[float, float] | None = None,
        view: bool = False,
        register: bool = True,
        blank: Function | None = None,
    ) -> None:
        self.fn = fn
        self.blank = blank
        self.registered = register
        self.name = name or fn.__name__
        self.domain = domain
        self.view = view
        self.inputs, self.defaults = _signature(fn)
        self._plans: dict[tuple[int, int], Plan] = {}
        self.__doc__ = fn.__doc__
        if register and self.name in PRIMITIVES:
            raise PullbackError(f"a primitive named {self.name!r} is already declared")
        if register:
            PRIMITIVES[self.name] = self
        if isinstance(fn, np.ufunc) or str(fn.__module__).startswith("numpy"):
            RULES[fn] = self

    def __call__(self, *args: Array, **params: Any) -> Any:
        """Applies it in the innermost trace among its arguments, or on plain arrays."""
        if self.defaults:
            params = self.defaults | params
        trace = None
        for arg in args:
            if isinstance(arg, Tensor) and (trace is None or arg._trace.level > trace.level):
                trace = arg._trace
        return self.fn(*args, **params) if trace is None else trace.apply(self, args, params)

    def __repr__(self) -> str:
        return f"<{self.kind} primitive {self.name}>"

    def rule(self, i: int) -> tuple[Function, Function | None] | None:
        """What a kind declares for input i; None where nothing flows back.

        Either `(adjoint, None)`, where `adjoint(g, ...)` is the input's cotangent, or `(read, finish)`, where it is
        `finish(g, read(...), ...)`. The names of the parameters left open say what is saved.
        """
        raise NotImplementedError

    def push(self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: Params) -> Array | None:
        """The tangent of the output; a tangent that is None is zero."""
        raise NotImplementedError

    def evaluate(
        self, rule: Function, lead: tuple[Any, ...], i: int, values: Sequence[Array], y: Array, params: Params
    ) -> Any:
        """Calls a rule of input i with `lead` first, and then whatever else it names."""
        read = _reader(self, rule, len(lead), i, len(values), tuple(range(len(values) + 1)))
        return rule(*lead, *read((*values, y), np.shape(values[i]), params))

    def plan(self, mask: int, count: int) -> Plan:
        """The plan for the tracked inputs given as bits of `mask`, out of `count` inputs."""
        try:
            return self._plans[mask, count]
        except KeyError:
            plan = self._plans[mask, count] = self._make_plan([i for i in range(count) if mask >> i & 1], count)
            return plan

    def _make_plan(self, tracked: list[int], count: int) -> Plan:
        rules = {i: rule for i in tracked if (rule := self.rule(i)) is not None}
        keep: list[int] = []
        for i, functions in rules.items():
            for name in [name for function in functions if function is not None for name in _names(function)]:
                keep.extend(position for position in self._positions(name, i, count) if position not in keep)
        pulls = tuple(self._compile(read, finish, i, count, tuple(keep)) for i, (read, finish) in rules.items())
        save = itemgetter(*keep) if len(keep) > 1 else lambda values: tuple([values[k] for k in keep])
        return Plan(tuple(keep), save, tuple(rules), pulls, count)

    def _positions(self, name: str, i: int, count: int) -> list[int]:
        """Where, among the inputs and the output, the values are that a rule calls by this name."""
        if name == "others":
            return [j for j in range(count) if j != i]
        return [count] if name == "y" else [self.inputs.index(name)] if name in self.inputs else []

    def _compile(self, rule: Function, finish: Function | None, i: int, count: int, keep: tuple[int, ...]) -> Pull:
        """A rule with its names resolved; the commonest kind, one saved value, without any indirection."""
        read = _reader(self, rule, finish is None, i, count, keep)
        if finish is None:
            return lambda g, saved, shape, params: rule(g, *read(saved, shape, params))
        if finish is np.multiply:
            if len(keep) == 1 and len(_names(rule)) == 1 and self._positions(_names(rule)[0], i, count):
                return lambda g, saved, shape, params: g * rule(saved[0])
            return lambda g, saved, shape, params: g * rule(*read(saved, shape, params))
        rest = _reader(self, finish, 2, i, count, keep)
        return lambda g, saved, shape, params: finish(g, rule(*read(saved, shape, params)), *rest(saved, shape, params))


def _reader(
    primitive: Primitive, rule: Function, skip: int, i: int, count: int, keep: tuple[int, ...]
) -> Callable[[tuple[Any, ...], tuple[int, ...], Params], list[Any]]:
    """Finds what a rule's parameters, after the first `skip`, stand for: (saved, shape, params) -> values."""

    def find(name: str) -> Pull:
        places = [keep.index(position) for position in primitive._positions(name, i, count)]
        if name == "others":
            return lambda _, saved, shape, params: [saved[k] for k in places]
        if places:
            return lambda _, saved, shape, params: saved[places[0]]
        if name == "shape":
            return lambda _, saved, shape, params: shape
        return lambda _, saved, shape, params: i if name == "i" else params[name]

    finds = [find(name) for name in _names(rule)[skip:]]
    return lambda saved, shape, params: [find(None, saved, shape, params) for find in finds]


@functools.cache
def _names(rule: Function) -> tuple[str, ...]:
    return () if isinstance(rule, np.ufunc) else tuple(inspect.signature(rule).parameters)


def _signature(fn: Function) -> tuple[tuple[str, ...], Params]:
    """The names of the inputs (none for any number of them), and the defaults of the keyword parameters."""
    if isinstance(fn, np.ufunc):
        return ("x",) if fn.nin == 1 else tuple(f"x{i + 1}" for i in range(fn.nin)), {}
    parameters = inspect.signature(fn).parameters.values()
    inputs = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return inputs, {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


# -- the kinds -------------------------------------------------------------------------------------------------------
class Elementwise(Primitive):
    """Each output element depends on the elements at its place: the Jacobian is diagonal.

    Declared by the partial derivative of each input, a rule or a number: `Elementwise(np.multiply, lambda x2: x2,
    lambda x1: x1)`.
    The inputs of a ufunc are called `x`, or `x1, x2, ...`.
    """

    kind = "elementwise"

    def __init__(self, fn: Function, *partials: Function | float, **options: Any) -> None:
        self.partials = partials
        super().__init__(fn, **options)

    def rule(self, i: int) -> tuple[Function, Function | None] | None:
        partial = self.partials[i]
        if callable(partial):
            return partial, np.multiply
        if partial in (0, 1):
            return ((lambda g: g), None) if partial else None
        return (lambda g: g * partial), None

    def push(self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: Params) -> Array | None:
        total = None
        for i, (t, partial) in enumerate(zip(tangents, self.partials, strict=True)):
            if t is not None and partial != 0:
                d = self.evaluate(partial, (), i, values, y, params) if callable(partial) else partial
                term = t * d
                total = term if total is None else total + term
        return total if total is None or total.shape == y.shape else np.broadcast_to(total, y.shape)


class Linear(Primitive):
    """Linear in its inputs together; declared by its adjoint in each input, `adjoint(g, ...)`.

    Inputs whose adjoint is None, and those after the last adjoint, are held constant: conditions, positions. A single
    adjoint that reads `i` serves any number of inputs."""

    kind = "linear"

    def __init__(self, fn: Function, *adjoints: Function | None, **options: Any) -> None:
        self.adjoints = adjoints
        super().__init__(fn, **options)

    def adjoint(self, i: int) -> Function | None:
        """The adjoint in input i; None where that input is held constant."""
        if self.adjoints[0] is not None and "i" in _names(self.adjoints[0]):
            return self.adjoints[0]
        return self.adjoints[i] if i < len(self.adjoints) else None

    def rule(self, i: int) -> tuple[Function, Function | None] | None:
        adjoint = self.adjoint(i)
        return None if adjoint is None else (adjoint, None)

    def push(self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: Params) -> Array | None:
        filled = [
            v if self.adjoint(i) is None else np.zeros_like(v) if t is None else t
            for i, (t, v) in enumerate(zip(tangents, values, strict=True))
        ]
        return self(*filled, **params)


class Multilinear(Linear):
    """Linear in each input when the others are held: matrix products, einsum, convolution. Declared like `Linear`."""

    kind = "multilinear"

    def push(self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: Params) -> Array | None:
        total = None
        for i, t in enumerate(tangents):
            if t is not None:
                term = self(*values[:i], t, *values[i + 1 :], **params)
                total = term if total is None else total + term
        return total


class Selection(Primitive):
    """Each output is one of the inputs: which one is found from the values, and then held constant.

    `select` finds the selection s; `route(x, s)` applies it, a linear map; `scatter(g, s)` is the adjoint of that map.
    """

    kind = "selection"

    def __init__(self, fn: Function, select: Function, route: Function, scatter: Function, **options: Any) -> None:
        self.select, self.route, self.scatter = select, route, scatter
        super().__init__(fn, **options)

    def rule(self, i: int) -> tuple[Function, Function | None] | None:
        return self.select, self.scatter

    def push(self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: Params) -> Array | None:
        chosen = self.evaluate(self.select, (), 0, values, y, params)
        return self.evaluate(self.route, (tangents[0], chosen), 0, values, y, params)


class Fused(Primitive):
    """Several steps done at once, with a backward written by hand, and a reference in plain primitives as the
    specification.

    `forward(*inputs, **params) -> (y, saved)`, `backward(saved, g, **params) -> one gradient per input` (None where
    there is none). Where a second derivative or a forward-mode one is wanted, the trace opens it into its reference.
    `blanks` are of the forward and of the backward, as of a `Primitive`.
    """

    kind = "fused"
    opens = True

    def __init__(
        self,
        forward: Function,
        backward: Function,
        reference: Function | None,
        *,
        jvp: Function | None = None,
        blanks: tuple[Function | None, Function | None] = (None, None),
        **options: Any,
    ) -> None:
        self.forward, self.backward, self.reference, self.jvp = forward, backward, reference, jvp
        self.blanks, blank = blanks, blanks[0]
        super().__init__(
            lambda *inputs, **params: forward(*inputs, **params)[0],
            blank=None if blank is None else lambda *inputs, **params: blank(*inputs, **params)[0],
            **options,
        )
        self.inputs, self.defaults = _signature(forward)

    def _make_plan(self, tracked: list[int], count: int) -> Plan:
        return Plan((), tuple, tuple(tracked), (), count)

    def run(self, values: Sequence[Array], params: Params) -> tuple[Array, Any]:
        """The output, and what the backward needs."""
        return self._half("forward", self.forward, self.blanks[0], tuple(values), params)  # type: ignore[no-any-return]

    def gradients(self, saved: Any, g: Array, plan: Plan, params: Params) -> list[Array | None]:
        """What the backward returns for the inputs of the plan."""
        every = self._half("backward", self.backward, self.blanks[1], (saved, g), params)
        if len(every) != plan.arity:
            raise ShapeError(self.name, f"backward returned {len(every)} gradients for {plan.arity} inputs")
        return [every[i] for i in plan.inputs]

    def open(self, args: Sequence[Array], params: Params) -> Any:
        """Runs the reference in place of the fused steps."""
        if self.reference is None:
            raise NoRuleError(f"{self.name} has no forward-mode derivative: give pb.custom a jvp")
        return self.reference(*args, **params)

    def _half(self, name: str, fn: Function, blank: Function | None, args: tuple[Any, ...], params: Params) -> Any:
        """Calls one half; where only a recording looks on, as a single step of it."""
        leaves, structure = tree.flatten(args)
        traces = [leaf._trace for leaf in leaves if isinstance(leaf, Tensor)]
        if not traces or any(trace.differentiating for trace in traces):
            return fn(*args, **params)
        form: list[Any] = [None]

        def on_leaves(fn: Function, *leaves: Array, **params: Any) -> tuple[Array, ...]:
            results, form[0] = tree.flatten(fn(*structure.unflatten(leaves), **params))
            return tuple(results)

        flat, flat_blank = functools.partial(on_leaves, fn), blank and functools.partial(on_leaves, blank)
        half = Untracked(flat, name=f"{self.name}.{name}", register=False, blank=flat_blank)
        half.whole, half.registered = fn, self.registered
        results = half(*leaves, **params)
        return form[0].unflatten(results)


class Untracked(Primitive):
    """A function whose result has no derivative at all: comparisons, positions, predicates."""

    kind = "untracked"
    differentiable = False


def implements(*functions: Any) -> Callable[[Function], Function]:
    """Decorates what runs in place of NumPy functions on tensors: a composition of functions that have rules.

    A ufunc's method is given as a pair: `implements((np.add, "reduce"))`.
    """

    def decorate(replacement: Function) -> Function:
        for function in functions:
            table: dict[Any, Function] = UFUNC_METHODS if isinstance(function, tuple) else RULES
            table[function] = replacement
        return replacement

    return decorate


def as_operand(primitive: Primitive, x: Any) -> Any:
    """An argument that is not a tensor: nested lists as arrays; complex numbers, which the rules do not cover,
    refused."""
    if isinstance(x, list | tuple):
        x = np.asarray(x)
    if isinstance(x, complex) or getattr(getattr(x, "dtype", None), "kind", "") == "c":
        raise DtypeError(
            f"{primitive.name} at {user_line()}: complex numbers cannot be differentiated through; "
            "write the real and the imaginary part as two real arrays"
        )
    return x


# -- the one place for broadcasting ----------------------------------------------------------------------------------
def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sums a cotangent over the axes along which an input of this shape was broadcast."""
    extra = len(g.shape) - len(shape)
    if extra:
        g = np.sum(g, axis=tuple(range(extra)))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and g.shape[axis] != 1)
    return np.sum(g, axis=stretched, keepdims=True) if stretched else g
