"""A trained network for use elsewhere: as ONNX, safetensors or Keras. What was written is read again and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pullback import files
from pullback.errors import RunError
from pullback.program.onnx_export import to_onnx
from pullback.train.build import build_model, load_again, normalise
from pullback.train.config import choose
from pullback.train.evaluate import trained_model
from pullback.train.run import Run

Format = Literal["onnx", "safetensors", "keras"]
LARGEST_DIFFERENCE = 1e-4
_COMPARED = 64  # images


@dataclass(frozen=True)
class Export:
    """A network that was written."""

    path: str
    """The file."""
    format: Format
    """Its format."""
    bytes: int
    """Its size."""
    images: int
    """Images on which what was read back was compared with the run's network."""
    largest_difference: float
    """The largest difference between their logits, as a part of the largest logit."""


def export(
    run: str | Path,
    out: str | Path | None = None,
    format: Format = "onnx",
    checkpoint: str = "last",
    images: NDArray[np.uint8] | None = None,
) -> Export:
    """Write the network of a run to the file `out` (by default `network.FORMAT` in the run folder).

    The input of ONNX and Keras models is pixels, float32 (n, H, W, C) from 0 to 255: normalisation is part of them.
    The output is logits (n, classes). A safetensors file holds the arrays by their paths, and the settings, classes and
    normalisation in its metadata. It is compared on `images` (N, H, W, C), or on some of the run's validation images.

    Raises RunError where the run cannot be read, the file cannot be written, or what is read back gives other answers.
    """
    choose("format", format, get_args(Format))
    opened = Run.open(run)
    path = Path(out) if out is not None else opened.folder / f"network.{format}"
    model = trained_model(opened, checkpoint).eval()
    if images is None:
        images = np.asarray(load_again(opened.config).test.images[:_COMPARED])
    expected = np.asarray(model(normalise(opened.config.facts)(images)))
    writers: dict[str, Callable[[Run, Any, Path], Callable[[NDArray[np.uint8]], NDArray[Any]]]] = {
        "onnx": _write_onnx,
        "safetensors": _write_safetensors,
        "keras": _write_keras,
    }
    again = writers[format](opened, model, path)
    difference = float(np.max(np.abs(again(images) - expected)) / max(1.0, float(np.max(np.abs(expected)))))
    if not difference < LARGEST_DIFFERENCE:
        raise RunError(
            f"{path} was written, but what is read back from it differs from the network by {difference:.1e} of the "
            f"largest logit on {len(images)} images, and at most {LARGEST_DIFFERENCE:.0e} was expected: do not use it"
        )
    return Export(str(path), format, path.stat().st_size, len(images), difference)


def _on_pixels(run: Run, model: Any) -> Callable[[Any], Any]:
    """The network with the normalisation of its images before it."""
    facts = run.config.facts
    scale = np.array([1 / (255 * std) for std in facts.std], np.float32)
    shift = np.array([-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)], np.float32)
    return lambda pixels: model(pixels * scale + shift)


def _notes(run: Run) -> dict[str, str]:
    facts = run.config.facts
    return {
        "pullback": run.config.pullback,
        "classes": json.dumps(facts.classes),
        "image_shape": json.dumps(facts.image_shape),
        "mean": json.dumps(facts.mean),
        "std": json.dumps(facts.std),
        "settings": json.dumps(asdict(run.config.settings)),
    }


def _write_onnx(run: Run, model: Any, path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    import onnxruntime

    shape = run.config.facts.image_shape
    content = to_onnx(_on_pixels(run, model), shape, input_name="pixels", output_name="logits", notes=_notes(run))
    files.replace(path, content)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"pixels": images.astype(np.float32)})[0])


def _write_safetensors(run: Run, model: Any, path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    import safetensors.numpy

    files.replace(
        path, safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in model.state().items()}, _notes(run))
    )
    facts = run.config.facts
    again = build_model(run.config.settings, facts.image_shape, len(facts.classes))
    again.load_state(safetensors.numpy.load(path.read_bytes()))
    again.eval()
    return lambda images: np.asarray(again(normalise(facts)(images)))


def _write_keras(run: Run, model: Any, path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    from pullback.train.keras_export import save_keras

    return save_keras(run, model, path)
