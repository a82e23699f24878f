"""Run command lines of mpu in one process that notes what they try to do to the machine.

`python watched.py JOBS.json RESULTS.json`. A job is {"argv": […], "root": DIR}. An audit hook,
which Python code cannot remove again, notes: programs that are started, uses of the network, files
opened for writing outside `root`, code compiled from a file below `root`, and classes that a pickle
names.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback

from mpu_cli.data import template_process

PROGRAMS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
NETWORK = {
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
}
CLOCK = 120
"""Seconds after which a command is stopped: then it is a failure."""
TRIAL = [sys.executable, "-I", "-c"]
"""What a trial of a foreign file in a child process begins with."""
TEMPLATES = [sys.executable, "-s", "-P", "-c"]
"""What the process for chat templates begins with; its program is compared whole."""
noted: list[str] = []
watching = {"root": ""}


def hook(event: str, arguments: tuple) -> None:
    """Note what matters."""
    root = watching["root"]
    if not root:
        return
    if event in PROGRAMS:
        words = arguments[1] if event == "subprocess.Popen" else []
        if not _own([str(word) for word in words]):
            noted.append(f"{event} {arguments!r:.200}")
    elif event in NETWORK or event == "pickle.find_class":
        noted.append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else 0
        place = os.path.realpath(os.fsdecode(path))
        allowed = (root, os.environ["TMPDIR"], os.devnull)
        if writes and not place.startswith(allowed) and "__pycache__" not in place:
            noted.append(f"open {place} {mode}")
    elif event == "compile" and str(arguments[1]).startswith(root):
        noted.append(f"compile {arguments[1]}")


def _own(words: list[str]) -> bool:
    return words[:3] == TRIAL or words[:5] == [*TEMPLATES, template_process.PROGRAM]


def _late(*_: object) -> None:
    raise TimeoutError(f"longer than {CLOCK} s")


def attempt(argv: list[str]) -> dict:
    """One command line: exit code, output, seconds of this process, and the peak of its memory."""
    from mpu_cli.cli.app import run

    out, err = io.StringIO(), io.StringIO()
    began, clock = time.process_time(), time.monotonic()
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(CLOCK)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(argv)
    except BaseException:
        code = -1
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "cpu": time.process_time() - began,
        "clock": time.monotonic() - clock,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """All jobs; the first commands fill the caches, so that a later peak is a job's own."""
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    sys.addaudithook(hook)
    results = []
    for job in jobs:
        watching["root"] = os.path.realpath(job["root"])
        noted.clear()
        done = attempt(job["argv"])
        watching["root"] = ""
        results.append(done | {"noted": list(noted)})
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
