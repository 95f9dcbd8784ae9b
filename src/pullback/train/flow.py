"""The flow of activations and gradients along a run: before its first step, at its best checkpoint, and at its last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pullback.core import tree
from pullback.data import Splits
from pullback.show.flow import Flow, flow
from pullback.train.build import build_batches, build_optimizer, build_schedule, load_again, run_length
from pullback.train.loss import INITIAL, loss_of_run
from pullback.train.run import CHECKPOINTS, Run


def flow_of_run(run: str | Path, images: int = 64, data: Splits | None = None) -> list[Flow]:
    """The account at each point of the run that can be had, on the same validation images, in the order of the steps.

    `data` are those of the run, where they have been read already. The steps of the optimiser are those it would make
    next, with its state at that point. Raises RunError where the run cannot be read or its data have changed.
    """
    opened = Run.open(run)
    data = load_again(opened.config) if data is None else data
    settings = opened.config.settings
    batches = build_batches(settings, opened.config.facts, data.train)
    schedule = build_schedule(settings, run_length(settings, len(batches)), len(batches))
    optimizer = build_optimizer(settings, schedule)
    flows: dict[int, Flow] = {}
    for name in (INITIAL, *reversed(CHECKPOINTS)):  # a step that is both is called the last
        if name != INITIAL and not opened.checkpoint_path(name).exists():
            continue
        _, (model, inputs, targets) = loss_of_run(run, name, images, data.test)
        step, state = (0, None) if name == INITIAL else _state(opened, name, optimizer.init(model))
        title = f"step {step:,}" + ("" if name == INITIAL else f" ({name})")
        flows[step] = flow(model, (inputs, targets), optimizer=optimizer, state=state, title=title)
    return [flows[step] for step in sorted(flows)]


def _state(run: Run, name: str, like: Any) -> tuple[int, Any]:
    """The step of a checkpoint, and the state of the optimiser there."""
    position, _, arrays = run.checkpoint(name)
    structure = tree.flatten(like)[1]
    return position.step, structure.unflatten([arrays[path] for path in structure.paths()])
