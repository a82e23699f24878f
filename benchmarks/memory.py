"""Anonymous memory and time of every command over model size and number of copies.

    python benchmarks/memory.py                                                     # 135M, m = 3: 4
    GB of disk, 1 minute python benchmarks/memory.py --size 135m 360m 1.2b --copies 2 3 5 --work DIR
    # all: 55 GB of disk, about half an hour python benchmarks/memory.py --size 1.2b --copies 2
    # 4.9 GB of weights: 28 GB of disk, minutes

Runs perturb (--check none), verify, diff and aggregate on random weights of real shapes in float32,
each in a child that has imported everything. Prints the peak of RssAnon above the imports (every 5
ms; not RSS, in which pages of files count), CPU and wall seconds; with several m the MiB that one
more copy adds; with several sizes the growth from the smallest to the largest, and what fitted
lines say of a Llama of 70B on paper: memory over the parameters and over the largest matrix of a
layer (a tensor that is held whole grows with the latter), seconds per GB of float32 weights, hours.
Bars: 150 MiB for any command, size and m; growth at most 10 %. The trained copies that diff reads
are stand-ins that need no disk (synthetic.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Cost, describe, machine
from one_round import Round, parser, say, table, workspace
from synthetic import Size

BAR_MIB, BAR_GROWTH = 150, 0.10
LARGE, LARGE_MATRIX = 70e9, 4 * 8192 * 28672
"""Llama 3.1 70B, on paper: its parameters, and the bytes of a layer's largest matrix."""
COMMANDS = ("perturb", "verify handoff", "diff", "verify update", "aggregate", "verify model")
MASKED = ("mask update", "aggregate masked")
"""With --masked also these, of a group of two members."""
Found = dict[str, dict[int, dict[str, Cost]]]
"""By size, copies and command."""


def one_round(root: Path, size: Size, copies: int, *, masked: bool = False) -> dict[str, Cost]:
    """Every command once; the model stays, the rest is removed as soon as it is not needed."""
    run = Round(root, copies)
    run.make_model(size)
    found = {
        "perturb": run.perturb(),
        "verify handoff": run.verify(run.handoff),
        "diff": run.diff(),
    }
    if masked:
        found["mask update"] = run.mask()
    run.remove(run.handoff)
    found |= {
        "verify update": run.verify(run.update),
        "aggregate": run.aggregate(),
        "verify model": run.verify(run.next),
    }
    if masked:
        run.remove(run.next)
        found["aggregate masked"] = run.aggregate(root / "masked-a", root / "masked-b")
    run.remove()
    return found


def fitted(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Least-squares line: intercept and slope."""
    middle = sum(xs) / len(xs)
    slope = sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / sum(
        (x - middle) ** 2 for x in xs
    )
    return sum(ys) / len(ys) - slope * middle, slope


def growth(found: Found, copies: int) -> dict[str, dict[str, float]]:
    """By command: growth from the smallest to the largest size, and the lines fitted to 70B."""
    sizes = sorted((Size(name) for name in found), key=lambda size: size.parameters)
    parameters, matrices = (
        [size.parameters for size in sizes],
        [size.matrix_bytes for size in sizes],
    )
    rows = {}
    for command in found[sizes[0].name][copies]:
        costs = [found[size.name][copies][command] for size in sizes]
        peaks = [cost.peak_mib for cost in costs]
        (over_parameters, slope), (over_matrix, matrix_slope) = (
            fitted(parameters, peaks),
            fitted(matrices, peaks),
        )
        wall, wall_slope = fitted(parameters, [cost.wall for cost in costs])
        rows[command] = {
            "growth": peaks[-1] / peaks[0] - 1,
            "mib_at_70b_by_parameters": over_parameters + slope * LARGE,
            "mib_at_70b_by_matrix": over_matrix + matrix_slope * LARGE_MATRIX,
            "wall_per_gb": wall_slope / 4e-9,
            "cpu_per_gb": fitted(parameters, [cost.cpu for cost in costs])[1] / 4e-9,
            "hours_at_70b": (wall + wall_slope * LARGE) / 3600,
        }
    return rows


def per_copy(costs: dict[int, dict[str, Cost]]) -> dict[str, float]:
    """By command: MiB that one more copy adds, one size."""
    return {
        command: fitted(list(costs), [row[command].peak_mib for row in costs.values()])[1]
        for command in next(iter(costs.values()))
    }


def report(
    found: Found,
    summary: dict[int, dict[str, dict[str, float]]],
    copies_add: dict[str, dict[str, float]],
) -> None:
    for name, by_copies in found.items():
        size = Size(name)
        print(
            f"\n{name}: {size.parameters / 1e6:.1f}M parameters, {size.nbytes / 1e9:.2f} GB; a"
            f" layer {size.layer_bytes / 2**20:.1f} MiB, its largest matrix"
            f" {size.matrix_bytes / 2**20:.1f} MiB"
        )
        rows = [
            [
                "",
                "m",
                "peak above imports",
                "imports",
                "CPU s",
                "wall s",
                "wall s / GB of model",
                f"bar {BAR_MIB} MiB",
            ]
        ]
        for copies, costs in by_copies.items():
            rows += [
                [
                    command,
                    str(copies),
                    f"{cost.peak_mib:.1f} MiB",
                    f"{cost.imports_mib:.0f} MiB",
                    f"{cost.cpu:.1f}",
                    f"{cost.wall:.1f}",
                    f"{cost.wall / size.nbytes * 1e9:.1f}",
                    "ok" if cost.peak_mib <= BAR_MIB else "TOO MUCH",
                ]
                for command, cost in costs.items()
            ]
        print(table(rows))
        if name in copies_add:
            print(
                "one more copy adds: "
                + ", ".join(
                    f"{command} {value:+.1f} MiB" for command, value in copies_add[name].items()
                )
            )
    for copies, commands in summary.items():
        smallest, *_, largest = sorted(found, key=lambda name: Size(name).parameters)
        print(f"\nm = {copies}, from {smallest} to {largest}; 70B on paper")
        rows = [
            [
                "",
                "growth",
                f"bar {BAR_GROWTH:.0%}",
                "by parameters",
                "by largest matrix",
                "s / GB: wall",
                "CPU",
                "hours",
            ]
        ]
        for command, row in commands.items():
            sizes = [
                f"{row[key]:.0f} MiB"
                for key in ("mib_at_70b_by_parameters", "mib_at_70b_by_matrix")
            ]
            times = [f"{row[key]:.1f}" for key in ("wall_per_gb", "cpu_per_gb", "hours_at_70b")]
            rows.append(
                [
                    command,
                    f"{row['growth']:+.1%}",
                    "ok" if row["growth"] <= BAR_GROWTH else "TOO MUCH",
                    *sizes,
                    *times,
                ]
            )
        print(table(rows))


def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument(
        "--copies",
        "-m",
        type=int,
        nargs="+",
        default=[3],
        help="how many copies, one or more numbers from 2 (default 3)",
    )
    options.add_argument(
        "--masked",
        action="store_true",
        help="measure mpu mask update, and aggregate of its results, too; they need more disk",
    )
    given = options.parse_args()
    if min(given.copies) < 2:
        options.error("--copies: the stand-ins for trained copies need at least two")
    here = machine()
    needed = max(
        Size(name).disk(copies, masked=2 * given.masked)
        for name in given.size
        for copies in given.copies
    )
    found: Found = {}
    for name in given.size:
        with workspace(given.work, needed) as root:
            for copies in given.copies:
                say(f"{name}, m = {copies} …")
                found.setdefault(name, {})[copies] = one_round(
                    root, Size(name), copies, masked=given.masked
                )
    summary = {copies: growth(found, copies) for copies in given.copies} if len(found) > 1 else {}
    copies_add = (
        {name: per_copy(costs) for name, costs in found.items()}
        if len(set(given.copies)) > 1
        else {}
    )
    if given.json:
        costs: dict[str, Any] = {
            name: {
                copies: {command: cost.row() for command, cost in row.items()}
                for copies, row in rows.items()
            }
            for name, rows in found.items()
        }
        print(
            json.dumps(
                {
                    "machine": here,
                    "bar_mib": BAR_MIB,
                    "sizes": costs,
                    "growth": summary,
                    "per_copy_mib": copies_add,
                }
            )
        )
        return
    print(describe(here))
    report(found, summary, copies_add)


if __name__ == "__main__":
    main()
