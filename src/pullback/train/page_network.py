"""The parts of a run's page about its network: layers, graph, the flow of gradients, and memory."""

from __future__ import annotations

from typing import Any

import numpy as np

import pullback as pb
from pullback import nn, optim
from pullback.core import tree
from pullback.data import Splits
from pullback.show import html_page as html
from pullback.show.flow import draw
from pullback.train.build import build_batches, build_optimizer, normalise
from pullback.train.evaluate import trained_model
from pullback.train.flow import flow_of_run
from pullback.train.loop import training_step
from pullback.train.run import Run

_DRAWN = 8
"""Images in the batch whose run is drawn."""
_OBSERVED = 64
"""Images in the batch of which gradients are measured."""


def network_parts(run: Run, data: Splits, checkpoint: str) -> list[str]:
    """The layers, the picture of the network, how gradients run through it, and the memory that a step takes."""
    facts = run.config.facts
    model = trained_model(run, checkpoint)
    images = normalise(facts)(np.asarray(data.test.images[:_DRAWN]))
    layers = html.table(
        [(row.name or "-", row.layer, row.output_shape, row.parameters) for row in model.rows(facts.image_shape)],
        ("name", "layer", "output shape", "parameters"),
    )
    graph = html.image(pb.graph(model, images, depth=1).svg().encode(), "image/svg+xml", "the network's operations")
    flows = flow_of_run(run.folder, min(_OBSERVED, len(data.test)), data)
    return [
        html.heading("The network"),
        html.side_by_side([layers, graph]),
        html.heading("The flow of gradients"),
        html.drawing(draw(flows), "norms of activations and gradients by layer"),
        html.table([(f"{each.title}:", finding) for each in flows for finding in each.findings]),
        html.heading("Memory"),
        *_memory(run, data, model),
    ]


def _memory(run: Run, data: Splits, model: Any) -> list[str]:
    """What a training step takes, as the compiled program that it is, and as plain NumPy on a tape."""
    settings = run.config.settings
    optimizer = build_optimizer(settings, optim.constant(settings.lr))
    state = optimizer.init(model)
    batch = build_batches(settings, run.config.facts, data.train).at(0)

    def loss(model: Any, images: Any, targets: Any) -> Any:
        return nn.softmax_cross_entropy(model(images), targets)

    ledger = pb.memory(loss, model, batch.images, batch.targets)
    program = pb.compile(training_step(optimizer), donate=(0, 1)).explain(model, state, batch.images, batch.targets)
    kept = sum(array.nbytes for array in tree.leaves((model, state)) if isinstance(array, np.ndarray))
    rows = [
        ("parameters and the optimiser's state", _size(kept)),
        (f"a batch of {len(batch.images)} images", _size(batch.images.nbytes)),
        ("a step as a compiled program, besides, at most", _size(program.peak)),
        ("a step in eager mode, besides, at most", _size(ledger.peak)),
        ("... kept from the forward to the backward pass", _size(ledger.saved)),
    ]
    modules = [(name.removeprefix("model."), _size(cost)) for name, cost in ledger.by_module.items() if "." in name]
    return [html.side_by_side([html.table(rows), html.table(modules, ("kept for the backward pass by", ""))])]


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
