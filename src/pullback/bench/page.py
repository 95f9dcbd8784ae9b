"""The page of measurements, `docs/performance.md`, and its plots, all from the figures of one file."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pullback import files

_INTRODUCTION = """\
# Performance

This page is written by `python -m benchmarks --md docs/performance.md`; its figures are in `performance.json`.
Every contender runs in a process of its own, all of them in turns, each in its best known form with its own threads;
the first results are compared, so that all do the same work. Times are the least and the median of all runs. The ratio
is the least time of the best peer, in an arithmetic of the same precision, divided by ours: above 1, pullback is
faster.
"""


def write(found: dict[str, Any], path: Path) -> None:
    """The page at `path`, and its plots and figures beside it, under its name."""
    plain, curves = _divided(found["results"])
    lines = [_INTRODUCTION, *_about(found), ""]

    def show(results: Sequence[Any], name: str, picture: bytes) -> None:
        place = path.with_name(f"{path.stem}-{name}.svg")
        files.replace(place, picture)
        lines.extend([*_table(results), "", f"![{name}]({place.name})", ""])

    if plain:
        lines += ["## Workloads", ""]
        show(plain, "ratios", _bars(plain))
    for name, points in curves.items():
        lines += [f"## Scaling by {name}", "", f"{points[0]['summary']} and on.", ""]
        show(points, name, _curve(name, points))
    lines += _missing(found["results"])
    files.replace(path, ("\n".join(lines).rstrip() + "\n").encode())
    files.replace(path.with_suffix(".json"), (json.dumps(found, indent=1) + "\n").encode())


def as_text(found: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = [_cells(result) for result in found["results"]]
    rows = [("workload", "precision", "unit", "pullback", "ratio", "peers"), *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[5]]) for row in rows)


def _divided(results: Sequence[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """The results of single workloads, and those of curves by the name of the curve."""
    curves: dict[str, list[Any]] = defaultdict(list)
    for result in results:
        if "/" in result["workload"]:
            curves[result["workload"].split("/")[0]].append(result)
    return [each for each in results if "/" not in each["workload"]], dict(curves)


def _about(found: dict[str, Any]) -> list[str]:
    machine = found["machine"]
    return [
        f"Machine: {machine['processor']}, {machine['cpus']} CPUs, {machine['memory_mib']:,} MiB, {machine['system']}.",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".",
        f"Command: `{found['command']}`.",
    ]


def _table(results: Sequence[Any]) -> list[str]:
    lines = [
        "| workload | precision | unit | pullback: min (median) | ratio | peers: min (median) |",
        "|---|---|---|---|---|---|",
    ]
    return lines + ["| " + " | ".join(_cells(result)) + " |" for result in results]


def _cells(result: Any) -> tuple[str, ...]:
    peers = sorted(result["peers"].items(), key=lambda item: item[1]["min"])
    ratio = "" if result["ratio"] is None else f"{result['ratio']:.2f}"
    others = ", ".join(f"{name} {_figure(each)}" for name, each in peers)
    return result["workload"], result["precision"], result["unit"], _figure(result["pullback"]), ratio, others


def _figure(figures: dict[str, float]) -> str:
    return f"{figures['min']:.4g} ({figures['median']:.4g})"


def _missing(results: Sequence[Any]) -> list[str]:
    reasons = sorted({f"{name}: {why}" for result in results for name, why in result["missing"].items()})
    return ["## Not measured", "", *(f"- {reason}" for reason in reasons)] if reasons else []


# -- plots -----------------------------------------------------------------------------------------------------------
def _bars(results: Sequence[Any]) -> bytes:
    """The ratio of each workload."""
    shown = [each for each in results if each["ratio"] is not None]
    figure, axes = _figure_of(height=0.32 * len(shown) + 1.2)
    names = [f"{each['workload']} ({each['precision']})" for each in shown]
    axes.barh(names, [each["ratio"] for each in shown], color="#3465a4")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("least time of the best peer / least time of pullback")
    return _drawn(figure)


def _curve(name: str, points: Sequence[Any]) -> bytes:
    """The least times by the size that changes."""
    figure, axes = _figure_of(height=3.6)
    sizes = [int(each["workload"].split("/")[1]) for each in points]
    names = dict.fromkeys(peer for each in points for peer in each["peers"])
    axes.plot(sizes, [each["pullback"]["min"] for each in points], marker="o", linewidth=2.5, label="pullback")
    for peer in names:
        axes.plot(sizes, [each["peers"].get(peer, {}).get("min") for each in points], marker=".", label=peer)
    axes.set(xscale="log", yscale="log", xlabel=name, ylabel=f"least time, {points[0]['unit']}")
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
    return _drawn(figure)


def _figure_of(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), layout="constrained")
    return figure, figure.add_subplot()


def _drawn(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
