"""Run one command on one broken input and judge what it did.

Guards, whatever is expected: at most 10 seconds of processor time, at most 300 MiB beyond what the
process had, one JSON object that names the error, no traceback, never exit 70, no control character
on a terminal; and after a refusal every file is as it was, the outputs are absent, and nothing is
left over.
"""

from __future__ import annotations

import io
import json
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from round_inputs import quietly

SECONDS = 10.0
"""Of processor time."""
HANGS = 120.0
"""Seconds on the wall after which a command that waits for something is stopped."""
MIB = 300
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    kind: str
    """`kind` of the error, or ""."""
    message: str
    err: str
    seconds: float
    mib: float
    """Growth of this process's resident memory at its peak."""

    @property
    def told(self) -> str:
        """`CODE KIND`, in the form of `Case.expect`."""
        return f"{self.code} {self.kind}".strip()


class TooSlowError(BaseException):
    """A command did not end in time; no handler of errors catches it."""


@contextmanager
def _deadline() -> Iterator[None]:
    def expire(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _memory(field: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024


def run_here(arguments: tuple[object, ...]) -> Outcome:
    """Run a command line in this process, with --json."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, begin = _memory("VmRSS"), time.process_time()
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), _deadline():
            code = quietly((*arguments, "--json"))
    except TooSlowError:
        return Outcome(124, "TooSlow", "stopped", err.getvalue(), HANGS, 0.0)
    seconds, mib = time.process_time() - begin, _memory("VmHWM") - before
    return outcome(code, out.getvalue(), err.getvalue(), seconds, mib)


def outcome(code: int, out: str, err: str, seconds: float, mib: float) -> Outcome:
    """Read what a command printed; a message that is not there is an empty one."""
    content = json.loads(out) if out.strip() else {}
    error = content.get("error", {}) if code else {}
    return Outcome(code, error.get("kind", ""), error.get("message", ""), err, seconds, mib)


def complaints(done: Outcome, expected: str) -> list[str]:
    """What is wrong, whatever the input was."""
    found = []
    if done.told != expected:
        found.append(f"expected {expected}, got {done.told}: {done.message[:300]}")
    if done.seconds > SECONDS:
        found.append(f"took {done.seconds:.1f} s")
    if done.mib > MIB:
        found.append(f"took {done.mib:.0f} MiB")
    if "Traceback" in done.err:
        found.append("printed a traceback")
    if done.code and not done.message:
        found.append("said nothing")
    if any(not letter.isprintable() for letter in done.message):
        found.append(f"an unprintable character in {done.message!r}")
    if any(not letter.isprintable() and letter not in "\n\r" for letter in done.err):
        found.append(f"an unprintable character on stderr: {done.err[:300]!r}")
    if len(done.message) > _LONGEST_MESSAGE:
        found.append(f"a message of {len(done.message)} characters")
    return found


def snapshot(*roots: Path) -> dict[str, tuple[int, ...]]:
    """Every file below some directories: mode, inode, size and time of change."""
    found: dict[str, tuple[int, ...]] = {}
    for root in roots:
        for path in [root, *root.rglob("*")]:
            status = path.lstat()
            # A directory's time changes when a partial file was made and removed in it.
            still = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            found[str(path)] = (status.st_mode, status.st_ino, *still)
    return found


def changes(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    """The files that differ between two snapshots."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
