"""Progress lines without a terminal, and the effect of -q and -v."""

from __future__ import annotations

import time

import pytest

from mpu_cli.cli import progress
from mpu_cli.cli.progress import Lines, OverCopies


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


def test_a_line_says_the_total_time_left():
    """Over all copies, measured from the first step of this run.

    Loading and writing keep the last state.
    """
    clock = Clock()
    lines = Lines(lambda text: None, clock)
    over = OverCopies(lines.show, ["copy-1", "copy-2"])
    over.doing("loading copy-1")
    clock.now = 20
    assert lines.line() == "loading copy-1 (0:20 so far)"
    over.on_step("copy-1", 11, 100, 1.25)  # gone on with from step 10
    assert lines.line() == "copy-1: step 11 of 100, loss 1.2500 (0:20 so far, 5 %)"
    clock.now = 40
    over.on_step("copy-1", 21, 100, 1.0)
    assert (
        lines.line() == "copy-1: step 21 of 100, loss 1.0000 (0:40 so far, 10 %, about 5:58 left)"
    )
    over.doing("writing copy-1")
    assert lines.line() == "writing copy-1 (0:40 so far, 10 %, about 5:58 left)"
    clock.now = 7300
    over.on_step("copy-2", 50, 100, 1.0)
    assert (
        lines.line()
        == "copy-2: step 50 of 100, loss 1.0000 (2:01:40 so far, 75 %, about 43:39 left)"
    )


def test_another_part_measures_its_own_speed():
    """In a command that checks and then writes, the time left is that of the current step."""
    clock = Clock()
    lines = Lines(lambda text: None, clock)
    lines.show("check", 9, 10)
    clock.now = 100
    lines.show("write", 0, 1000)
    clock.now = 110
    lines.show("write", 100, 1000)
    assert lines.line() == "write (1:50 so far, 10 %, about 1:30 left)"


def test_the_first_bytes_predict_nothing():
    """The time left is not extrapolated from less than a hundredth of the work."""
    clock = Clock()
    lines = Lines(lambda text: None, clock)
    lines.show("pack", 0, 10**9)
    clock.now = 2
    lines.show("pack", 1024, 10**9)
    assert lines.line() == "pack (0:02 so far, 0 %)"
    lines.show("pack", 10**7, 10**9)
    assert lines.line() == "pack (0:02 so far, 1 %, about 3:18 left)"


def test_lines_come_although_one_call_takes_long(monkeypatch):
    """A separate thread prints them, and stops when the command ends."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    said: list[str] = []
    with Lines(said.append) as lines:
        lines.show("loading copy-1", 0, 0)
        deadline = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(said) >= 3
    assert said[0] == "loading copy-1 (0:00 so far)"
    time.sleep(0.05)
    ended = len(said)
    time.sleep(0.1)
    assert len(said) <= ended


def _commands(r, root):
    rows = ("--forget", r.forget, "--retain", r.retain, "--max-steps", 1, "--batch-size", 4)
    perturb = (
        "perturb",
        r.model,
        "--base",
        r.base,
        "--handoff",
        root / "h",
        "--new-lineage",
        root / "s",
        "-m",
        2,
    )
    return {
        "perturb": (perturb, f"handoff {root}/h"),
        "unlearn": (("unlearn", r.handoff, *rows, "--out", root / "u"), f"update {root}/u"),
        "unlearn --copy": (
            ("unlearn", r.handoff, *rows, "--copy", 1, "--out", root / "c"),
            f"copy {root}/c/copy-1",
        ),
        "unlearn a model": (("unlearn", r.model, *rows, "--out", root / "m"), f"model {root}/m"),
        "diff": (("diff", r.handoff, r.handoff, "--out", root / "d"), f"update {root}/d"),
        "verify": (("verify", r.handoff), f"{r.handoff}: handoff, "),
        "aggregate": (
            ("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out", root / "n"),
            f"model {root}/n",
        ),
    }


@pytest.mark.parametrize(
    "name",
    ["perturb", "unlearn", "unlearn --copy", "unlearn a model", "diff", "verify", "aggregate"],
)
def test_quiet_leaves_one_line(name, own_round, tmp_path, mpu, monkeypatch):
    """Stdout has one line, and stderr only warnings."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.001)
    arguments, line = _commands(own_round, tmp_path)[name]
    done = mpu(*arguments, "-q")
    assert done.code == 0, done.err
    assert done.out.startswith(line)
    assert done.out.count("\n") == 1
    assert all(text.startswith("mpu: warning: ") for text in done.err.splitlines())


@pytest.mark.parametrize("name", ["perturb", "unlearn", "verify", "aggregate"])
def test_a_long_command_prints_progress_without_a_terminal(
    name, own_round, tmp_path, mpu, monkeypatch
):
    """The first line names the current step."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.001)
    arguments, _ = _commands(own_round, tmp_path)[name]
    done = mpu(*arguments)
    assert done.code == 0, done.err
    expected = {
        "perturb": ("write",),
        "unlearn": ("reading rows", "checking the handoff", "copy-2: step 1 of 1, loss "),
        "verify": ("checking to-client",),
        "aggregate": ("aggregate",),
    }
    lines = [line for line in done.err.splitlines() if " so far" in line]
    for step in expected[name]:
        assert any(line.startswith(f"mpu: {step}") for line in lines), done.err
    assert " so far" not in done.out


def test_verbose_names_every_step(own_round, tmp_path, mpu):
    """-v after the name of the command."""
    done = mpu(*_commands(own_round, tmp_path)["unlearn"][0], "-v")
    assert done.err.count(": step 1 of 1, loss ") >= 2
