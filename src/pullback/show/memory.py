"""`pb.memory`: the ledger of what a function saves for its backward pass: which array, by which operation, why, how
many bytes, and when it is freed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.primitive import Elementwise, Params, Primitive, _names
from pullback.core.source import Source, user_line
from pullback.core.tape import Node, Tape
from pullback.core.tensor import Array, Tensor, plain_value
from pullback.errors import TreeError
from pullback.show.observed import is_float, leaves_by_name, restored_state
from pullback.show.traced import Box, Calls, unbound

Plain = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Entry:
    """One array that an operation keeps until the backward pass has come by."""

    tensor: str
    """What the array is: an argument by name, or the output of an operation."""
    operation: str
    """The operation that keeps it."""
    why: str
    """The parameter of its rule that needs it, and for which gradient."""
    bytes: int
    """What keeping it costs: 0 where the memory is an argument's, or kept by an earlier entry anyway."""
    shared: str
    """Why it costs nothing; empty where it costs."""
    freed: str
    """The operation whose backward is the last to need the memory."""
    module: str
    """The module in which the operation ran, by its path; empty outside of all."""
    source: Source
    """The line of the program."""


@dataclass(frozen=True)
class Checkpoint:
    """What `pb.checkpoint` of a module would do."""

    module: str
    saves: int
    """Bytes that are no longer kept from the forward to the backward pass."""
    seconds: float
    """The time of running it forward once more, as measured in this run."""
    part: float
    """That time as a part of the whole forward pass."""
    peak: int
    """The peak with it, bytes."""


@dataclass(frozen=True)
class Ledger:
    """The account. `print` shows it as a table."""

    name: str
    entries: list[Entry]
    """In the order in which they were saved."""
    saved: int
    """Bytes kept at the end of the forward pass, besides the arguments."""
    peak: int
    """The most bytes alive at once during forward and backward pass, besides the arguments."""
    gradients: int
    """Bytes of the gradients that are the result, part of the peak."""
    by_module: dict[str, int]
    """The bytes of `saved` by the path of the module; a module counts what its parts keep."""
    checkpoints: list[Checkpoint]
    """What `pb.checkpoint` would save and cost, module by module, the most saved first."""

    def __str__(self) -> str:
        from pullback.show.ledger_text import ledger_text

        return ledger_text(self)


def memory(f: Callable[..., Any], *args: Any, argnums: int | Sequence[int] = 0) -> Ledger:
    """The ledger of `pb.grad(f, argnums)(*args)`: what is saved for the backward pass, and what that costs.

    f is run forward on the tape that `pb.grad` uses, after a run without; the result may be of any shape. The state of
    modules is afterwards as before.

    Raises:
        DtypeError: an argument to differentiate is not of a floating-point type.
        TreeError: `argnums` names an argument that is not there.
    """
    function, args = unbound(f, args)
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    watched = _watched(function, args, numbers)
    walk = watched.walk()
    entries, saved = _entries(watched, walk)
    account = _Account(watched, walk)
    owned = {box.number: box for record in walk for box in record.scope}
    return Ledger(
        getattr(f, "__name__", type(f).__name__),
        entries,
        saved,
        account.peak(),
        account.gradients,
        _by_module(walk, watched.known),
        sorted(account.checkpoints(owned.values()), key=lambda each: -each.saves),
    )


# -- the run ---------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class _Record:
    """One application that the backward pass will visit."""

    node: Node
    primitive: Primitive
    scope: tuple[Box, ...]
    source: Source
    seconds: float
    inputs: list[int]  # the memory of the arrays that came in, by identity
    made: int  # bytes of the output that are new
    saved: list[tuple[str, str, Plain]] = field(default_factory=list)  # (name in the rule, why, array)


def _owner(x: Plain) -> Plain:
    """The array whose memory this one looks at."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


class _Watched(Tape):
    """A tape that remembers what its nodes cannot tell: names, lines, modules, times."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[Node, _Record] = {}
        self.names: dict[int, str] = {}  # of the memory, by identity
        self.known: set[int] = set()  # the memory of the arguments
        self.alive: list[Any] = []  # everything that was named, so that no identity is used twice
        self.calls = Calls(_run)
        self.seconds = 0.0
        self.results: list[Node] = []

    def name(self, x: Plain, text: str, argument: bool = False) -> None:
        owner = _owner(x)
        self.alive.append(owner)
        self.names.setdefault(id(owner), text)
        if argument:
            self.known.add(id(owner))

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        began = time.perf_counter()
        y = super().apply(primitive, args, params)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        parts = y if type(y) is tuple else (y,)
        node = self.node_of(parts[0])
        if node is None:
            return y
        node = node.parents[0] if node.output is not None else node
        arrays = [_owner(x) for arg in args if isinstance(x := plain_value(arg), np.ndarray)]
        inputs = [id(x) for x in arrays]
        self.alive += arrays
        results = [_owner(x) for part in parts if isinstance(x := plain_value(part), np.ndarray)]
        made = sum(x.nbytes for x in results if id(x) not in inputs)
        scope = self.calls.scope(sys._getframe(1))
        record = _Record(node, primitive, scope, user_line(), seconds, inputs, made)
        for k, part in enumerate(parts):
            if isinstance(x := plain_value(part), np.ndarray):
                number = f" {k}" if len(parts) > 1 else ""
                self.name(x, f"output{number} of {_called(record)}")
        record.saved = list(_saved(node, args))
        self.records[node] = record
        return y

    def walk(self) -> list[_Record]:
        """The applications that the backward pass visits, in its order."""
        found: dict[Node, None] = {}
        waiting = list(self.results)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found[node] = None
                waiting.extend(node.parents)
        nodes = sorted((node for node in found if node in self.records), key=lambda node: -node.serial)
        return [self.records[node] for node in nodes]


def _called(record: _Record) -> str:
    where = record.scope[-1].path if record.scope else ""
    return f"{record.primitive.name} ({where})" if where else record.primitive.name


def _watched(f: Callable[..., Any], args: Sequence[Any], numbers: Sequence[int]) -> _Watched:
    from pullback.transforms.modes import as_differentiable

    for number in numbers:
        if not -len(args) <= number < len(args):
            raise TreeError(f"argnums names argument {number}, but f was called with {len(args)} positional arguments")
    with restored_state():
        f(*args)  # once without a tape, so that the times are not those of a first call
    tape = _Watched()
    named, structure = leaves_by_name(f, args)
    wanted = {number % len(args) for number in numbers}
    lifted = []
    for (name, leaf), path in zip(named.items(), structure.paths(), strict=True):
        number = int(path.removeprefix("[").partition("]")[0])
        if isinstance(leaf, np.ndarray):
            tape.name(leaf, name, argument=True)
        lifted.append(tape.lift(as_differentiable(leaf, number, path)) if number in wanted else leaf)
    with restored_state():
        _run(f, structure.unflatten(lifted), tape)
    return tape


def _run(f: Callable[..., Any], args: Sequence[Any], tape: _Watched) -> None:
    """Calls f: the frame at which the search for modules ends."""
    for y in tree.leaves(f(*args)):
        node = tape.node_of(y)
        if node is not None and is_float(plain_value(y)):
            tape.results.append(node)


def _saved(node: Node, args: Sequence[Array]) -> list[tuple[str, str, Plain]]:
    """The arrays that a node keeps: (name in the rule, why, array)."""
    primitive, plan = node.primitive, node.plan
    if plan is None:
        return []
    if primitive.opens:
        leaves, structure = tree.flatten(node.saved)
        found = []
        for path, x in zip(structure.paths(), leaves, strict=True):
            x = plain_value(x) if isinstance(x, Tensor) else x
            if isinstance(x, np.ndarray):
                found.append((f"saved{path}", f"saved{path}, for its backward", x))
        return found
    found = []
    for position, x in zip(plan.keep, node.saved or (), strict=True):
        x = plain_value(x)
        if isinstance(x, np.ndarray):
            name = "y" if position == plan.arity else _input_name(primitive, position)
            users = [_input_name(primitive, i) for i in plan.inputs if position in _needs(primitive, i, plan.arity)]
            found.append((name, f"{name}, for ∂{', ∂'.join(users)}", x))
    return found


def _input_name(primitive: Primitive, i: int) -> str:
    return primitive.inputs[i] if i < len(primitive.inputs) else f"input {i}"


def _needs(primitive: Primitive, i: int, count: int) -> list[int]:
    """Which positions, among inputs and output, the rule of input i reads."""
    functions = primitive.rule(i) or ()
    names = [name for function in functions if function is not None for name in _names(function)]
    return [position for name in names for position in primitive._positions(name, i, count)]


# -- the accounts ----------------------------------------------------------------------------------------------------
def _entries(watched: _Watched, walk: list[_Record]) -> tuple[list[Entry], int]:
    """The entries in the order of the forward pass, and their bytes together."""
    last = {id(_owner(x)): record for record in walk for _, _, x in record.saved}  # the last one in the walk
    entries, first, total = [], dict[int, str](), 0
    for record in reversed(walk):
        for _, why, x in record.saved:
            owner = _owner(x)
            key, cost, shared = id(owner), owner.nbytes, ""
            if key in watched.known:
                cost, shared = 0, "argument"
            elif key in first:
                cost, shared = 0, f"kept by {first[key]}"
            first.setdefault(key, _called(record))
            total += cost
            module = record.scope[-1].path if record.scope else ""
            tensor = watched.names.get(key, f"made inside {_called(record)}")
            freed = _called(last[key])
            entries.append(Entry(tensor, record.primitive.name, why, cost, shared, freed, module, record.source))
    return entries, total


def _by_module(walk: list[_Record], known: set[int]) -> dict[str, int]:
    totals: dict[str, int] = {}
    seen = set(known)
    for record in reversed(walk):
        cost = 0
        for _, _, x in record.saved:
            owner = _owner(x)
            if id(owner) not in seen:
                seen.add(id(owner))
                cost += owner.nbytes
        for path in dict.fromkeys(box.path for box in record.scope if box.path):
            totals[path] = totals.get(path, 0) + cost
    return {path: total for path, total in totals.items() if total}


class _Account:
    """The bytes alive over time, from the sizes of what was made, kept and passed back."""

    def __init__(self, watched: _Watched, walk: list[_Record]) -> None:
        self.watched, self.walk = watched, walk
        leaves = {parent for record in walk for parent in record.node.parents if parent.primitive is None}
        self.gradients = sum(_bytes(leaf) for leaf in leaves)

    def peak(self, folded: frozenset[int] = frozenset()) -> int:
        """The most bytes alive at once; with the boxes of these numbers run again in the backward pass."""
        return max(self._forward(folded), self._backward(folded))

    def _held(self, folded: frozenset[int]) -> dict[int, int]:
        """How many records hold each memory at the end of the forward pass."""
        held: dict[int, int] = {}
        for record in self.walk:
            for key, _ in self._kept(record, folded):
                held[key] = held.get(key, 0) + 1
        return held

    def _kept(self, record: _Record, folded: frozenset[int]) -> list[tuple[int, int]]:
        if any(box.number in folded for box in record.scope):
            return []
        return self._all_kept(record)

    def _all_kept(self, record: _Record) -> list[tuple[int, int]]:
        owners = {
            id(owner): owner.nbytes for _, _, x in record.saved if id(owner := _owner(x)) not in self.watched.known
        }
        return list(owners.items())

    def _forward(self, folded: frozenset[int]) -> int:
        alive: dict[int, int] = {}
        most = 0
        for record in reversed(self.walk):
            alive |= dict(self._kept(record, folded))
            most = max(most, sum(alive.values()) + record.made)
        return most

    def _backward(self, folded: frozenset[int]) -> int:
        holders = self._held(folded)
        costs = {key: cost for record in self.walk for key, cost in self._all_kept(record)}
        held = sum(costs[key] for key in holders)
        pending: dict[Node, int] = {node: _bytes(node) for node in self.watched.results}
        most = held + sum(pending.values())
        open_boxes: set[int] = set()
        for record in self.walk:
            for box in record.scope:
                if box.number in folded and box.number not in open_boxes:
                    open_boxes.add(box.number)
                    for other in self.walk:
                        if box in other.scope:
                            for key, cost in self._all_kept(other):
                                held += cost if holders.get(key, 0) == 0 else 0
                                holders[key] = holders.get(key, 0) + 1
            for part in [each for each in pending if record.node in each.parents and each.output is not None]:
                pending[record.node] = pending.get(record.node, 0) + pending.pop(part)
            passed = 0
            for parent in record.node.parents:
                if parent not in pending:
                    pending[parent] = _bytes(parent)
                    if _passes_on(record) and pending[parent] == _bytes(record.node):
                        passed -= pending[parent]  # the same array under another name
                else:
                    passed += 2 * _bytes(parent)  # the contribution and the sum, until the old one goes
            passed += _local(record.node)
            most = max(most, held + sum(pending.values()) + passed)
            pending.pop(record.node, None)
            if any(box.number in folded for box in record.scope):
                continue  # a checkpoint keeps all of its second run until it is done
            for key, cost in self._all_kept(record):
                holders[key] -= 1
                held -= cost if holders[key] == 0 else 0
        return most

    def checkpoints(self, boxes: Any) -> list[Checkpoint]:
        """What folding each module would bring, where it brings anything."""
        found = []
        before = {id(_owner(x)) for record in self.walk for _, _, x in record.saved}
        for box in boxes:
            inside = [record for record in self.walk if box in record.scope]
            if box.kind == "function" or not box.path or len(inside) < 2:
                continue
            kept = dict(pair for record in inside for pair in self._all_kept(record))
            outside = {key for record in self.walk if box not in record.scope for key, _ in self._all_kept(record)}
            entering = {key for key in inside[-1].inputs if key in before}
            saves = sum(cost for key, cost in kept.items() if key not in outside and key not in entering)
            if saves > 0:
                seconds = sum(record.seconds for record in inside)
                part = seconds / self.watched.seconds if self.watched.seconds else 0.0
                found.append(Checkpoint(box.path, saves, seconds, part, self.peak(frozenset([box.number]))))
        return found


def _passes_on(record: _Record) -> bool:
    """Whether the rule hands on the cotangent, or a view of it, rather than a new array."""
    return record.primitive.view or record.primitive.name in ("add", "reshape", "transpose", "copy")


def _local(node: Node) -> int:
    """The bytes of the local derivative of an elementwise function, which are there until it has been multiplied."""
    primitive = node.primitive
    if not isinstance(primitive, Elementwise) or len(primitive.partials) != 1 or not callable(primitive.partials[0]):
        return 0
    one = np.ones(1, node.dtype)
    derivative = np.asarray(primitive.evaluate(primitive.partials[0], (), 0, [one], one, node.params))
    return _bytes(node) // one.itemsize * derivative.itemsize


def _bytes(node: Node) -> int:
    shapes = node.shape if node.output is None and isinstance(node.dtype, tuple) else (node.shape,)
    dtypes = node.dtype if isinstance(node.dtype, tuple) else (node.dtype,)
    return sum(int(np.prod(s, dtype=int)) * np.dtype(d).itemsize for s, d in zip(shapes, dtypes, strict=True))
