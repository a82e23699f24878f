"""Wall time of perturb and aggregate against cp + fsync + sha256sum, and the random stream.

    python benchmarks/throughput.py                          # 135M, m = 3, three repeats: 4 GB of
    disk, 2 minutes python benchmarks/throughput.py --size 1.2b --work DIR   # 4.9 GB of weights: 37
    GB of disk, about half an hour

One run, in turn (A B A B …), medians. Perturb: `cp`, `sync FILE` (fsync) and `sha256sum` of as many
bytes as it writes, two files at a time; bar (1.2B, m = 3, start-up excluded): wall at most 1.3
times that. Aggregate: its inputs (deltas and model) read with `sha256sum` and its output written
with `cp`, `sync`, `sha256sum`, two at a time; bar 1.5 times that. `sha256sum` of coreutils may lack
the processor's SHA instructions, so the same is measured with hashlib (OpenSSL), the harder one;
the bars name sha256sum. Inputs are read into the page cache before every run (--cold: dropped from
it instead), and everything written before is flushed. The stream alone: the normals that the draw
needs, (m − 1) for every noised entry, on one thread, through mpu's own generator. Weights are
random, of a real shape, float32, with --check none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measuring import MPU, Cost, describe, machine, measured
from one_round import Round, parser, say, table, verdict, workspace
from synthetic import Size

BARS = {"perturb": 1.3, "aggregate": 1.5}
AT_A_TIME = 2
READ = 1 << 22
DIGEST = (
    'import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())'
)
HASHES = {"sha256sum": "sha256sum", "hashlib": f"'{sys.executable}' -I -S -c '{DIGEST}'"}

STREAM_SETUP = """
from mpu_cli.server.secrets.randomness import derive_key, normals
draws, tensors = int(arguments[0]), json.loads(arguments[1])
"""
STREAM = """
for draw in range(draws):
    for name, elements in tensors.items():
        key = derive_key(bytes(32), "benchmark", draw, name)
        for start in range(0, elements, 1 << 20):
            normals(key, start, min(start + (1 << 20), elements))
"""


def shells(commands: Iterable[Sequence[str]]) -> Cost:
    """Run shell commands, `AT_A_TIME` at once; each is a script and its arguments."""
    waiting, running = list(commands), []
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            script, *arguments = waiting.pop(0)
            running.append(
                subprocess.Popen(["sh", "-ec", script, "sh", *arguments], stdout=subprocess.DEVNULL)
            )
        pid, status = os.wait()
        done = next(child for child in running if child.pid == pid)
        done.returncode = os.waitstatus_to_exitcode(status)
        running.remove(done)
        if done.returncode:
            raise RuntimeError(f"{done.args} ended with {done.returncode}")
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(
        wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, 0.0, 0.0, 0, {}
    )


def copied(source: Path, target: Path, hasher: str) -> list[str]:
    """The script that copies, flushes and hashes one file, and its arguments."""
    return [f'cp "$1" "$2"; sync "$2"; {HASHES[hasher]} "$2"', str(source), str(target)]


def settle(inputs: Iterable[Path], *, cold: bool) -> None:
    """Flush what was written, and bring the inputs into the page cache or out of it."""
    os.sync()
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            buffer = bytearray(READ)
            while file.readinto(buffer):
                pass


def against_perturb(run: Round, hasher: str) -> Cost:
    """As many bytes as the copies have, copied from the model."""
    made = [run.root / f"copied-{number}" for number in range(run.copies)]
    cost = shells(copied(run.model / "model.safetensors", target, hasher) for target in made)
    for target in made:
        target.unlink()
    return cost


def against_aggregate(run: Round, hasher: str) -> Cost:
    """Deltas and model read, and as many bytes as the result has copied from the model."""
    model, target = run.model / "model.safetensors", run.root / "copied"
    reading = [
        [f'{HASHES[hasher]} "$1"', str(path)]
        for path in [model, *sorted(run.update.rglob("*.safetensors"))]
    ]
    cost = shells([copied(model, target, hasher), *reading])
    target.unlink()
    return cost


def compare(root: Path, size: Size, given: argparse.Namespace) -> dict[str, dict[str, list[Cost]]]:
    """By command: its own costs and those of what it is compared with."""
    run = Round(root, given.copies, interval=None)
    run.make_model(size)
    found: dict[str, dict[str, list[Cost]]] = {
        name: {key: [] for key in ("mpu", *HASHES)} for name in BARS
    }
    model, base = run.model / "model.safetensors", run.base / "model.safetensors"
    for number in range(given.repeats):
        say(f"perturb, repeat {number + 1} of {given.repeats} …")
        run.remove()
        for hasher in HASHES:
            settle([model, base], cold=given.cold)
            found["perturb"][hasher].append(against_perturb(run, hasher))
        settle([model, base], cold=given.cold)
        found["perturb"]["mpu"].append(run.perturb())
    run.diff()
    run.remove(run.handoff)
    inputs = [model, *run.update.rglob("*.safetensors")]
    for number in range(given.repeats):
        say(f"aggregate, repeat {number + 1} of {given.repeats} …")
        run.remove(run.next)
        for hasher in HASHES:
            settle(inputs, cold=given.cold)
            found["aggregate"][hasher].append(against_aggregate(run, hasher))
        settle(inputs, cold=given.cold)
        found["aggregate"]["mpu"].append(run.aggregate())
    return found


def middle(costs: Sequence[Cost]) -> tuple[float, float, float]:
    """Median wall, CPU and system seconds."""
    return (
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        median(cost.system for cost in costs),
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--copies", "-m", type=int, default=3, help="how many copies (default 3)")
    options.add_argument(
        "--repeats", type=int, default=3, help="how often (default 3; medians are printed)"
    )
    options.add_argument(
        "--cold",
        action="store_true",
        help="inputs out of the page cache before every run, instead of in it",
    )
    given = options.parse_args()
    here, size = machine(), Size(given.size)
    with workspace(given.work, size.disk(given.copies)) as root:
        found = compare(root, size, given)
    normals = (given.copies - 1) * sum(size.noised.values())
    stream = measured(
        MPU + STREAM_SETUP, STREAM, given.copies - 1, json.dumps(size.noised), interval=None
    )
    ratios = {
        name: {key: middle(costs["mpu"])[0] / middle(costs[key])[0] for key in HASHES}
        for name, costs in found.items()
    }
    if given.json:
        runs = {
            name: {key: [cost.row() for cost in each] for key, each in costs.items()}
            for name, costs in found.items()
        }
        head: dict[str, Any] = {
            "machine": here,
            "size": size.name,
            "copies": given.copies,
            "cold": given.cold,
            "bars": BARS,
        }
        print(
            json.dumps(
                head
                | {
                    "runs": runs,
                    "ratios": ratios,
                    "stream": stream.row() | {"normals": normals},
                }
            )
        )
        return
    print(describe(here))
    print(
        f"{size.name}, float32, m = {given.copies}, inputs {'cold' if given.cold else 'warm'},"
        f" medians of {given.repeats}"
    )
    lines = [["", "wall s", "CPU s", "system", "wall: mpu / this"]]
    for name, costs in found.items():
        lines.append([f"mpu {name}", *(f"{value:.2f}" for value in middle(costs["mpu"])), ""])
        for key in HASHES:
            numbers = [f"{value:.2f}" for value in middle(costs[key])]
            lines.append([f"  cp + fsync + {key}", *numbers, f"{ratios[name][key]:.2f}"])
    print(table(lines))
    for name, bar in BARS.items():
        print(
            f"{name}: {ratios[name]['sha256sum']:.2f} of cp + fsync + sha256sum;"
            f" {verdict(ratios[name]['sha256sum'], bar)}"
        )
    wall, cpu, _ = middle(found["perturb"]["mpu"])
    print(
        f"the stream alone: {normals / 1e6:.0f}M normals, {stream.cpu:.2f} CPU-s on one thread"
        f" ({normals / stream.cpu / 1e6:.0f}M/s); perturb takes {cpu / stream.cpu:.1f} times its"
        f" CPU-seconds, {wall / stream.wall:.1f} times its wall time"
    )


if __name__ == "__main__":
    main()
