"""Rules made wrong on purpose, to see who notices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def corrupted(primitive: Any, corruption: Callable[..., Any], i: int) -> Iterator[None]:
    """Inside, the rule of input i of a primitive is wrong."""
    make_plan, gradients, before = primitive._make_plan, getattr(primitive, "gradients", None), dict(primitive._plans)

    def wrong_pull(pull: Any, g: Any, saved: Any, shape: Any, params: Any) -> Any:
        with np.errstate(all="ignore"):
            return corruption(lambda g, saved: pull(g, saved, shape, params), g, saved)

    def wrong_plan(tracked: list[int], count: int) -> Any:
        plan = make_plan(tracked, count)
        pulls = [
            functools.partial(wrong_pull, pull) if j == i else pull
            for j, pull in zip(plan.inputs, plan.pulls, strict=False)
        ]
        return plan._replace(pulls=tuple(pulls))

    def wrong_gradients(saved: Any, g: Any, plan: Any, params: Any) -> Any:
        assert gradients is not None
        every = list(gradients(saved, g, plan, params))
        if i in plan.inputs:
            at = plan.inputs.index(i)
            every[at] = corruption(lambda g, saved: gradients(saved, g, plan, params)[at], g, saved)
        return every

    primitive._make_plan = wrong_plan
    if gradients is not None:
        primitive.gradients = wrong_gradients
    primitive._plans.clear()
    try:
        yield
    finally:
        del primitive._make_plan
        if gradients is not None:
            del primitive.gradients
        primitive._plans.clear()
        primitive._plans.update(before)
