"""Examples of every primitive in the registry, for the tests that enumerate it.

Elementwise primitives need none: their arguments are drawn from their declared domain. A primitive of another kind
without an
entry in `TABLE` fails the tests, so that none is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import pullback  # noqa: F401  (fills the registry)
from pullback.core.primitive import PRIMITIVES, Elementwise, Primitive
from pullback.rules.indexing import _HOLE as HOLE


class Case(NamedTuple):
    """A primitive with arguments: float64 arrays are differentiated, others held."""

    primitive: Primitive
    args: tuple[Any, ...]
    params: dict[str, Any]

    def run(self, *floats: Any) -> Any:
        """The primitive with other values in place of its floating-point arguments; several outputs as one vector."""
        supply = iter(floats)
        y = self.primitive(*[next(supply) if is_float(a) else a for a in self.args], **self.params)
        return np.concatenate([np.ravel(part) for part in y]) if isinstance(y, tuple) else y

    @property
    def floats(self) -> list[np.ndarray[Any, Any]]:
        return [a for a in self.args if is_float(a)]


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def draw(shape: tuple[int, ...], low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).uniform(low, high, shape))


def _rows(*args: Any, **params: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, params


X34, X3, X4, X234 = draw((3, 4)), draw((3,), seed=1), draw((4,), seed=2), draw((2, 3, 4), seed=3)
IMAGE, FILTER = draw((2, 5, 4, 3), seed=4), draw((3, 3, 3, 2), seed=5)
NO_PADDING = ((0, 0), (0, 0))
CHOICE = np.random.default_rng(6).integers(0, 4, (2, 2, 2, 3)).astype(np.uint8)
ROWS = np.array([2, 0, 2])
MASK = X34 > 0

TABLE: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "ldexp": [_rows(X34, np.array([1, -2, 0, 3]))],
    "power_constant": [
        _rows(np.abs(X34) + 0.3, exponent=2.5),
        _rows(X34, exponent=3),
        _rows(np.abs(X34) + 0.3, exponent=-1),
    ],
    "where": [_rows(MASK, X34, X4), _rows(X4 > 0, X34, draw((3, 1), seed=6))],
    "sum": [_rows(X34, axis=(0,), keepdims=False), _rows(X234, axis=(0, 2), keepdims=True), _rows(X34, axis=(0, 1))],
    "mean": [_rows(X34, axis=(1,), keepdims=False), _rows(X234, axis=(1, 2), keepdims=True)],
    "cumsum": [_rows(X34, axis=0), _rows(X34, axis=1)],
    "reshape": [_rows(X34, new_shape=(2, 6))],
    "transpose": [_rows(X234, axes=(2, 0, 1))],
    "broadcast_to": [_rows(X4, new_shape=(3, 4)), _rows(draw((3, 1)), new_shape=(2, 3, 4))],
    "astype": [_rows(X34, dtype=np.dtype(np.float64))],
    "copy": [_rows(X34)],
    "concatenate": [_rows(X34, draw((2, 4), seed=7), axis=0, offsets=(0, 3, 5))],
    "max": [_rows(X34, axis=(0,), keepdims=False), _rows(X234, axis=(0, 2), keepdims=True)],
    "min": [_rows(X34, axis=(1,), keepdims=True), _rows(X34, axis=(0, 1), keepdims=False)],
    "getitem": [
        _rows(X34, template=(slice(0, 2), 1)),
        _rows(X34, ROWS, template=(HOLE,)),
        _rows(X34, ROWS, np.array([1, 1, 1]), template=(HOLE, HOLE)),
        _rows(X34, MASK, template=(HOLE,)),
        _rows(X34, template=(None, ..., -1)),
    ],
    "index_add": [
        _rows(draw((3, 4)), ROWS, template=(HOLE,), size=(3, 4)),
        _rows(draw((2,)), template=(slice(0, 2), 1), size=(3, 4)),
        _rows(draw((3,)), ROWS, np.array([1, 1, 1]), template=(HOLE, HOLE), size=(3, 4)),
    ],
    "index_update": [
        _rows(X34, X4, template=(1,)),
        _rows(X34, draw((3, 1), seed=8), ROWS, template=(HOLE,)),
        _rows(X34, draw((1, 2), seed=8), template=(slice(None), slice(0, 2))),
    ],
    "matmul": [
        _rows(X34, draw((4, 2), seed=9)),
        _rows(X234, draw((4, 2), seed=9)),
        _rows(X34, draw((2, 4, 5), seed=9)),
        _rows(X234, draw((2, 4, 5), seed=9)),
    ],
    "einsum": [
        _rows(X34, draw((4, 5), seed=9), inputs=("ij", "jk"), output="ik"),
        _rows(X34, X34, inputs=("ij", "ij"), output=""),
        _rows(draw((3, 3)), X3, inputs=("ii", "i"), output="i"),
        _rows(X34, X3, X4, inputs=("ij", "i", "k"), output="k"),
    ],
    "conv2d": [
        _rows(IMAGE, FILTER, stride=(1, 1), padding=((1, 1), (1, 1)), groups=1),
        _rows(IMAGE, FILTER, stride=(2, 1), padding=((0, 1), (1, 0)), groups=1),
        _rows(draw((2, 4, 4, 4), seed=4), draw((3, 1, 2, 6), seed=5), stride=(1, 1), padding=NO_PADDING, groups=2),
        _rows(IMAGE, draw((3, 3, 1, 3), seed=5), stride=(1, 1), padding=((1, 1), (1, 1)), groups=3),
    ],
    "conv2d_input_adjoint": [
        _rows(draw((2, 5, 4, 2), seed=6), FILTER, size=(5, 4), stride=(1, 1), padding=((1, 1), (1, 1)), groups=1),
    ],
    "conv2d_weight_adjoint": [
        _rows(IMAGE, draw((2, 5, 4, 2), seed=6), kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), groups=1),
    ],
    "max_pool2d": [
        _rows(IMAGE, window=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1))),
        _rows(IMAGE, window=(2, 2), stride=(2, 2), padding=NO_PADDING),
    ],
    "max_pool2d_route": [_rows(IMAGE, CHOICE, window=(2, 2), stride=(2, 2), padding=NO_PADDING)],
    "max_pool2d_scatter": [
        _rows(draw((2, 2, 2, 3)), CHOICE, size=(5, 4), window=(2, 2), stride=(2, 2), padding=NO_PADDING)
    ],
    "avg_pool2d": [
        _rows(IMAGE, window=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), count_include_pad=False),
        _rows(IMAGE, window=(2, 2), stride=(2, 2), padding=NO_PADDING, count_include_pad=True),
    ],
    "avg_pool2d_adjoint": [
        _rows(draw((2, 2, 2, 3)), size=(5, 4), window=(2, 2), stride=(2, 2), padding=NO_PADDING, count_include_pad=True)
    ],
    "softmax": [_rows(X34, axis=-1), _rows(X34, axis=0)],
    "log_softmax": [_rows(X34, axis=-1), _rows(X34, axis=0)],
    "softmax_cross_entropy": [_rows(X34, draw((3, 4), 0.1, 1.0))],
    "batch_norm": [_rows(X34, X4, draw((4,), seed=9), eps=1e-5), _rows(X234, X4, draw((4,), seed=9), eps=1e-3)],
    "layer_norm": [_rows(X234, X4, draw((4,), seed=9), eps=1e-5)],
    "adam_step": [
        _rows(X34, draw((3, 4), seed=9), draw((3, 4), 0.5, 1.0), draw((), 0.5, 1.0), draw((), 0.1, 0.2), b1=0.9, b2=0.8)
    ],
    "euclidean_norm": [_rows(X34, axis=(0, 1), keepdims=False), _rows(X34, axis=(1,), keepdims=True)],
}


def cases() -> Iterator[Case]:
    """Every case of every differentiable primitive."""
    for name, primitive in sorted(PRIMITIVES.items()):
        if not primitive.differentiable:
            continue
        if name in TABLE:
            for args, params in TABLE[name]:
                yield Case(primitive, args, params)
        elif isinstance(primitive, Elementwise):
            low, high = primitive.domain or (-2.0, 2.0)
            shapes: list[tuple[tuple[int, ...], ...]] = [((2, 3),), ((),)]
            if len(primitive.partials) == 2:
                shapes = [((2, 3), (2, 3)), ((2, 3), (3,)), ((1, 3), (2, 1)), ((), (2,))]
            for k, group in enumerate(shapes):
                yield Case(primitive, tuple(draw(s, low, high, 10 * k + j) for j, s in enumerate(group)), {})
        else:
            raise AssertionError(
                f"primitive {name!r} has no example in tests/support/primitive_cases.py: add one to TABLE"
            )


def identifier(case: Case) -> str:
    return f"{case.primitive.name}-{'-'.join('x'.join(map(str, np.shape(a))) or 'scalar' for a in case.args)}"


NUMPY: dict[str, Callable[..., Any]] = {
    name: getattr(np, name) for name in PRIMITIVES if isinstance(getattr(np, name, None), np.ufunc)
}
