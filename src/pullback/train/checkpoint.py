"""Checkpoints: the arrays of a run at one step, with what else it takes to go on from there, in one safetensors file.
The JSON record travels in the file's own header, so that the two are never torn apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pullback.errors import RunError
from pullback.files import replace

FORMAT = "pullback-checkpoint-1"

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass
class Position:
    """Where a run stands after `step` steps, apart from its arrays."""

    step: int = 0
    """Steps of training done."""
    evaluated: int = 0
    """The last step at which the validation images were evaluated; 0 before the first time."""
    loss_sum: float = 0.0
    """Sum over images of the training loss since the last row of training metrics."""
    correct: int = 0
    """Images classified correctly since the last row of training metrics."""
    seen: int = 0
    """Images trained on since the last row of training metrics."""
    images: int = 0
    """Images trained on since the beginning, an image of each epoch counted anew."""
    best_accuracy: float = -1.0
    """The highest validation accuracy so far, between 0 and 1; -1 before the first evaluation."""
    best_step: int = 0
    """The step of `best_accuracy`."""
    metrics_size: int = 0
    """Length of `metrics.jsonl`, bytes."""
    timing_size: int = 0
    """Length of `timing.jsonl`, bytes."""
    train_seconds: float = 0.0
    """Wall-clock time spent in training steps, over all the processes that worked on the run, seconds."""

    @property
    def loss(self) -> float:
        """Mean training loss since the last row of training metrics, nats."""
        return self.loss_sum / self.seen

    @property
    def accuracy(self) -> float:
        """Training accuracy since the last row of training metrics, between 0 and 1."""
        return self.correct / self.seen

    @property
    def images_per_second(self) -> float:
        """Training images a second of training steps; 0 before the first."""
        return self.images / self.train_seconds if self.images else 0.0


def save(path: Path, position: Position, model: Arrays, optimiser: Arrays) -> None:
    """Replace the checkpoint at `path`, atomically. Raises RunError where it cannot be written, the old one intact."""
    from safetensors.numpy import save as to_bytes

    arrays = {f"model.{name}": array for name, array in model.items()}
    arrays |= {f"optimiser.{name}": array for name, array in optimiser.items()}
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    record = json.dumps({"format": FORMAT, **asdict(position)})
    replace(path, to_bytes(arrays, metadata={"pullback": record, "checksum": _checksum(record, arrays)}))


def load(path: Path) -> tuple[Position, Arrays, Arrays]:
    """`(position, model, optimiser)` as they were saved.

    Raises RunError where the file is missing, torn, changed, or no checkpoint of pullback. Nothing in it is executed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except FileNotFoundError as error:
        raise RunError(f"there is no checkpoint {path}.{_others(path)}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"checkpoint {path} is damaged, or no safetensors file: {error}.{_others(path)}") from error
    try:
        text, checksum = metadata["pullback"], metadata["checksum"]
    except KeyError as error:
        raise RunError(f"{path} is no checkpoint of pullback.{_others(path)}") from error
    if checksum != _checksum(text, arrays):
        raise RunError(f"checkpoint {path} is damaged: its contents do not match their checksum.{_others(path)}")
    record = json.loads(text)
    if record.pop("format") != FORMAT:
        raise RunError(f"{path} was written by another version of pullback: use that one, or train again.")
    return Position(**record), _part(arrays, "model."), _part(arrays, "optimiser.")


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _checksum(record: str, arrays: Arrays) -> str:
    """SHA-256 over the record, and over the name, type, shape and values of each array, in the order of the names."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _others(path: Path) -> str:
    """The way out: the other checkpoints beside this one, by name."""
    others = sorted(other.stem for other in path.parent.glob("*.safetensors") if other != path)
    if not others:
        return " There is no other in its folder: train again."
    return "".join(f" Use the other one with `--checkpoint {name}`." for name in others)
