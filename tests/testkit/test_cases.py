"""Every broken input, on every command that reads it: refused as expected, and nothing else."""

from __future__ import annotations

import os
import shutil

import pytest

from testkit.case import Case, all_cases
from testkit.commands import COMMANDS
from testkit.runner import changes, complaints, run_here, snapshot

CASES = all_cases()


def _commands(case: Case, number: int, every: bool) -> list[str]:
    """All commands; or in the fast suite one, which turns with the case."""
    commands = [one for one in COMMANDS[case.thing] if one not in case.skip]
    return commands if every else [commands[number % len(commands)]]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "family", "case"),
    [
        pytest.param(
            number,
            family,
            case,
            id=f"{family}-{case.name}",
            marks=[pytest.mark.slow] * case.slow,
        )
        for number, (family, case) in enumerate(CASES)
    ],
)
def test_a_broken_input(
    number: int, family: str, case: Case, every: bool, world, tmp_path, record_property
):
    """See `runner`: the expected outcome, in bounded time and memory, and nothing written."""
    broken = tmp_path / case.thing.replace(" ", "-")
    shutil.copytree(world.thing(case.thing), broken, symlinks=True)
    before = os.umask(0o077)  # what lies in a secret is closed to others, or is made so
    given = case.damage(broken, world) or broken
    os.umask(before)
    wrong, told = [], {}
    for command in _commands(case, number, every or case.slow):
        line = COMMANDS[case.thing][command]
        own = tmp_path / "-".join(("own", *command.split()))  # make reads no spaces
        own.mkdir()
        arguments = line(given, world, own)
        before = snapshot(tmp_path)
        done = run_here(arguments)
        found = complaints(done, case.expected(command))
        if done.code:
            found += [f"changed {path}" for path in changes(before, snapshot(tmp_path))]
        told[command] = done.told
        if command in case.faults:
            if not found:
                wrong.append(f"{command}: mended, remove its entry in `faults`")
        else:
            wrong += [f"{command}: {text}" for text in found]
        shutil.rmtree(own)
    record_property("testkit", (family, told))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_unbroken_thing_is_accepted(world, tmp_path):
    """Negative control: each command succeeds on what the cases break copies of."""
    wrong = []
    for thing, commands in COMMANDS.items():
        for command, line in commands.items():
            own = tmp_path / "-".join((*thing.split(), *command.split()))
            own.mkdir()
            secret = thing == "secret"  # perturb and aggregate write to it
            given = shutil.copytree(world.secret, own / "x") if secret else world.thing(thing)
            done = run_here(line(given, world, own))
            expected = UNBROKEN.get((thing, command), "0")
            if done.told != expected:
                wrong.append(f"{thing}: {command}: {done.told} {done.message[:200]}")
            shutil.rmtree(own)
    assert not wrong, "\n".join(wrong)


UNBROKEN = {(thing, "perturb --base"): "3 BadModel" for thing in ("model", "model in shards")}
"""The model equals this base in every layer."""
