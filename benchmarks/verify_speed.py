"""`mpu verify` of a signed handoff against `sha256sum` of the same files, and its memory.

    python benchmarks/verify_speed.py                     # two copies of 256 MiB, three repeats
    python benchmarks/verify_speed.py --mebibytes 2048 --work DIR

In turn (A B A B …), files in the page cache, medians. `sha256sum` reads all files in one process,
as a user would call it; `mpu verify` hashes two files at a time, looks for NaN, and checks the
manifest and its Ed25519 signature with --allowed-signers. Speed counts without start-up (the
imports of `verify`, no torch among them), memory with it: RssAnon, sampled. The bars: at least .8
of the speed, in wall time; at most 150 MiB. CPU time is printed too: on a busy machine it is the
steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from measuring import machine, mpu

from mpu_cli.bundle.manifest import FileEntry, HandoffManifest, PublishedCopy
from mpu_cli.bundle.sign import write_handoff_manifest
from mpu_cli.bundle.signatures.private_key import open_signing_key
from mpu_cli.checkpoint.digest import file_digest

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "handoff-v1" / "copy-1" / "config.json"
SPEED, MEMORY = 0.8, 150
SETUP = """
import mpu_cli.cli.commands.verify, mpu_cli.bundle.finite, mpu_cli.bundle.payload
import mpu_cli.bundle.tensors, mpu_cli.checkpoint.side_files
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from mpu_cli.cli.app import run
"""


def make_handoff(root: Path, mebibytes: int) -> tuple[Path, Path]:
    """A signed handoff of two copies of random numbers, and the file of its signer."""
    handoff, rows = root / "to-client", mebibytes << 15
    copies = []
    for name in ("copy-1", "copy-2"):
        folder = handoff / name
        folder.mkdir(parents=True)
        config = json.loads(GOLDEN.read_text()) | {"vocab_size": rows}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        table = {"dtype": "F32", "shape": [rows, 8], "data_offsets": [0, rows * 32]}
        header = json.dumps({"model.embed_tokens.weight": table}).encode()
        header += b" " * (-len(header) % 8)
        random = np.random.default_rng(1)
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(mebibytes):
                random.standard_normal(1 << 18, dtype=np.float32).tofile(file)
        files = {
            path.name: FileEntry(file_digest(path), path.stat().st_size)
            for path in folder.iterdir()
        }
        copies.append(PublishedCopy(name, files))
    key = root / "key"
    form = (Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    key.chmod(0o600)
    signing = open_signing_key(key)
    manifest = HandoffManifest("0" * 32, "float32", (), tuple(copies))
    write_handoff_manifest(handoff, manifest, signing)
    (root / "signers").write_text(f"vendor {signing.key.line}\n")
    return handoff, root / "signers"


def sha256sum(files: list[Path]) -> tuple[float, float]:
    """Wall and CPU seconds of one `sha256sum` of all files."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, print, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=256, help="of each of two copies")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the files go")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mpu-verify-", dir=given.work))
    try:
        handoff, signers = make_handoff(root, given.mebibytes)
        files = sorted(path for path in handoff.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        os.sync()
        hashed, checked = [], []
        for _ in range(given.repeats):
            hashed.append(sha256sum(files))
            checked.append(
                mpu("verify", handoff, "--allowed-signers", signers, "--json", setup=SETUP)
            )
    finally:
        shutil.rmtree(root)
    wall, cpu = (median(times) for times in zip(*hashed, strict=True))
    verify_wall = median(cost.wall for cost in checked)
    verify_cpu = median(cost.cpu for cost in checked)
    memory = max(cost.imports_mib + cost.peak_mib for cost in checked)
    speed = wall / verify_wall
    result = {
        "bytes": total,
        "sha256sum_wall_seconds": wall,
        "sha256sum_cpu_seconds": cpu,
        "verify_wall_seconds": verify_wall,
        "verify_cpu_seconds": verify_cpu,
        "speed_ratio": speed,
        "cpu_speed_ratio": cpu / verify_cpu,
        "memory_mib": memory,
        "passed": speed >= SPEED and memory <= MEMORY,
        "machine": machine(),
    }
    if given.json:
        print(json.dumps(result))
    else:
        print(f"{total / 1e9:.2f} GB; sha256sum {wall:.2f} s, mpu verify {verify_wall:.2f} s")
        print(f"speed of mpu verify: {speed:.2f} of sha256sum's (bar {SPEED})")
        print(f"per CPU-second: {cpu / verify_cpu:.2f}")
        print(f"memory, imports included: {memory:.0f} MiB (bar {MEMORY})")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
