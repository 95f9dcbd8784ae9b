"""Hypotheses about what a step of a backward reads: another saved value, a mask from another tensor, a transposed or
flipped operand, no local derivative at all, the cotangent of another value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pullback.core.primitive import Elementwise
from pullback.rules.linear import spread
from pullback.show.evidence import Case, Point, Sample
from pullback.show.mistakes.findings import Finding, plausible
from pullback.show.mistakes.steps import Ref, Step, candidates, steps
from pullback.show.observed import Application, Observed

FEW = 200  # entries of an input up to which differences are taken at other arguments


def wrong_mask(case: Case) -> Iterator[Finding]:
    """A 0/1 local derivative is taken from the wrong tensor, inverted, or left out."""
    for step in steps(case):
        if not _is_masking(step):
            continue
        observed = case.first.point.observed
        assert observed is not None
        for words, change in _masks(step, observed):

            def predict(sample: Sample, step: Step = step, change: Any = change) -> Any:
                return step.predict(sample, case.name, change)

            error = case.explained(predict)
            if error is not None:
                text = f"The mask of {step.describe()} is wrong: {words}."
                yield Finding("wrong_mask", text, error, plausible(case, predict, 0.95))


def _is_masking(step: Step) -> bool:
    """Whether the local derivative is 0 or 1 and says which inputs were selected."""
    application, i = step.application, step.input
    if application.primitive.name not in (
        "relu",
        "maximum",
        "minimum",
        "where",
        "fmax",
        "fmin",
        "absolute",
        "multiply",
        "max",
        "min",
    ):
        return False
    if application.primitive.name in ("max", "min"):
        return True
    if application.primitive.name == "multiply":
        other = application.values[1 - i]
        return bool(np.size(other) > 1 and np.isin(other, (0, 1)).all())
    return bool(np.shape(step.edges[0].contribution) == np.shape(application.result))


def _masks(step: Step, observed: Observed) -> Iterator[tuple[str, Any]]:
    def left_out(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
        return g

    def inverted(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
        return g - contribution

    if step.application.primitive.name in ("max", "min"):
        yield "the gradient goes to every entry, and belongs to the selected one alone", _to_every_entry
        return
    yield "it is left out, so the gradient also passes where the forward pass did not", left_out
    yield "it is inverted, so the gradient passes exactly where it must not", inverted
    for refs in candidates(step, np.shape(step.application.result), observed):
        value = refs[0].of(observed)
        kind = getattr(value, "dtype", np.dtype(int)).kind
        for sign in (1, -1) if kind == "f" else (1,) if kind == "b" else ():

            def change(
                sample: Sample, application: Application, i: int, g: Any, contribution: Any, k: int,
                refs: tuple[Ref, ...] = refs, sign: int = sign,
            ) -> Any:  # fmt: skip
                assert sample.point.observed is not None
                held = refs[k].of(sample.point.observed)
                return g * (held if held.dtype.kind == "b" else sign * held > 0)

            name = refs[0].describe(observed)
            right = _mask_source(step, observed)
            yield (
                f"it is taken from {name}{'' if kind == 'b' else ' > 0' if sign > 0 else ' < 0'}, not from {right}",
                change,
            )


def _to_every_entry(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
    axis, keepdims = application.params["axis"], application.params["keepdims"]
    return spread(g, np.shape(application.values[i]), axis, keepdims)


def _mask_source(step: Step, observed: Observed) -> str:
    source = step.application.sources[step.input]
    if step.application.primitive.name == "multiply":
        value = step.application.values[1 - step.input]
        return next((n for n, held in observed.names.items() if held is value), "the mask of the forward pass")
    return "the value that was selected from" if source is None else observed.describe(source)


def wrong_saved(case: Case) -> Iterator[Finding]:
    """A value that the backward saved was mistaken for another, or is transposed or flipped."""
    observed = case.first.point.observed
    if observed is None:
        return
    for step in steps(case):
        application = step.application
        if application.primitive.opens or step.repeated or _is_masking(step):
            continue
        for position in application.kept:
            right = application.result if position == len(application.values) else application.values[position]
            if not isinstance(right, np.ndarray | np.generic) or getattr(right, "dtype", None) is None:
                continue
            if right.dtype.kind != "f":
                continue
            yield from _own_forms(case, step, position, right, observed)
            for refs in candidates(step, np.shape(right), observed):
                if np.array_equal(refs[0].of(observed), right) and len(set(refs)) == 1:
                    continue
                yield from _substituted(case, step, position, refs, observed)


def _read(application: Application, i: int, g: Any, position: int, value: Any) -> Any:
    """The contribution of a rule that reads another value at this position of (inputs..., output)."""
    values, result = list(application.values), application.result
    if position == len(values):
        result = value
    else:
        values[position] = value
    return application.contributions(g, values, result).get(i)


def _substituted(case: Case, step: Step, position: int, refs: tuple[Ref, ...], observed: Observed) -> Iterator[Finding]:
    def change(sample: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
        assert sample.point.observed is not None
        return _read(application, i, g, position, refs[k].of(sample.point.observed))

    def predict(sample: Sample) -> Any:
        return step.predict(sample, case.name, change)

    error = case.explained(predict)
    if error is None:
        return
    right, found = _right_and_found(step, position, refs, observed)
    if found == right:
        return
    text = f"The wrong saved value at {step.describe()}: it uses {found} where {right} belongs."
    yield Finding("wrong_saved", text, error, plausible(case, predict, 0.8))


def _right_and_found(step: Step, position: int, refs: tuple[Ref, ...], observed: Observed) -> tuple[str, str]:
    """What belongs there and what was read instead, in words."""
    applications = [observed.applications[number] for number, _ in step.keys]
    places = [a.places[0] if position == len(a.values) else a.sources[position] for a in applications]
    right = observed.describe(places[0]) if places[0] is not None else "the value of the forward pass"
    found = [ref.place(observed) for ref in refs]
    if len(places) > 1 and found[1:] == places[:-1]:
        return "that of the same pass", f"{right}, but of the pass before,"
    if len(places) > 1 and found[:-1] == places[1:]:
        return "that of the same pass", f"{right}, but of the pass after,"
    return right, refs[0].describe(observed)


def _own_forms(case: Case, step: Step, position: int, right: Any, observed: Observed) -> Iterator[Finding]:
    """The right operand, transposed or flipped; or, in a loop over the taps of a filter, the taps in another order."""
    application = step.application
    for words, cause, form in _forms(right, application.primitive.name):

        def change(
            sample: Sample, application: Application, i: int, g: Any, contribution: Any, k: int, form: Any = form
        ) -> Any:
            held = application.result if position == len(application.values) else application.values[position]
            return _read(application, i, g, position, form(held))

        yield from _formed(case, step, change, cause, words, position, observed)
    for words, order in _orders(len(step.keys)):

        def reorder(
            sample: Sample, application: Application, i: int, g: Any, contribution: Any, k: int, order: Any = order
        ) -> Any:
            assert sample.point.observed is not None
            number, _ = step.keys[order[k]]
            other = sample.point.observed.applications[number]
            held = other.result if position == len(other.values) else other.values[position]
            return _read(application, i, g, position, held)

        if position < len(application.values) and np.ndim(right) <= 2:
            yield from _formed(case, step, reorder, "flipped_filter", words, position, observed)


def _formed(
    case: Case, step: Step, change: Any, cause: Any, words: str, position: int, observed: Observed
) -> Iterator[Finding]:
    def predict(sample: Sample) -> Any:
        return step.predict(sample, case.name, change)

    error = case.explained(predict)
    if error is None:
        return
    application = step.application
    place = application.places[0] if position == len(application.values) else application.sources[position]
    name = observed.describe(place) if place is not None else "an operand"
    if cause == "flipped_filter":
        text = (
            f"The filter is flipped at {step.describe()}: the gradient is that of {name} {words}. The adjoint of "
            "a convolution puts each product back at the shift it was read from; do not flip the filter."
        )
    else:
        text = f"An operand is transposed at {step.describe()}: {name} where its transpose belongs, or the reverse."
    yield Finding(cause, text, error, plausible(case, predict, 0.97))


def _forms(x: Any, primitive: str) -> Iterator[tuple[str, Any, Any]]:
    if x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1 and not np.array_equal(x, np.swapaxes(x, -1, -2)):
        yield "transposed", "transposed", lambda held: np.swapaxes(held, -1, -2)
    if primitive.startswith("conv2d") and x.ndim == 4:
        yield "turned by 180 degrees (flipped in both axes)", "flipped_filter", lambda held: held[::-1, ::-1]
        yield "flipped in its rows", "flipped_filter", lambda held: held[::-1]
        yield "flipped in its columns", "flipped_filter", lambda held: held[:, ::-1]
        yield "with rows and columns exchanged", "transposed", lambda held: np.swapaxes(held, 0, 1)


def _orders(count: int) -> Iterator[tuple[str, list[int]]]:
    """Orders in which the taps of a flipped filter would come, for a loop over rows and columns."""
    if count < 2:
        return
    yield "flipped", list(range(count))[::-1]
    for rows in range(2, count // 2 + 1):
        if count % rows == 0:
            grid = np.arange(count).reshape(rows, -1)
            yield "flipped in its rows", grid[::-1].ravel().tolist()
            yield "flipped in its columns", grid[:, ::-1].ravel().tolist()


def local_derivative(case: Case) -> Iterator[Finding]:
    """A step's local derivative is left out, or applied twice."""
    for step in steps(case):
        application = step.application
        if not isinstance(application.primitive, Elementwise) or _is_masking(step):
            continue
        if np.shape(step.edges[0].contribution) != np.shape(application.result):
            continue

        def left_out(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
            return g

        def twice(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
            return application.contributions(contribution)[i]

        for words, cause, change in (("left out", "missing_term", left_out), ("applied twice", "extra_term", twice)):

            def predict(sample: Sample, step: Step = step, change: Any = change) -> Any:
                return step.predict(sample, case.name, change)

            error = case.explained(predict)
            if error is not None:
                text = f"The local derivative of {step.describe()} is {words}."
                yield Finding(cause, text, error, plausible(case, predict, 0.7))  # type: ignore[arg-type]


def wrong_cotangent(case: Case) -> Iterator[Finding]:
    """A step takes the gradient of another value than its own: steps in between are left out."""
    observed = case.first.point.observed
    if observed is None:
        return
    for step in [s for s in steps(case) if len(s.keys) == 1 and not s.repeated]:
        application = step.application
        own = application.places[0]
        for place, g in case.first.adjoints.items():
            if place == own or np.shape(g) != np.shape(application.result) or isinstance(application.result, tuple):
                continue

            def change(
                sample: Sample, application: Application, i: int, g: Any, contribution: Any, k: int, place: int = place
            ) -> Any:
                return application.contributions(sample.adjoints[place]).get(i)

            def predict(sample: Sample, step: Step = step, change: Any = change) -> Any:
                return step.predict(sample, case.name, change)

            error = case.explained(predict)
            if error is not None:
                text = (
                    f"At {step.describe()} the gradient of {observed.describe(place)} is taken where that of "
                    f"{observed.describe(own)} belongs: what lies between them is left out."
                )
                yield Finding("missing_term", text, error, plausible(case, predict, 0.6))


def other_inputs(case: Case) -> Iterator[Finding]:
    """The gradient is that at other arguments: one flipped, transposed, or exchanged for another."""
    from pullback.show.observed import observe

    point = case.first.point
    if point.observed is None and case.value.size > FEW:
        return
    for words, cause, change in _argument_changes(case):
        cache: dict[int, Any] = {}

        def predict(sample: Sample, change: Any = change, cache: Any = cache) -> Any:
            there = sample.point
            if id(there) not in cache:
                args = there.with_leaves(change(there.leaves))
                run = None if there.observed is None else observe(there.forward, args, opened=True)
                cache[id(there)] = Point(there.forward, args, run, there.outputs)
            return Sample(cache[id(there)], sample.cotangents, {}).true(case.name)

        error = case.explained(predict)
        if error is not None:
            yield Finding(cause, f"It is the gradient for {words}.", error, plausible(case, predict, 0.5))


def _argument_changes(case: Case) -> Iterator[tuple[str, Any, Any]]:
    leaves = case.first.point.leaves
    for name, leaf in leaves.items():
        shape = np.shape(leaf)
        if len(shape) >= 2 and shape[-1] == shape[-2] > 1:
            yield f"{name} transposed", "transposed", lambda at, n=name: {n: np.swapaxes(at[n], -1, -2)}
        for axes in ((0, 1), (-1, -2), (0,), (1,), (-1,), (-2,)):
            if len(shape) >= max(2, *(abs(a) for a in axes)) or (len(shape) == 1 and axes in ((0,),)):
                text = f"{name} flipped along axes {axes}" if len(axes) > 1 else f"{name} flipped along axis {axes[0]}"
                yield text, "flipped_filter", lambda at, n=name, axes=axes: {n: np.flip(at[n], axes)}
        for other, value in leaves.items():
            if other > name and np.shape(value) == shape:
                text = f"{name} and {other} exchanged"
                yield text, "wrong_saved", lambda at, a=name, b=other: {a: at[b], b: at[a]}
            if other != name and np.shape(value) == shape:
                yield f"{other} in the place of {name}", "wrong_saved", lambda at, a=name, b=other: {a: at[b]}
