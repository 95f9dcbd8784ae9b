"""`pb.graph`: the picture of a run, forward, backward or both: an SVG, a text tree, or DOT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pullback import files
from pullback.errors import ConfigError
from pullback.show.dot import dot
from pullback.show.layers import TOP
from pullback.show.svg import Part, draw
from pullback.show.texttree import text_tree
from pullback.show.traced import Traced, traced

READABLE = 60  # cards: more boxes are opened as long as no more than these show


@dataclass(frozen=True)
class Graph:
    """A picture of a run. `print` shows it as text, a notebook as SVG; `save` writes either, or DOT."""

    run: Traced
    part: Part
    depth: int | None

    def svg(self) -> str:
        """The picture as an SVG file that needs nothing else."""
        return draw(self.run, self.part, self.opened())

    def text(self) -> str:
        """The picture as a tree of text, boxes below their depth folded."""
        return text_tree(self.run, self.part, self.opened())

    def dot(self) -> str:
        """The picture in the language of Graphviz, with boxes as clusters."""
        return dot(self.run, self.part)

    def save(self, path: str | Path) -> Path:
        """Writes the form that the file's ending names: .svg, .txt or .dot. Raises ConfigError for any other."""
        path = Path(path)
        forms = {".svg": self.svg, ".txt": self.text, ".dot": self.dot}
        if path.suffix not in forms:
            raise ConfigError(f"{path}: expected a file that ends in {', '.join(forms)}, got {path.suffix or 'none'}")
        files.replace(path, forms[path.suffix]().encode())
        return path

    def opened(self) -> set[int]:
        """The boxes that are open: to a depth, or as many levels as stay readable."""
        boxes = self.run.boxes
        if self.depth is not None:
            return {box.number for box in boxes if box.depth < self.depth}
        inside = Counter(box.number for operation in self.run.operations for box in operation.scope)
        best: set[int] = set()
        for depth in range(1, 2 + max((box.depth for box in boxes), default=-1)):
            opened = {box.number for box in boxes if box.depth < depth and inside[box.number] > 1}
            if _cards(self.run, opened) > READABLE:
                break
            best = opened
        return best

    def __str__(self) -> str:
        return self.text()

    def _repr_svg_(self) -> str:
        return self.svg()


def graph(f: Callable[..., Any], *args: Any, part: Part = "both", depth: int | None = None) -> Graph:
    """The graph of `f(*args)`: operations, the values between them with their shapes, and what flows back.

    Args:
        f: a function of pytrees, or a module.
        args: its arguments; floating-point leaves are differentiated, integers and other leaves are held.
        part: "forward", "backward", or "both" joined: beside each value its adjoint, in the other direction.
        depth: how many levels of modules and functions are open; by default as many as stay readable.

    Raises:
        ConfigError: `part` or `depth` is none of these.
        DtypeError: no argument is of a floating-point type.
    """
    if part not in ("forward", "backward", "both"):
        raise ConfigError(f"graph: part must be 'forward', 'backward' or 'both', got {part!r}")
    if depth is not None and depth < 0:
        raise ConfigError(f"graph: expected a depth of at least 0, got {depth}")
    return Graph(traced(f, args), part, depth)


def _cards(run: Traced, opened: set[int]) -> int:
    """How many operations and folded boxes show."""
    shown = set()
    for operation in run.operations:
        closed = next((box.number for box in operation.scope if box.number not in opened), None)
        shown.add((TOP, operation.number) if closed is None else (closed, -1))
    return len(shown)
