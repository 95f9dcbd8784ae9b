"""What can be switched on around a piece of code, for one thread: no recording, the search for NaNs, the journal of
state."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pullback.core.source import Source
from pullback.core.tensor import plain_value
from pullback.errors import NonFiniteError

levels = itertools.count(1)
"""Later is inner: each trace, and each `no_grad`, takes the next."""


class Context(threading.local):
    """What is switched on around a piece of code, for one thread."""

    barrier = -1  # tapes of a lower level do not record (no_grad)
    watch = False  # look for the first NaN or infinity (trace_nans)
    journal: list[tuple[Any, Any]] | None = None  # state changed by a run that will be repeated
    state: Any = None  # what reads and writes the state of modules, `read(holder)` and `write(holder, value)`


context = Context()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, nothing is recorded for the tapes that exist outside."""
    before = context.barrier
    context.barrier = next(levels)
    try:
        yield
    finally:
        context.barrier = before


@contextmanager
def trace_nans() -> Iterator[None]:
    """Inside, the first operation that makes a NaN or an infinity, forward or backward, raises NonFiniteError with
    its line."""
    before = context.watch
    context.watch = True
    try:
        yield
    finally:
        context.watch = before


def watch(primitive: Any, values: Sequence[Any], results: Any, direction: str, source: Source | None) -> None:
    """Raises NonFiniteError where a result holds a NaN or an infinity."""
    for result in results if isinstance(results, tuple) else (results,):
        if not _finite(result):
            plain = plain_value(result)
            kind = "NaN" if np.isnan(plain).any() else "infinity"
            came_in = [i for i, value in enumerate(values) if not _finite(value)]
            origin = f"(already in its input {came_in[0]})" if came_in else "from finite inputs"
            raise NonFiniteError(
                f"{direction} pass: {primitive.name} made {kind} {origin} at {source or 'a line outside trace_nans'}; "
                f"first at index {tuple(np.argwhere(~np.isfinite(plain))[0].tolist())} of shape {np.shape(plain)}"
            )


def _finite(x: Any) -> bool:
    x = plain_value(x)
    return not isinstance(x, np.ndarray | np.floating) or x.dtype.kind != "f" or bool(np.isfinite(x).all())


@contextmanager
def journal() -> Iterator[list[tuple[Any, Any]]]:
    """Inside, notes every object whose `value` is changed through `note_change`, with what it was before."""
    before = context.journal
    changes: list[tuple[Any, Any]] = []
    context.journal = changes
    try:
        yield changes
    finally:
        context.journal = before


def note_change(holder: Any) -> None:
    """Called by anything that holds state in `value`, just before it changes it."""
    if context.journal is not None and all(holder is not known for known, _ in context.journal):
        context.journal.append((holder, holder.value))


@contextmanager
def replay(changes: list[tuple[Any, Any]]) -> Iterator[None]:
    """Inside, the state is what it was when the journal began; afterwards it is again what it is now."""
    now = [(holder, holder.value) for holder, _ in changes]
    try:
        for holder, value in changes:
            holder.value = value
        yield
    finally:
        for holder, value in now:
            holder.value = value
