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
from pullback.core.primitive import Elementwise, Fused, Plan, Primitive, check_shape, unbroadcast
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View, plain_value
from pullback.core.trace import Trace
from pullback.errors import DtypeError, FreedError, LeavesTapeError, NonScalarError, PullbackError, ShapeError

_serial = itertools.count()


class Node:
    """One application of a primitive: what its backward needs, and the nodes it came from. Never refers to later
    nodes."""

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
        primitive: Primitive | None,
        params: dict[str, Any],
        plan: Plan | None,
        parents: tuple[Node, ...],
        saved: Any,
        shape: Any,
        dtype: Any,
    ) -> None:
        self.serial = next(_serial)
        self.primitive = primitive
        self.params = params
        self.plan = plan
        self.parents = parents
        self.saved = saved
        self.shape = shape
        self.dtype = dtype
        self.output: int | None = None  # which output of its only parent this is, for a primitive with several outputs
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

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        values: list[Any] = []
        parents: list[Any] = []
        mask = 0
        nested = constants = False
        for i, arg in enumerate(args):
            if isinstance(arg, Tensor):
                if arg._trace is self:
                    value = arg._value
                    if arg._node is not None:
                        mask |= 1 << i
                    parents.append(arg._node)
                    values.append(value)
                    nested = nested or isinstance(value, Tensor)
                    continue
                nested = True
            elif isinstance(arg, np.ndarray):
                constants = True
            elif isinstance(arg, list | tuple):
                arg = np.asarray(arg)
            parents.append(None)
            values.append(arg)
        if not primitive.differentiable or context.barrier > self.level:
            return primitive(*values, **params) if nested else primitive.fn(*values, **params)
        if primitive.opens and mask:
            return self._apply_fused(primitive, args, values, parents, mask, nested, params)  # type: ignore[arg-type]
        y = primitive(*values, **params) if nested else primitive.fn(*values, **params)
        if not mask:
            return self._wrap(y, None)
        count = len(values)
        plan = primitive.plan(mask, count)
        values.append(y)
        saved = plan.save(values) if plan.save is not None else None
        inputs = plan.inputs
        sources = (parents[inputs[0]],) if len(inputs) == 1 else tuple([parents[i] for i in inputs])
        multiple = type(y) is tuple
        node = Node(
            primitive, params, plan, sources, saved, None if multiple else y.shape, None if multiple else y.dtype
        )
        if constants:
            _guard_constants(node, args, plan.keep)
        if context.watch:
            node.source = user_line()
            watch(primitive, values[:-1], y, "forward", node.source)
        result = self._wrap(y, node)
        if primitive.view:
            View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
        return result

    def _apply_fused(
        self,
        primitive: Fused,
        args: Sequence[Array],
        values: list[Array],
        parents: list[Any],
        mask: int,
        nested: bool,
        params: dict[str, Any],
    ) -> Any:
        """Runs the fused forward and keeps what it saved; opens it where an outer trace differentiates too."""
        outer = nested and any(isinstance(v, Tensor) and v._trace.differentiating for v in values)
        if outer and primitive.reference is not None:
            return primitive.open(args, params)
        y, saved = primitive.forward(*values, **params)
        if any(isinstance(part, Tensor) and part._trace is self for part in (y if type(y) is tuple else (y,))):
            raise LeavesTapeError(
                f"{primitive.name} uses a tracked value that is not one of its arguments: pass it as an argument"
            )
        if outer:  # a custom rule: the outer trace must see the rule, not the body of forward
            y = primitive(*values, **params)
        count = len(values)
        inputs = tuple(i for i in range(count) if mask >> i & 1)
        multiple = type(y) is tuple

        def pull_all(g: Array, kept: Any, node: Node) -> list[Any]:
            gradients = primitive.backward(kept, g, **params)
            if len(gradients) != count:
                raise ShapeError(primitive.name, f"backward returned {len(gradients)} gradients for {count} inputs")
            return [gradients[i] for i in inputs]

        node = Node(
            primitive, params, Plan((), None, inputs, (pull_all,)), tuple(parents[i] for i in inputs), saved,
            None if multiple else y.shape, None if multiple else y.dtype,
        )  # fmt: skip
        if context.watch:
            node.source = user_line()
            watch(primitive, values, y, "forward", node.source)
        return self._wrap(y, node)

    def _wrap(self, y: Any, node: Node | None) -> Any:
        if type(y) is not tuple:
            return Tensor(y, self, node)
        return tuple(Tensor(part, self, node if node is None else _output(node, part, k)) for k, part in enumerate(y))

    def backward(self, y: Tensor, cotangent: Array | None, retain: bool) -> None:
        if y._node is None:
            raise PullbackError("backward(): this value does not depend on any tensor made by pb.tensor")
        if cotangent is None:
            if y.size != 1:
                raise NonScalarError(
                    f"backward() of a value of shape {y.shape} needs a cotangent of that shape: y.backward(cotangent)"
                )
            cotangent = np.ones(y.shape, y.dtype)
        for leaf, g in self.pull([(y._node, fit_cotangent(cotangent, y.shape, y.dtype))], free=not retain).items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    def pull(self, seeds: Sequence[tuple[Node, Array]], free: bool) -> dict[Leaf, Array]:
        """Walks back from nodes with their cotangents, in reverse order of creation; the gradient of each leaf that
        is reached.

        Cotangents are added where a value was used more than once. With `free`, what a node saved is dropped once it
        is used.
        """
        pending: dict[Node, Any] = {}
        queue: list[tuple[int, Node]] = []
        leaves: dict[Leaf, Array] = {}

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
            if node.guards is not None:
                for guard in node.guards:
                    guard.verify()
            plan = node.plan
            if plan is None:
                if node.output is None:
                    leaves[node] = g  # type: ignore[index]
                else:
                    add(node.parents[0], _Outputs({node.output: g}))
                continue
            primitive: Any = node.primitive
            if node.saved is _FREED:
                raise FreedError(
                    f"the tape has been freed: {primitive.name} was already walked back. "
                    "Use y.backward(retain=True) the first time"
                )
            if isinstance(g, _Outputs):
                g = g.filled(node.shape, node.dtype)
            if primitive.opens:
                contributions = plan.pulls[0](g, node.saved, node)
            else:
                contributions = [pull(g, node.saved, node) for pull in plan.pulls]
            for parent, c in zip(node.parents, contributions, strict=True):
                if c is None:
                    continue
                shape = parent.shape
                if c.shape != shape:
                    if isinstance(primitive, Elementwise):
                        c = unbroadcast(c, shape)
                    else:
                        check_shape(primitive, c, shape)
                if c.dtype is not parent.dtype and c.dtype != parent.dtype:
                    c = c.astype(parent.dtype)
                if context.watch:
                    watch(primitive, g if isinstance(g, tuple) else (g,), c, "backward", node.source)
                if parent in pending:
                    pending[parent] = pending[parent] + c
                else:
                    pending[parent] = c
                    heapq.heappush(queue, (-parent.serial, parent))
            if free:
                node.saved = _FREED
        return _own(leaves, [g for _, g in seeds])


def _own(leaves: dict[Leaf, Array], others: list[Array]) -> dict[Leaf, Array]:
    """Gradients that the caller may write to: none read-only, none sharing memory with another or with a cotangent."""
    seen = {id(g) for g in others}
    for leaf, g in leaves.items():
        if isinstance(g, np.ndarray) and (g.base is not None or not g.flags.writeable or id(g) in seen):
            leaves[leaf] = g = g.copy()
        seen.add(id(g))
    return leaves


class _Freed:
    """Stands for what a node saved, once it has been used and dropped."""


_FREED = _Freed()


class _Outputs(dict[int, Any]):
    """The cotangents of a primitive with several outputs, by output; those that nothing used are absent."""

    def __add__(self, other: _Outputs) -> _Outputs:
        total = _Outputs(self)
        for k, g in other.items():
            total[k] = total[k] + g if k in total else g
        return total

    def filled(self, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[Any, ...]) -> tuple[Array, ...]:
        return tuple(
            self[k] if k in self else np.zeros(s, d) for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
        )


def _output(node: Node, part: Array, k: int) -> Node:
    """The node of one output of a primitive that has several."""
    node.shape = (*(node.shape or ()), part.shape)
    node.dtype = (*(node.dtype or ()), part.dtype)
    own = Node(node.primitive, {}, None, (node,), None, part.shape, part.dtype)
    own.output = k
    return own


def fit_cotangent(cotangent: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """A cotangent as an array of the output's shape and dtype; raises ShapeError where the shape is another."""
    if not isinstance(cotangent, Tensor):
        cotangent = np.asarray(cotangent)
    if cotangent.shape != shape:
        raise ShapeError("cotangent", f"expected the output's shape {shape}, got {cotangent.shape}")
    return cotangent if cotangent.dtype == dtype else cotangent.astype(dtype)


def _guard_constants(node: Node, args: Sequence[Array], keep: tuple[int, ...]) -> None:
    """Fingerprints the user's own arrays among what was saved."""
    node.guards = [
        Guard(arg, f"argument {i} of {node.primitive.name}")  # type: ignore[union-attr]
        for i, arg in enumerate(args)
        if i in keep and isinstance(arg, np.ndarray) and is_exposed(arg)
    ] or None


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


def not_differentiable(what: str, dtype: np.dtype[Any]) -> str:
    """The message for a dtype that has no derivative."""
    mend = (
        "complex numbers have no rules here; differentiate real and imaginary parts"
        if dtype.kind == "c"
        else "x.astype(float)"
    )
    return f"{what}: expected floating-point numbers, got {dtype}, which cannot be differentiated; convert it: {mend}"
