"""`pullback derive`: the gradient of a function in a Python file, derived line by line, each line checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pullback import files
from pullback.cli.options import Options
from pullback.errors import ConfigError

DISAGREES = 3  # exit code: the derivation is there, and a line of it does not agree with the program


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Derive the gradient of a function: the mathematics of its rules, line by line, each checked against numbers.

    The function is run at NAME_example of the same file, a tuple of arguments or a function that returns one, or at
    random arrays of --shapes. Exit code 3 where a line does not agree with the program.

    Example: pullback derive layers.py:residual --format html --out residual.html
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py:NAME")]
    """A Python file and a function in it."""
    shapes: str | None = None
    """Shapes of random arguments in place of the example, such as 3x4,4 (a number: 1)."""
    wrt: tuple[str, ...] = ()
    """Inputs to give closed forms for; all by default."""
    sizes: str | None = None
    """Names of sizes, such as x=m,C;W=C,K."""
    mode: Literal["reverse", "forward"] = "reverse"
    """The gradient, or the directional derivative."""
    format: Literal["text", "markdown", "latex", "html"] = "text"
    """How it is written."""
    out: str | None = None
    """File to write, in place of printing."""
    bars: bool = False
    """Write adjoints with bars, and not as fractions."""
    layout: Literal["column", "row"] = "column"
    """Gradients of vectors as columns, or as rows."""
    open: tuple[str, ...] = ()
    """Fused functions to open into their parts, such as softmax; all: every one."""

    def run(self) -> int:
        """Exit code 3 where a line does not agree."""
        from pullback.show.derivation import derive
        from pullback.show.files import example_of, function_in

        path, _, name = self.target.partition(":")
        module, function = function_in(path, name)
        args = random_arguments(self.shapes) if self.shapes else example_of(module, name)
        derivation = derive(
            function,
            *args,
            wrt=self.wrt or None,
            names=named_sizes(self.sizes) if self.sizes else None,
            mode=self.mode,
            bars=self.bars,
            layout=self.layout,
            open=True if self.open == ("all",) else self.open,
        )
        written = {
            "text": lambda: derivation.text(colour=self.out is None and sys.stdout.isatty()),
            "markdown": derivation.markdown,
            "latex": derivation.latex,
            "html": derivation.html,
        }[self.format]()
        if self.out is not None:
            files.replace(Path(self.out), written.encode())
            written = f"wrote {self.out}"
        self.show(derivation.record() if self.json else None, written)
        return 0 if derivation.ok else DISAGREES


def random_arguments(shapes: str) -> list[Any]:
    """Random arrays of shapes written as `3x4,4`."""
    import numpy as np

    rng = np.random.default_rng(0)
    try:
        sizes = [tuple(int(n) for n in shape.split("x") if n not in ("", "1")) for shape in shapes.split(",")]
    except ValueError:
        raise ConfigError(f"expected --shapes such as 3x4,4, got {shapes!r}") from None
    return [rng.normal(size=size) for size in sizes]


def named_sizes(text: str) -> dict[str, tuple[str, ...]]:
    """Names of sizes written as `x=m,C;W=C,K`."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not all(name.strip() and sizes for name, _, sizes in pairs):
        raise ConfigError(f"expected --sizes such as x=m,C;W=C,K, got {text!r}")
    return {name.strip(): tuple(size.strip() for size in sizes.split(",")) for name, _, sizes in pairs}
