"""One round of the protocol as the benchmarks run it, and their common options.

Shared by them, not one itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measuring import INTERVAL, MPU, TRANSFORMERS, Cost, mpu
from synthetic import CONFIGS, Size, stand_in_for_training, write_pair

SPARE = 1.05
"""Disk that must be free, over what is needed."""


class Round:
    """A model, its base, the directories of one round, and the commands that make them."""

    def __init__(
        self, root: Path, copies: int, *, check: str = "none", interval: float | None = INTERVAL
    ) -> None:
        self.root, self.copies, self.check, self.interval = root, copies, check, interval
        self.model, self.base = root / "model", root / "base"
        self.handoff, self.secret, self.update, self.next = (
            root / name for name in ("handoff", "server", "update", "next")
        )
        # What this machine has seen of the lineage: a repeat on the old secret is no rollback.
        self.state = root / "state"
        os.environ["XDG_STATE_HOME"] = str(self.state.absolute())

    def make_model(self, size: Size) -> None:
        """Write the model and its base, unless they are there."""
        if not self.model.exists():
            write_pair(self.root, size)

    def perturb(self) -> Cost:
        """`mpu perturb`, into a lineage of its own."""
        return mpu(
            "perturb",
            self.model,
            "--base",
            self.base,
            "--handoff",
            self.handoff,
            "--secret",
            self.secret,
            "-m",
            self.copies,
            "--check",
            self.check,
            setup=MPU + TRANSFORMERS,
            interval=self.interval,
        )

    def diff(self) -> Cost:
        """`mpu diff` of copies that stand in for trained ones."""
        trained = stand_in_for_training(self.handoff, self.root / "trained")
        try:
            return mpu("diff", self.handoff, trained, "--out", self.update, interval=self.interval)
        finally:
            shutil.rmtree(trained)

    def verify(self, what: Path) -> Cost:
        """`mpu verify`."""
        return mpu("verify", what, interval=self.interval)

    def mask(self) -> Cost:
        """`mpu mask update` of two members, both with the same update; the cost of the second."""
        quietly("mask", "key", "--out", self.root / "a.key")
        quietly("mask", "key", "--out", self.root / "b.key")
        group = self.root / "group.txt"
        lines = (self.root / "a.key.pub", self.root / "b.key.pub")
        quietly("mask", "group", *lines, "--out", group)
        for name in ("a", "b"):
            cost = mpu(
                "mask",
                "update",
                self.update,
                "--handoff",
                self.handoff,
                "--group",
                group,
                "--key",
                self.root / f"{name}.key",
                "--out",
                self.root / f"masked-{name}",
                setup=MPU + "import mpu_cli.client.masks.mask_update\n",
                interval=self.interval,
            )
        return cost

    def aggregate(self, *updates: Path) -> Cost:
        """`mpu aggregate`, without the gates that a stand-in cannot pass, on the old secret."""
        before = self.root / "server-before"
        if not before.exists():
            shutil.copytree(self.secret, before)
        self.remove(self.secret, self.state)
        shutil.copytree(before, self.secret)
        return mpu(
            "aggregate",
            *(updates or (self.update,)),
            "--secret",
            self.secret,
            "--model",
            self.model,
            "--out",
            self.next,
            "--min-agreement=-1",
            "--max-relative-norm=1e9",
            "--max-tensor-norm=inf",
            "--max-row-norm=inf",
            "--max-copy-ratio=inf",
            "--max-agreement-drop=inf",
            setup=MPU + TRANSFORMERS,
            interval=self.interval,
        )

    def remove(self, *paths: Path) -> None:
        """Remove directories; all that a round writes, if none is named."""
        for path in paths or (
            self.handoff,
            self.secret,
            self.update,
            self.next,
            self.state,
            self.root / "server-before",
            *self.root.glob("masked-*"),
        ):
            shutil.rmtree(path, ignore_errors=True)
        for file in () if paths else (*self.root.glob("*.key*"), *self.root.glob("group.txt")):
            file.unlink()


def quietly(*words: object) -> None:
    """Run an `mpu` command that is not measured."""
    command = [sys.executable, "-m", "mpu_cli", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def parser(
    doc: str | None, *, sizes: str = "135m", several: bool = False
) -> argparse.ArgumentParser:
    """A command line with the options that all benchmarks have.

    Its --help is the file's own docstring.
    """
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--size",
        choices=CONFIGS,
        default=[sizes] if several else sizes,
        metavar="|".join(name for name in CONFIGS if name != "tiny"),
        nargs="+" if several else None,
        help=f"shape of the model{', one or more' if several else ''} (default {sizes})",
    )
    made.add_argument(
        "--work",
        type=Path,
        help="where to write, removed again at the end (default: the temporary directory)",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


@contextmanager
def workspace(work: Path | None, needed: int) -> Iterator[Path]:
    """A temporary directory below `work` if the disk has room for `needed` bytes.

    Says so on stderr; removed at the end.
    """
    parent = Path(work or tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    text = f"needs {needed / 1e9:.1f} GB of disk in {parent}, {free / 1e9:.1f} GB are free"
    if free < SPARE * needed:
        sys.exit(f"{text}: choose another --work")
    print(text, file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="mpu-benchmark-", dir=parent) as folder:
        yield Path(folder)


def say(text: str) -> None:
    """What is going on, on stderr."""
    print(text, file=sys.stderr, flush=True)


def verdict(value: float, bar: float | None) -> str:
    """`ok` or `TOO MUCH` against a bar; nothing without one."""
    return "" if bar is None else f"bar {bar:g}: {'ok' if value <= bar else 'TOO MUCH'}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
