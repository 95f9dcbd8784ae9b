"""Kernels as steps of a program. An operation writes its results into memory that it is given and makes none itself.

They are what lowering (`lowering.py`) puts in the place of primitives. Their names say which algorithm was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from pullback.core.primitive import Params, Primitive

Write = Callable[[Sequence[Any], Params, Sequence[Any]], object]
"""(the values of the inputs, parameters, where each result goes)."""


class Operation(Primitive):
    """A kernel.

    Args:
        write: what it does.
        homes: which result may take the memory of which input, or of one of which inputs: element for element at the
            same place.
        bind: gives in its place what does the same for some parameters, which are then looked at once.
    """

    kind = "operation"
    differentiable = False

    def __init__(
        self,
        name: str,
        write: Write,
        homes: Mapping[int, int | tuple[int, ...]] | None = None,
        bind: Callable[[Params], Write] | None = None,
    ) -> None:
        super().__init__(write, name=name, register=False)
        self.write = write
        self.homes = homes or {}
        self.bind = bind


# -- convolution -----------------------------------------------------------------------------------------------------
DIRECTIONS = {
    "forward": "conv2d",
    "input_adjoint": "conv2d_input_adjoint",
    "weight_adjoint": "conv2d_weight_adjoint",
}
"""The three maps of a convolution as the kernels call them, and the primitives."""


@cache
def convolution(direction: str, algorithm: str) -> Operation:
    """One of the three maps of a convolution, "forward", "input_adjoint" or "weight_adjoint", by one algorithm.

    Its first two inputs are the operands. Parameters that `fusion.py` adds name work that is done on the way, whose
    inputs follow in this order: `load` ("affine" or "relu": scale, shift) is done to x; `load_gradient` ("norm" or
    "masked": x, a, b, c, and scale, shift if masked) is `norm_gradient` done to g; `store` (x, scale, shift, mean) is
    `through_relu` done to the result, whose sums are a second result. With three results, `moments` are found too.
    """

    def forward(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
        from pullback.kernels import convolution as kernels

        x, w, *rest = values
        geometry, load = _geometry(params), _load(params, rest)
        if len(outs) == 1:
            kernels.forward(x, w, *geometry, outs[0], algorithm, load=load)
        else:
            _, *found = kernels.forward(x, w, *geometry, outs[0], algorithm, load=load, moments=True)
            outs[1][...], outs[2][...] = found

    def input_adjoint(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
        from pullback.kernels import convolution as kernels

        g, w, *rest = values
        load_gradient, store = _load_gradient(params, rest), _store(params, rest)
        found = kernels.input_adjoint(
            g, w, outs[0].shape, *_geometry(params), outs[0], algorithm, load_gradient=load_gradient, store=store
        )
        if store is not None:
            outs[1][...] = found[1]

    def weight_adjoint(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
        from pullback.kernels import convolution as kernels

        x, g, *rest = values
        load, load_gradient = _load(params, rest), _load_gradient(params, rest)
        kernels.weight_adjoint(
            x, g, outs[0].shape, *_geometry(params), outs[0], algorithm, load=load, load_gradient=load_gradient
        )

    write = {"forward": forward, "input_adjoint": input_adjoint, "weight_adjoint": weight_adjoint}[direction]
    return Operation(f"{DIRECTIONS[direction]}[{algorithm}]", write)


def _taken(rest: list[Any], count: int) -> list[Any]:
    """The next inputs, which are taken away."""
    found, rest[:] = rest[:count], rest[count:]
    return found


def _load(params: Params, rest: list[Any]) -> Any:
    from pullback.kernels.fused import Affine

    kind = params.get("load")
    return None if kind is None else Affine(*_taken(rest, 2))._replace(relu=kind == "relu")


def _load_gradient(params: Params, rest: list[Any]) -> Any:
    from pullback.kernels.fused import NormGradient

    kind = params.get("load_gradient")
    return None if kind is None else NormGradient(*_taken(rest, 6 if kind == "masked" else 4))


def _store(params: Params, rest: list[Any]) -> Any:
    from pullback.kernels.fused import Mask

    return Mask(*_taken(rest, 4)) if params.get("store") else None


def _geometry(params: Params) -> tuple[Any, Any, Any]:
    """Stride, padding and groups, as the kernels take them."""
    (top, _), (left, _) = params["padding"]
    return params["stride"], (top, left), params["groups"]


# -- pooling ---------------------------------------------------------------------------------------------------------
def _max_pool(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import pooling

    (top, _), (left, _) = params["padding"]
    x, *rest = values
    pooling.max_pool(
        x, params["window"], params["stride"], (top, left), out=outs[0], places=outs[1], load=_load(params, rest)
    )


def _max_pool_adjoint(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import pooling

    (top, _), (left, _) = params["padding"]
    g, places, *rest = values
    store = _store(params, rest)
    found = pooling.max_pool_adjoint(
        g, places, outs[0].shape, params["window"], params["stride"], (top, left), out=outs[0], store=store
    )
    if store is not None:
        outs[1][...] = found[1]


max_pool = Operation("max_pool2d", _max_pool)
"""x -> the largest pixel of each window, and its place there, one byte each; `load` as of a convolution."""
max_pool_adjoint = Operation("max_pool2d_scatter", _max_pool_adjoint)
"""g, places -> what flows back to the image; `store` as of a convolution."""


# -- batch normalisation ---------------------------------------------------------------------------------------------
def _moments(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import normalisation

    outs[0][...], outs[1][...] = normalisation.moments(values[0])


def _norm_affine(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import channels

    mean, variance, gamma, beta = values
    outs[0][...], outs[1][...] = channels.affine(gamma, beta, mean, variance, params["eps"])


def _affine(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import normalisation

    x, scale, shift = values
    normalisation.normalise(x, scale, shift, params["relu"], outs[0])


def _norm_sums(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import normalisation

    g, x, gamma, mean, variance, *through = values
    for out, found in zip(
        outs, normalisation.adjoint_coefficients(g, x, gamma, mean, variance, params["eps"], *through), strict=True
    ):
        out[...] = found


def _norm_coefficients(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import channels

    totals, gamma, mean, variance = values
    found = channels.coefficients(totals, params["rows"], gamma, mean, variance, params["eps"])
    for out, value in zip(outs, found, strict=True):
        out[...] = value


def _norm_gradient(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import normalisation

    g, x, a, b, c, *through = values
    scale, shift = through or (None, None)
    normalisation.gradient(g, x, a, b, c, scale, shift, outs[0])


def _through_relu(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import normalisation

    g, x, scale, shift = values
    normalisation.through_relu(g, x, scale, shift, outs[0])


moments = Operation("moments", _moments)
"""x -> mean and variance of each channel."""
norm_affine = Operation("norm_affine", _norm_affine)
"""mean, variance, gamma, beta -> scale and shift, of which normalisation is x scale + shift."""
affine = Operation("affine", _affine, {0: 0})
"""x, scale, shift -> x scale + shift, or its positive part."""
norm_sums = Operation("norm_sums", _norm_sums)
"""g, x, gamma, mean, variance [, scale, shift] -> dgamma, dbeta, and a, b, c of the next. With scale and shift, g is
taken where x scale + shift is positive."""
norm_coefficients = Operation("norm_coefficients", _norm_coefficients)
"""The sums of g and of g (x - mean), gamma, mean, variance -> what `norm_sums` gives."""
norm_gradient = Operation("norm_gradient", _norm_gradient, {0: 0})
"""g, x, a, b, c [, scale, shift] -> a g + b x + c."""
through_relu = Operation("through_relu", _through_relu, {0: 0})
"""g, x, scale, shift -> g where x scale + shift is positive, else 0."""


# -- layer normalisation ---------------------------------------------------------------------------------------------
def _layer_norm(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import layer_norm as kernels

    x, gamma, beta = map(np.ascontiguousarray, values)
    y, normal, inverse = outs
    kernels.layer_norm(_rows(x), gamma, beta, params["eps"], _rows(y), _rows(normal), inverse.reshape(-1))


def _layer_norm_adjoint(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import layer_norm as kernels

    normal, inverse, gamma, g = map(np.ascontiguousarray, values)
    dx, dgamma, dbeta = outs
    dgamma[...], dbeta[...] = kernels.adjoint(_rows(g), _rows(normal), inverse.reshape(-1), gamma, _rows(dx))


def _rows(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


layer_norm = Operation("layer_norm", _layer_norm)
"""x, gamma, beta -> y, x as it is normalised, and one over the standard deviation of each row."""
layer_norm_adjoint = Operation("layer_norm_adjoint", _layer_norm_adjoint)
"""The last two, gamma, g -> dx, dgamma, dbeta."""


# -- embeddings ------------------------------------------------------------------------------------------------------
def _add_rows(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import rows

    v, places = values
    rows.add_rows(_rows(np.ascontiguousarray(v)), places.reshape(-1), outs[0])


add_rows = Operation("add_rows", _add_rows)
"""v (..., C), whole numbers (...) -> the rows of v added up at these places of zeros (N, C)."""


# -- losses ----------------------------------------------------------------------------------------------------------
def _cross_entropy(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import losses

    logits, targets = values
    outs[0][...] = losses.softmax_cross_entropy(np.ascontiguousarray(logits), targets, outs[1])


cross_entropy = Operation("softmax_cross_entropy", _cross_entropy)
"""Logits (N, K), distributions (N, K) or labels (N,) -> the mean loss, and its gradient by the logits."""


# -- products of matrices, sums, optimisers --------------------------------------------------------------------------
@cache
def matmul(algorithm: str, adding: bool = False) -> Operation:
    """a, b -> their product, a factor transposed by the parameters `left` and `right`.

    Parameters that `fusion.py` adds name what is done as it is stored, whose inputs follow in this order: `sign` (x,
    and a number if `scaled`: `sign` times the product, and times the number, is added to x); `row` (a row, which is
    added); `ending`, "relu" for the positive part, or "mask" (y: what of it stands where y > 0).
    """

    def bind(params: Params) -> Write:
        from pullback.kernels import matmul as kernels

        left, right = params["left"], params["right"]
        sign, scaled, has_row = params.get("sign", 1.0), params.get("scaled"), params.get("row")
        relu, masked = params.get("ending") == "relu", params.get("ending") == "mask"
        fixed = None if adding or scaled or has_row or masked else kernels.Ending(sign, relu=relu)
        dense = np.ascontiguousarray

        def multiply(values: Sequence[Any], _: Params, outs: Sequence[Any]) -> None:
            out = outs[0]
            a, b, rest = dense(values[0]), dense(values[1]), list(values[2:])
            ending = fixed
            if ending is None:
                if adding:
                    (x,) = _taken(rest, 1)
                    if x is not out:
                        np.copyto(out, x)
                    else:  # in place, so that a factor in the same memory would change as it is read
                        a, b = (factor.copy() if np.may_share_memory(factor, out) else factor for factor in (a, b))
                number = float(_taken(rest, 1)[0]) if scaled else 1.0
                row = dense(_taken(rest, 1)[0]) if has_row else None
                mask = dense(_taken(rest, 1)[0]) if masked else None
                ending = kernels.Ending(sign * number, adding, row, relu, mask)
            kernels.multiply(
                a, b, out, transposed_left=left, transposed_right=right, algorithm=algorithm, ending=ending
            )

        return multiply

    def write(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
        bind(params)(values, params, outs)

    return Operation(f"matmul[{algorithm}]", write, {0: 2} if adding else None, bind)


def _multiply_accumulate(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    x, a, b = values
    np.matmul(a, b, out=outs[0])
    outs[0][...] += x


def _index_accumulate(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    x, v = values
    if outs[0] is not x:
        np.copyto(outs[0], x)
    outs[0][params["template"]] += v


multiply_accumulate = Operation("multiply_accumulate", _multiply_accumulate)
"""x, a, b -> x + a b."""
index_accumulate = Operation("index_accumulate", _index_accumulate, {0: 0})
"""x, v -> x with v added at an index, of slices and numbers."""


def _adam(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
    from pullback.kernels import elementwise

    p, g, m, v, scale, eps, rate = values
    for out, old in zip(outs, (p, m, v), strict=True):
        if out is not old:
            np.copyto(out, old)
    p, m, v = outs
    elementwise.adam_update(
        p, g, m, v, float(scale), float(eps), float(rate), params["b1"], params["b2"], params["decay"]
    )


adam = Operation("adam", _adam, {0: 0, 1: 2, 2: 3})
"""p, g, m, v, scale, eps, rate -> p + rate (m' / (scale sqrt(v') + eps) + decay p), m' and v'."""
