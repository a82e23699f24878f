"""The desk from which every trial starts, and the trials by command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash_cases import Trial, cases, make_desk
from dying import COUNTS


@pytest.fixture(scope="session")
def desk(tiny_pair, tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A directory with what all commands read, and the id of its handoff."""
    import mpu_cli.experiment.imported  # noqa: F401 - what a fork should find imported

    pair = tiny_pair("llama")
    root = tmp_path_factory.mktemp("crashes")
    (root / "desk").mkdir()
    before = Path.cwd()
    os.chdir(root / "desk")
    try:
        yield root / "desk", make_desk(root / "desk", pair.model, pair.base)
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def trial_of(desk) -> Callable[[str], Trial]:
    """`trial_of(name)`: the trial of a command, undisturbed once and then made anew."""
    made: dict[str, Trial] = {}
    root, handoff_id = desk

    def make(name: str) -> Trial:
        if name not in made:
            made[name] = Trial(cases(handoff_id)[name], root, root.parent / "place")
        made[name].reset()
        return made[name]

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was tried."""
    for what in sorted(COUNTS):
        terminalreporter.write_line(f"crashes: {COUNTS[what]} {what}")
