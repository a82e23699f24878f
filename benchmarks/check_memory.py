"""The anonymous memory that `mpu perturb --check` adds, in decoder layers.

    python benchmarks/check_memory.py                                         # 135M: 3 GB of disk,
    under a minute python benchmarks/check_memory.py --size 135m 360m 1.2b --work DIR        # all:
    30 GB of disk, about ten minutes

Runs perturb with --check none and with --check sample (or --check all) on random weights of a real
shape in float32, each in a child that has imported everything, transformers included. Prints the
peak of RssAnon above the imports (every 5 ms) of both, their difference, and the difference over
the bytes of one decoder layer in float32. Bar: at most three layers.
"""

from __future__ import annotations

import json
from pathlib import Path

from measuring import Cost, describe, machine
from one_round import Round, parser, say, table, verdict, workspace
from synthetic import Size

BAR_LAYERS = 3


def one_size(root: Path, size: Size, copies: int, check: str) -> tuple[Cost, Cost]:
    """Costs of perturb without and with the check."""
    found = []
    for extent in ("none", check):
        say(f"{size.name}, --check {extent} …")
        run = Round(root, copies, check=extent)
        run.make_model(size)
        found.append(run.perturb())
        run.remove()
    return found[0], found[1]


def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--copies", "-m", type=int, default=2, help="how many copies (default 2)")
    options.add_argument(
        "--check",
        choices=("sample", "all"),
        default="sample",
        help="which layers are checked (default sample)",
    )
    given = options.parse_args()
    here = machine()
    rows = [
        [
            "",
            "a layer",
            "--check none",
            f"--check {given.check}",
            "added",
            "in layers",
            "bar",
            "added CPU s",
        ]
    ]
    result = {}
    for name in given.size:
        size = Size(name)
        with workspace(given.work, size.disk(given.copies)) as root:
            without, checked = one_size(root, size, given.copies, given.check)
        added = checked.peak_mib - without.peak_mib
        layers = added * 2**20 / size.layer_bytes
        result[name] = {
            "none": without.row(),
            given.check: checked.row(),
            "layer_mib": size.layer_bytes / 2**20,
            "layers": layers,
        }
        numbers = [
            f"{value:.1f} MiB"
            for value in (size.layer_bytes / 2**20, without.peak_mib, checked.peak_mib, added)
        ]
        rows.append(
            [
                name,
                *numbers,
                f"{layers:.2f}",
                verdict(layers, BAR_LAYERS),
                f"{checked.cpu - without.cpu:.1f}",
            ]
        )
    if given.json:
        print(
            json.dumps(
                {"machine": here, "copies": given.copies, "bar_layers": BAR_LAYERS, "sizes": result}
            )
        )
        return
    print(describe(here))
    print(table(rows))


if __name__ == "__main__":
    main()
