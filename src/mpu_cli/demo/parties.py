"""Two parties on one machine, with separate directories and processes, and a tested wall.

While one party's command runs, the other's directory has mode 000. Root ignores file modes, so a
child of a root process also drops the two capabilities that allow this (CAP_DAC_OVERRIDE,
CAP_DAC_READ_SEARCH).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.errors import CheckFailedError

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2

_READ, _FORBIDDEN = 11, 13
"""Exit codes of the attempt, which differ from those of Python's own failures."""
_ATTEMPT = f"""
import sys
try:
    open(sys.argv[1], "rb").read(1)
except PermissionError:
    sys.exit({_FORBIDDEN})
sys.exit({_READ})
"""


@dataclass(frozen=True, slots=True)
class Party:
    """A name and the directory that only this party may read."""

    name: str
    directory: Path

    def run(self, command: Sequence[str], away_from: Party) -> subprocess.CompletedProcess[str]:
        """Run a command in this party's directory, without access to the other party's."""
        with _walled_off(away_from.directory):
            return subprocess.run(
                list(command),
                cwd=self.directory,
                capture_output=True,
                encoding="utf-8",
                check=False,
                env=_environment(),
                preexec_fn=_give_up_reading,
            )

    def mpu(self, *arguments: str, away_from: Party) -> dict[str, Any]:
        """Run one `mpu … --json` command and return its result.

        Raises:
            CheckFailedError: the command failed; the error has its message and its hint.
        """
        done = self.run(
            [sys.executable, "-m", "mpu_cli", "--quiet", *arguments, "--json"], away_from
        )
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            raise CheckFailedError(
                f"{self.name}: mpu {arguments[0]} crashed: {done.stderr.strip()[-300:]}",
                "run the demo again with MPU_DEBUG=1",
            ) from error
        if done.returncode:
            raise CheckFailedError(
                f"{self.name}: mpu {arguments[0]}: {result['error']['message']}",
                result["error"]["hint"],
            )
        return result

    def cannot_read(self, other: Party, file: Path) -> bool:
        """Try to read the other party's file as an `mpu` process would; True if that is forbidden.

        Raises:
            CheckFailedError: the attempt failed for another reason, so it proves nothing.
        """
        file = file.absolute()  # the attempt runs in another directory
        with file.open("rb"):
            pass  # the file exists, and without the wall it is readable
        done = self.run([sys.executable, "-c", _ATTEMPT, str(file)], other)
        if done.returncode not in (_READ, _FORBIDDEN):
            lines = done.stderr.strip().splitlines()
            raise CheckFailedError(
                f"{self.name}: the attempt to read {file} proves nothing:"
                f" {lines[-1] if lines else done.returncode}"
            )
        return done.returncode == _FORBIDDEN

    def carry(self, name: str, to: Party) -> None:
        """Copy one directory to the other party, as a courier with a USB stick would."""
        shutil.copytree(self.directory / name, to.directory / name)


@contextmanager
def _walled_off(directory: Path) -> Iterator[None]:
    directory.chmod(0o000)
    try:
        yield
    finally:
        directory.chmod(0o700)


def _give_up_reading() -> None:
    """Drop root's right to ignore file modes, in the child before exec."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                os._exit(126)


def _environment() -> dict[str, str]:
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONIOENCODING": "utf-8",
        "XDG_STATE_HOME": os.devnull,  # the lineage ends with the demo
        "MPU_TRUST_FILE": f"{os.devnull}/no-pins",  # whom the user trusts is not the demo's matter
    }
    return {**os.environ, **fixed}
