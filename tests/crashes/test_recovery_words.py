"""What mpu says after a crash, a full disk, or a restored backup: what is there, what to do."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from crash_cases import Trial, names, tree
from dying import Moment, run_apart

from mpu_cli.checkpoint.staging import Staging, refuse_existing
from mpu_cli.errors import OutputError
from mpu_cli.server.lineage.models import Lineage

ISSUED = -1
"""The last write of a record in a command: it marks the result as issued or committed."""


def number_of(trial: Trial, call: str, part: str, which: int) -> int:
    """The number of a call whose path has a part, among the named ones of the trial."""
    found = [
        number
        for number, (name, path) in enumerate(trial.named, 1)
        if name == call and part in path
    ]
    return found[which]


def killed_before_issued(trial: Trial) -> None:
    """Kill the command when its result is in place and its record does not say so yet."""
    moment = Moment(number_of(trial, "rename", ".yaml", ISSUED), "kill-before", trial.NAMED)
    assert trial.case.end(trial.scratch, moment).killed
    assert tree(trial.place / trial.case.outputs[0]) is not None


@pytest.mark.parametrize("name", ["perturb", "aggregate"])
def test_a_disk_that_is_full_when_the_result_is_in_place(name, trial_of):
    """Not "nothing was kept": the message names the record and says that the result is complete."""
    trial = trial_of(name)
    opens = [
        number
        for number, call in enumerate((c for c in trial.calls if c.startswith("open ")), 1)
        if ".yaml.partial" in [c for c in trial.calls if c.startswith("open ")][number - 1]
    ]
    ended = trial.case.end(trial.scratch, Moment(opens[ISSUED], "ENOSPC", ("open",), once=False))
    assert ended.code == 3
    record, result = (
        (trial.case.secret, "out")
        if name == "aggregate"
        else (
            trial.place / trial.case.secret,
            trial.place / "out",
        )
    )
    assert ended.error == (
        f"mpu: error: {record}: the record was not written (no space left on device); {result} is"
        " complete and in place"
    )
    assert "run the same command again: it completes the record" in ended.err
    trial.check_left(ended)
    again = trial.case.end(trial.scratch)
    assert again.code == 0 and "an interrupted run had already written this" in again.err, again
    trial.check_left(again)


def test_a_repeat_with_other_options_is_not_given_the_old_handoff(trial_of):
    """The message names the option; the old handoff is recorded, and stays as it is."""
    trial = trial_of("perturb")
    killed_before_issued(trial)
    before = tree(trial.place / "out")
    words = trial.case.words
    for more, flag in (
        (("--kappa", 0.2), "--kappa"),
        (("--client", "lab"), "--client"),
        (("--offset", 0.5), "--offset"),
    ):
        place = [*words, *more]
        if flag == "--kappa":  # given twice is a usage error
            where = place.index("--kappa")
            del place[where : where + 2]
        if (trial.place / "fresh").exists():
            shutil.copytree(trial.place / "fresh", trial.place / "kept")
        ended = run_apart(tuple(place), trial.scratch, draw="another")
        assert ended.code == 3, ended
        assert f"an interrupted run with another {flag} had already written" in ended.error
        assert tree(trial.place / "out") == before
        states = [record.state for record in Lineage.read(trial.place / "fresh").handoffs.values()]
        assert states == ["issued"]
        shutil.rmtree(trial.place / "fresh")
        (trial.place / "kept").rename(trial.place / "fresh")
    again = trial.case.end(trial.scratch)
    assert again.code == 0 and "is now recorded" in again.err


@pytest.mark.parametrize("name", ["perturb", "aggregate"])
def test_a_finished_command_that_is_given_again(name, trial_of):
    """It may have been killed before it could say so: the refusal tells that all is done."""
    trial = trial_of(name)
    assert trial.case.end(trial.scratch).code == 0
    ended = trial.case.end(trial.scratch)
    assert ended.code == 3
    assert "out: exists and is not empty: it is the finished" in ended.error
    assert "mpu: hint: nothing is left to do" in ended.err
    other = {"perturb": ("--client", "x"), "aggregate": ("--server-lr", 0.25)}[name]
    ended = replace(trial.case, words=(*trial.case.words, *other)).end(trial.scratch)
    assert ended.code == 3 and "the finished" not in ended.error


def test_a_record_that_was_being_written_is_removed(trial_of):
    """`.ID.yaml.partial` of a killed run goes away with the next command, another's ID too."""
    trial = trial_of("perturb a later round")
    for left in ("handoffs/." + "0" * 32, "models/." + "1" * 64, ".secret"):
        (trial.place / "server" / f"{left}.yaml.partial").write_bytes(b"half")
    assert run_apart(("verify", "server"), trial.scratch).code == 0  # it only reads
    assert trial.case.end(trial.scratch).code == 0
    assert [name for name in names(trial.place) if name.endswith(".partial")] == []


def test_a_mount_point_is_refused_before_the_work(tmp_path):
    """It cannot be renamed; an own file system and a bind mount alike."""
    for options in (["-t", "tmpfs", "tmpfs"], ["--bind", str(tmp_path)]):
        target = tmp_path / "out"
        target.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", *options, target], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("needs the right to mount")
        try:
            with pytest.raises(OutputError, match="out: is a mount point") as caught:
                refuse_existing(target)
            assert f"choose a directory below it, such as {target}/result" in caught.value.hint
        finally:
            subprocess.run(["umount", "-l", target], check=True)
    refuse_existing(target)


def test_two_commands_at_once_and_a_lock_whose_owner_died(trial_of):
    """The second one names the first; when the first is killed, its lock is gone."""
    trial = trial_of("aggregate")
    for locked, told in (("server", "is using this secret"), (".out.mpu-partial", "is writing it")):
        (trial.place / locked).mkdir(mode=0o700, exist_ok=True)
        code = (
            "import fcntl, os, sys, time; h = os.open(sys.argv[1], os.O_RDONLY);"
            " fcntl.flock(h, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(60)"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", code, trial.place / locked], stdout=subprocess.PIPE
        )
        owner.stdout.readline()
        owner.send_signal(signal.SIGSTOP)
        _until_stopped(owner.pid)
        ended = trial.case.end(trial.scratch)
        assert ended.code == 1 and told in ended.error, ended
        assert f"wait for process {owner.pid}, which is stopped, to end" in ended.err
        owner.kill()
        owner.wait()
    assert trial.case.end(trial.scratch).code == 0


def _until_stopped(process: int) -> None:
    while ") T " not in Path(f"/proc/{process}/stat").read_text():
        time.sleep(0.01)


def test_a_secret_restored_from_an_old_backup(trial_of, tmp_path, monkeypatch):
    """The machine remembers the newest record: an older directory is refused until it is told."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    trial = trial_of("perturb")
    begun = replace(trial.case, draw=None)  # secrets of tests are not remembered
    assert begun.end(trial.scratch).code == 0
    (note,) = (tmp_path / "state" / "mpu" / "lineages").iterdir()
    assert note.stat().st_mode & 0o077 == 0
    shutil.copytree("fresh", "backup")
    later = ("perturb", "model", "--base", "base", "-m", 2, "--check", "none", "--secret", "fresh")
    assert run_apart((*later, "--handoff", "second"), trial.scratch).code == 0
    newest = max(Lineage.read(Path("fresh")).handoffs.values(), key=lambda one: one.sequence).id
    shutil.rmtree("fresh")
    shutil.move("backup", "fresh")
    ended = run_apart((*later, "--handoff", "third"), trial.scratch)
    assert ended.code == 1 and not Path("third").exists()
    assert f"fresh: lacks record {newest[:12]}…" in ended.error
    assert "(3 records then, 2 now): it was restored from an old backup" in ended.error
    assert f"then remove {note}" in ended.err
    note.unlink()
    assert run_apart((*later, "--handoff", "third"), trial.scratch).code == 0


@pytest.mark.slow
def test_the_clock_moves_back(trial_of, monkeypatch):
    """Records are ordered by number: a date before the first round changes nothing."""
    trial = trial_of("perturb a later round")
    builder = "mpu_cli.server.publishing.handoff_builder.now"
    monkeypatch.setattr(builder, lambda: "1970-01-01T00:00:00Z")
    assert trial.case.end(trial.scratch).code == 0
    lineage = Lineage.read(trial.place / "server")
    last = max(lineage.handoffs.values(), key=lambda record: record.sequence)
    assert last.date.startswith("1970") and last.state == "issued"
    assert {name: trial._stable(name) for name in trial.case.outputs} == trial.after
    assert run_apart(("verify", "server"), trial.scratch).code == 0


def test_force_shows_the_old_or_the_new_result_at_every_moment(tmp_path, monkeypatch):
    """One exchange instead of two renames; where the system has none, the old way still works."""
    target = tmp_path / "out"
    for number, exchanges in enumerate((True, True, False)):
        if not exchanges:
            monkeypatch.setattr("mpu_cli.checkpoint.staging.exchange", lambda one, other: False)
        with Staging(target, force=True, marked=True) as staging:
            (staging.path / "config.json").write_text(str(number))
            staging.commit()
        assert (target / "config.json").read_text() == str(number)
        assert names(tmp_path) == ["out", "out/.mpu-files", "out/config.json"]
