"""How far gradients are from those in float64: both convolutional networks, every parameter, pullback beside PyTorch.

Run `python -m benchmarks.gradients`; PyTorch must be installed. Each network's loss is differentiated once by PyTorch
in float64, and in float32 in both of its layouts, and by a compiled program of pullback in each arithmetic that
`precision` allows. A distance is relative to the norm of the gradient, a ratio is to PyTorch in its default layout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import pullback as pb
from pullback import nn
from pullback.bench import in_torch, networks
from pullback.program.lowering import Precision

NETWORKS = {"cifar-cnn": networks.CIFAR_CNN, "cnn64": networks.CNN64}
torch = in_torch.load()
PRECISIONS: tuple[Precision, ...] = ("float32", "float32-fast", "bfloat16")
CONSTANT = 1e-10
"""Norm of a gradient that is zero but for rounding."""


def by_torch(network: networks.Network, dtype: Any, channels_last: bool = False) -> list[Any]:
    """The gradients of the loss, in float64, in the order of the module's parameters."""
    model = in_torch.twin(network.build()).to(dtype).train()
    images, labels = network.data()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype).contiguous(memory_format=layout)
    loss = torch.nn.functional.cross_entropy(model.to(memory_format=layout)(batch), torch.from_numpy(labels))
    loss.backward()
    return [parameter.grad.double().numpy() for parameter in model.parameters()]


def by_pullback(network: networks.Network, precision: Precision) -> list[Any]:
    """The same, as PyTorch lays them out."""
    images, labels = network.data()
    gradient = pb.compile(
        pb.grad(lambda model, x, y: nn.softmax_cross_entropy(model(x), y)), precision=precision
    )(network.build(), images, labels)  # fmt: skip
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    leaves = (np.asarray(leaf, np.float64) for leaf in pb.tree.leaves(gradient))
    return [leaf.transpose(axes[leaf.ndim]) for leaf in leaves]


def distances(gradients: list[Any], exact: list[Any]) -> Any:
    """Of each parameter, relative to the norm of its gradient."""
    pairs = [(g, e) for g, e in zip(gradients, exact, strict=True) if np.linalg.norm(e) > CONSTANT]
    return np.array([np.linalg.norm(g - e) / np.linalg.norm(e) for g, e in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description="Distances from float64.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name, network in NETWORKS.items():
        exact = by_torch(network, torch.float64)
        found = {
            "torch": distances(by_torch(network, torch.float32), exact),
            "torch-channels-last": distances(by_torch(network, torch.float32, channels_last=True), exact),
            **{f"pullback {each}": distances(by_pullback(network, each), exact) for each in PRECISIONS},
        }
        table = Table("contender", "median distance", "largest", "largest ratio to torch", title=name)
        for contender, each in found.items():
            ratio = float((each / found["torch"]).max())
            table.add_row(contender, f"{np.median(each):.1e}", f"{each.max():.1e}", f"{ratio:.2f}")
            figures[f"{name} {contender}"] = {
                "median": float(np.median(each)), "max": float(each.max()), "ratio": ratio,
            }  # fmt: skip
        Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
