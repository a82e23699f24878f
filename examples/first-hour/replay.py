"""Plays docs/first-hour.md.

Every command of its transcript, in two directories, on the demo's model.

    python examples/first-hour/replay.py            says where what is printed today differs from
    the page python examples/first-hour/replay.py --write    writes today's output into the page

A block begins with ```console; a line `owner$ …` or `hospital$ …` is run by bash in that party's
directory, and what follows it is what it printed. Numbers and digests may differ (another machine
trains to other last digits); words may not.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.demo.demonstration import assets

PAGE = Path(__file__).parents[2] / "docs" / "first-hour.md"
PARTIES = {
    "owner": ("model", "base"),
    "hospital": ("forget.jsonl", "retain.jsonl", "holdout.jsonl"),
}
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?P<party>\w+)\$ (?P<line>.*)")
_PROGRESS = re.compile(r"mpu: (?!warning|error|hint)")
_VARIES = re.compile(r"\b[0-9a-f]{8,}\b|[+-]?\d*\.?\d+(?:e[+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the page and what it printed."""

    party: str
    line: str
    printed: tuple[str, ...]


def steps(block: str) -> Iterator[Step]:
    """The commands of one block."""
    lines = block.splitlines()
    starts = [number for number, line in enumerate(lines) if _COMMAND.fullmatch(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        found = _COMMAND.fullmatch(lines[start])
        assert found is not None
        yield Step(found["party"], found["line"], tuple(lines[start + 1 : end]))


def run(step: Step, root: Path) -> Step:
    """Run one command; progress lines are left out, because they depend on the machine."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        ["bash", "-c", step.line],
        cwd=root / step.party,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not _PROGRESS.match(line)]
    printed = [portable(line.rstrip(), root) for line in [*done.stdout.splitlines(), *said]]
    return Step(
        step.party,
        step.line,
        (*printed, *([f"[exit code {done.returncode}]"] if done.returncode else [])),
    )


def portable(line: str, root: Path) -> str:
    """Without this machine's own places.

    Where the page was played, and where the documentation lies.
    """
    return re.sub(r"file://\S*?/docs/", "docs/", line.replace(f"{root}/", "/home/"))


def words(printed: tuple[str, ...]) -> list[str]:
    """What must be the same on every machine."""
    return [" ".join(_VARIES.sub("0", line).split()) for line in printed if line.strip()]


def replay(root: Path, text: str) -> tuple[str, list[str]]:
    """Play a page below `root`.

    Return the page with today's output, and every command whose words differ.
    """
    for party, belongings in PARTIES.items():
        (root / party).mkdir()
        for name in belongings:
            source = assets() / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, root / party / name)
    differing = []

    def played(block: re.Match[str]) -> str:
        lines = []
        for step in steps(block[0]):
            today = run(step, root)
            if words(today.printed) != words(step.printed):
                differing.append(f"{step.party}$ {step.line}")
            lines += [f"{step.party}$ {step.line}", *today.printed]
        return "\n".join(lines) + "\n"

    return BLOCK.sub(played, text), differing


def main() -> int:
    """Play the page, and compare or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write today's output into the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        page, differing = replay(Path(root), PAGE.read_text(encoding="utf-8"))
    if arguments.write:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    print(
        "\n".join(f"differs: {line}" for line in differing) or "the page is what is printed today"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
