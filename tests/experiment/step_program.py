"""A program for the steps of tests: it joins its inputs into `out`, or fails as it is told."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def kill() -> None:
    """End as the kernel ends a process when the memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """End as a command of mpu with an error."""
    sys.stderr.write("mpu: error: no luck\n")
    sys.exit(3)


def crash() -> None:
    """End with a traceback."""
    raise RuntimeError("a bug")


def sleep_once() -> None:
    """Let only a second attempt end."""
    marker = Path("../../first-attempt")
    if not marker.exists():
        marker.touch()
        time.sleep(60)


FIRST = {
    "kill": kill,
    "fail": fail,
    "crash": crash,
    "sleep": lambda: time.sleep(60),
    "sleep-a-while": lambda: time.sleep(8),
    "sleep-once": sleep_once,
    "wait": lambda: time.sleep(0.2),
}


def main(name: str, *words: str) -> None:
    """Do what each word says first, then write the name and what the inputs hold."""
    for word in words:
        if word in FIRST:
            FIRST[word]()
    read = [Path(word).read_text() for word in words if "/" in word]
    text = f"{name}({''.join(read)})"
    if Path("secret").exists():
        text += (Path("secret") / "count").read_text()
        (Path("secret") / "count").write_text("changed")
    if "edit" in words:
        Path(words[-1]).write_text("edited")
    Path("out").write_text(text)
    names = ("MPU_TRUST_FILE", "MPU_SECRET", "XDG_STATE_HOME")
    environment = {name: os.environ.get(name) for name in names}
    threads = os.environ.get("OMP_NUM_THREADS")
    sys.stdout.write(json.dumps({"text": text, "threads": threads}))
    sys.stderr.write(f"note of {name}\n{json.dumps(environment)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
