"""A disk that is full, read-only, without permissions or broken at every single call.

One line and exit code 3, an output that is absent or complete, and the same bits once the disk is
well again. `tests/cli/test_disk_full.py` has real disks of one megabyte in the fast suite.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from crash_cases import NAMES, Trial, is_stray, names, tree
from dying import COUNTS, RENAMES, WRITES, Ended, Moment

_REASONS = {
    "ENOSPC": "the disk is full",
    "EDQUOT": "the disk quota is used up",
    "EIO": "Input/output error",
}


def fail(trial: Trial, moment: Moment, *, repeat: bool) -> None:
    """Let calls fail, look at what is left, and with `repeat` run the command again."""
    trial.reset()
    ended = trial.case.end(trial.scratch, moment)
    COUNTS[f"calls that failed with {moment.what}"] += 1
    check_failed(trial, ended, moment.what)
    if repeat:
        trial.check_repeat(ended)


def check_failed(trial: Trial, ended: Ended, what: str) -> None:
    """Exit code 3, one line that says why; nothing half-written and nothing lost."""
    told = f"{trial.case.name}: {ended}"
    assert ended.code in {0, 3}, told  # 0: it found another way, as a copy for a link
    assert "Traceback" not in ended.err, told
    trial.check_left(ended)
    if ended.code == 0:
        for name in trial.case.outputs:
            assert trial._stable(name) == trial.after[name] or trial.case.random, told
        return
    if trial.case.run is None:
        assert sum(line.startswith("mpu: error: ") for line in ended.err.splitlines()) == 1, told
        said = ended.error.lower()
        if "complete and in place" in said:  # only its flush or its record failed
            assert os.strerror(getattr(errno, what)).lower() in said, told
        else:
            assert _REASONS[what].lower() in said, told
    if "nothing of it was kept" in ended.error:
        for name in trial.case.outputs:
            if f"{name}: " in ended.error:
                assert tree(trial.place / name) == trial.before[name], told
    strays = [
        name
        for name in names(trial.place)
        if is_stray(name)
        and ".mpu-work" not in name
        and f"is still in {trial.place / name}:" not in ended.err
    ]
    assert strays == [] or trial.case.run is not None, f"{strays}: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_from_any_call_on(name, trial_of):
    """The first calls work, the others do not; removing and renaming still does."""
    trial = trial_of(name)
    total = sum(call.partition(" ")[0] in WRITES for call in trial.calls)
    for number in range(1, total + 1):
        fail(trial, Moment(number, "ENOSPC", WRITES, once=False), repeat=number % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_call_that_fails(name, trial_of):
    """A quota for the writes, a broken disk for the flushes and renames."""
    trial = trial_of(name)
    for what, calls in (("EDQUOT", ("pwrite", "mkdir")), ("EIO", ("fsync", "fdatasync", *RENAMES))):
        total = sum(call.partition(" ")[0] in calls for call in trial.calls)
        for number in range(1, total + 1):
            fail(trial, Moment(number, what, calls), repeat=number % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perturb", "unlearn", "diff", "aggregate"])
def test_a_real_disk_of_every_size(name, trial_of, monkeypatch, tmp_path):
    """From a disk that the inputs do not fit on, page by page, until the command fits."""
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40))
    trial = trial_of(name)
    whole, pages = trial.place, sum(len(data) for data in (tree(trial.desk) or {}).values()) // 4096
    failed = 0
    for size in (f"size={number * 4}k" for number in range(pages // 2, 3 * pages + 400, 6)):
        with mounted(trial, "-t", "tmpfs", "-o", size, "tmpfs"):
            try:
                trial.reset_content()
            except OSError as error:
                assert os.strerror(errno.ENOSPC) in str(error)
                continue
            ended = trial.case.end(trial.scratch)
            COUNTS["real disks of growing size"] += 1
            check_failed(trial, ended, "ENOSPC")
        if ended.code == 0:
            break
        failed += 1
    assert ended.code == 0 and failed, ended
    assert trial.place == whole


@pytest.mark.parametrize("name", ["perturb", "aggregate"])
def test_a_file_system_without_permissions(name, trial_of):
    """What is public is written all the same; a secret only where others cannot read it."""
    trial = trial_of(name)
    ended = trial.case.end(trial.scratch, Moment(1, "EPERM", ("chmod", "fchmod"), once=False))
    COUNTS["commands without chmod"] += 1
    assert ended.code == 0, ended
    assert {name: trial._stable(name) for name in trial.case.outputs} == trial.after
    trial.check_left(ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perturb", "unlearn", "diff", "aggregate", "mask update"])
def test_a_target_on_a_read_only_disk(name, trial_of):
    """One line that names it, and nothing is written: no secret, no key's list of uses."""
    trial = trial_of(name)
    words = tuple("disk/out" if word == "out" else word for word in trial.case.words)
    (trial.place / "disk").mkdir()
    before = tree(trial.place)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", trial.place / "disk"]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        ended = replace(trial.case, words=words).end(trial.scratch)
        assert ended.code == 3 and "read-only file system" in ended.error.lower(), ended
        assert "disk" in ended.error, ended
    finally:
        subprocess.run(["umount", "-l", trial.place / "disk"], check=True)
    COUNTS["read-only disks"] += 1
    after = tree(trial.place)
    assert {name for name in after if name not in before} <= {"a.key.used"}, ended
    assert not (trial.place / "fresh").exists()


class mounted:
    """The trial's place as a file system of its own."""

    def __init__(self, trial: Trial, *options: str) -> None:
        self.trial, self.options = trial, options

    def __enter__(self) -> None:
        self.trial.leave()
        done = subprocess.run(
            ["mount", *self.options, self.trial.place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")

    def __exit__(self, *_: object) -> None:
        self.trial.leave()
        subprocess.run(["umount", "-l", self.trial.place], check=True)
