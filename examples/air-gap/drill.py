"""Plays DRILL.md: three rounds of two parties who share nothing but a drop directory, and attacks.

    python examples/air-gap/drill.py            plays it and compares what is printed
    python examples/air-gap/drill.py --write    writes today's output into the page

A line `owner$ …`, `hospital$ …` or `courier$ …` is run by bash in that party's directory. While it
runs, the directories of the two key holders have mode 000 for everybody else, root's right to
ignore that is given up, and there is no network (`unshare -n`, where this is allowed). The drop is
`../drop`; the courier may do with it what it likes.

Needs age and ssh-keygen. A few minutes.
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
from contextlib import contextmanager
from pathlib import Path

from mpu_cli.demo.demonstration import assets
from mpu_cli.demo.parties import Party

HERE = Path(__file__).parent
PAGE = HERE / "DRILL.md"
sys.path.insert(0, str(HERE.parent / "first-hour"))
from replay import BLOCK, Step, portable, steps, words  # noqa: E402

PARTIES = {
    "owner": ("model", "base"),
    "hospital": ("forget.jsonl", "retain.jsonl"),
    "courier": (),
}
ROWS = 16
PROGRAMS = ("age", "ssh-keygen")
_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_PROGRESS = re.compile(r"mpu: (?!warning|error|hint)")


def without_network() -> list[str]:
    """What goes before a command so that it has no network; nothing where that is not allowed."""
    words = ["unshare", "-n"]
    try:
        allowed = subprocess.run([*words, "true"], check=False, capture_output=True)
    except FileNotFoundError:
        return []
    return [] if allowed.returncode else words


def prepare(root: Path) -> dict[str, Party]:
    """The directories of the parties, and the drop."""
    (root / "drop").mkdir()
    parties = {name: Party(name, root / name) for name in PARTIES}
    for name, belongings in PARTIES.items():
        (root / name).mkdir(mode=0o700)
        for item in belongings:
            source, target = assets() / item, root / name / item
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
                target.write_text("".join(lines[:ROWS]), encoding="utf-8")
    return parties


@contextmanager
def closed(directory: Path) -> Iterator[None]:
    """Nobody may enter, who has given up root's right to."""
    directory.chmod(0o000)
    try:
        yield
    finally:
        directory.chmod(0o700)


def run(step: Step, parties: dict[str, Party], prefix: list[str]) -> Step:
    """One command of the page, by its party, walled off from both others."""
    party = parties[step.party]
    first, second = (other for other in parties.values() if other is not party)
    own = [
        *prefix,
        "env",
        f"HOME={party.directory}",
        f"XDG_CONFIG_HOME={party.directory}/.config",
        f"PATH={HERE}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS=100",
        "OMP_NUM_THREADS=1",
    ]
    with closed(second.directory):
        done = party.run([*own, "bash", "-c", f"umask 022; {step.line}"], first)
    root = party.directory.parent
    said = [line for line in done.stderr.splitlines() if not _PROGRESS.match(line)]
    # Keys are new in every run.
    lines = [_KEY.sub("SHA256:…", line.rstrip()) for line in [*done.stdout.splitlines(), *said]]
    printed = [portable(line, root) for line in lines]
    code = [f"[exit code {done.returncode}]"] if done.returncode else []
    return Step(step.party, step.line, (*printed, *code))


def play(root: Path, text: str) -> tuple[str, list[str]]:
    """The page with today's output, and every command whose words differ."""
    parties, prefix, differing = prepare(root), without_network(), []

    def played(block: re.Match[str]) -> str:
        lines = []
        for step in steps(block[0]):
            today = run(step, parties, prefix)
            if words(today.printed) != words(step.printed):
                differing.append(f"{step.party}$ {step.line}\n  " + "\n  ".join(today.printed))
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
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sys.exit(f"needs {' and '.join(missing)} (Debian: apt-get install age openssh-client)")
    if not without_network():
        print("the network is not taken away: unshare -n needs root", file=sys.stderr)
    with tempfile.TemporaryDirectory() as root:
        page, differing = play(Path(root), PAGE.read_text(encoding="utf-8"))
    if arguments.write:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    print(
        "\n".join(f"differs: {line}" for line in differing) or "the page is what is printed today"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
