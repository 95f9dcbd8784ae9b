"""`Module`: a network, or a part of one, as plain data: trained arrays, other state, parts, and settings.

A module is a pytree whose leaves are its parameters, so gradients and optimisers take a whole network as argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np

from pullback.core import tree
from pullback.core.context import context, note_change
from pullback.core.tensor import Array, Tensor, plain_value
from pullback.errors import RunError, ShapeError, TreeError

__all__ = ["Buffer", "Module", "count_parameters"]

Arrays = dict[str, np.ndarray[Any, Any]]


class Buffer:
    """State of a module that is kept and saved but not trained, such as running statistics.

    Copies of a module that transforms make share its buffers, so an update inside `pb.grad` is seen outside.
    """

    def __init__(self, value: Array) -> None:
        self._value = _read_only(value)

    @property
    def value(self) -> Array:
        """The array, read-only; inside a compiled function, an input and output of the program."""
        return self._value if context.state is None else context.state.read(self)

    @value.setter
    def value(self, value: Array) -> None:
        if context.state is None:
            self._value = _read_only(np.asarray(plain_value(value), self._value.dtype))
        else:
            context.state.write(self, value)

    def update(self, value: Array) -> None:
        """Replaces the value by one of the same dtype, taken off the tape."""
        note_change(self)
        self.value = value

    def __repr__(self) -> str:
        return f"Buffer({_describe(self.value)})"


class LayerRow(NamedTuple):
    """One layer in the table of a network."""

    name: str
    layer: str
    output_shape: str  # with N for the batch; "-" where no input shape is known
    parameters: int


class Module:
    """The base of all layers and networks. Subclasses set attributes in `__init__` and compute in `forward`.

    What an attribute is follows from its value:

    * a floating-point array: a parameter;
    * a `Module`, or a list or dict of modules or arrays: a part, whose parameters belong to this module too;
    * a `Buffer`: state that is not trained;
    * anything else: a setting.

    Call the module, not `forward`: `model(x)` puts the names of the parts into shape errors.
    """

    training: bool = True
    """Whether layers behave as in training (dropout, batch statistics); set by `train()` and `eval()`."""
    input_shape: tuple[int, ...] | None = None
    """The shape of one example, without the batch, if the network was made for one; used by `summary()`."""

    _parts: tuple[str, ...] = ()  # of a copy made by a transform, whose leaves may be anything: what its parts are
    _seen: dict[str, Any]  # the last input; shared with copies made by transforms

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        module = super().__new__(cls)
        module._seen = {}
        return module

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Computes the outputs. Written in NumPy functions and calls of other modules."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if inputs and hasattr(inputs[0], "shape"):
            self._seen.update(shape=inputs[0].shape, dtype=inputs[0].dtype)
        try:
            outputs = self.forward(*inputs, **options)
        except ShapeError as error:
            error.path[:0] = [name for name, part in self._own_parts() if part is error.raiser and name]
            error.raiser = self
            raise
        watch = _watcher.get()
        if watch is not None:
            watch(self, outputs)
        return outputs

    # -- parameters and state -------------------------------------------------------------------------------
    def parameters(self) -> dict[str, Array]:
        """The parameters by path, such as `level0.conv1.weight`."""
        leaves, structure = tree.flatten(self)
        return dict(zip(structure.paths(), leaves, strict=True))

    def buffers(self) -> dict[str, Buffer]:
        """The buffers by path."""
        return {
            _join(path, name): value
            for path, module in self.modules()
            for name, value in vars(module).items()
            if isinstance(value, Buffer)
        }

    def modules(self) -> Iterator[tuple[str, Module]]:
        """This module, at the path "", and every module in it, by path."""
        yield "", self
        for name, part in self._own_parts():
            for path, module in part.modules():
                yield _join(name, path), module

    def state(self) -> Arrays:
        """Everything that `load_state` needs: parameters and buffers by path, as plain arrays."""
        parameters = {path: np.asarray(plain_value(value)) for path, value in self.parameters().items()}
        return {**parameters, **{path: buffer.value for path, buffer in self.buffers().items()}}

    def load_state(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Puts the arrays of `state()` back, as copies.

        Raises:
            RunError: an array is missing, too many, or of another dtype. Nothing is changed then.
            ShapeError: an array has another shape than the module's own. Nothing is changed then.
        """
        own = self.state()
        _check_state(type(self).__name__, own, state)
        for path, buffer in self.buffers().items():
            buffer.update(np.array(state[path]))
        for path, module in self.modules():
            parts = _split(module)[2].parts
            for name, value in vars(module).items():
                if name in parts:
                    vars(module)[name] = _replaced(value, _join(path, name), state)

    # -- modes ----------------------------------------------------------------------------------------------
    def train(self, training: bool = True) -> Self:
        """Switches every layer to training, and returns the module."""
        for _, module in self.modules():
            module.training = training
        return self

    def eval(self) -> Self:
        """Switches every layer to evaluation, and returns the module."""
        return self.train(False)

    # -- showing --------------------------------------------------------------------------------------------
    def summary(self, input_shape: tuple[int, ...] | None = None) -> str:
        """A table of the layers: name, layer, output shape, parameters, and the total.

        Args:
            input_shape: the shape of one example, without the batch; by default that of `self.input_shape`, or of the
                input last seen. Without any, the table has no output shapes.
        """
        rows = [(row.name or "-", row.layer, row.output_shape, f"{row.parameters:,}") for row in self.rows(input_shape)]
        total = ("total", "", "", f"{count_parameters(self):,}")
        return _table([("name", "layer", "output shape", "parameters"), *rows, total])

    def rows(self, input_shape: tuple[int, ...] | None = None) -> list[LayerRow]:
        """The layers as `summary` lists them."""
        shape = input_shape or self.input_shape or self._seen.get("shape", ())[1:] or None
        outputs = {} if shape is None else self._output_shapes(shape)
        rows = []
        for path, module in self.modules():
            parts = [part for _, part in module._own_parts()]
            own = count_parameters(module) - sum(count_parameters(part) for part in parts)
            if own or not parts:
                rows.append(LayerRow(path, type(module).__name__, outputs.get(id(module), "-"), own))
        return rows

    def _output_shapes(self, shape: tuple[int, ...]) -> dict[int, str]:
        """The output shape of every module for a batch of one example, by the identity of the module."""
        found: dict[int, str] = {}

        def note(module: Module, outputs: Any) -> None:
            shapes = [f"(N{''.join(f', {n}' for n in np.shape(y)[1:])})" for y in tree.leaves(outputs)]
            found[id(module)] = " ".join(shapes)

        # Positions for an Embedding stay integers; anything else is float64, for which no kernel has to be compiled.
        dtype = self._seen.get("dtype", np.dtype(float))
        dtype = np.dtype(float) if dtype.kind == "f" else dtype
        seen = {id(module): dict(module._seen) for _, module in self.modules()}
        modes = {id(module): module.training for _, module in self.modules()}
        self.eval()
        try:
            with watching(note):
                self(np.zeros((1, *shape), dtype))
        finally:
            for _, module in self.modules():
                module.training = modes[id(module)]
                module._seen.clear()
                module._seen.update(seen[id(module)])
        return found

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        hidden = {"_seen", "_parts", "training", "input_shape"}
        items = [f"{name}={_describe(value)}" for name, value in vars(self).items() if name not in hidden]
        return f"{type(self).__name__}({', '.join(items)})"

    # -- parts ----------------------------------------------------------------------------------------------
    def _own_parts(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in this one, by the name of the attribute and the place in it."""
        for name, value in vars(self).items():
            yield from _modules_in(name, value)


def count_parameters(model: Any) -> int:
    """How many numbers are trained."""
    return sum(int(np.size(plain_value(leaf))) for leaf in tree.leaves(model))


# -- modules as pytrees ------------------------------------------------------------------------------------
class _Settings:
    """All that a module is besides its parameters. Two modules match when they have the same parts."""

    def __init__(self, kind: type[Module], parts: tuple[str, ...], rest: dict[str, Any]) -> None:
        self.kind, self.parts, self.rest = kind, parts, rest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and (self.kind, self.parts) == (other.kind, other.parts)

    def __hash__(self) -> int:
        return hash((self.kind, self.parts))

    def __repr__(self) -> str:
        return f"{self.kind.__name__} with {', '.join(self.parts) or 'no parameters'}"


def _split(module: Module) -> tuple[tuple[str, ...], list[Any], _Settings]:
    own, parts, rest = module._parts, {}, {}
    for name, value in vars(module).items():  # in one go, as it is done at every step of a training
        if name in own or (type(value) not in _PLAIN and _is_part(name, value, module)):
            parts[name] = value
        else:
            rest[name] = value
    names = tuple(parts)
    return _keys(names), list(parts.values()), _Settings(type(module), names, rest)


@cache
def _keys(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f".{name}" for name in names)


_PLAIN = {bool, int, float, str, type(None)}


def _join_parts(settings: _Settings, parts: list[Any]) -> Module:
    module = object.__new__(settings.kind)
    vars(module).update(settings.rest, _parts=settings.parts, **dict(zip(settings.parts, parts, strict=True)))
    return module


tree.register(Module, _split, _join_parts)


def _is_part(name: str, value: Any, owner: Module) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind == "f")
    if isinstance(value, list):
        return any(_is_part(name, item, owner) for item in value)
    if isinstance(value, dict):
        return any(_is_part(name, item, owner) for item in value.values())
    if isinstance(value, tuple) and any(_is_part(name, item, owner) for item in value):
        raise TreeError(
            f"{type(owner).__name__}.{name} is a tuple with parameters, which could not be loaded: use a list"
        )
    return isinstance(value, Module | Tensor)


def _modules_in(name: str, value: Any) -> Iterator[tuple[str, Module]]:
    if isinstance(value, Module):
        yield name, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _modules_in(f"{name}[{i}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _modules_in(f"{name}[{key!r}]", item)


def _replaced(value: Any, path: str, state: Mapping[str, Any]) -> Any:
    """An attribute with its arrays taken from `state`; modules in it stay, for they are visited themselves."""
    if isinstance(value, Module):
        return value
    if isinstance(value, list):
        return [_replaced(item, f"{path}[{i}]", state) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _replaced(item, f"{path}[{key!r}]", state) for key, item in value.items()}
    return np.array(state[path])


# -- texts -------------------------------------------------------------------------------------------------
def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _read_only(value: Array) -> np.ndarray[Any, Any]:
    """A read-only array: nobody can change it behind the tape's back."""
    array = np.array(value)
    array.flags.writeable = False
    return array


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


def _check_state(name: str, own: Arrays, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    missing, extra = [sorted(a.keys() - b.keys()) for a, b in ((own, state), (state, own))]
    mend = "Build the network that the state was saved from"
    if missing:
        raise RunError(f"{name}: the state has no array {missing[0]!r} ({len(missing)} missing). {mend}")
    if extra:
        raise RunError(f"{name}: the state has an array {extra[0]!r} ({len(extra)} too many). {mend}")
    for path, array in own.items():
        if array.shape != np.shape(state[path]):
            raise ShapeError(name, f"expected {path!r} of shape {array.shape}, got {np.shape(state[path])}")
        if array.dtype != state[path].dtype:
            raise RunError(
                f"{name}: expected {path!r} of dtype {array.dtype}, got {state[path].dtype}; convert it: .astype"
            )


def _table(rows: list[tuple[str, ...]]) -> str:
    """Columns of text, the last one to the right, with rules under the head and above the total."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=False)), row[-1].rjust(widths[-1])])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


_watcher: ContextVar[Callable[[Module, Any], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watch: Callable[[Module, Any], None]) -> Iterator[None]:
    """Inside, `watch(module, outputs)` is called after every call of a module."""
    token = _watcher.set(watch)
    try:
        yield
    finally:
        _watcher.reset(token)
