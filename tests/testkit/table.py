"""The table of families in docs/trust.md: `PYTHONPATH=tests python -m testkit.table` prints it."""

from __future__ import annotations

from testkit.case import Family, families
from testkit.commands import COMMANDS

BEGIN = "| family | cases | runs | what is broken |"


def runs(family: Family) -> int:
    """Commands that the family's cases are given to, in all."""
    return sum(len(set(COMMANDS[case.thing]) - set(case.skip)) for case in family.cases)


def table() -> str:
    """One row per family, and their sum."""
    found = families().values()
    rows = [
        f"| {one.name} | {len(one.cases)} | {runs(one)} | {one.about.rstrip('.')} |"
        for one in found
    ]
    cases, total = sum(len(one.cases) for one in found), sum(map(runs, found))
    return "\n".join([BEGIN, "|---|---|---|---|", *rows, f"| **all** | {cases} | {total} | |"])


if __name__ == "__main__":
    print(table())  # noqa: T201
