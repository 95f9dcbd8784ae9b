"""Primitives: the functions pullback knows, each declared once, by kind, with its derivative.

A rule is a function of arrays whose *parameter names* say what it needs, and therefore what the tape saves for it:

* the name of an input (as the primitive's own function calls it): that input's value
* `y`: the output; `shape`: the shape of the input being differentiated (nothing is saved for it)
* `i`, `others`: for a function of any number of inputs, which one is differentiated, and the values of the rest
* anything else: a keyword parameter of the primitive, such as `axis`

Rules are written in NumPy functions, so they are themselves differentiable, to any order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from pullback.core.tensor import RULES, UFUNC_METHODS, Array, Tensor
from pullback.errors import NoRuleError, PullbackError, ShapeError

if TYPE_CHECKING:
    from pullback.core.tape import Node

__all__ = [
    "PRIMITIVES", "Elementwise", "Fused", "Linear", "Multilinear", "Primitive", "Selection", "Untracked",
    "apply", "elementwise", "fused", "implements", "linear", "multilinear", "selection", "unbroadcast", "untracked",
]  # fmt: skip

PRIMITIVES: dict[str, Primitive] = {}
"""Every primitive by name: what the tests, the coverage table and the pictures enumerate."""

P = TypeVar("P", bound="Primitive")
Pull = Callable[[Any, Any, "Node"], Any]
"""(cotangent of the output, what was saved, the node) -> the contribution to one input's cotangent."""


class Plan(NamedTuple):
    """What one application keeps and how it is pulled back, for one choice of tracked inputs. Made once per choice."""

    keep: tuple[int, ...]  # positions in (inputs..., output)
    save: Callable[[Sequence[Any]], Any] | None  # picks them
    inputs: tuple[int, ...]  # the inputs that receive a cotangent
    pulls: tuple[Pull, ...]  # one for each of those


def apply(primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
    """Applies a primitive: in the innermost trace among its arguments, or on plain arrays."""
    trace = None
    for arg in args:
        if isinstance(arg, Tensor) and (trace is None or arg._trace.level > trace.level):
            trace = arg._trace
    if trace is None:
        return primitive.fn(*args, **params)
    return trace.apply(primitive, args, params)


class Primitive:
    """A function with a derivative. Call it like the function; keyword parameters are never differentiated."""

    kind: ClassVar[str]
    differentiable: ClassVar[bool] = True
    opens: ClassVar[bool] = False  # whether traces treat it specially (see Fused)

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        *,
        domain: tuple[float, float] | None = None,
        view: bool = False,
        register: bool = True,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__.rstrip("_")
        self.domain = domain  # where tests draw its arguments from, if not from the whole line
        self.view = view  # whether the output may share memory with the input
        self.inputs, self.defaults = _signature(fn)
        self._plans: dict[int, Plan] = {}
        self.__doc__ = fn.__doc__
        if register:
            if self.name in PRIMITIVES:
                raise PullbackError(f"a primitive named {self.name!r} is already declared")
            PRIMITIVES[self.name] = self

    def __call__(self, *args: Array, **params: Any) -> Any:
        return apply(self, args, {**self.defaults, **params} if self.defaults else params)

    def __repr__(self) -> str:
        return f"<{self.kind} primitive {self.name}>"

    # What a kind declares.
    def rule(self, i: int) -> tuple[Callable[..., Any], Callable[..., Any] | None] | None:
        """The function whose parameter names say what input i needs, and how its result becomes the input's cotangent.

        The second is None where the function takes the cotangent first and returns the contribution itself; the whole
        is
        None where nothing flows back.
        """
        raise NotImplementedError

    def push(
        self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: dict[str, Any]
    ) -> Array | None:
        """The tangent of the output; a tangent that is None is zero."""
        raise NotImplementedError

    def plan(self, mask: int, count: int) -> Plan:
        """The plan for the tracked inputs given as bits of `mask`, out of `count` inputs."""
        key = mask << 16 | count
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make_plan(mask, count)
        return plan

    def _make_plan(self, mask: int, count: int) -> Plan:
        tracked = [i for i in range(count) if mask >> i & 1]
        rules = [(i, rule) for i in tracked if (rule := self.rule(i)) is not None]
        keep: list[int] = []
        for i, (fn, _) in rules:
            for position in _kept(self, fn, i, count):
                if position not in keep:
                    keep.append(position)
        inputs = tuple(i for i, _ in rules)
        pulls = tuple(
            _compile_pull(self, fn, finish, i, inputs.index(i), tuple(keep), count) for i, (fn, finish) in rules
        )
        return Plan(tuple(keep), itemgetter(*keep) if keep else None, inputs, pulls)


# -- the kinds -------------------------------------------------------------------------------------------------------
class Elementwise(Primitive):
    """Each output element depends on the elements at its place: the Jacobian is diagonal."""

    kind = "elementwise"

    def __init__(self, fn: Callable[..., Any], partials: Sequence[Callable[..., Any] | float], **options: Any) -> None:
        self.partials = partials
        super().__init__(fn, **options)
        self.inputs = self.inputs or _positional_names(len(partials))

    def rule(self, i: int) -> tuple[Callable[..., Any], Callable[..., Any] | None] | None:
        partial = self.partials[i]
        if callable(partial):
            return partial, np.multiply
        if partial == 0:
            return None
        if partial == 1:
            return (lambda g: g), None
        if partial == -1:
            return (lambda g: -g), None
        return (lambda g: g * partial), None

    def push(
        self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: dict[str, Any]
    ) -> Array | None:
        total = None
        for i, t in enumerate(tangents):
            partial = self.partials[i]
            if t is None or partial == 0:
                continue
            if callable(partial):
                partial = call_rule(self, partial, (), values, y, i, params)
            term = t if isinstance(partial, float | int) and partial == 1 else t * partial
            total = term if total is None else total + term
        if total is not None and total.shape != y.shape:
            total = np.broadcast_to(total, y.shape)
        return total


class Linear(Primitive):
    """Linear in its inputs together; its transpose in each is declared as an adjoint.

    Inputs whose adjoint is None, and those after the last adjoint, are held constant: conditions, positions. A single
    adjoint
    that reads `i` serves any number of inputs.
    """

    kind = "linear"

    def __init__(self, fn: Callable[..., Any], adjoints: Sequence[Callable[..., Any] | None], **options: Any) -> None:
        self.adjoints = adjoints
        self.any_number = adjoints[0] is not None and "i" in _names(adjoints[0])
        super().__init__(fn, **options)

    def adjoint(self, i: int) -> Callable[..., Any] | None:
        """The adjoint in input i; None where that input is held constant."""
        if self.any_number:
            return self.adjoints[0]
        return self.adjoints[i] if i < len(self.adjoints) else None

    def rule(self, i: int) -> tuple[Callable[..., Any], Callable[..., Any] | None] | None:
        adjoint = self.adjoint(i)
        return None if adjoint is None else (adjoint, None)

    def push(
        self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: dict[str, Any]
    ) -> Array | None:
        filled = [
            v if self.adjoint(i) is None else np.zeros_like(v) if t is None else t
            for i, (t, v) in enumerate(zip(tangents, values, strict=True))
        ]
        return self(*filled, **params)


class Multilinear(Linear):
    """Linear in each input when the others are held: matrix products, einsum, convolution."""

    kind = "multilinear"

    def push(
        self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: dict[str, Any]
    ) -> Array | None:
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

    def __init__(
        self,
        fn: Callable[..., Any],
        select: Callable[..., Any],
        route: Callable[..., Any],
        scatter: Callable[..., Any],
        **options: Any,
    ) -> None:
        self.select, self.route, self.scatter = select, route, scatter
        super().__init__(fn, **options)

    def rule(self, i: int) -> tuple[Callable[..., Any], Callable[..., Any] | None] | None:
        return self.select, self.scatter

    def push(
        self, tangents: Sequence[Array | None], values: Sequence[Array], y: Array, params: dict[str, Any]
    ) -> Array | None:
        chosen = call_rule(self, self.select, (), values, y, 0, params)
        return call_rule(self, self.route, (tangents[0], chosen), values, y, 0, params)


class Fused(Primitive):
    """Several steps done at once, with a backward written by hand, and a reference in plain primitives as the
    specification.

    `forward(*inputs, **params) -> (y, saved)`, `backward(saved, g, **params) -> one gradient per input` (None where
    there is
    none). Where a second derivative or a forward-mode one is wanted, the trace opens it into its reference.
    """

    kind = "fused"
    opens = True

    def __init__(
        self,
        forward: Callable[..., tuple[Any, Any]],
        backward: Callable[..., Sequence[Any]],
        reference: Callable[..., Any] | None,
        *,
        jvp: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        self.forward, self.backward, self.reference, self.jvp = forward, backward, reference, jvp
        super().__init__(lambda *inputs, **params: forward(*inputs, **params)[0], **options)
        self.inputs, self.defaults = _signature(forward)

    def open(self, args: Sequence[Array], params: dict[str, Any]) -> Any:
        """Runs the reference in place of the fused steps."""
        if self.reference is None:
            raise NoRuleError(f"{self.name} has no forward-mode derivative: give pb.custom a jvp")
        return self.reference(*args, **params)


class Untracked(Primitive):
    """A function whose result has no derivative at all: comparisons, positions, predicates."""

    kind = "untracked"
    differentiable = False


# -- declaring, one statement each -----------------------------------------------------------------------------------
def elementwise(fn: Callable[..., Any], *partials: Callable[..., Any] | float, **options: Any) -> Elementwise:
    """Declares an elementwise function by its partial derivatives: `elementwise(np.multiply, lambda x2: x2, lambda
    x1: x1)`.

    The inputs of a NumPy ufunc are called `x`, or `x1, x2, ...`; those of a Python function as it calls them. A partial
    may be a number. Options: `name`, and `domain=(low, high)` where the function is defined and smooth.
    """
    return _enter(fn, Elementwise(fn, partials, **options))


def linear(fn: Callable[..., Any], *adjoints: Callable[..., Any] | None, **options: Any) -> Linear:
    """Declares a linear function by its adjoint in each input, `adjoint(g, ...)`; see `Linear`."""
    return Linear(fn, adjoints, **options)


def multilinear(fn: Callable[..., Any], *adjoints: Callable[..., Any], **options: Any) -> Multilinear:
    """Declares a function that is linear in each input separately, by its adjoint in each."""
    return Multilinear(fn, adjoints, **options)


def selection(
    fn: Callable[..., Any],
    select: Callable[..., Any],
    route: Callable[..., Any],
    scatter: Callable[..., Any],
    **options: Any,
) -> Selection:
    """Declares a function whose outputs are chosen among its inputs; see `Selection`."""
    return Selection(fn, select, route, scatter, **options)


def fused(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[..., Sequence[Any]],
    reference: Callable[..., Any] | None,
    **options: Any,
) -> Fused:
    """Declares several steps done at once; see `Fused`."""
    return Fused(forward, backward, reference, **options)


def untracked(fn: Callable[..., Any], **options: Any) -> Untracked:
    """Declares a function whose result has no derivative, such as a comparison."""
    return _enter(fn, Untracked(fn, **options))


def implements(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates what runs in place of NumPy functions on tensors: same parameters, written with functions that have
    rules.

    A ufunc's method is given as a pair, `implements((np.add, "reduce"))`.
    """

    def decorate(replacement: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            if isinstance(function, tuple):
                UFUNC_METHODS[function] = replacement
            else:
                RULES[function] = replacement
        return replacement

    return decorate


def _enter(fn: Callable[..., Any], primitive: P) -> P:
    if getattr(fn, "__module__", "").startswith("numpy") or isinstance(fn, np.ufunc):
        RULES[fn] = primitive
    return primitive


# -- the one place for broadcasting ----------------------------------------------------------------------------------
def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sums a cotangent over the axes along which an input of this shape was broadcast."""
    extra = len(g.shape) - len(shape)
    if extra:
        g = np.sum(g, axis=tuple(range(extra)))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and g.shape[axis] != 1)
    if stretched:
        g = np.sum(g, axis=stretched, keepdims=True)
    return g


# -- reading the names of a rule's parameters ------------------------------------------------------------------------
def _signature(fn: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the inputs, and the defaults of the keyword parameters. Empty names for any number of inputs."""
    if isinstance(fn, np.ufunc):
        return _positional_names(fn.nin), {}
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # a NumPy function written in C
        return (), {}
    inputs = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    return inputs, defaults


def _positional_names(count: int) -> tuple[str, ...]:
    return ("x",) if count == 1 else tuple(f"x{i + 1}" for i in range(count))


@cache
def _names(fn: Callable[..., Any], skip: int = 0) -> tuple[str, ...]:
    if isinstance(fn, np.ufunc):  # only ever as the last step, which reads nothing more
        return ()
    return tuple(inspect.signature(fn).parameters)[skip:]


def _kept(primitive: Primitive, fn: Callable[..., Any], i: int, count: int) -> list[int]:
    """The positions, among the inputs and the output (position `count`), of the values that a rule names."""
    kept = []
    for name in _names(fn):
        if name == "y":
            kept.append(count)
        elif name == "others":
            kept.extend(j for j in range(count) if j != i)
        elif name in primitive.inputs:
            kept.append(primitive.inputs.index(name))
    return kept


def _reader(
    primitive: Primitive, name: str, i: int, order: int, keep: tuple[int, ...], count: int
) -> Callable[[Any, Node], Any]:
    """How one named parameter of a rule is read from what was saved and from the node."""

    def saved_at(position: int) -> Callable[[Any], Any]:
        place = keep.index(position)
        return (lambda saved: saved) if len(keep) == 1 else itemgetter(place)

    if name == "y":
        read = saved_at(count)
        return lambda saved, node: read(saved)
    if name == "others":
        reads = [saved_at(j) for j in range(count) if j != i]
        return lambda saved, node: [read(saved) for read in reads]
    if name in primitive.inputs:
        read = saved_at(primitive.inputs.index(name))
        return lambda saved, node: read(saved)
    if name == "shape":
        return lambda saved, node: node.parents[order].shape
    if name == "i":
        return lambda saved, node: i
    return lambda saved, node: node.params[name]


def _compile_pull(
    primitive: Primitive,
    fn: Callable[..., Any],
    finish: Callable[..., Any] | None,
    i: int,
    order: int,
    keep: tuple[int, ...],
    count: int,
) -> Pull:
    """One input's rule with its reads resolved; the common elementwise shapes get closures without any indirection."""
    names = _names(fn)
    takes_cotangent = finish is None
    reads = [_reader(primitive, name, i, order, keep, count) for name in names[takes_cotangent:]]
    if finish is np.multiply:
        if len(names) == 1 and len(keep) == 1 and _kept(primitive, fn, i, count):
            return lambda g, saved, node: g * fn(saved)
        return lambda g, saved, node: g * fn(*[read(saved, node) for read in reads])
    if finish is None:
        if not reads:
            return lambda g, saved, node: fn(g)
        return lambda g, saved, node: fn(g, *[read(saved, node) for read in reads])
    extra = [_reader(primitive, name, i, order, keep, count) for name in _names(finish, 2)]
    return lambda g, saved, node: finish(
        g, fn(*[read(saved, node) for read in reads]), *[read(saved, node) for read in extra]
    )


def call_rule(
    primitive: Primitive,
    fn: Callable[..., Any],
    leading: Sequence[Any],
    values: Sequence[Array],
    y: Array,
    i: int,
    params: dict[str, Any],
) -> Any:
    """Calls a rule with everything at hand: `leading` first, then what its remaining parameters name."""

    def read(name: str) -> Any:
        if name == "y":
            return y
        if name == "others":
            return [value for j, value in enumerate(values) if j != i]
        if name in primitive.inputs:
            return values[primitive.inputs.index(name)]
        return {"shape": np.shape(values[i]), "i": i}[name] if name in ("shape", "i") else params[name]

    return fn(*leading, *[read(name) for name in _names(fn, len(leading))])


def check_shape(primitive: Primitive, contribution: Array, shape: tuple[int, ...]) -> None:
    """Raises ShapeError where a rule returned a gradient of another shape than its input."""
    if np.shape(contribution) != shape:
        raise ShapeError(
            primitive.name,
            f"its backward returned a gradient of shape {np.shape(contribution)} for an input of shape {shape}",
        )
