"""All workloads by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pullback.bench import curves, functions, networks, starting
from pullback.bench.workload import Workload
from pullback.errors import ConfigError

WORKLOADS: dict[str, Workload] = {
    each.name: each for each in (*networks.WORKLOADS, *functions.WORKLOADS, *starting.WORKLOADS, *curves.WORKLOADS)
}


def select(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names; without the number at its end a name stands for all that differ in it, such as the
    points of a curve, and no names stand for all workloads."""
    chosen: dict[str, Workload] = {}
    for name in names:
        found = {key: each for key, each in WORKLOADS.items() if name in (key, _family(key))}
        if not found:
            known = list(dict.fromkeys(key.split("/")[0] for key in WORKLOADS))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"no workload is called {name!r}.{hint} Known: {', '.join(known)}.")
        chosen |= found
    return list(chosen.values() if names else WORKLOADS.values())


def _family(name: str) -> str:
    return re.sub(r"[/-]\d+$", "", name)
