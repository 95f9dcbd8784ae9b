"""`pb.check_claim`: a derivative claimed on paper, `de/dH = outer(mask * de/dy, x)`, judged like a backward by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pullback.errors import CheckError
from pullback.show.check import prepared, repeatable
from pullback.show.claim_language import LEFT, Names, Node, Parser, derivative_of, evaluate, split_claim
from pullback.show.claimed import Claimed
from pullback.show.judgement import judgement
from pullback.show.observed import Observed, is_float, leaves_by_name, observe
from pullback.show.verdicts import CheckReport, Verdict

STEPS = 1e-9  # relative; an update is right where it is this close to a step along the gradient


def check_claim(claim: str, f: Callable[..., Any], *args: Any, seed: int = 0, **values: Any) -> CheckReport:
    """Judges a claim about the gradient of f, or about a step of gradient descent.

    Args:
        claim: `de/dH = outer(mask * de/dy, x)` as in NumPy; or as in a textbook, in LaTeX or Unicode:
            `∂e/∂H = (m ⊙ ∂e/∂y) xᵀ`, `∇_H e = ...`, `dH = ...`. Or an update, `v <- v - a de/dv`. Names are those of
            the arguments of f, of its local variables, of the output (`y`, where it has no name), and of `values`;
            `de/d` of any of these is its gradient, and `mask`, or `I{0,1}`, the 0/1 derivative of the only ReLU of f.
            It is parsed, never run.
        f: the function, and `args` its arguments. Its result is the cotangent's: de/dy.
        values: further names, such as `a=0.1`.
        seed: of the random cotangents.

    Raises:
        CheckError: the claim cannot be read, or names what is not there.
    """
    args, notes = prepared(f, args)
    outputs = repeatable(f, args)
    left, sign, right = split_claim(claim)
    expression = Parser(right).parse()
    inputs = [name for name, leaf in leaves_by_name(f, args)[0].items() if is_float(leaf)]
    name = derivative_of(left)
    rng = np.random.default_rng(seed)
    if left in inputs:
        return CheckReport(claim, {left: _update(left, expression, f, args, values, rng)}, notes=notes)
    if name is None or sign != LEFT or name not in inputs:
        raise CheckError(
            f"claim {claim!r}: expected on the left de/d of an input, or an input whose update it is; the inputs are "
            f"{', '.join(inputs)}"
        )

    def call(cotangent: Any, given: tuple[Any, ...]) -> dict[str, Any]:
        run = observe(f, given, opened=True)
        found = evaluate(expression, names_of(run, run.pull(_listed(cotangent, run)), values))
        array = np.asarray(found.array, dtype=np.float64)
        return {name: array[None, :] if found.row and array.ndim == 1 else array}

    scalar = len(outputs) == 1 and not outputs[0].shape  # a loss: e itself, whose own gradient is 1
    found = judgement(_ByLeaf(f, call), args, outputs, rng, [np.float64(1.0)] if scalar else None)
    return CheckReport(claim, found.verdicts, found.rules, found.comparisons, notes + found.notes)


class _ByLeaf(Claimed):
    """A claim names a leaf of the arguments itself, such as `params['W']`."""

    def _by_leaf(self, found: dict[str, Any], args: Any) -> dict[str, Any]:
        return found


def _listed(cotangent: Any, run: Observed) -> list[Any]:
    return [cotangent] if len(run.outputs) == 1 and not isinstance(cotangent, tuple | list) else list(cotangent)


def names_of(run: Observed, adjoints: dict[int, Any], values: dict[str, Any]) -> Names:
    """What the words of a claim stand for, in one run."""
    places = {name: held for name, held in run.names.items() if isinstance(held, int)} | run.inputs
    known = {name: held for name, held in run.names.items() if not isinstance(held, int)}
    known |= {name: run.values[place] for name, place in places.items()} | values
    output = run.output_places[0] if len(run.outputs) == 1 else None
    if output is not None and output not in places.values() and "y" not in known:
        places["y"], known["y"] = output, run.outputs[0]

    def gradient(name: str) -> Any:
        if name not in places:
            raise CheckError(f"claim: the gradient of {name!r} is not known; there are those of {', '.join(places)}")
        return adjoints.get(places[name], np.zeros_like(run.values[places[name]]))

    return Names(known, gradient, lambda: _only_mask(run))


def _only_mask(run: Observed) -> Any:
    """Where the only ReLU of the run lets its input through."""
    masks = [
        a.contributions(np.ones(np.shape(a.result)))
        for a in run.applications
        if a.primitive.name in ("maximum", "relu", "minimum") and np.ndim(a.result)
    ]
    if len(masks) != 1:
        raise CheckError(
            f"claim: `mask` is the 0/1 derivative of the only ReLU, and f has {len(masks)}; pass it as mask=..., or "
            "name it in f"
        )
    [mask] = masks[0].values()
    return mask


def _update(
    name: str, expression: Node, f: Any, args: tuple[Any, ...], values: dict[str, Any], rng: np.random.Generator
) -> Verdict:
    """The verdict on a step of gradient descent: it starts from the input and goes against the input's gradient."""
    run = observe(f, args, opened=True)
    cotangents = [[np.asarray(rng.normal(size=y.shape) if y.shape else 1.0)[()] for y in run.outputs] for _ in range(2)]
    gradients = [run.pull(us) for us in cotangents]
    claims = [np.asarray(evaluate(expression, names_of(run, g, values)).array) for g in gradients]
    for start, begins in _bases(name, run, values):
        for other, place in ((name, run.inputs[name]), *run.inputs.items()):
            slopes = [_slope(c, begins, g.get(place)) for c, g in zip(claims, gradients, strict=True)]
            first = slopes[0]
            if first is None or any(s is None or abs(s - first) > 1e-6 * abs(first) for s in slopes):
                continue
            return _update_verdict(name, start, other, first)
    text = f"It is not a step `{name} - a de/d{name}` from any value against any gradient of f."
    return Verdict(name, "wrong", "unknown", text, 0.0, np.inf)


def _bases(name: str, run: Observed, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    known = names_of(run, {}, values).values
    yield name, known[name]
    yield from ((other, value) for other, value in known.items() if other != name and np.size(value) > 1)


def _slope(claim: Any, start: Any, gradient: Any) -> float | None:
    """The number a with claim = start + a gradient; None where there is none."""
    if gradient is None or not np.any(gradient):
        return None
    try:
        moved = claim - np.asarray(start)
        along = np.broadcast_to(gradient, moved.shape)
    except ValueError:
        return None
    if moved.shape != np.shape(claim):
        return None
    a = float(np.sum(moved * along) / np.sum(along * along))
    gap = float(np.max(np.abs(moved - a * along), initial=0.0))
    return a if gap <= STEPS * float(np.max(np.abs(claim), initial=0.0) + 1e-300) and a else None


def _update_verdict(name: str, start: str, other: str, slope: float) -> Verdict:
    if start != name:
        text = f"{name}'s update starts from {name}, not {start}."
        return Verdict(name, "wrong", "wrong_saved", text, 0.99, np.inf)
    if other != name:
        text = f"{name} moves along the gradient of {other}, and must move along its own, de/d{name}."
        return Verdict(name, "wrong", "wrong_saved", text, 0.99, np.inf)
    if slope > 0:
        text = "The sign is wrong: descent goes against the gradient, and this step goes along it."
        return Verdict(name, "wrong", "sign", text, 0.99, np.inf)
    return Verdict(name, "right", None, f"A step of size {-slope:.6g} against the gradient.", 1.0, 0.0)
