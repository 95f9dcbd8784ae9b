"""Hypotheses about shapes, axes and places: a sum over the wrong axis or none, products that do not fit, the diagonal
alone, the border; and, where nothing fits, which entries are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from pullback.core.primitive import Elementwise
from pullback.show.evidence import Case, Plain, Sample
from pullback.show.mistakes.findings import Finding, plausible, sizes_by_name
from pullback.show.mistakes.steps import Step, steps
from pullback.show.observed import Application, Observed

SLIDING = ("conv2d", "max_pool2d", "avg_pool2d")
WALKS = 4000  # walks back at most, in search of a Jacobian of which only the diagonal is used


def wrong_axis(case: Case) -> Iterator[Finding]:
    """A sum or a mean goes over another axis."""
    for step in steps(case):
        for words, change in _other_axes(step):

            def predict(sample: Sample, step: Step = step, change: Any = change) -> Any:
                return step.predict(sample, case.name, change)

            error = case.explained(predict)
            if error is not None:
                text = f"A reduction over the wrong axis at {step.describe()}: {words}."
                yield Finding("wrong_axis", text, error, plausible(case, predict, 0.9))


def _other_axes(step: Step) -> Iterator[tuple[str, Any]]:
    application, i = step.application, step.input
    shape = np.shape(application.values[i])
    if isinstance(application.primitive, Elementwise) and shape != np.shape(application.result):
        ndim = np.ndim(application.result)
        right = _summed_axes(shape, np.shape(application.result))
        for axes in combinations(range(ndim), len(right)):
            if axes != right:

                def summed(
                    _: Sample, application: Application, i: int, g: Any, contribution: Any, k: int,
                    axes: tuple[int, ...] = axes, kept: bool = len(shape) == ndim,
                ) -> Any:  # fmt: skip
                    return np.sum(application.spread_out(g)[i], axis=axes, keepdims=kept)

                yield f"summed over axis {_spell(axes)}, where axis {_spell(right)} is right", summed
    own = application.params.get("axis")
    if own is not None and not application.primitive.opens:
        alternatives = (
            combinations(range(len(shape)), len(own)) if isinstance(own, tuple) else range(len(shape))
        )  # fmt: skip
        for axis in alternatives:
            if axis != own:

                def along(
                    _: Sample, application: Application, i: int, g: Any, contribution: Any, k: int, axis: Any = axis
                ) -> Any:
                    return application.contributions(g, params=application.params | {"axis": axis}).get(i)

                yield f"along axis {_spell(axis)}, where axis {_spell(own)} is right", along


def _summed_axes(shape: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    """The axes over which an input of this shape was broadcast."""
    padded = (1,) * (len(full) - len(shape)) + shape
    return tuple(k for k, (own, size) in enumerate(zip(padded, full, strict=True)) if own == 1 and size != 1)


def _spell(axes: Any) -> str:
    return " and ".join(map(str, axes)) if isinstance(axes, tuple) else str(axes)


def wrong_reduction(case: Case) -> Iterator[Finding]:
    """The shape is another because a sum is missing, or was taken over other axes than those that were broadcast."""
    claim, truth = case.claim, case.truth
    if claim.shape == truth.shape:
        return
    axes_of = [axes for n in range(1, claim.ndim + 1) for axes in combinations(range(claim.ndim), n)]
    for axes in axes_of:
        reduced = claim.sum(axis=axes)
        if reduced.size == truth.size and case.error(case.first, truth, reduced.reshape(truth.shape)) < case.tolerance:
            every = all(
                case.error(s, s.true(case.name), s.claims[case.name].sum(axis=axes).reshape(truth.shape))
                < case.tolerance
                for s in case.samples
            )
            if every:
                named = sizes_by_name(case.first.point)
                sizes = " and ".join(f"{claim.shape[k]}{_named(named, claim.shape[k])}" for k in axes)
                text = (
                    f"A sum is missing: its shape is {claim.shape}, and summed over axis {_spell(axes)} (of size "
                    f"{sizes}) it is the gradient. {case.name} was broadcast along it, and its gradients add."
                )
                yield Finding("wrong_shape", text, case.tolerance, 1.0)
                return
    for step in steps(case):
        application, i = step.application, step.input
        source = application.sources[i]
        observed = case.first.point.observed
        assert observed is not None
        if source != observed.inputs[case.name] or not isinstance(application.primitive, Elementwise):
            continue
        full = np.ndim(application.result)
        for axes in (axes for n in range(1, full + 1) for axes in combinations(range(full), n)):

            def predict(sample: Sample, key: Any = step.keys[0], axes: Any = axes) -> Any:
                edge = sample.edge(key)
                return edge.application.spread_out(edge.cotangent)[edge.input].sum(axis=axes)

            error = case.explained(predict)
            if error is not None:
                right = _summed_axes(truth.shape, np.shape(application.result))
                belongs = f"where axis {_spell(right)} is right" if right else "where no sum belongs"
                text = (
                    f"A reduction over the wrong axis at {step.describe()}: summed over axis {_spell(axes)}, {belongs}."
                )
                yield Finding("wrong_axis", text, error, 1.0)
                return


def _named(names: dict[int, str], size: int) -> str:
    return f" = {names[size]}" if size in names else ""


def wrong_product(case: Case) -> Iterator[Finding]:
    """The cotangent of a product is multiplied with another value than the one that belongs there."""
    observed = case.first.point.observed
    if observed is None:
        return
    for step in [s for s in steps(case) if s.application.primitive.name in ("matmul", "multiply") and len(s.keys) == 1]:
        application = step.application
        if application.sources[step.input] != observed.inputs[case.name]:
            continue
        other = application.values[1 - step.input]
        place = application.sources[1 - step.input]
        right = observed.describe(place) if place is not None else "the other factor"
        for place, value in observed.values.items():
            if value is other:
                continue
            for form, product in _products():

                def predict(sample: Sample, key: Any = step.keys[0], place: int = place, product: Any = product) -> Any:
                    edge = sample.edge(key)
                    assert sample.point.observed is not None
                    g, z = np.squeeze(edge.cotangent), sample.point.observed.values[place]
                    return np.reshape(product(g, z), sample.claims[case.name].shape)

                error = case.explained(predict)
                found = observed.describe(place)
                if error is not None and found != right:
                    text = (
                        f"The wrong saved value at {step.describe()}: the gradient there is multiplied with {found} "
                        f"({form}). The factor is {_transposed(right, case)}, not {found}."
                    )
                    yield Finding("wrong_saved", text, error, plausible(case, predict, 0.9))
                    return


def _transposed(name: str, case: Case) -> str:
    return f"{name}^T" if case.truth.ndim == 2 else name


def _products() -> Iterator[tuple[str, Any]]:
    yield "row vector times matrix", lambda g, z: g @ z
    yield "matrix times vector", lambda g, z: z @ g
    yield "elementwise, by rows", lambda g, z: g[:, None] * z
    yield "elementwise", lambda g, z: g * z
    yield "outer product", lambda g, z: np.outer(g, z)
    yield "outer product", lambda g, z: np.outer(z, g)
    yield "g^T z", lambda g, z: g.T @ z
    yield "z^T g", lambda g, z: z.T @ g


def diagonal_only(case: Case) -> Iterator[Finding]:
    """Of a Jacobian between two values of the same shape only the diagonal is used."""
    observed = case.first.point.observed
    if observed is None or case.claim.shape != case.truth.shape:
        return
    walks = 0
    for source, target in _pairs(case, observed):
        walks += np.size(observed.values[target])
        if walks > WALKS:
            return

        def predict(sample: Sample, source: int = source, target: int = target, alone: bool = False) -> Any:
            assert sample.point.observed is not None
            return _with_diagonal(sample, sample.point.observed, source, target, case.name, alone)

        error = case.explained(lambda sample, predict=predict: predict(sample, alone=True))  # type: ignore[misc]
        if error is not None:
            text = (
                f"The incoming gradient is missing: the diagonal of the Jacobian of {observed.describe(target)} by "
                f"{observed.describe(source)} stands there alone, and the entries off the diagonal are missing too."
            )
            yield Finding("missing_incoming", text, error, 0.9)
            return
        error = case.explained(predict)
        if error is not None:
            a, b = observed.describe(source), observed.describe(target)
            text = (
                f"Only the diagonal of the Jacobian of {b} by {a} is used. The entries off the diagonal are missing: "
                "each entry of the one depends on every entry of the other along the axis (for a softmax, -p_i p_j)."
            )
            yield Finding("diagonal_only", text, error, plausible(case, predict, 0.95))
            return


def _pairs(case: Case, observed: Observed) -> Iterator[tuple[int, int]]:
    """Values of the same shape, one made from the other, from where the input's gradient comes."""
    start = observed.inputs[case.name]
    ancestors: dict[int, set[int]] = {place: {place} for place in observed.inputs.values()}
    uses: dict[int, int] = {}
    for application in observed.applications:
        found: set[int] = set()
        for source in application.sources:
            if source is not None:
                found |= ancestors.get(source, {source})
                uses[source] = uses.get(source, 0) + 1
        for place in application.places:
            ancestors[place] = found | {place}
    for target, above in ancestors.items():
        value = observed.values[target]
        if target not in case.first.adjoints or np.size(value) < 2:
            continue
        for source in above - {target}:
            related = source == start or start in ancestors[source]
            if related and np.shape(observed.values[source]) == np.shape(value):
                yield source, target


def _with_diagonal(sample: Sample, observed: Observed, source: int, target: int, name: str, alone: bool) -> Any:
    """The gradient if what flows from `target` to `source` were multiplied by the Jacobian's diagonal alone; or if that
    diagonal stood there without what flows."""
    shape = np.shape(observed.values[target])
    diagonal = np.zeros(shape)
    for index in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[index] = 1.0
        diagonal[index] = observed.pull_from({target: unit}).get(source, np.zeros(shape))[index]
    arriving = diagonal if alone else sample.adjoints[target] * diagonal
    return observed.gradient(observed.pull_from({source: arriving}), name)


def softmax_axis(case: Case) -> Iterator[Finding]:
    """The sum in the derivative of a softmax goes over another axis, or is left out with its factor."""
    observed = case.first.point.observed
    if observed is None or case.claim.shape != case.truth.shape:
        return
    for source, target in _pairs(case, observed):
        x, p = observed.values[source], observed.values[target]
        for axis in range(np.ndim(x)):
            e = np.exp(x - np.max(x, axis=axis, keepdims=True))
            if not np.allclose(e / np.sum(e, axis=axis, keepdims=True), p, rtol=1e-9):
                continue
            for other in (k for k in range(np.ndim(x)) if k != axis):

                def predict(sample: Sample, s: int = source, t: int = target, other: int = other) -> Any:
                    run = sample.point.observed
                    assert run is not None
                    g, p = sample.adjoints[t], run.values[t]
                    d = p * (g - np.sum(g * p, axis=other, keepdims=True))
                    return run.gradient(run.pull_from({s: d}), case.name)

                error = case.explained(predict)
                if error is not None:
                    text = (
                        f"A reduction over the wrong axis: {observed.describe(target)} is a softmax along axis {axis}, "
                        f"and the sum in its derivative p * (g - sum(g * p)) goes over axis {other}."
                    )
                    yield Finding("wrong_axis", text, error, plausible(case, predict, 0.95))


def border(case: Case) -> Iterator[Finding]:
    """Right in the interior of an image, wrong at its edges."""
    observed = case.first.point.observed
    claim, truth = case.claim, case.truth
    if claim.shape != truth.shape or claim.ndim < 1:
        return
    if observed is not None and not _slides(observed):
        return
    wrong = wrong_entries(case)
    for count in (2, 1):
        for axes in combinations([k for k in range(claim.ndim) if claim.shape[k] >= 3], count):
            sides = _margins(wrong, axes)
            if sides is None:
                continue
            where = ", ".join(f"{n} at the {side} of axis {k}" for k, side, n in sides)
            text = (
                f"Right in the interior, wrong at the border ({where}). The edges of the forward pass (padding, or "
                "outputs that do not exist there) are not handled the same way in the backward."
            )
            yield Finding("border", text, 0.0, 0.9)
            return


def _slides(observed: Observed) -> bool:
    """Whether windows slide over an array, so that it has edges: a convolution, a pooling, or parts that overlap."""
    read: dict[int | None, Plain] = {}
    for a in observed.applications:
        if a.primitive.name.startswith(SLIDING):
            return True
        if a.primitive.name == "getitem" and a.tracked == (0,):
            times = a.contributions(np.ones(np.shape(a.result)))[0]
            read[a.sources[0]] = read.get(a.sources[0], 0) + times
    return any(np.any(times > 1) for times in read.values())


def _margins(wrong: Plain, axes: tuple[int, ...]) -> list[tuple[int, str, int]] | None:
    """How deep the wrong entries reach from each end of these axes; None where they fill the interior too."""
    found = []
    inside = [slice(None)] * wrong.ndim
    for axis in axes:
        size = wrong.shape[axis]
        deep = max(1, (size - 1) // 3)
        start = next((n for n in range(deep + 1)), 0)
        for n in range(deep + 1):
            start = n
            trial = list(inside)
            trial[axis] = slice(n, size - deep)
            if not _core(wrong, axes, axis, trial).any():
                break
        end = deep
        for n in range(deep + 1):
            trial = list(inside)
            trial[axis] = slice(start, size - n)
            if not _core(wrong, axes, axis, trial).any():
                end = n
                break
        inside[axis] = slice(start, size - end)
        found += [(axis, "start", start)] * (start > 0) + [(axis, "end", end)] * (end > 0)
    return found if found and not wrong[tuple(inside)].any() else None


def _core(wrong: Plain, axes: tuple[int, ...], axis: int, trial: list[Any]) -> Plain:
    """The entries of a trial interior, with the other axes cut to their middle thirds."""
    index = list(trial)
    for other in axes:
        if other != axis:
            deep = max(1, (wrong.shape[other] - 1) // 3)
            index[other] = slice(deep, wrong.shape[other] - deep)
    return np.asarray(wrong[tuple(index)])


def wrong_entries(case: Case) -> Plain:
    """Which entries differ from the true ones, in any sample."""
    total = np.zeros(case.truth.shape, bool)
    for sample in case.samples:
        truth, claim = sample.true(case.name), sample.claims[case.name]
        size = max(float(np.max(np.abs(truth), initial=0.0)), 1e-6 * sample.scale(case.name))
        total |= ~(np.abs(claim - truth) <= case.tolerance * size)
    return total


def localised(case: Case) -> str:
    """Which entries, rows and channels are wrong, in words."""
    wrong = wrong_entries(case)
    count = int(wrong.sum())
    if not wrong.ndim or count == wrong.size:
        return "Every entry is wrong."
    places = []
    for axis, size in enumerate(wrong.shape):
        hit = np.flatnonzero(wrong.any(axis=tuple(k for k in range(wrong.ndim) if k != axis)))
        if len(hit) < size:
            places.append(f"at {_indices(hit)} of axis {axis}")
    where = f", all {' and '.join(places)}" if places else ", spread over all axes"
    return f"{count} of {wrong.size} entries are wrong{where}; the others are right."


def _indices(hit: Plain) -> str:
    return ", ".join(map(str, hit[:6].tolist())) + (f" and {len(hit) - 6} more" if len(hit) > 6 else "")
