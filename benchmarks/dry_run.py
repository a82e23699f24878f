"""What `mpu unlearn --dry-run` says beside what the same command takes.

Peak memory, seconds, bytes of the result.

python benchmarks/dry_run.py MODEL --forget FILE --retain FILE --max-steps 6 …     (options of `mpu
unlearn`; MODEL may be a handoff)
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run both in processes of their own and print one line for each number."""
    command = [sys.executable, "-m", "mpu_cli", "unlearn", *sys.argv[1:], "--json"]
    said = json.loads(
        subprocess.run([*command, "--dry-run"], check=True, capture_output=True, text=True).stdout
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with tempfile.TemporaryDirectory() as root:
        began = time.monotonic()
        subprocess.run([*command, "--out", f"{root}/out"], check=True, capture_output=True)
        seconds = time.monotonic() - began
        written = sum(path.stat().st_size for path in Path(root, "out").rglob("*.safetensors"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak == before:
        print("the dry run took more memory than the training: no peak to compare with")
    for name, estimated, measured in (
        ("memory, MB", said["memory_bytes"] / 1e6, peak * 1024 / 1e6),
        (
            "result, MB",
            (said["disk_bytes"] if said["received_bytes"] else 4 * said["parameters"]) / 1e6,
            written / 1e6,
        ),
        ("seconds", said["seconds"], seconds),
    ):
        print(
            f"{name:<12} said {estimated:>10.1f}   measured {measured:>10.1f}   said / measured"
            f" {estimated / measured:.2f}"
        )


if __name__ == "__main__":
    main()
