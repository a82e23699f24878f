"""The kit itself: its size, its names, its page, and commands in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from testkit.case import KIND, Case, all_cases
from testkit.commands import COMMANDS
from testkit.runner import MIB, SECONDS
from testkit.table import table

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
CASES = all_cases()
EVERY_30TH = CASES[::30]


def test_there_are_enough_cases_and_their_names_are_unique():
    """At least 200, of every kind of thing, and every command has some."""
    names = [(family, case.name) for family, case in CASES]
    assert len(set(names)) == len(names) >= 200
    assert {case.thing for _, case in CASES} == set(KIND) == set(COMMANDS)


def test_whatever_is_accepted_says_why():
    """An expectation of 0 needs a reason; and every named command exists."""
    for family, case in CASES:
        named = {*case.but, *case.faults, *case.skip}
        assert named <= set(COMMANDS[case.thing]) | {"inspect", "data check"}, (family, case.name)
        accepted = [one for one in COMMANDS[case.thing] if case.expected(one) == "0"]
        if set(accepted) - {"inspect", "data check"} - set(case.skip):
            assert case.why, (family, case.name)


def test_the_page_lists_every_family():
    """docs/trust.md has the table of `testkit.table`."""
    assert table() in PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def start_up(world) -> float:
    """Peak memory of verify on an unbroken handoff, in MiB."""
    return _process("verify", world.handoff)[3]


@pytest.mark.parametrize(
    ("family", "case"),
    [
        pytest.param(
            *item, id=f"{item[0]}-{item[1].name}", marks=[pytest.mark.slow] * (number % 6 > 0)
        )
        for number, item in enumerate(EVERY_30TH)
    ],
)
def test_a_process_of_its_own(family: str, case: Case, world, tmp_path, start_up):
    """verify, or what comes first: time and peak memory as the system counts them."""
    broken = tmp_path / case.thing.replace(" ", "-")
    shutil.copytree(world.thing(case.thing), broken, symlinks=True)
    given = case.damage(broken, world) or broken
    command = next(iter(COMMANDS[case.thing]))
    (tmp_path / "own").mkdir()
    code, told, seconds, mib, err = _process(
        *COMMANDS[case.thing][command](given, world, tmp_path / "own")
    )
    assert "Traceback" not in err
    assert f"{code} {told}".strip() == case.expected(command)
    assert seconds < SECONDS
    assert mib - start_up < MIB


def _process(*arguments: object) -> tuple[int, str, float, float, str]:
    """Exit code, kind of error, processor seconds, peak MiB and stderr of a command line."""
    import subprocess

    line = [sys.executable, "-m", "mpu_cli", *map(str, arguments), "--json"]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stderr is not None
    out, err = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    kind = json.loads(out).get("error", {}).get("kind", "") if child.returncode else ""
    return (
        child.returncode,
        kind,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
        err,
    )
