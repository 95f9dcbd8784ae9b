"""What is measured: a workload, which several contenders do, each at its best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[], Any]
"""One run. It ends when the result is there; the first result of a step is compared with that of the others."""
Contender = Callable[[], Step]
"""Makes a step ready, in a process of its own. ImportError where its library is missing."""


@dataclass(frozen=True)
class Workload:
    """A job for pullback and its peers.

    Where `fresh` is set the contenders make no steps but samples: each call starts processes of its own and returns a
    figure in `unit`.
    """

    name: str
    summary: str
    ours: Mapping[str, Contender]
    """By the precision: "float32", "float32-fast", "bfloat16"."""
    peers: Mapping[str, Contender]
    """In float32 (or float64, where the summary says so)."""
    reduced: Mapping[str, Contender] = field(default_factory=dict)
    """Peers in bfloat16."""
    unit: str = "ms"
    fresh: bool = False
    threads: int | None = None
    """CPUs that every contender may use; None for all that the process may run on."""
    tolerance: float = 1e-3
    """Relative distance of the first results, of float32 contenders, that is no error."""

    def contender(self, name: str, precision: str) -> Contender:
        """The contender of this name; "pullback" is ours."""
        if name == "pullback":
            return self.ours[precision]
        return {**self.peers, **self.reduced}[name]

    def rivals(self, precision: str) -> list[str]:
        """The peers that ours is compared with: those in bfloat16 with bfloat16, else those in float32."""
        return list(self.reduced if precision == "bfloat16" else self.peers)
