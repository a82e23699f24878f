"""Run a command line in a forked process that is killed, or meets an error, at a chosen moment.

The fork has torch and mpu imported already, so one death costs a fraction of a second. The hook
lives here: it wraps the functions of `os` that change the disk, which pathlib, shutil, tempfile and
mpu all call by their names, and the one call that mpu makes past `os` (`exchange`). Bytes that C
code writes (`file.write`) are not calls of `os`: a file system of growing size covers them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = (
    "open",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdatasync",
    "fchmod",
    "chmod",
    "mkdir",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "rmdir",
)
"""The functions of `os` that change the disk; `open` counts where it may make a file."""
NAMED = (
    "fsync",
    "fdatasync",
    "mkdir",
    "rename",
    "replace",
    "exchange",
    "link",
    "unlink",
    "remove",
    "rmdir",
)
"""Those after which another state of the disk is durable or visible."""
WRITES = ("open", "pwrite", "fsync", "fdatasync", "mkdir", "link")
"""Those that need space; a rename and a removal work on a full disk."""
RENAMES = ("rename", "replace", "exchange")
COUNTS: Counter[str] = Counter()
"""What was tried, printed at the end of the tests."""
_PATIENCE = 120.0


@dataclass(frozen=True)
class Moment:
    """When something happens to the process, and what."""

    number: int = 0
    """At which call, from 1; 0 = never."""
    what: str = "kill-before"
    """kill-before, kill-after, or the name of an error that the call raises instead: ENOSPC."""
    calls: tuple[str, ...] = ()
    """Which calls count; () = all."""
    once: bool = True
    """Whether only this call fails, or every one after it too: a full disk stays full."""
    seconds: float = 0.0
    """Kill it from outside after this time instead."""
    act: Callable[[], object] | None = None
    """Do this before the call instead."""


NEVER = Moment()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code, or −9 if it was killed."""
    out: str
    err: str
    calls: list[str] = field(default_factory=list)
    """Every call that counted, with its path, in order; empty if it was killed."""
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.code == -signal.SIGKILL

    @property
    def error(self) -> str:
        """The line of its error."""
        return next((x for x in self.err.splitlines() if x.startswith("mpu: error: ")), "")


def run_apart(
    words: tuple[object, ...], scratch: Path, moment: Moment = NEVER, draw: str | None = None
) -> Ended:
    """Run a command line in a forked process.

    Args:
        words: the command line after `mpu`.
        scratch: a directory for what it prints.
        moment: when it dies.
        draw: text of the prepared entropy (`perturb` then makes the same bits); None = the
            operating system's.
    """
    return fork_apart(lambda: _mpu(words, draw), scratch, moment)


def fork_apart(action: Callable[[], int], scratch: Path, moment: Moment = NEVER) -> Ended:
    """Run a function in a forked process; its result is the exit code."""
    scratch.mkdir(exist_ok=True)
    files = {name: scratch / name for name in ("out", "err", "calls")}
    for file in files.values():
        file.write_text("")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                handle = os.open(files[name], os.O_WRONLY | os.O_APPEND)
                os.dup2(handle, number)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - pytest's capture is not ours
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            calls: list[str] = []
            _arm(moment, calls)
            code = action()
            sys.stdout.flush()
            sys.stderr.flush()
            _disarm()
            files["calls"].write_text(json.dumps(calls))
        finally:
            os._exit(code)
    code = _wait(child, moment.seconds)
    text = {name: file.read_text() for name, file in files.items()}
    calls = json.loads(text["calls"] or "[]")
    return Ended(code, text["out"], text["err"], calls, time.monotonic() - began)


def _mpu(words: tuple[object, ...], draw: str | None) -> int:
    from mpu_cli.cli.app import run
    from mpu_cli.server.secrets.prepared import prepared_entropy

    with prepared_entropy(draw) if draw is not None else contextlib.nullcontext():
        return run([str(word) for word in words])


def _wait(child: int, seconds: float) -> int:
    deadline = time.monotonic() + (seconds or _PATIENCE)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not seconds:
        raise TimeoutError(f"a command took more than {_PATIENCE:.0f} seconds")
    return os.waitstatus_to_exitcode(status)


_REAL: dict[str, Any] = {}


def _arm(moment: Moment, calls: list[str]) -> None:
    import mpu_cli.checkpoint.staging as staging

    root = str(Path.cwd())

    def wrapped(name: str, real: Any) -> Any:
        counted = not moment.calls or name in moment.calls

        def call(*arguments: Any, **more: Any) -> Any:
            if not counted or (name == "open" and not _makes(arguments, more)):
                return real(*arguments, **more)
            path = _named(arguments, more.get("dir_fd"))
            if not path.startswith(root):  # the tokenizer's temporary files, for one
                return real(*arguments, **more)
            calls.append(f"{name} {path}")
            passed = moment.number and len(calls) >= moment.number
            hit = len(calls) == moment.number or (passed and not moment.once)
            if not hit:
                return real(*arguments, **more)
            if moment.act is not None:
                moment.act()
                return real(*arguments, **more)
            if moment.what == "kill-before":
                os.kill(os.getpid(), signal.SIGKILL)
            if moment.what == "kill-after":
                with contextlib.suppress(OSError):
                    real(*arguments, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            number = getattr(errno, moment.what)
            raise OSError(number, os.strerror(number))

        return call

    for name in CALLS:
        _REAL[name] = getattr(os, name)
        setattr(os, name, wrapped(name, _REAL[name]))
    staging.exchange = wrapped("exchange", staging.exchange)


def _disarm() -> None:
    for name, real in _REAL.items():
        setattr(os, name, real)


def _makes(arguments: tuple[Any, ...], more: dict[str, Any]) -> bool:
    flags = arguments[1] if len(arguments) > 1 else more.get("flags", 0)
    return bool(flags & os.O_CREAT)


def _named(arguments: tuple[Any, ...], folder: int | None) -> str:
    first = arguments[0]
    if folder is not None:  # shutil.rmtree names files relative to an open directory
        return f"{_named((folder,), None)}/{os.fsdecode(first)}"
    if isinstance(first, int):
        try:
            return str(Path(f"/proc/self/fd/{first}").readlink())
        except OSError:
            return "?"
    return os.path.abspath(os.fsdecode(first))  # noqa: PTH100


def random_moments(seed: str, count: int, longest: float) -> list[Moment]:
    """Moments to kill a command from outside, over the whole of its run."""
    rng = random.Random(seed)
    return [Moment(seconds=rng.uniform(0.001, longest)) for _ in range(count)]
