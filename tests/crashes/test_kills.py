"""kill −9 before and after every call that changes the disk, and at random moments.

Afterwards an output is absent or complete, the secrets are whole, and the same command ends with
the bits of an undisturbed run and leaves nothing else. `make crashes` runs all of it and prints how
many deaths there were.
"""

from __future__ import annotations

import hashlib

import pytest
from crash_cases import NAMES, Trial, tree
from dying import COUNTS, Moment, random_moments

from mpu_cli.bundle.read import read_handoff
from mpu_cli.server.lineage.models import Lineage

RANDOM = 20
"""Deaths at random moments, each command: 15 commands make 300, of which some end first."""


def die(trial: Trial, moment: Moment, seen: set[str], kind: str) -> None:
    """Kill the command at a moment, look at what is left, and run it again.

    A repeat from a state of the disk from which one was tried before would be the same one.
    """
    trial.reset()
    ended = trial.case.end(trial.scratch, moment)
    if not ended.killed:
        assert moment.seconds and ended.code == 0, ended  # it was faster
    COUNTS[f"kills {kind}"] += ended.killed
    trial.check_left(ended)
    state = signature(trial)
    if state not in seen:
        seen.add(state)
        COUNTS["repeats of the killed command"] += 1
        trial.check_repeat(ended)


def signature(trial: Trial) -> str:
    """The state of the disk: names and bytes."""
    content = sorted((tree(trial.place) or {}).items())
    folders = sorted(str(x.relative_to(trial.place)) for x in trial.place.rglob("*") if x.is_dir())
    return hashlib.sha256(repr((content, folders)).encode()).hexdigest()


RECORDS = [
    ("perturb", "rename", ".yaml"),
    ("perturb --force", "exchange", ""),
    ("aggregate", "rename", ".yaml"),
]
"""In the fast suite: around the renames of records, and where one directory replaces another."""


@pytest.mark.parametrize(("name", "call", "suffix"), RECORDS)
def test_a_kill_around_the_records(name, call, suffix, trial_of):
    """The renames that decide whether a result is there and known."""
    trial, seen = trial_of(name), set()
    numbers = [
        number
        for number, (called, path) in enumerate(trial.named, 1)
        if called == call and suffix in path
    ]
    assert numbers
    die(trial, Moment(numbers[-1], "kill-before", trial.NAMED), seen, "at named points")
    die(trial, Moment(numbers[-1], "kill-after", trial.NAMED), seen, "at named points")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_every_named_point(name, trial_of):
    """Before and after each flush, rename, link, removal and new directory."""
    trial, seen = trial_of(name), set()
    for number in range(1, len(trial.named) + 1):
        for what in ("kill-before", "kill-after"):
            die(trial, Moment(number, what, trial.NAMED), seen, "at named points")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_random_moments(name, trial_of):
    """Anywhere, also inside a library and between two bytes of a file."""
    trial, seen = trial_of(name), set()
    for moment in random_moments(name, RANDOM, trial.ended.seconds):
        die(trial, moment, seen, "at random moments")


@pytest.mark.slow
def test_random_ids_after_every_kill(trial_of):
    """With ids of the operating system the repeat is another handoff, and a valid one."""
    from dataclasses import replace

    trial = trial_of("perturb")
    case = replace(trial.case, draw=None)
    for number, (called, _) in enumerate(trial.named, 1):
        if called not in {"rename", "exchange"}:
            continue
        trial.reset()
        assert case.end(trial.scratch, Moment(number, "kill-after", trial.NAMED)).killed
        COUNTS["kills with random ids"] += 1
        again = case.end(trial.scratch)
        assert again.code == 0 or "is the finished handoff" in again.err, again
        handoff = read_handoff(trial.place / "out")
        assert Lineage.read(trial.place / "fresh").handoffs[handoff.id].state == "issued"
