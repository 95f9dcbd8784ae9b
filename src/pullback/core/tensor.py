"""`Tensor`: an array that is being traced. It speaks NumPy's own protocols, so that ordinary NumPy code runs on it
unchanged.

Every operator, method and NumPy function finds its rule in one table, `RULES`, which the rules fill and the core
never looks into.
"""

from __future__ import annotations

import ast
import math
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from pullback.core.source import user_line
from pullback.errors import AliasError, LeavesTapeError, NoRuleError, ShapeError

if TYPE_CHECKING:
    from pullback.core.trace import Trace

Array = Any
"""An array, a NumPy or Python scalar, or a Tensor. Traced code cannot tell them apart, so neither do the
annotations."""

RULES: dict[Callable[..., Any], Callable[..., Any]] = {}
"""What runs in place of each NumPy function when one of its arguments is a Tensor."""


class Tensor:
    """An array of one trace. Make one with `pb.tensor(array)`; transforms such as `pb.grad` make them for you.

    `value` is the plain array (read-only), `grad` the gradient that `backward()` left on a tensor made by `pb.tensor`.
    In-place writes (`t[i] = v`, `t += v`) are differentiable: the handle moves on to a new value, saved ones stay as
    they were.
    """

    __slots__ = ("__weakref__", "_node", "_origin", "_trace", "_value", "_view")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Array, trace: Trace, node: Any) -> None:
        self._value = value  # an array, or a Tensor of an outer trace
        self._trace: Any = trace  # or a _Stale in its place
        self._node = node  # what the trace knows of it: a node, a tangent, a place; None for a constant
        self._view: View | None = None

    # -- leaving the tape on purpose ---------------------------------------------------------------------------------
    @property
    def value(self) -> np.ndarray[Any, Any]:
        """The plain array, read-only. Leaves the tape on purpose: nothing computed from it has a gradient."""
        return read_only(np.asarray(plain_value(self)))  # type: ignore[no-any-return]

    def item(self) -> float:
        """The only element, as a Python number. Leaves the tape on purpose."""
        return self.value.item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """The elements as nested Python lists. Leaves the tape on purpose."""
        return self.value.tolist()

    # -- what it is --------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._value.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return len(self._value.shape)

    @property
    def size(self) -> int:
        return self._value.size  # type: ignore[no-any-return]

    @property
    def T(self) -> Array:  # noqa: N802
        return np.transpose(self)

    @property
    def mT(self) -> Array:  # noqa: N802
        return np.swapaxes(self, -1, -2)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a Tensor without dimensions")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if not self.shape:
            raise TypeError("iteration over a Tensor without dimensions")
        return (self[i] for i in range(self.shape[0]))

    def __bool__(self) -> bool:
        return bool(plain_value(self))

    def __round__(self, decimals: int = 0) -> Array:
        return np.round(self, decimals)

    def __repr__(self) -> str:
        lines = np.array2string(np.asarray(plain_value(self, layout=True)), separator=", ", prefix="tensor(")
        return f"tensor({lines}, dtype={self.dtype}{'' if self._node is not None else ', constant'})"

    def __format__(self, spec: str) -> str:
        return format(plain_value(self), spec) if spec else repr(self)

    # -- leaving the tape by accident --------------------------------------------------------------------------------
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        plain_value(self)  # a hidden one has a message of its own
        raise LeavesTapeError(_leaving())

    def __float__(self) -> NoReturn:
        self.__array__()

    __int__ = __complex__ = __index__ = __float__

    # -- gradients ---------------------------------------------------------------------------------------------------
    @property
    def grad(self) -> np.ndarray[Any, Any] | None:
        """The gradient left by `backward()`, added up over calls; None before the first, or where there is none.

        After a write in place it is still the gradient of the values that the tensor was made with.
        """
        return getattr(getattr(self, "_origin", self._node), "grad", None)

    @grad.setter
    def grad(self, value: np.ndarray[Any, Any] | None) -> None:
        leaf = getattr(self, "_origin", self._node)
        if not hasattr(leaf, "grad"):
            raise AttributeError("only a tensor made by pb.tensor has a gradient to set")
        leaf.grad = value

    def backward(self, cotangent: Array | None = None, *, retain: bool = False) -> None:
        """Adds to `x.grad`, for every `x = pb.tensor(...)` this depends on, the gradient of this value.

        Args:
            cotangent: the gradient of the loss with respect to this value, of its shape; may be left out for a scalar.
            retain: keep what was saved, so that `backward` may be called once more.

        Raises:
            NonScalarError: no cotangent for a value that is not a scalar.
            FreedError: a second call without `retain`.
        """
        self._trace.backward(self, cotangent, retain)

    # -- writing in place --------------------------------------------------------------------------------------------
    def __getitem__(self, index: Any) -> Array:
        return RULES[operator.getitem](self, index)

    def __setitem__(self, index: Any, value: Array) -> None:
        if isinstance(self._trace, _Stale):
            self._trace.resolve(self, index, value)
        self._move_to(RULES[operator.setitem](self, index, value), index)

    def _move_to(self, new: Array, index: Any = ..., augmented: bool = False) -> None:
        """Makes this handle stand for a new value after a write to `self[index]`.

        `t[i] += v` writes to the view `t[i]` and then assigns that view to `t[i]`: with `augmented`, the others that
        share the memory may not be used until then."""
        for other in [] if self._view is None else self._view.seen_by(self, index):
            if not augmented:
                raise AliasError(_alias(self, other))
            other._trace = _Stale(self, other)
        if new.shape != self.shape:
            raise ShapeError("in-place operation", f"expected a result of shape {self.shape}, got {new.shape}")
        if new.dtype != self.dtype:
            new = new.astype(self.dtype)
        if not isinstance(new, Tensor) or new._trace.level < self._trace.level:
            # Nothing tracked here, as under no_grad: the value changes, and a leaf stays the leaf it is.
            self._value = new
        else:
            if hasattr(self._node, "grad"):
                self._origin = self._node  # a leaf: where its gradient will be found
            self._value, self._trace, self._node = new._value, new._trace, new._node

    def sort(self, axis: int = -1, kind: Any = None) -> None:
        """Sorts in place, as `ndarray.sort` does."""
        self._move_to(np.sort(self, axis=axis, kind=kind))

    def fill(self, value: Array) -> None:
        """Assigns one value to every element."""
        self[...] = value

    # -- methods whose NumPy functions have other names or signatures -------------------------------------------------
    def reshape(self, *shape: Any, order: Any = "C") -> Array:
        return np.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)

    def transpose(self, *axes: Any) -> Array:
        return np.transpose(self, axes[0] if len(axes) == 1 else (axes or None))

    def flatten(self, order: Any = "C") -> Array:
        return np.ravel(self, order=order).copy()

    def astype(self, dtype: Any, **options: Any) -> Array:
        return RULES[np.astype](self, dtype)

    # -- protocols ---------------------------------------------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "__call__" and not options and ufunc in RULES:
            return RULES[ufunc](*inputs)
        return _ufunc_with_options(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES.get(function)
        if rule is None:
            raise NoRuleError(_no_rule(f"{function.__module__}.{function.__name__}"))
        out = kwargs.pop("out", None)
        result = rule(*args, **kwargs)
        return result if out is None else write_out(result, out)


def _ufunc_with_options(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A ufunc called with keyword options, or one of its methods such as `np.add.reduce`."""
    rule = RULES.get(ufunc) if method == "__call__" else UFUNC_METHODS.get((ufunc, method))
    if rule is None:
        raise NoRuleError(_no_rule(ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"))
    out = options.pop("out", None)
    dtype = None
    if method == "__call__":
        if options.pop("where", True) is not True:
            raise NoRuleError(f"np.{ufunc.__name__}(..., where=...) has no derivative rule: use np.where on the result")
        dtype = options.pop("dtype", None)
        for name in ("casting", "subok", "order", "signature"):  # these change no value
            options.pop(name, None)
    result = rule(*inputs, **options)
    if dtype is not None:
        result = result.astype(dtype)
    return result if out is None else write_out(result, out[0] if isinstance(out, tuple) else out)


UFUNC_METHODS: dict[tuple[Any, str], Callable[..., Any]] = {}
"""The NumPy function that stands for a method of a ufunc, such as `np.sum` for `(np.add, "reduce")`."""


def plain_value(x: Array, layout: bool = False) -> Any:
    """The array inside, with every level of tracing taken off.

    With `layout`, it is asked for its shape, dtype or place in memory and not for its numbers, which may be hidden.
    """
    while isinstance(x, Tensor):
        if isinstance(x._trace, _Stale):
            x._trace.apply()
        if x._trace.hidden and not layout:
            raise LeavesTapeError(_hidden())
        x = x._value
    return x


def read_only(x: Any) -> Any:
    """The same array, not to be written to through this name; anything else as it is."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def write_out(result: Array, out: Array) -> Array:
    """Puts a result where the user's `out=` asks for it."""
    if isinstance(out, Tensor):
        out._move_to(result)
        return out
    if isinstance(result, Tensor):
        raise LeavesTapeError(_leaving())
    out[...] = result
    return out


class View:
    """A handle's part in a family of handles that share memory, as `v = t[0]` and `t` do in NumPy.

    A write to one of them is visible through the others in NumPy; a traced write makes a new value and is not. So a
    write is allowed only where no other living handle could see it. Positions are compared on the original buffer
    (`shadow`)."""

    __slots__ = ("family", "shadow")

    def __init__(self, shadow: np.ndarray[Any, Any], family: list[weakref.ref[Tensor]]) -> None:
        self.shadow = shadow
        self.family = family

    @staticmethod
    def link(source: Tensor, result: Tensor, view: Callable[[Any], Any]) -> None:
        """Records that `result`, which is `view(source)`, looks at the memory of `source`."""
        plain, whole = plain_value(result, layout=True), plain_value(source, layout=True)
        if not isinstance(plain, np.ndarray) or not np.may_share_memory(plain, whole):
            return
        if source._view is None:
            source._view = View(whole, [weakref.ref(source)])
        family = source._view.family
        unmoved = source._view.shadow is whole
        result._view = View(plain if unmoved else view(source._view.shadow), family)
        if len(family) & (len(family) - 1) == 0:  # at powers of two: amortised, and bounded by the living handles
            family[:] = [handle for handle in family if handle() is not None]
        family.append(weakref.ref(result))

    def region(self, index: Any) -> np.ndarray[Any, Any]:
        """The memory of `handle[index]`; for an index with arrays, that of the whole handle."""
        parts = index if isinstance(index, tuple) else (index,)
        basic = all(part is None or part is ... or isinstance(part, int | np.integer | slice) for part in parts)
        return self.shadow[(*parts, ...) if ... not in parts else parts] if basic else self.shadow

    def seen_by(self, writer: Tensor, index: Any) -> list[Tensor]:
        """The other living handles that share the memory of `writer[index]`."""
        region = self.region(index)
        others = [handle for reference in self.family if (handle := reference()) is not None and handle is not writer]
        return [o for o in others if o._view is not None and np.shares_memory(o._view.shadow, region)]


class _Stale:
    """Takes the place of a tensor's trace after its memory was written through a view of it: every use is refused."""

    level = math.inf
    differentiating, hidden = True, False

    def __init__(self, writer: Tensor, handle: Tensor) -> None:
        self.writer = weakref.ref(writer)
        self.before = handle._trace
        self.message = _alias(writer, handle)

    def apply(self, *args: Any) -> NoReturn:
        raise AliasError(self.message)

    backward = node_of = lower = apply

    def resolve(self, handle: Tensor, index: Any, value: Any) -> None:
        """Makes the tensor usable again if this is the assignment that ends `t[i] += v`."""
        writer = self.writer()
        if writer is None or writer is not value or writer._view is None or handle._view is None:
            return
        if handle._view.region(index).__array_interface__ == writer._view.shadow.__array_interface__:
            handle._trace = self.before
            writer._view = None  # a temporary of the statement


# -- messages --------------------------------------------------------------------------------------------------------
def _alias(writer: Tensor, other: Tensor) -> str:
    return (
        f"in-place write to a tensor of shape {writer.shape} at {user_line()}: another, of shape {other.shape}, "
        "is a view of the same memory; in NumPy it would change too, here not. Write t[i, j] = v, not t[i][j] = v; "
        "write before the view is taken; or make the view a copy, v = t[...].copy()"
    )


def _no_rule(name: str) -> str:
    return (
        f"{name} has no derivative rule (called at {user_line()}). Declare one: "
        "Elementwise, Linear, Multilinear, Selection or Fused of pullback.core.primitive for a new primitive, "
        "implements for a composition of functions that have one (docs/adding-a-primitive.md); "
        "or leave the tape on purpose with t.value."
    )


_MENDS = {
    "array": "use np.stack([...]), or pb.array([...]), which takes nested lists",
    "asarray": "leave it out, since a Tensor works with NumPy's functions; or use t.value to leave the tape on purpose",
    "assign": "make the array written to a tensor too: np.zeros_like(t, shape=...) instead of np.zeros(...)",
    "math": "use np.{name} instead of math.{name}, or t.value to leave the tape on purpose",
    "other": "use NumPy's functions on the tensor itself, or t.value to leave the tape on purpose",
}


def _leaving() -> str:
    where = user_line()
    return f"a tracked value would leave the tape and lose its gradient at {where}\n  Mend: {_mend(where.text)}."


def _hidden() -> str:
    return (
        f"pb.compile: Python asks for the value of an array at {user_line()}. A program is recorded once and runs with "
        "other numbers, so `if`, `while`, float(t), int(t), t.item(), t.value and array masks cannot depend on them\n"
        "  Mend: np.where in place of the branch; a setting (bool, int, float, str) as an argument that is no array, "
        "for which a program of its own is recorded; or leave this part out of the compiled function."
    )


def _mend(text: str) -> str:
    """The one-line mend for the statement that let a tracked value escape, found by reading it."""
    try:
        parts = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return _MENDS["other"]
    calls = [part for part in parts if isinstance(part, ast.Call)]
    names = {call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "") for call in calls}
    for call in calls:
        module = getattr(getattr(call.func, "value", None), "id", "")
        if module == "math":
            return _MENDS["math"].format(name=getattr(call.func, "attr", ""))
        if "array" in names or (
            module in ("np", "numpy") and call.args and isinstance(call.args[0], ast.List | ast.Tuple)
        ):
            return _MENDS["array"]
    if names & {"asarray", "asanyarray", "ascontiguousarray"}:
        return _MENDS["asarray"]
    targets = [target for part in parts if isinstance(part, ast.Assign) for target in part.targets]
    into = [part for part in parts if isinstance(part, ast.AugAssign) or getattr(part, "arg", "") == "out"]
    return _MENDS["assign" if into or any(isinstance(target, ast.Subscript) for target in targets) else "other"]


# -- operators and methods, all of which are NumPy functions ---------------------------------------------------------
def _operator(ufunc: Any, reflected: bool = False) -> Callable[[Tensor, Any], Any]:
    def forward(self: Tensor, other: Any) -> Any:
        return RULES[ufunc](self, other)

    def backward(self: Tensor, other: Any) -> Any:
        return RULES[ufunc](other, self)

    return backward if reflected else forward


def _in_place(ufunc: Any) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Tensor:
        self._move_to(RULES[ufunc](self, other), augmented=True)
        return self

    return method


def _unary(ufunc: Any) -> Callable[[Tensor], Any]:
    return lambda self: RULES[ufunc](self)


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"`np.{name}` of this tensor."
    return method


_ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "divmod": np.divmod, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
_COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_METHODS = [
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "clip", "conj", "copy", "cumprod", "cumsum",
    "diagonal",
    "dot", "max", "mean", "min", "nonzero", "partition", "prod", "ravel", "repeat", "round", "searchsorted", "squeeze",
    "std", "sum", "swapaxes", "take", "trace", "var",
]  # fmt: skip

for _name, _ufunc in _ARITHMETIC.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
    setattr(Tensor, f"__r{_name}__", _operator(_ufunc, reflected=True))
    if _name != "divmod":
        setattr(Tensor, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in _COMPARISONS.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(Tensor, f"__{_name}__", _unary(_ufunc))
for _name in _METHODS:
    setattr(Tensor, _name, _method(_name))
