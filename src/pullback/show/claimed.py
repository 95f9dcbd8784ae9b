"""A backward that somebody wrote by hand, in any of its forms, as one function from cotangents to gradients by name."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.primitive import Fused
from pullback.core.source import _OURS
from pullback.errors import CheckError
from pullback.show.observed import is_float, leaves_by_name, parameter_names, restored_state

Plain = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a backward gave no gradients: it raised an error, or returned something else."""

    text: str
    about_shapes: bool  # whether it is the shapes that do not fit


@dataclasses.dataclass(frozen=True)
class Claimed:
    """A forward and the backward that is claimed to belong to it.

    `call(cotangent, args)` returns the gradient of each argument by its parameter's name; arguments may be missing.
    """

    forward: Callable[..., Any]
    call: Callable[[Any, tuple[Any, ...]], dict[str, Any]]
    own_forward: bool = False  # whether the backward has its own forward, which need not be written in NumPy functions

    def gradients(self, cotangent: Any, args: Sequence[Any]) -> dict[str, Any] | Failure:
        """The claimed gradient of each floating-point leaf by name; arrays of whatever shape was returned."""
        given = tuple(tree.map(_copied, arg) for arg in args)
        try:
            with np.errstate(all="ignore"), restored_state():
                found = self.call(tree.map(_copied, cotangent), given)
            return self._by_leaf(found, args)
        except _ResultsError as error:
            return Failure(str(error), True)
        except CheckError:
            raise
        except Exception as error:
            shapes = isinstance(error, ValueError) and any(w in str(error) for w in ("shape", "dimension", "broadcast"))
            return Failure(f"the backward raised {type(error).__name__}: {error}{line_of(error)}", shapes)

    def _by_leaf(self, found: dict[str, Any], args: Sequence[Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for parameter, arg in zip(parameter_names(self.forward, len(args)), args, strict=True):
            if parameter not in found:
                continue
            leaves, structure = tree.flatten(arg)
            gradient = found[parameter]
            if structure.kind is None:
                if is_float(arg):
                    result[parameter] = _as_gradient(gradient, np.shape(arg), parameter)
                continue
            if gradient is None:
                parts: list[Any] = [None] * len(leaves)
            else:
                parts, other = tree.flatten(_without_none(gradient))
                if other.paths() != structure.paths():
                    raise _ResultsError(
                        f"the backward returned for {parameter} the leaves {other.paths()}, "
                        f"expected {structure.paths()}"
                    )
            names = leaves_by_name(lambda x: x, [arg])[0]
            for name, leaf, part in zip(names, leaves, parts, strict=True):
                if is_float(leaf):
                    full = parameter + name.removeprefix("x")
                    result[full] = _as_gradient(part, np.shape(leaf), full)
        return result


class _ResultsError(Exception):
    """What a backward returned does not fit its inputs."""


def claimed(f: Any, backward: Any) -> Claimed | None:
    """What there is to be judged: `backward` in whatever form, or one that f brings along; None for neither."""
    if backward is None:
        if isinstance(f, Fused) and not _registered(f):
            return _from_custom(f)
        return _from_class(f, None) if _has_halves(f) else None
    if isinstance(backward, Fused):
        return dataclasses.replace(_from_custom(backward), forward=f)
    if _has_halves(backward):
        return _from_class(backward, f)
    if isinstance(backward, Mapping):
        return _from_mapping(f, backward)
    if callable(backward):
        return Claimed(f, lambda g, args: _spread(backward(g, *args), f, args))
    raise CheckError(
        f"check: expected backward to be a function backward(cotangent, *inputs), a dict of functions by input, a "
        f"pb.custom function, or a class with forward and backward, got {type(backward).__name__}"
    )


def _registered(f: Fused) -> bool:
    from pullback.core.primitive import PRIMITIVES

    return PRIMITIVES.get(f.name) is f


def _from_custom(primitive: Fused) -> Claimed:
    def forward(*inputs: Any) -> Any:
        return primitive.forward(*inputs)[0]

    def call(g: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        saved = primitive.forward(*args)[1]
        return _spread(tuple(primitive.backward(saved, g)), primitive.forward, args)

    return Claimed(_named_like(forward, primitive.forward), call, own_forward=True)


def _has_halves(f: Any) -> bool:
    return inspect.isclass(f) and callable(getattr(f, "forward", None)) and callable(getattr(f, "backward", None))


def _from_class(cls: Any, f: Any) -> Claimed:
    """A class in the manner of torch.autograd.Function: `forward(ctx, *inputs)` or, with `setup_context`,
    `forward(*inputs)`; `backward(ctx, *cotangents)`."""
    torch: Any = sys.modules.get("torch")
    tensors = torch is not None and issubclass(cls, torch.autograd.Function)
    separate = "setup_context" in vars(cls)

    def run(args: tuple[Any, ...]) -> tuple[Any, Context]:
        ctx = Context(args)
        if separate:
            y = cls.forward(*args)
            cls.setup_context(ctx, args, y)
            return y, ctx
        return cls.forward(ctx, *args), ctx

    def give(x: Any) -> Any:
        return torch.from_numpy(np.array(x)) if tensors and isinstance(x, np.ndarray | np.generic) else x

    def take(x: Any) -> Any:
        return x.detach().numpy() if tensors and hasattr(x, "detach") else x

    def forward(*args: Any) -> Any:
        return tree.map(take, run(tuple(tree.map(give, arg) for arg in args))[0])

    def call(g: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        _, ctx = run(tuple(tree.map(give, arg) for arg in args))
        cotangents = tuple(map(give, g)) if isinstance(g, tuple | list) else (give(g),)
        gradients = cls.backward(ctx, *cotangents)
        gradients = tuple(map(take, gradients)) if isinstance(gradients, tuple | list) else take(gradients)
        return _spread(gradients, shown, args)

    class_forward = cls.forward if separate else lambda *inputs: cls.forward(None, *inputs)
    shown = f or _named_like(forward, class_forward, cls.forward, skip=0 if separate else 1)
    return Claimed(shown, call, own_forward=f is None)


class Context:
    """What a forward hands to its backward, as torch's `ctx`; it takes any attribute."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.saved_tensors: tuple[Any, ...] = ()
        self.needs_input_grad = tuple(is_float(x) for x in inputs)

    def save_for_backward(self, *values: Any) -> None:
        """Keeps values, which the backward finds in `ctx.saved_tensors`."""
        self.saved_tensors = values

    def mark_non_differentiable(self, *values: Any) -> None:
        """As in torch; nothing has to be noted here."""

    mark_dirty = set_materialize_grads = mark_non_differentiable


def _from_mapping(f: Any, functions: Mapping[str, Any]) -> Claimed:
    def call(g: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        known = parameter_names(f, len(args))
        for name in functions:
            if name not in known:
                raise CheckError(f"check: backward has a function for {name!r}, but the inputs are {', '.join(known)}")
        return {name: function(g, *args) for name, function in functions.items()}

    return Claimed(f, call)


def _named_like(function: Any, original: Any, signature_of: Any = None, skip: int = 0) -> Any:
    """A function with the name and the parameters of another, without the first `skip`."""
    signature_of = original if signature_of is None else signature_of
    signature = inspect.signature(signature_of)
    function.__signature__ = signature.replace(parameters=list(signature.parameters.values())[skip:])
    function.__name__ = getattr(signature_of, "__qualname__", "f").removesuffix(".forward")
    function.__wrapped__ = inspect.unwrap(signature_of)
    return function


def _spread(gradients: Any, f: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """One gradient per input, by parameter; those of inputs that are not floating-point may be left out."""
    names = parameter_names(f, len(args))
    if isinstance(gradients, Mapping) and len(args) > 1:
        unknown = [name for name in gradients if name not in names]
        if unknown:
            raise _ResultsError(
                f"the backward returned a gradient for {unknown[0]!r}; the inputs are {', '.join(names)}"
            )
        return dict(gradients)
    if not isinstance(gradients, tuple | list) or (len(args) == 1 and isinstance(args[0], tuple | list)):
        gradients = (gradients,)
    if len(gradients) == 1 and isinstance(gradients[0], tuple) and len(args) == 1:
        gradients = gradients[0] if not isinstance(args[0], tuple) else gradients
    real = [name for name, arg in zip(names, args, strict=True) if any(map(is_float, tree.leaves(arg)))]
    for expected in (names, real):
        if len(gradients) == len(expected):
            return dict(zip(expected, gradients, strict=True))
    inputs = f"{len(names)} input{'s' * (len(names) != 1)} ({', '.join(names)})"
    results = f"{len(gradients)} result{'s' * (len(gradients) != 1)}"
    raise _ResultsError(f"the backward returned {results} for {inputs}: expected one gradient for each input, in order")


def _copied(x: Any) -> Any:
    """A copy, so that a backward that writes into what it is given changes nothing else."""
    return x.copy() if isinstance(x, np.ndarray) else x


def _as_gradient(gradient: Any, shape: tuple[int, ...], name: str) -> Plain:
    if gradient is None:
        return np.zeros(shape)
    array = np.asarray(gradient)
    if array.dtype.kind not in "fiub":
        raise _ResultsError(f"the backward returned {type(gradient).__name__} for {name}: expected an array of floats")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _without_none(gradient: Any) -> Any:
    """None is an empty tree, and here a gradient of zero: a leaf."""
    if isinstance(gradient, dict):
        return {key: _without_none(part) for key, part in gradient.items()}
    if isinstance(gradient, list):
        return [_without_none(part) for part in gradient]
    return 0.0 if gradient is None else gradient


def line_of(error: BaseException) -> str:
    """The innermost line of the user's own code in a traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_OURS, "<frozen")):
            text = f": {frame.line}" if frame.line else ""
            return f" at {frame.filename}:{frame.lineno} in {frame.name}{text}"
    return ""
