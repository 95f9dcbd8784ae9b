"""Traces: the tape of reverse mode, the tangents of forward mode, and the recording of a whole run.

One `Node` stands for one application of one primitive, whoever made it. Traces nest by level: a value of an inner trace holds a
value of an outer one, so that any mixture of derivatives is right by construction.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from pullback.core.guard import Guard, is_exposed
from pullback.core.primitive import Elementwise, Fused, Plan, Primitive, check_shape, unbroadcast
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View, plain_value
from pullback.errors import DtypeError, FreedError, LeavesTapeError, NonFiniteError, NonScalarError, PullbackError, ShapeError

_serial = itertools.count()
_levels = itertools.count(1)


class _Context(threading.local):
    """What is switched on around a piece of code, for one thread."""

    barrier = -1  # tapes of a lower level do not record (no_grad)
    watch = False  # look for the first NaN or infinity (trace_nans)
    journal: list[tuple[Any, Any]] | None = None  # state changed by a run that will be repeated


_context = _Context()


class Node:
    """One application of a primitive: what its backward needs, and the nodes it came from. Never refers to later nodes."""

    __slots__ = ("dtype", "guards", "index", "params", "parents", "plan", "primitive", "saved", "serial", "shape", "source")

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
        self.index: int | None = None  # which output of its only parent this is, for a primitive with several outputs
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


class Trace:
    """One level of tracing."""

    differentiating: ClassVar[bool] = True

    def __init__(self, level: int | None = None) -> None:
        self.level = next(_levels) if level is None else level

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        """Applies a primitive to arguments of which at least one belongs to this trace."""
        raise NotImplementedError

    def backward(self, y: Tensor, cotangent: Array | None, retain: bool) -> None:
        raise PullbackError("backward() is for tensors made by pb.tensor; inside pb.grad and its kin, the transform does it")

    def end(self) -> None:
        """Ends the trace: its tensors can no longer be used."""
        self.__class__ = _Ended  # type: ignore[assignment]


class _Ended(Trace):
    """A trace whose transform has returned."""

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> NoReturn:
        raise FreedError(
            f"{primitive.name} at {user_line()} uses a tensor that belongs to a pb.grad, pb.vjp or pb.jvp that has ended; "
            "return what you need from the function (has_aux=True), or keep t.value"
        )


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
        if not primitive.differentiable or _context.barrier > self.level:
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
        if len(inputs) == 1:
            sources = (parents[inputs[0]],)
        else:
            sources = tuple([parents[i] for i in inputs])  # type: ignore[assignment]
        multiple = type(y) is tuple
        node = Node(primitive, params, plan, sources, saved, None if multiple else y.shape, None if multiple else y.dtype)
        if constants:
            _guard_constants(node, args, plan.keep)
        if _context.watch:
            _watch_forward(node, values[:-1], y)
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
            raise LeavesTapeError(f"{primitive.name} uses a tracked value that is not one of its arguments: pass it as an argument")
        if outer:  # a custom rule: the outer trace must see the rule, not the body of forward
            y = primitive(*values, **params)
        inputs = tuple(i for i in range(len(values)) if mask >> i & 1)
        multiple = type(y) is tuple

        def pull_all(g: Array, kept: Any, node: Node) -> list[Any]:
            gradients = primitive.backward(kept, g, **params)
            if len(gradients) != len(values):
                raise ShapeError(primitive.name, f"backward returned {len(gradients)} gradients for {len(values)} inputs")
            return [gradients[i] for i in inputs]

        node = Node(
            primitive, params, Plan((), None, inputs, (pull_all,)), tuple(parents[i] for i in inputs), saved,
            None if multiple else y.shape, None if multiple else y.dtype,
        )  # fmt: skip
        if _context.watch:
            _watch_forward(node, values, y)
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
                raise NonScalarError(f"backward() of a value of shape {y.shape} needs a cotangent of that shape: y.backward(np.ones(...))")
            cotangent = np.ones(y.shape, y.dtype)
        for leaf, g in self.pull([(y._node, fit_cotangent(cotangent, y.shape, y.dtype))], free=not retain).items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    def pull(self, seeds: Sequence[tuple[Node, Array]], free: bool) -> dict[Leaf, Array]:
        """Walks back from nodes with their cotangents, in reverse order of creation; the gradient of each leaf that is reached.

        Cotangents are added where a value was used more than once. With `free`, what a node saved is dropped once it is used.
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
                if node.index is None:
                    leaves[node] = g  # type: ignore[index]
                else:
                    add(node.parents[0], _Outputs({node.index: g}))
                continue
            primitive: Any = node.primitive
            if node.saved is _FREED:
                raise FreedError(
                    f"the tape has been freed: {primitive.name} was already walked back. Use y.backward(retain=True) the first time"
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
                if _context.watch:
                    _watch_backward(node, g, c)
                if parent in pending:
                    pending[parent] = pending[parent] + c
                else:
                    pending[parent] = c
                    heapq.heappush(queue, (-parent.serial, parent))
            if free:
                node.saved = _FREED
        return _own(leaves, [g for _, g in seeds])


class Forward(Trace):
    """Forward mode: a tensor's node is its tangent."""

    def lift(self, value: Array, tangent: Array) -> Tensor:
        """An input of this trace with its tangent."""
        return Tensor(value, self, tangent)

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        mine = [isinstance(arg, Tensor) and arg._trace is self for arg in args]
        values = [arg._value if own else np.asarray(arg) if isinstance(arg, list | tuple) else arg for arg, own in zip(args, mine, strict=True)]
        tangents: list[Any] = [arg._node if own else None for arg, own in zip(args, mine, strict=True)]
        if not primitive.differentiable or _context.barrier > self.level:
            return primitive(*values, **params)
        if isinstance(primitive, Fused) and primitive.jvp is None:
            return primitive.open(args, params)
        y = primitive(*values, **params)
        if all(t is None for t in tangents):
            tangent = None
        elif isinstance(primitive, Fused):
            filled = [np.zeros_like(v) if t is None else t for t, v in zip(tangents, values, strict=True)]
            tangent = primitive.jvp(tuple(values), tuple(filled))  # type: ignore[misc]
        else:
            tangent = primitive.push(tangents, values, y, params)
        if type(y) is tuple:
            return tuple(Tensor(part, self, tangent and tangent[k]) for k, part in enumerate(y))
        if tangent is not None and tangent.dtype != y.dtype:
            tangent = tangent.astype(y.dtype)
        result = Tensor(y, self, tangent)
        if _context.watch:
            _watch_values(primitive, values, y, "forward", user_line())
        if primitive.view:
            View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
        return result


class Step(NamedTuple):
    """One line of a recording: which primitive, from which earlier values, with which parameters, where in the program."""

    index: int
    primitive: Primitive
    inputs: tuple[Any, ...]  # the index of an earlier step or input (where refers is True), or a constant
    refers: tuple[bool, ...]
    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int
    source: Source


class Recording(Trace):
    """The outermost trace: notes every application in order, those of inner tapes' backward rules included."""

    differentiating = False

    def __init__(self) -> None:
        super().__init__()
        self.inputs = 0
        self.steps: list[Step] = []

    def lift(self, value: Array) -> Tensor:
        """An input of the recording."""
        self.inputs += 1
        return Tensor(value, self, self.inputs - 1)  # type: ignore[arg-type]

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        own = [isinstance(arg, Tensor) and arg._trace is self for arg in args]
        values = [arg._value if mine else arg for arg, mine in zip(args, own, strict=True)]
        y = primitive.fn(*values, **params)
        parts = y if type(y) is tuple else (y,)
        refers = tuple(mine and arg._node is not None for arg, mine in zip(args, own, strict=True))
        inputs = tuple(arg._node if known else value for arg, value, known in zip(args, values, refers, strict=True))
        results = []
        for part in parts:
            index = self.inputs + len(self.steps)
            part = np.asarray(part)[()]
            self.steps.append(Step(index, primitive, inputs, refers, params, part.shape, part.dtype, part.nbytes, user_line()))
            results.append(Tensor(part, self, index))  # type: ignore[arg-type]
        return tuple(results) if type(y) is tuple else results[0]


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
        return tuple(self[k] if k in self else np.zeros(s, d) for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True)))


def _output(node: Node, part: Array, k: int) -> Node:
    """The node of one output of a primitive that has several."""
    node.shape = (*(node.shape or ()), part.shape)
    node.dtype = (*(node.dtype or ()), part.dtype)
    output = Node(node.primitive, {}, None, (node,), None, part.shape, part.dtype)
    output.index = k
    return output


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


# -- leaves and switches ---------------------------------------------------------------------------------------------------
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
    mend = "complex numbers have no rules here; differentiate real and imaginary parts" if dtype.kind == "c" else "x.astype(float)"
    return f"{what}: expected floating-point numbers, got dtype {dtype}, which cannot be differentiated; convert it: {mend}"


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, nothing is recorded for the tapes that exist outside."""
    before = _context.barrier
    _context.barrier = next(_levels)
    try:
        yield
    finally:
        _context.barrier = before


def stop_gradient(x: Array) -> Array:
    """The value of x, cut off from every derivative, in both modes and at every order."""
    while isinstance(x, Tensor) and x._trace.differentiating:
        x = x._value
    return x


@contextmanager
def trace_nans() -> Iterator[None]:
    """Inside, the first operation that makes a NaN or an infinity, forward or backward, raises NonFiniteError with its line."""
    before = _context.watch
    _context.watch = True
    try:
        yield
    finally:
        _context.watch = before


@contextmanager
def journal() -> Iterator[list[tuple[Any, Any]]]:
    """Inside, notes every object whose `value` is changed through `note_change`, with what it was before."""
    before = _context.journal
    _context.journal = changes = []
    try:
        yield changes
    finally:
        _context.journal = before


def note_change(holder: Any) -> None:
    """Called by anything that holds state in `value`, just before it changes it."""
    if _context.journal is not None and all(holder is not known for known, _ in _context.journal):
        _context.journal.append((holder, holder.value))


@contextmanager
def replay(changes: list[tuple[Any, Any]]) -> Iterator[None]:
    """Inside, the state is what it was when the journal began; afterwards it is again what it is now."""
    now = [(holder, holder.value) for holder, _ in changes]
    try:
        for holder, value in changes:
            holder.value = value
        yield
    finally:
        for holder, value in now:
            holder.value = value


def _finite(x: Any) -> bool:
    x = plain_value(x)
    return not isinstance(x, np.ndarray | np.floating) or x.dtype.kind != "f" or bool(np.isfinite(x).all())


def _watch_forward(node: Node, values: Sequence[Any], y: Any) -> None:
    node.source = user_line()
    _watch_values(node.primitive, values, y, "forward", node.source)


def _watch_backward(node: Node, g: Any, contribution: Any) -> None:
    _watch_values(node.primitive, g if isinstance(g, tuple) else (g,), contribution, "backward", node.source)


def _watch_values(primitive: Any, values: Sequence[Any], results: Any, direction: str, source: Source | None) -> None:
    for result in results if isinstance(results, tuple) else (results,):
        if not _finite(result):
            plain = plain_value(result)
            kind = "NaN" if np.isnan(plain).any() else "infinity"
            came_in = [i for i, value in enumerate(values) if not _finite(value)]
            origin = f"(already in its input {came_in[0]})" if came_in else "from finite inputs"
            raise NonFiniteError(
                f"{direction} pass: {primitive.name} made {kind} {origin} at {source or 'a line outside trace_nans'}; "
                f"first at index {tuple(int(k) for k in np.argwhere(~np.isfinite(plain))[0])} of shape {np.shape(plain)}"
            )

