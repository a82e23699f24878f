"""Rows and tables of withholding.py and withheld_unlearning.py: shared, not a benchmark."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from one_round import table
from paper_intervals import Estimate

Row = dict[str, Any]
NOTHING = -1
"""L of a client that got nothing."""
EMBEDDINGS = -2
"""L of a client that got the embeddings and no layer."""
NAMES = {NOTHING: "none", EMBEDDINGS: "embeddings"}
KEYS = ("seed", "layer", "rows")
FIELDS = (
    *KEYS,
    "unsent",
    "rate",
    "kl",
    "probability",
    "kl_base",
    "base",
    "theta",
    "probe",
    "probe_base",
)
"""What a file of withholding.py holds."""
TEXTS = ("method", "strength")


def estimate(values: list[float]) -> str:
    """A mean over seeds, with its interval."""
    if not values:
        return "–"
    found = Estimate.of(values)
    low, high = found.interval()
    return f"{found.mean:.3f}" + (f" [{low:.2f}, {high:.2f}]" if found.seeds > 1 else "")


def tables(rows: list[Row]) -> str:
    """Means over the seeds by layer and rows."""
    head = ["L", "rows", "never sent", "KL(θ‖·), nats", "regained, KL", "answer probability"]
    lines = [[*head, "regained, probability", "probe on θ's", "on the base's"]]
    places = {(int(row["layer"]), int(row["rows"])) for row in rows}
    for layer, taught in sorted(places, key=lambda at: (at[0] >= 0, abs(at[0]), at[1])):
        mine = [row for row in rows if (row["layer"], row["rows"]) == (layer, taught)]
        share = [1 - row["kl"] / row["kl_base"] for row in mine]
        gained = [(row["probability"] - row["base"]) / (row["theta"] - row["base"]) for row in mine]
        given = {field: [row[field] for row in mine if field in row] for field in FIELDS}
        cells = [given["unsent"], given["kl"], share, given["probability"], gained]
        cells += [given["probe"], given["probe_base"]]
        name = NAMES.get(layer, str(layer))
        lines.append([name, str(taught), *map(estimate, cells)])
    ends = (f"{name} {estimate([row[name] for row in rows])}" for name in ("theta", "base"))
    return f"{table(lines)}\nanswer probability: {', '.join(ends)}"


def read(path: Path) -> list[Row]:
    """The rows of a file; an empty cell is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {k: v if k in TEXTS else float(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: Sequence[Row], fields: Sequence[str] = FIELDS) -> None:
    """The rows as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
