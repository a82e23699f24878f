"""What one copy and all copies of the demo's model leave unknown: the threat model's table.

`python benchmarks/handoff_table.py [--only NAME …]`.

For each setting the demo's model is handed out (with a prepared secret, so that the table is the
same in every run) and `mpu audit handoff --layers all` attacks it. One draw each.
About two minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.locate import Located
from mpu_cli.cli.app import run
from mpu_cli.demo.demonstration import assets
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PAPER, PerturbSettings
from mpu_cli.server.secrets.secret import PreparedEntropy


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    words: str
    """The options of `mpu perturb`, for the reader."""
    options: dict[str, Any]
    rounds: int = 1


SETTINGS = (
    Setting("none (κ = 0.1, three copies)", {}),
    Setting("`--denoising extrapolation`", {"denoising": "extrapolation"}),
    Setting("`--reparam rotation`", {"reparam": "rotation"}),
    Setting(
        "`--kappa 0.01 -m 2 --reparam rotation`: the paper's noise in float32",
        {"kappa": 0.01, "copies": 2, "reparam": "rotation"},
    ),
    Setting("`--preset paper`: the same in bfloat16", PAPER),
    Setting("`--offset 0.1`", {"offset": 0.1}),
    Setting("`--kappa 1 --offset 1`", {"kappa": 1.0, "offset": 1.0}),
    Setting("`-m 1 --kappa 0 --offset 0.1`", {"copies": 1, "kappa": 0.0, "offset": 0.1}),
    Setting("`-m 1 --kappa 0 --offset 1`", {"copies": 1, "kappa": 0.0, "offset": 1.0}),
    Setting("`--kappa 1 --split`: one holder, two who pool, all", {"kappa": 1.0, "split": True}),
    Setting(
        "`--kappa 1 -m 1`, a copy in each of three rounds", {"kappa": 1.0, "copies": 1}, rounds=3
    ),
    Setting("no base, `--kappa 0.01` of the weights", {"kappa": 0.01, "base": False}),
)


def audited(setting: Setting, work: Path) -> list[dict[str, Any]]:
    """The rows of the audit of one setting, fewest copies first."""
    options = {**setting.options}
    base = Located(assets() / "base", None) if options.pop("base", True) else None
    entropy = PreparedEntropy(sha256(setting.words.encode()).digest())
    handoffs: list[Path] = []
    for number in range(setting.rounds):
        result = perturb(
            Located(assets() / "model", None),
            base,
            Target(work / f"round-{number + 1}", work / "secret", new_lineage=not number),
            PerturbSettings(check="none", **options),
            entropy=entropy,
        )
        handoffs += [Path(record.target) for record in result.handoffs]
    words = ("audit", "handoff", *handoffs, "--secret", work / "secret")
    options_of_audit = ("--model", assets() / "model", "--layers", "all")
    with contextlib.redirect_stdout(io.StringIO()) as heard:
        code = run([str(word) for word in (*words, *options_of_audit, "--json")])
    found = json.loads(heard.getvalue())
    if code:
        raise SystemExit(f"{setting.words}: {found['error']}")
    rows: list[dict[str, Any]] = found["rows"]
    return sorted(rows, key=lambda row: (len(row["copies"]), row["stated"]))


def table_rows(setting: Setting, rows: list[dict[str, Any]]) -> list[str]:
    """Markdown, one line for every number of copies held."""
    sizes = sorted({len(row["copies"]) for row in rows})
    lines = []
    for size in sizes:
        held = [row for row in rows if len(row["copies"]) == size]
        if setting.rounds > 1:
            held = held[:1]  # draws of one size: all leave the same
        cells = [", ".join(short(row[key]) for row in held) for key in ("stated", "measured")]
        exact = max(row["exact"] for row in held)
        attack, _, how = held[0]["nearest"].partition(", ")[0].partition(": ")
        nearest = f"{attack}, {how}" if attack == "pooling" else attack
        lines.append(
            f"| {setting.words if size == sizes[0] else ''} | {size} of {sizes[-1]} |"
            f" {' | '.join(cells)} | {'< .01' if exact < 1e-4 else f'{100 * exact:.2g}'} % |"
            f" {nearest} |"
        )
    return lines


def short(value: float) -> str:
    """Three digits without the leading zero; one digit below .001."""
    if 0 < value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}".removeprefix("0") if value else "0"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="settings that hold a word")
    options = parser.parse_args()
    print("| options of `perturb` | copies held | stated | measured | bit-exact | nearest attack |")
    print("|---|---|---|---|---|---|")
    for setting in SETTINGS:
        if not options.only or any(word in setting.words for word in options.only):
            with tempfile.TemporaryDirectory() as work:
                print(*table_rows(setting, audited(setting, Path(work))), sep="\n", flush=True)


if __name__ == "__main__":
    main()
