"""Write docs/paper.md from the results of examples/paper-table: `make docs/paper.md`.

`python benchmarks/paper_claims.py examples/paper-table/measured` prints the page. The directory has
one runs.csv of `mpu run` for each plan, by the plan's name; a plan without one is named as not run.
The page answers the claims of the paper (arXiv 2602.23798) and our own questions one by one, each
with intervals and a verdict by a rule that is part of the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paper_costs import offset_section, reparameterization_section
from paper_degradation import degradation_section, improvement_section, real_model_section
from paper_denoising import copies_section, extrapolation_section
from paper_findings import RULES
from paper_plans import PLANS, Tables
from paper_runs import read_table
from paper_tables import Lines, lines_of

from mpu_cli.errors import MpuError


def page(tables: Tables) -> str:
    """The whole page as Markdown."""
    summary: list[Sequence[str]] = []
    sections = [
        section(tables, summary)
        for section in (
            degradation_section,
            improvement_section,
            copies_section,
            reparameterization_section,
            offset_section,
            extrapolation_section,
            real_model_section,
        )
    ]
    lines = [INTRODUCTION, *_runs(tables), "## The answers", ""]
    lines += lines_of(("question", "setting", "estimate, 95 % interval", "verdict"), summary)
    lines += ["", "The rules, fixed before the runs:", ""]
    lines += [f"- ({letter}) {rule}." for letter, rule in RULES.items()]
    for section in sections:
        lines += ["", *section]
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
# The paper's claims at small scale

`make docs/paper.md` writes this page from the CSV files in `examples/paper-table/measured`;
`make -C examples/paper-table` runs the first plan again. MPU is
[arXiv 2602.23798](https://arxiv.org/abs/2602.23798); its own settings are in
[the paper's protocol](paper-protocol.md).
"""


def _runs(tables: Tables) -> Lines:
    lines = ["## What was run", ""]
    rows = []
    for name, what in PLANS.items():
        table = tables.get(name)
        if table is None:
            rows.append((name, what, "not run yet", "–"))
            continue
        seeds = {run.seed for run in table.runs if run.kind == "noise-free"}
        rows.append(
            (name, what, f"{len(table.runs)} runs, {len(seeds)} seeds", ", ".join(table.methods))
        )
    lines += lines_of(("plan", "what", "runs", "methods"), rows)
    return [*lines, "", METHOD]


METHOD = """\
**The numbers.** *forget* and *retain* are the mean answer probabilities of the rows to forget and
of the retained rows after the last round. A model's *score* is the mean of 1 − forget and retain.
Its *degradation* is the share of the noise-free run's score that it loses, in percent; negative
means better. The paper's is an average over TOFU's metrics, most of which say little about models
as small as these, so the percentages are not the same quantity. *Error* is ‖Δ − Δ₀‖ / ‖Δ₀‖ of the
whole change of the weights against the noise-free run's change Δ₀.

**The intervals.** The unit is the seed: it decides the order of the rows, and the noise is drawn
anew for each seed. A noisy run is compared with the noise-free run of the same seed; methods are
averaged within a seed. Intervals are Student's t over the seeds, so they cover orders and draws.
They do not cover other models, rows or methods. *Equivalent* within ± x is two one-sided tests at
5 %.

**The yardstick** is what another order of the rows does: the standard deviation of the noise-free
runs over the seeds, and the error of the next seed's noise-free run against the own seed's.
"""


def main() -> None:
    """Read what is there, print the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("directory", type=Path, help="of the CSV files, by the names of the plans")
    asked = parser.parse_args()
    if not asked.directory.is_dir():
        parser.error(f"{asked.directory}: no such directory")
    try:
        tables = {
            name: read_table(file)
            for name in PLANS
            if (file := asked.directory / f"{name}.csv").is_file()
        }
        print(page(tables), end="")
    except MpuError as error:
        sys.exit(f"{error}\n{error.hint}")


if __name__ == "__main__":
    main()
