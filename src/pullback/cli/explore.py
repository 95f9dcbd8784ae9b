"""`pullback explore`: a page that steps through a run of a function, forward and backward."""

from __future__ import annotations

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Write and open one HTML page that steps through a run of a function: the graph, a slider forward and backward,
    and for each operation its values, adjoints and local Jacobian, its rule, what it saves and its line.

    A function of a file is run at NAME_example of the same file, a tuple of arguments or a function that returns one;
    the network of a run folder on its first validation images. The page needs no network.

    Example: pullback explore layers.py:residual
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py:NAME|RUN")]
    """A Python file and a function in it, or a run folder."""
    out: str | None = None
    """HTML file to write; by default NAME.html, or explore.html in the run folder."""
    images: int = 2
    """Run folders: number of images."""
    checkpoint: str = "last"
    """Run folders: checkpoint, last or best, or initial for the network before the first step."""
    no_browser: bool = False
    """Write the page without opening it."""

    def run(self) -> int:
        """Exit code 0."""
        from pullback.show.explore import explore

        function, args, title, out = self._subject()
        with Progress("looking", "operations", quiet=self.json) as progress:
            page = explore(function, *args, title=title, on_progress=progress)
        path = page.save(self.out or out)
        self.show({"page": str(path), "bytes": len(page.html)}, f"wrote {path}, {len(page.html) / 1e6:.1f} MB")
        if not self.no_browser and not self.json and sys.stdout.isatty():
            webbrowser.open(path.resolve().as_uri())
        return 0

    def _subject(self) -> tuple[Any, tuple[Any, ...], str, Path]:
        """What is run, at which arguments, its title, and where the page goes."""
        path, _, name = self.target.partition(":")
        if Path(path).is_dir():
            from pullback.train.loss import loss_of_run

            function, args = loss_of_run(path, self.checkpoint, self.images)
            return function, args, f"{path}, {self.checkpoint}", Path(path) / "explore.html"
        if not name:
            raise ConfigError(f"expected FILE.py:NAME or a run folder, got {self.target!r}")
        from pullback.show.files import example_of, function_in

        module, function = function_in(path, name)
        return function, tuple(example_of(module, name)), f"{name} of {Path(path).name}", Path(f"{name}.html")
