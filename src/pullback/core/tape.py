"""The tape of reverse mode: a node for each application of a primitive, walked back in order of creation.

A node refers to the nodes it came from and to nothing later, so dropping a result frees everything that only it needed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pullback.core.context import context, watch
from pullback.core.guard import Guard, is_exposed
from pullback.core.primitive import Elementwise, Params, Plan, Primitive, as_operand, unbroadcast
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View, plain_value, read_only
from pullback.core.trace import Trace
from pullback.errors import DtypeError, FreedError, LeavesTapeError, NonScalarError, PullbackError, ShapeError

_serial = itertools.count()


class Node:
    """One application of a primitive: what its backward needs, and the nodes it came from."""

    __slots__ = (
        "dtype",
        "guards",
        "output",
        "params",
        "parents",
        "plan",
        "primitive",
        "saved",
        "serial",
        "shape",
        "source",
    )

    def __init__(
        self,
        primitive: Any,
        params: Params,
        plan: Plan | None,
        parents: tuple[Node, ...],
        saved: Any,
        shape: Any,
        dtype: Any,
    ) -> None:
        self.serial = next(_serial)
        self.primitive = primitive  # None for a leaf
        self.params = params
        self.plan = plan  # None for a leaf, and for one output of several
        self.parents = parents
        self.saved = saved
        self.shape = shape
        self.dtype = dtype
        self.output: int | None = None  # which output of its only parent this is
        self.guards: list[Guard] | None = None
        self.source: Source | None = None


class Leaf(Node):
    """An input: where gradients arrive."""

    __slots__ = ("grad",)

    def __init__(self, value: Array, guard: str | None = None) -> None:
        super().__init__(None, {}, None, (), None, value.shape, value.dtype)
        self.grad: np.ndarray[Any, Any] | None = None
        if guard is not None and is_exposed(value):
            self.guards = [Guard(value, guard)]


class Tape(Trace):
    """Reverse mode: each application leaves a node, and `pull` walks the nodes back in order of creation."""

    def lift(self, value: Array, guard: str | None = None) -> Tensor:
        """An input of this tape. With `guard`, its name, the array is checked for changes made before the walk back."""
        return Tensor(value, self, Leaf(value, guard))

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        values: list[Any] = []
        parents: list[Any] = []
        mask = 0
        nested = constants = False
        for i, arg in enumerate(args):
            parent = None
            if isinstance(arg, Tensor):
                if arg._trace is self:
                    parent = arg._node
                    if parent is not None:
                        mask |= 1 << i
                    arg = arg._value
                nested = nested or isinstance(arg, Tensor)
            elif not isinstance(arg, float | int):
                arg = as_operand(primitive, arg)
                constants = constants or isinstance(arg, np.ndarray)
            values.append(arg)
            parents.append(parent)
        if not primitive.differentiable or context.barrier > self.level:
            y = primitive(*values, **params) if nested else primitive.fn(*values, **params)
            return read_only(y) if primitive.view else y
        saved = None
        if primitive.opens and mask:
            outer = nested and any(isinstance(v, Tensor) and v._trace.differentiating for v in values)
            if outer and primitive.reference is not None:  # type: ignore[attr-defined]
                return primitive.open(args, params)  # type: ignore[attr-defined]
            y, saved = self._run_fused(primitive, values, outer, params)
        else:
            y = primitive(*values, **params) if nested else primitive.fn(*values, **params)
        if not mask:
            return self._wrap(primitive, args, params, y, None)
        plan = primitive.plan(mask, len(values))
        if plan.keep:
            saved = plan.save([*values, y])
        sources = tuple([parents[i] for i in plan.inputs])
        if type(y) is tuple:
            shape, dtype = tuple(part.shape for part in y), tuple(part.dtype for part in y)
        else:
            shape, dtype = y.shape, y.dtype
        node = Node(primitive, params, plan, sources, saved, shape, dtype)
        if constants:  # what a fused primitive saves is its own affair: any of its inputs may be among it
            node.guards = _guards(primitive, args, range(len(args)) if primitive.opens else plan.keep)
        if context.watch:
            node.source = user_line()
            watch(primitive, values, y, "forward", node.source)
        return self._wrap(primitive, args, params, y, node)

    def _wrap(self, primitive: Primitive, args: Sequence[Array], params: Params, y: Any, node: Node | None) -> Any:
        """The output as a tensor, or several as a tuple of them; without a node, constants of this tape."""
        if type(y) is tuple:
            return tuple(Tensor(part, self, node and _output(node, part, k)) for k, part in enumerate(y))
        result = Tensor(y, self, node)
        if primitive.view:
            View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
        return result

    def _run_fused(self, primitive: Any, values: list[Array], outer: bool, params: Params) -> tuple[Any, Any]:
        """The output of a fused primitive and what it saved."""
        y, saved = primitive.run(values, params)
        if any(self.node_of(part) is not None for part in (y if type(y) is tuple else (y,))):
            raise LeavesTapeError(
                f"{primitive.name} uses a tracked value that is not one of its arguments: make it one"
            )
        # For a custom rule, an outer trace must see the rule itself and not the body of its forward.
        return (primitive(*values, **params) if outer else y), saved

    def backward(self, y: Tensor, cotangent: Array | None, retain: bool) -> None:
        if y._node is None:
            raise PullbackError("backward(): this value does not depend on any tensor made by pb.tensor")
        if cotangent is None and y.size != 1:
            raise NonScalarError(f"backward() of a value of shape {y.shape} needs a cotangent: y.backward(cotangent)")
        seed = fit_cotangent(np.ones(y.shape) if cotangent is None else cotangent, y.shape, y.dtype)
        for leaf, g in self.pull([(y._node, seed)], free=not retain).items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    def pull(self, seeds: Sequence[tuple[Node, Array]], free: bool) -> dict[Leaf, Array]:
        """Walks back from nodes with their cotangents, latest node first; the gradient of each leaf that is reached.

        Cotangents are added where a value was used more than once. With `free`, what a node saved is dropped once used.
        """
        pending: dict[Node, Any] = {}
        queue: list[tuple[int, Node]] = []
        leaves: dict[Leaf, Array] = {}
        watching = context.watch

        def add(node: Node, g: Array) -> None:
            if node in pending:
                pending[node] = pending[node] + g
            else:
                pending[node] = g
                heapq.heappush(queue, (-node.serial, node))

        for node, cotangent in seeds:
            add(node, cotangent)
        while queue:
            node = heapq.heappop(queue)[1]
            g = pending.pop(node)
            for guard in node.guards or ():
                guard.verify()
            plan, saved, primitive = node.plan, node.saved, node.primitive
            if isinstance(node, Leaf):
                leaves[node] = g
                continue
            if plan is None:
                add(node.parents[0], _Outputs({node.output: g}))
                continue
            if saved is _FREED:
                raise FreedError(
                    f"{primitive.name} was already walked back: use y.backward(retain=True) the first time"
                )
            if isinstance(g, _Outputs):
                g = g.filled(node.shape, node.dtype)
            if primitive.opens:
                contributions = primitive.gradients(saved, g, plan, node.params)
            else:
                params = node.params
                contributions = [pull(g, saved, parent.shape, params) for pull, parent in zip(plan.pulls, node.parents)]  # noqa: B905
            for parent, c in zip(node.parents, contributions):  # noqa: B905 (strict costs a tenth of the walk)
                if c is None:
                    continue
                if c.shape != parent.shape:
                    c = _fit(primitive, c, parent.shape)
                if c.dtype is not parent.dtype and c.dtype != parent.dtype:
                    c = c.astype(parent.dtype)
                if watching:
                    watch(primitive, g if isinstance(g, tuple) else (g,), c, "backward", node.source)
                add(parent, c)
            if free:
                node.saved, node.guards = _FREED, None
        return _own(leaves, [g for _, g in seeds])


def _fit(primitive: Primitive, contribution: Array, shape: tuple[int, ...]) -> Array:
    """A contribution in the shape of its input: broadcasting is undone here; any other difference is a wrong rule."""
    if isinstance(primitive, Elementwise):
        return unbroadcast(contribution, shape)
    problem = f"its backward returned a gradient of shape {contribution.shape} for an input of shape {shape}"
    raise ShapeError(primitive.name, problem)


def _own(leaves: dict[Leaf, Array], others: list[Array]) -> dict[Leaf, Array]:
    """Gradients that the caller may write to: none read-only, none sharing memory with another or with a cotangent."""
    seen = {id(g) for g in others}
    for leaf, g in leaves.items():
        if isinstance(g, np.ndarray) and (g.base is not None or not g.flags.writeable or id(g) in seen):
            leaves[leaf] = g = g.copy()
        seen.add(id(g))
    return leaves


_FREED = object()  # stands for what a node saved, once it has been used and dropped


class _Outputs(dict[Any, Any]):
    """The cotangents of a primitive with several outputs, by output; those that nothing used are absent."""

    def __add__(self, other: _Outputs) -> _Outputs:
        return _Outputs(
            {k: self[k] + other[k] if k in self and k in other else {**self, **other}[k] for k in {**self, **other}}
        )

    def filled(self, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[Any, ...]) -> tuple[Array, ...]:
        return tuple(
            self.get(k, None if k in self else np.zeros(s, d))
            for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
        )


def _output(node: Node, part: Array, k: int) -> Node:
    """The node of one output of a primitive that has several."""
    own = Node(node.primitive, {}, None, (node,), None, part.shape, part.dtype)
    own.output = k
    return own


def _guards(primitive: Primitive, args: Sequence[Array], keep: Sequence[int]) -> list[Guard] | None:
    """Fingerprints of the user's own arrays among what was saved."""
    exposed = [i for i in keep if i < len(args) and isinstance(args[i], np.ndarray) and is_exposed(args[i])]
    return [Guard(args[i], f"argument {i} of {primitive.name}") for i in exposed] or None


def fit_cotangent(cotangent: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """A cotangent as an array of the output's shape and dtype; raises ShapeError where the shape is another."""
    if not isinstance(cotangent, Tensor):
        cotangent = np.asarray(cotangent)
    if cotangent.shape != shape:
        raise ShapeError("cotangent", f"expected the output's shape {shape}, got {cotangent.shape}")
    return cotangent if cotangent.dtype == dtype else cotangent.astype(dtype)


# -- the imperative style ------------------------------------------------------------------------------------------
_ROOT = Tape(level=0)


def tensor(array: Array, dtype: Any = None) -> Tensor:
    """A tensor that holds a copy of the array, for the imperative style: `x = pb.tensor(a); f(x).backward(); x.grad`.

    Raises DtypeError for anything but floating-point numbers.
    """
    value = np.array(plain_value(array), dtype=dtype)
    if value.dtype.kind != "f":
        raise DtypeError(not_differentiable("pb.tensor", value.dtype))
    return _ROOT.lift(value)


def not_differentiable(what: str, dtype: np.dtype[Any], mend: str = "convert it, x.astype(float)") -> str:
    """The message for a dtype that has no derivative."""
    mend = "differentiate the real and the imaginary part as two real arrays" if dtype.kind == "c" else mend
    return f"{what}: expected floating-point numbers, got {dtype}, which cannot be differentiated; {mend}"
