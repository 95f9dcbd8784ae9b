"""The ledger of memory as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pullback.show.svg import counted, size

if TYPE_CHECKING:
    from pullback.show.memory import Ledger

SHOWN = 40  # entries


def ledger_text(ledger: Ledger) -> str:
    """Entries, totals by module, and what checkpoints would bring."""
    head = [
        f"{ledger.name}: {size(ledger.saved)} saved for the backward pass, in {counted(len(ledger.entries), 'row')}",
        f"peak {size(ledger.peak)}, of which gradients {size(ledger.gradients)}",
        "",
    ]
    rows = [("tensor", "kept by", "why", "size", "freed by the backward of")]
    for entry in ledger.entries[:SHOWN]:
        cost = size(entry.bytes) if entry.bytes else "-"
        why = entry.why if not entry.shared else f"{entry.why} ({entry.shared})"
        rows.append((entry.tensor, entry.operation, why, cost, entry.freed))
    lines = head + columns(rows)
    if len(ledger.entries) > SHOWN:
        lines.append(f"... and {len(ledger.entries) - SHOWN} more, in .entries")
    if ledger.by_module:
        modules = [("module", "saved"), *((path, size(cost)) for path, cost in ledger.by_module.items())]
        lines += ["", *columns(modules)]
    if ledger.checkpoints:
        table = [("pb.checkpoint of", "saves", "costs again", "peak then")]
        for each in ledger.checkpoints[:8]:
            cost = f"{each.seconds * 1e3:.1f} ms ({each.part:.0%} of forward)"
            table.append((each.module, size(each.saves), cost, size(each.peak)))
        lines += ["", *columns(table)]
    return "\n".join(lines)


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of text under each other, with a rule below the first."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]
