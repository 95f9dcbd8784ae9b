"""Draws docs/images/derivatives.png: a NumPy program with a loop, and its first three derivatives.

    python scripts/readme_picture.py

The program is Newton's method for Kepler's equation, which has no closed solution: the position of a body on an ellipse
as a function of time. The derivatives come from differentiating through the iteration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import pullback as pb

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "derivatives.png"
ECCENTRICITY = 0.6
COLOURS = ["#1b2a41", "#2a6f97", "#c9563c", "#8a9a5b"]


def anomaly(time: Any) -> Any:
    """The eccentric anomaly E at `time`, with E - e sin E = time, by Newton's method; one turn takes 2 pi."""
    E = time
    for _ in range(8):  # not "until E has converged": at time 0 that is at once, and before the derivatives have
        E = E - (E - ECCENTRICITY * np.sin(E) - time) / (1 - ECCENTRICITY * np.cos(E))
    return E


def height(time: Any) -> Any:
    """How far the body stands above the long axis of its ellipse of half length 1."""
    return np.sqrt(1 - ECCENTRICITY**2) * np.sin(anomaly(time))


def main() -> None:
    from matplotlib.figure import Figure

    derivatives = [height]
    for _ in range(3):
        derivatives.append(pb.grad(derivatives[-1]))
    times = np.linspace(-np.pi, np.pi, 401)
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    orbit, curves = figure.subplots(1, 2, width_ratios=[1, 1.9])

    turns = np.linspace(0, 2 * np.pi, 400)
    orbit.plot(np.cos(turns) - ECCENTRICITY, np.sqrt(1 - ECCENTRICITY**2) * np.sin(turns), color="#b9c2cc", lw=1.2)
    seen = np.array([anomaly(t) for t in np.linspace(-np.pi, np.pi, 25)[:-1]])
    x, y = np.cos(seen) - ECCENTRICITY, np.sqrt(1 - ECCENTRICITY**2) * np.sin(seen)
    orbit.plot(x, y, "o", color=COLOURS[0], ms=4)
    orbit.plot(0, 0, "o", color="#e0a030", ms=10)
    orbit.set_aspect("equal")
    orbit.set_axis_off()
    orbit.set_title("24 equal steps of time", fontsize=10)

    labels = ["height(t)", "grad(height)", "grad(grad(height))", "grad(grad(grad(height)))"]
    for function, colour, label in zip(derivatives, COLOURS, labels, strict=True):
        values = np.array([function(t) for t in times])
        curves.plot(times, values / np.abs(values).max(), color=colour, lw=1.6, label=label)
    curves.axhline(0, color="#b9c2cc", lw=0.8, zorder=0)
    curves.set_xlabel("time t")
    curves.set_xticks([-np.pi, 0, np.pi], ["-π", "0", "π"])
    curves.set_ylabel("scaled to 1")
    for side in ("top", "right"):
        curves.spines[side].set_visible(False)
    curves.legend(fontsize=8, frameon=False, loc="upper left")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
