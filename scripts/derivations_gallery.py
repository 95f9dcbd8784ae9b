"""Writes docs/gallery/derivations.md: the worked examples of docs/gallery/worked.py, derived.

python scripts/derivations_gallery.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pullback.show.derivation import derive
from pullback.show.files import example_of, function_in

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "gallery"
PROGRAMS, PAGE = FOLDER / "worked.py", FOLDER / "derivations.md"

TITLES = {
    "cross_entropy": "Softmax and cross-entropy",
    "residual": "A residual block",
    "descent_step": "A step of gradient descent",
    "linear_layer": "A linear layer on a batch",
    "convolution": "Convolution",
    "batch_norm": "Batch normalisation",
    "logistic": "Regularised logistic regression",
    "two_paths": "Two paths to one variable",
    "recurrent": "A recurrent network",
    "matrix_vector": "A matrix times a vector",
    "largest": "The largest element",
    "rectified": "ReLU",
    "pooled": "Max-pooling",
    "activations": "Activation functions",
}
NAMES: dict[str, dict[str, Any]] = {
    "linear_layer": {"X": ("B", "n"), "T": ("B", "K")},
    "batch_norm": {"x": ("m", "C")},
}
HEAD = """# Worked examples

Programs whose gradients every textbook derives, derived from the programs. `python scripts/derivations_gallery.py`
writes this page. The last column is the largest relative error of the line: of its mathematics against the tape, and of
each rule in it against differences.
"""


def gallery() -> str:
    """The page."""
    return "\n\n".join([HEAD.rstrip(), *[section(name, title) for name, title in TITLES.items()]]) + "\n"


def section(name: str, title: str) -> str:
    """One program and its derivation."""
    module, function = function_in(str(PROGRAMS), name)
    derivation = derive(function, *example_of(module, name), names=NAMES.get(name))
    source = inspect.getsource(function).rstrip()
    shown = derivation.markdown().rstrip().replace("### ", "**").replace("\n\n| | | |", "**\n\n| | | |")
    return f"## {title}\n\n```text\n{source}\n```\n\n{shown}"


if __name__ == "__main__":
    PAGE.write_text(gallery())
    print(f"wrote {PAGE}")
