"""Ctrl-C and SIGTERM in `mpu unlearn`.

The first leaves a checkpoint and the command that goes on, the second ends at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest
from test_resume import bits, command, uninterrupted  # noqa: F401 - a fixture

from mpu_cli.training.checkpoints import CheckpointStore

# In the child: send itself these signals at the check for a checkpoint after the N-th step.
SIGNALLED = """
import os, sys
from mpu_cli.training.checkpoints import CheckpointStore

count, numbers, due = int(sys.argv.pop(1)), sys.argv.pop(1).split(","), CheckpointStore.due
def signalling(self, step):
    global count
    count -= 1
    if count == 0:
        for number in numbers:
            os.kill(os.getpid(), int(number))
    return due(self, step)
CheckpointStore.due = signalling
from mpu_cli.__main__ import main
main()
"""


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """A shell without job control starts background jobs with SIGINT ignored; tests hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def signalled(monkeypatch):
    """`signalled(n, SIGINT, …)`.

    This process gets the signals at the check after the n-th step of all copies.
    """

    def prepare(count: int, *numbers: int) -> None:
        left, due = [count], CheckpointStore.due

        def signalling(self: CheckpointStore, step: int) -> bool:
            left[0] -= 1
            if left[0] == 0:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return due(self, step)

        monkeypatch.setattr(CheckpointStore, "due", signalling)

    return prepare


@pytest.mark.parametrize(
    ("number", "step", "kept"),
    [
        (signal.SIGINT, 3, "step 4 of copy-1"),
        (signal.SIGTERM, 1, "step 2 of copy-1"),
        (signal.SIGINT, 14, "copy-1 (finished), step 4 of copy-2"),
        (signal.SIGINT, 11, "copy-1 (finished)"),
    ],
    ids=["ctrl-c", "sigterm", "in the second copy", "in a copy's last step"],
)
def test_the_first_signal_leaves_what_is_done(
    number,
    step,
    kept,
    finished_round,
    uninterrupted,  # noqa: F811
    tmp_path,
    mpu,
    signalled,
):
    """Exit 130 names what was kept and the command that resumes to an uninterrupted run's bits."""
    out = tmp_path / "to-server"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signalled(step, number)
    arguments = command(finished_round, out)
    stopped = mpu(*arguments)
    assert stopped.code == 130
    *lines, error, hint = stopped.err.splitlines()
    assert (
        "mpu: interrupted: a checkpoint is written after this step; interrupt again to end at once"
        " without it"
    ) in lines
    assert error == f"mpu: error: interrupted; {tmp_path}/.to-server.mpu-work keeps {kept}"
    assert hint == f"mpu: hint: resume with: mpu {shlex.join(arguments)} --resume"
    assert [path.name for path in tmp_path.iterdir()] == [".to-server.mpu-work"]
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    resumed = mpu(*shlex.split(hint.partition("resume with: mpu ")[2]))
    assert resumed.code == 0, resumed.err
    assert bits(out) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["to-server"]


def test_the_second_signal_ends_at_once(finished_round, tmp_path, mpu, signalled):
    """No checkpoint, and the message says so and nothing else; the same command starts anew."""
    signalled(3, signal.SIGINT, signal.SIGTERM)
    arguments = command(finished_round, tmp_path / "to-server")
    stopped = mpu(*arguments)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-2:] == [
        "mpu: error: interrupted; nothing was kept: no checkpoint was complete yet",
        "mpu: hint: run the same command again",
    ]
    assert list(tmp_path.iterdir()) == []


def test_without_checkpoints_the_first_signal_ends_at_once(
    finished_round, tmp_path, mpu, signalled, monkeypatch
):
    """--save-seconds 0 asks for none, so nothing is waited for."""
    from mpu_cli.training import trainer

    left, capture = [3], trainer.UnlearningTrainer.before_step

    def signalling(self, rate):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return capture(self, rate)

    monkeypatch.setattr(trainer.UnlearningTrainer, "before_step", signalling)
    stopped = mpu(*command(finished_round, tmp_path / "to-server", "--save-seconds", "0"))
    assert stopped.code == 130
    assert "nothing was kept: --save-seconds 0 asks for no checkpoints\n" in stopped.err
    assert "resume with" not in stopped.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_stopped_alike_and_json_says_it_too(finished_round, tmp_path, mpu, signalled):
    """A plain model as source; the error object has the command."""
    r, out = finished_round, tmp_path / "a b" / "after"
    data = ["--forget", str(r.forget), "--method", "GradAscent", "--max-steps", "6"]
    arguments = ["unlearn", str(r.model), *data, "--json", "--out", str(out)]
    signalled(2, signal.SIGINT)
    stopped = mpu(*arguments, "--batch-size", "1")
    assert stopped.code == 130
    error = stopped.json["error"]
    assert error["kind"] == "Interrupted"
    assert error["message"] == f"interrupted; {out.parent}/.after.mpu-work keeps step 3 of model"
    assert error["hint"].endswith(f"--out {shlex.quote(str(out))} --batch-size 1 --resume")
    resumed = mpu(*shlex.split(error["hint"].partition("resume with: mpu ")[2]))
    assert resumed.code == 0, resumed.err
    assert resumed.json["copies"]["model"]["resumed_from"] == 3


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_process_of_its_own_is_stopped(number, finished_round, tmp_path, environment):
    """The same in a real process: exit code 130, no traceback."""
    arguments = command(finished_round, tmp_path / "to-server")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, "2", str(int(number)), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130, done.stderr
    assert "keeps step 3 of copy-1\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_several_processes_stop_together(finished_round, tmp_path, environment):
    """One of two processes is signalled.

    Both stop after the same step, the first writes, and torchrun's own signals change nothing.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = tmp_path / "signalled.py"
    script.write_text(SIGNALLED)
    arguments = command(finished_round, tmp_path / "to-server")
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), "2", str(int(signal.SIGTERM)), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    assert done.stderr.count("mpu: error: ") == 1, done.stderr
    assert "keeps step 3 of copy-1\n" in done.stderr
    assert "resume with: torchrun --nproc-per-node 2 -m mpu_cli unlearn " in done.stderr
