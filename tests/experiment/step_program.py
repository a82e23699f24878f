"""A program for the steps of tests: it joins its inputs into `out`, or fails as it is told."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(name: str, *words: str) -> None:
    """Write the name and what the inputs hold; a word "kill", "fail" or "sleep" does that first."""
    for word in words:
        match word:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                sys.stderr.write("mpu: error: no luck\n")
                sys.exit(3)
            case "crash":
                raise RuntimeError("a bug")
            case "sleep":
                time.sleep(60)
            case "wait":
                time.sleep(0.2)
    read = [Path(word).read_text() for word in words if "/" in word]
    text = f"{name}({''.join(read)})"
    if Path("secret").exists():
        text += (Path("secret") / "count").read_text()
        (Path("secret") / "count").write_text("changed")
    Path("out").write_text(text)
    sys.stdout.write(json.dumps({"text": text, "threads": os.environ.get("OMP_NUM_THREADS")}))
    sys.stderr.write(f"note of {name}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
