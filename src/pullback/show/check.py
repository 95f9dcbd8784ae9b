"""`pb.check`: whether derivatives are right, and, of a backward written by hand, what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.tape import not_differentiable
from pullback.core.tensor import plain_value
from pullback.errors import CheckError, DtypeError, PullbackError
from pullback.show.claimed import claimed
from pullback.show.comparisons import Whole, compare, sampling
from pullback.show.judgement import judgement
from pullback.show.observed import is_float, leaves_by_name, observe, restored_state
from pullback.show.rules_check import check_rules
from pullback.show.verdicts import CheckReport, RuleResult


def check(f: Any, *args: Any, backward: Any = None, seed: int = 0) -> CheckReport:
    """Checks the derivatives of f at these arguments.

    Without `backward`: every rule that f uses, one by one, at the values that occur; forward against reverse mode;
    first and second order against differences. With one: a verdict on each gradient it returns, with a diagnosis.

    Args:
        f: a function of any pytrees; or a `pb.custom` function, or a class with `forward(ctx, ...)` and
            `backward(ctx, ...)`, which bring their backward with them.
        args: its arguments. Floating-point leaves are differentiated, in float64; others are held.
        backward: `backward(cotangent, *inputs)`, one gradient per input; or a dict of such functions by input, each
            returning one gradient; or a `pb.custom` function or a class as above.
        seed: of the random directions and cotangents.

    Raises:
        CheckError: f is not a function of its arguments alone.
        DtypeError: no argument is of a floating-point type.
    """
    claims = claimed(f, backward)
    function = f if claims is None else claims.forward
    name = getattr(f, "__name__", type(f).__name__)
    args, notes = prepared(function, args)
    outputs = repeatable(function, args)
    rng = np.random.default_rng(seed)
    if claims is None:
        return _derivatives(name, function, args, rng, notes)
    found = judgement(claims, args, outputs, rng)
    return CheckReport(name, found.verdicts, found.rules, found.comparisons, notes + found.notes)


def _derivatives(
    name: str, f: Callable[..., Any], args: tuple[Any, ...], rng: np.random.Generator, notes: list[str]
) -> CheckReport:
    """The report on f's own derivatives."""
    rules = check_rules(observe(f, args), rng)
    whole = Whole(f, args, rng)
    notes += [note for note in (sampling(whole), _kinks(rules)) if note is not None]
    try:
        comparisons = compare(whole)
    except PullbackError:
        if all(rule.ok for rule in rules):
            raise
        comparisons = []  # a rule that is wrong may well raise an error; it has been found already
    return CheckReport(name, {}, rules, comparisons, notes)


def _kinks(rules: Sequence[RuleResult]) -> str | None:
    """Where the function is not differentiable, which is no error."""
    found = {
        f"{rule.primitive} at {rule.source}": rule.kinks for rule in rules if rule.kinks and rule.mode == "reverse"
    }
    if not found:
        return None
    places = "; ".join(f"{count} of {place}" for place, count in list(found.items())[:3])
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return f"not differentiable at these values, and left out: {places}{more}"


def prepared(f: Callable[..., Any], args: Sequence[Any]) -> tuple[tuple[Any, ...], list[str]]:
    """The arguments with their floating-point leaves as float64 copies, and what there is to say about the rest."""
    named, structure = leaves_by_name(f, args)
    if not any(map(is_float, named.values())):
        for name, leaf in named.items():
            dtype = getattr(leaf, "dtype", None)
            if dtype is not None or isinstance(leaf, int):
                mend = "convert it, x.astype(float)" if dtype is not None else f"write {leaf}.0"
                raise DtypeError(not_differentiable(f"check: argument {name}", np.dtype(dtype or int), mend))
        raise DtypeError("check: expected at least one argument with floating-point numbers, got none")
    narrow: list[str] = []
    held: list[str] = []
    changed = []
    for name, leaf in named.items():
        kind: np.dtype[Any] = getattr(leaf, "dtype", np.dtype(object))
        if is_float(leaf):
            if kind not in (np.dtype(object), np.dtype(np.float64)):
                narrow.append(f"{name} is {kind}")
            leaf = np.array(plain_value(leaf), np.float64)[()]
        elif np.size(leaf) and kind.kind in "iub":
            held.append(f"{name} is {kind}")
        changed.append(leaf)
    notes = [f"{_several(narrow)}: checked in float64"] * bool(narrow) + [f"{_several(held)}: held constant"] * bool(
        held
    )
    return tuple(structure.unflatten(changed)), notes


def _several(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def repeatable(f: Callable[..., Any], args: tuple[Any, ...]) -> list[np.ndarray[Any, Any]]:
    """The outputs of f as plain arrays. Raises CheckError where a second run gives others, or changes the arguments."""
    runs = []
    for _ in range(2):
        given = tuple(tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, arg) for arg in args)
        with restored_state():
            runs.append([np.asarray(plain_value(y)) for y in tree.leaves(f(*given))])
        for name, before, after in _pairs(f, args, given):
            if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
                raise CheckError(
                    f"check: f writes into its argument {name}; let it work on a copy, {name}.copy(), so that it is a "
                    "function of its arguments"
                )
    first, second = runs
    if [y.shape for y in first] != [y.shape for y in second]:
        raise CheckError("check: f returned another shape the second time, at the same arguments; is it random?")
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.dtype.kind != "f":
            raise DtypeError(not_differentiable(f"check: output {k} of f", a.dtype))
        if not np.array_equal(a, b, equal_nan=True):
            gap = float(np.nanmax(np.abs(a - b)))
            raise CheckError(
                "check: f returned other values the second time, at the same arguments: they differ by up to "
                f"{gap:.3g}. Its derivative is not defined. Draw random numbers outside of f and pass them as an "
                "argument, or make the generator inside f from a fixed seed; keep no state from one call to the next"
            )
    if not first:
        raise CheckError("check: f returned nothing; expected an array, or a pytree of arrays")
    return first


def _pairs(f: Any, args: tuple[Any, ...], given: tuple[Any, ...]) -> list[tuple[str, Any, Any]]:
    named, other = leaves_by_name(f, args)[0], leaves_by_name(f, given)[0]
    return [(name, named[name], other[name]) for name in named]
