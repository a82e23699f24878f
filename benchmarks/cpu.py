"""CPU-seconds of perturb + aggregate against the authors' algorithm in memory, in one session.

    python benchmarks/cpu.py                    # 135M, m = 3, three repeats: 4 GB of disk, about 3
    minutes

mpu perturb and aggregate read and write their files, flush and hash them; the authors' algorithm
(authors.py) has its model and base in memory and touches no disk. Imports, loading and the client's
work are in neither. mpu keeps torch to one thread; the authors' runs with one and with all cores,
since threads that wait for each other spend CPU too. The weights are random, of a real shape,
float32; all in turn, medians. --check none, since the authors check nothing. Bar: perturb +
aggregate take at most 1/8 of the authors' CPU-seconds (135M, m = 3).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median

from measuring import Cost, describe, machine, measured
from one_round import Round, parser, say, table, verdict, workspace
from synthetic import Size

BAR = 1 / 8

SETUP = """
import torch
from pathlib import Path
from safetensors.torch import load_file
from authors import AuthorsRound
model, base, copies, threads = arguments
torch.set_num_threads(int(threads))
def loaded(path):
    tensors = load_file(Path(path) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}
config = json.loads((Path(model) / "config.json").read_text())
round = AuthorsRound(loaded(model), loaded(base), config, int(copies))
client_seconds = 0.0
def client(k, state):
    global client_seconds
    begun = sum(used())
    for tensor in state.values():
        tensor.mul_(1.001)
    client_seconds += sum(used()) - begun
"""
ACTION = """
round.run(client)
extra = {"client": client_seconds, **round.norms}
"""


def authors_cost(run: Round, threads: int) -> Cost:
    """One round of the authors' algorithm on the files of `run`, loaded before the clock starts."""
    return measured(SETUP, ACTION, run.model, run.base, run.copies, threads)


def compare(
    root: Path, size: Size, copies: int, repeats: int, threads: list[int]
) -> tuple[list[Cost], list[Cost], dict[int, list[Cost]]]:
    """perturb, aggregate, and the authors' algorithm by number of threads, all in turn."""
    run = Round(root, copies)
    run.make_model(size)
    perturb, aggregate = [], []
    theirs: dict[int, list[Cost]] = {count: [] for count in threads}
    for number in range(repeats):
        say(f"repeat {number + 1} of {repeats} …")
        for count, costs in theirs.items():
            costs.append(authors_cost(run, count))
        perturb.append(run.perturb())
        run.diff()  # the update that aggregate takes
        run.remove(run.handoff)
        aggregate.append(run.aggregate())
        run.remove()
    return perturb, aggregate, theirs


def without_client(cost: Cost) -> float:
    """CPU-seconds of the authors' algorithm alone."""
    return cost.cpu - cost.extra["client"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--copies", "-m", type=int, default=3, help="how many copies (default 3)")
    options.add_argument(
        "--repeats", type=int, default=3, help="how often (default 3; medians are printed)"
    )
    options.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, os.cpu_count() or 1}),
        help="threads of torch in the authors' algorithm, one or more numbers"
        " (default: 1, and all cores)",
    )
    given = options.parse_args()
    here, size = machine(), Size(given.size)
    if size.nbytes * (5 + 2 * given.copies) > 0.8 * here["memory_gib"] * 2**30:
        options.error(
            f"--size {given.size}: the authors' algorithm does not fit into the memory of this"
            " machine"
        )
    with workspace(given.work, size.disk(given.copies)) as root:
        perturb, aggregate, theirs = compare(root, size, given.copies, given.repeats, given.threads)
    own = median(a.cpu + b.cpu for a, b in zip(perturb, aggregate, strict=True))
    ratios = {count: own / median(map(without_client, costs)) for count, costs in theirs.items()}
    if given.json:
        rows = {
            name: [cost.row() for cost in costs]
            for name, costs in (("perturb", perturb), ("aggregate", aggregate))
        }
        rows |= {
            f"authors, {count} threads": [cost.row() for cost in costs]
            for count, costs in theirs.items()
        }
        print(
            json.dumps(
                {
                    "machine": here,
                    "size": size.name,
                    "copies": given.copies,
                    "runs": rows,
                    "ratios": ratios,
                    "bar": BAR,
                }
            )
        )
        return
    print(describe(here))
    print(f"{size.name}, float32, m = {given.copies}, medians of {given.repeats}")
    lines = [["", "CPU s", "user", "system", "wall s", "memory above its start"]]
    for label, costs in {"mpu perturb": perturb, "mpu aggregate": aggregate}.items():
        lines.append(_line(label, costs, median(cost.cpu for cost in costs)))
    for count, costs in theirs.items():
        lines.append(
            _line(
                f"authors' algorithm, threads: {count}", costs, median(map(without_client, costs))
            )
        )
    print(table(lines))
    print(f"perturb + aggregate: {own:.2f} CPU-s")
    for count, ratio in ratios.items():
        print(
            f"  {ratio:.3f} of the authors' algorithm with {count}"
            f" thread{'s' if count > 1 else ''}; {verdict(ratio, BAR)}"
        )


def _line(label: str, costs: list[Cost], cpu: float) -> list[str]:
    user, system, wall, peak = (
        median(getattr(cost, name) for cost in costs)
        for name in ("user", "system", "wall", "peak_mib")
    )
    return [label, f"{cpu:.2f}", f"{user:.2f}", f"{system:.2f}", f"{wall:.2f}", f"{peak:.0f} MiB"]


if __name__ == "__main__":
    main()
