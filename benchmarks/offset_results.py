"""What structured_offset.py's journal holds, as tables.

Not a benchmark itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from offset_attacks import ATTACKS, SIBLING_ATTACKS
from one_round import table


def results(work: Path) -> list[dict[str, Any]]:
    """Lines of the journal."""
    lines = (work / "results.jsonl").read_text().splitlines()
    return [{**entry["key"], **entry["result"]} for entry in map(json.loads, lines)]


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{fmean(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def printed(work: Path) -> str:
    """The leaks of all attacks, then errors and their ratio to the white offset's."""
    found = results(work)
    attacks = [entry for entry in found if entry["what"] == "attack"]
    updates = [entry for entry in found if entry["what"] == "update"]
    names = [name for name in (*ATTACKS, *SIBLING_ATTACKS) if name in attacks[0]]
    kinds, leaks = (list(dict.fromkeys(each[key] for each in attacks)) for key in ("kind", "leak"))
    lines = [("wanted", "kind", *names, "sibling's gain")]
    for leak in leaks:
        for kind in kinds:
            mine = [each for each in attacks if (each["kind"], each["leak"]) == (kind, leak)]
            cells = [f"{fmean(each[name] for each in mine):.3f}" for name in names]
            gain = "–"
            if any(name in SIBLING_ATTACKS for name in names):
                with_it, without = (
                    fmean(min(each[name] for name in some if name in each) for each in mine)
                    for some in ({**ATTACKS, **SIBLING_ATTACKS}, ATTACKS)
                )
                gain = f"{1 - with_it / without:.1%}"
            lines.append((f"{leak:g}", kind, *cells, gain))
    text = table(lines)
    if not updates:
        return text
    lines = [("method", "wanted", "kind", "error", "over white, by draw", "√KL share", "error/√KL")]
    for method in dict.fromkeys(each["method"] for each in updates):
        for leak in leaks:
            by_kind = {
                kind: {
                    each["draw"]: each
                    for each in updates
                    if (each["method"], each["kind"], each["leak"]) == (method, kind, leak)
                }
                for kind in kinds
            }
            for kind, mine in by_kind.items():
                if not mine:
                    continue
                white = by_kind.get("white", {})
                ratios = [
                    each["error"] / white[draw]["error"]
                    for draw, each in mine.items()
                    if draw in white
                ]
                errors = [each["error"] for each in mine.values()]
                roots = [math.sqrt(each["KL share"]) for each in mine.values()]
                over = [error / root for error, root in zip(errors, roots, strict=True)]
                lines.append(
                    (
                        method,
                        f"{leak:g}",
                        kind,
                        f"{spread(errors)}, {len(errors)} draws",
                        spread(ratios) if ratios else "–",
                        spread(roots),
                        spread(over),
                    )
                )
    return f"{text}\n\n{table(lines)}"
