"""Scaling curves: a small convolutional network with one of its sizes changed at a time."""

from __future__ import annotations

from pullback.bench.networks import Network, levels, training
from pullback.bench.workload import Workload

BATCHES = (8, 16, 32, 64, 128, 256)
SIZES = (16, 32, 64, 128)
REPEATS = (1, 2, 4, 8)
THREADS = (1, 2)


def _network(batch: int = 32, size: int = 32, repeats: int = 1) -> Network:
    return Network(levels(size, 10, (32, 64), repeats), (size, size, 3), 10, batch, "adam", 1e-4)


def _curve(name: str, value: int, network: Network, threads: int | None = None) -> Workload:
    full = training(f"{name}/{value}", f"training step of levels 32, 64 with {name} {value}", network, threads=threads)
    kept = ("torch-eager", "torch-channels-last", "jax")
    peers = {peer: contender for peer, contender in full.peers.items() if peer in kept}
    return Workload(full.name, full.summary, {"float32": full.ours["float32"]}, peers, threads=threads)


WORKLOADS = [
    *(_curve("batch", batch, _network(batch=batch)) for batch in BATCHES),
    *(_curve("image-size", size, _network(size=size)) for size in SIZES),
    *(_curve("depth", repeats, _network(repeats=repeats)) for repeats in REPEATS),
    *(_curve("threads", threads, _network(), threads) for threads in THREADS),
]
