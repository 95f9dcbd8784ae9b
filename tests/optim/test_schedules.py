"""The schedules: their end points, their text, and each against PyTorch's at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pullback import optim
from pullback.errors import ConfigError

SCHEDULES = [
    optim.constant(0.1),
    optim.staircase(0.1, 0.5, every=7),
    optim.exponential(0.1, 0.5, steps=10),
    optim.warmup_cosine(0.1, 5, 40, floor=0.01),
    optim.one_cycle(0.1, 40),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_step_gives_a_float_and_steps_give_an_array(schedule: Any) -> None:
    steps = np.arange(60)
    one_by_one = [schedule(int(step)) for step in steps]
    assert all(isinstance(rate, float) for rate in one_by_one)
    np.testing.assert_allclose(np.broadcast_to(schedule(steps), steps.shape), one_by_one, rtol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_is_stored_as_its_fields(schedule: Any) -> None:
    fields = dataclasses.asdict(schedule)
    assert type(schedule)(**fields) == schedule
    assert eval(repr(schedule), vars(optim)) == schedule


def test_values_at_the_joints() -> None:
    assert optim.constant(0.3)(1000) == 0.3
    stairs = optim.staircase(0.8, 0.5, every=10)
    assert [stairs(t) for t in (0, 9, 10, 19, 20)] == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert optim.exponential(0.8, 0.5, steps=10)(20) == pytest.approx(0.2)
    cosine = optim.warmup_cosine(1.0, 4, 24, floor=0.1)
    assert [cosine(t) for t in (0, 1, 4, 14, 24, 99)] == pytest.approx([0.2, 0.4, 1.0, 0.55, 0.1, 0.1])
    assert optim.warmup_cosine(1.0, 0, 10)(0) == 1.0
    cycle = optim.one_cycle(1.0, 101, warmup_fraction=21 / 101)
    assert [cycle(t) for t in (0, 20, 100, 500)] == pytest.approx([0.04, 1.0, 4e-6, 4e-6])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optim.staircase(0.1, 0.5, 0), r"staircase\(every=...\) to be at least 1 step, got 0"),
        (lambda: optim.exponential(0.1, 0.5, 0), r"exponential\(steps=...\) to be at least 1 step, got 0"),
        (lambda: optim.warmup_cosine(0.1, 10, 10), "from 0 to below total_steps=10, got 10"),
        (lambda: optim.one_cycle(0.1, 3), "total_steps=3 steps, got step -0.1"),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def torch_schedule(torch: Any, name: str, optimiser: Any) -> Any:
    rates = torch.optim.lr_scheduler
    if name == "staircase":
        return rates.StepLR(optimiser, 7, 0.5)
    if name == "exponential":
        return rates.ExponentialLR(optimiser, 0.5**0.1)
    if name == "warmup_cosine":
        warm_up = rates.LinearLR(optimiser, start_factor=1 / 6, total_iters=5)
        return rates.SequentialLR(optimiser, [warm_up, rates.CosineAnnealingLR(optimiser, 35, 0.01)], [5])
    return rates.OneCycleLR(optimiser, 0.1, total_steps=40)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step.*")
@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=lambda schedule: type(schedule).__name__)
def test_every_step_equals_that_of_pytorch(schedule: Any) -> None:
    torch = pytest.importorskip("torch")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    theirs = torch_schedule(torch, type(schedule).__name__, optimiser)
    for step in range(40):
        assert schedule(step) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9), step
        optimiser.step()
        if step < 39:
            theirs.step()
