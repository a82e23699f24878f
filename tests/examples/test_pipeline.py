"""The Makefile of the whole protocol: its commands, what it refuses, and a run that is killed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpu_cli.demo.demonstration import assets

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline"


def words(work, tmp_path, *more):
    """The command line of make on the demo's model and a few of its rows."""
    for name, count in (("forget", 8), ("retain", 16)):
        rows = (assets() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / f"{name}.jsonl").write_text("".join(rows[:count]), encoding="utf-8")
    return [
        *("make", "-C", str(EXAMPLE), f"WORK={work}", f"MPU={sys.executable} -m mpu_cli"),
        *(f"MODEL={assets() / 'model'}", f"BASE={assets() / 'base'}"),
        *(f"FORGET={tmp_path / 'forget.jsonl'}", f"RETAIN={tmp_path / 'retain.jsonl'}"),
        *("COPIES=2", "UNLEARN=--max-steps 2 --learning-rate 2e-4", *more),
    ]


def make(*command):
    """Run it."""
    return subprocess.run(command, capture_output=True, encoding="utf-8")


def commands(text):
    """The mpu commands among the lines that make prints, without their options' values."""
    found = []
    for line in text.splitlines():
        if "-m mpu_cli " in line:
            found.append(shlex.split(line.split("-m mpu_cli ", 1)[1].removesuffix("; }")))
    return found


def test_each_round_is_perturb_train_finish_aggregate(tmp_path):
    """Two rounds with two copies; round 2 hands out what round 1 made."""
    done = make(*words(tmp_path / "work", tmp_path, "ROUNDS=2", "-n"))
    assert done.returncode == 0, done.stderr
    found = commands(done.stdout)
    expected = ["perturb", "verify", "unlearn", "unlearn", "unlearn", "aggregate"]
    assert [command[0] for command in found] == 2 * expected
    first, second = found[0], found[6]
    assert first[1] == str(assets() / "model")
    assert second[1] == f"{tmp_path}/work/server/model-1"
    trained = [command for command in found if "--copy" in command]
    assert [
        (command[command.index("--round") + 1], command[command.index("--copy") + 1])
        for command in trained
    ] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert not any("secret" in " ".join(command) for command in trained)
    assert not (tmp_path / "work").exists()


def test_with_rows_of_its_own_the_server_evaluates_before_it_releases(tmp_path):
    """The model gets its name after the evaluation, and the next round waits for that name."""
    command = words(tmp_path / "work", tmp_path, "ROUNDS=2", "-n")
    check = tmp_path / "check.jsonl"
    check.write_text((assets() / "holdout.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    done = make(*command, f"CHECK={check}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "aggregate" in line]
    for number, line in enumerate(lines, 1):
        parts = [f"--out candidate-{number}", "eval", f"mv candidate-{number} model-{number}"]
        assert sorted(parts, key=line.index) == parts and str(check) in line
        assert "--fail-if 'retain.answer_probability<0.5'" in line
    assert len(lines) == 2


@pytest.mark.slow
def test_a_model_that_lost_the_rows_is_not_released(tmp_path, monkeypatch):
    """The gate stops make with nothing but a candidate, and a gate that holds lets it pass."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = tmp_path / "work"
    command = [*words(work, tmp_path, "ROUNDS=1"), f"CHECK={tmp_path / 'retain.jsonl'}"]
    refused = make(*command, "GATE=retain.answer_probability<1")
    assert refused.returncode == 2
    assert "--fail-if retain.answer_probability<1: retain.answer_probability is" in refused.stderr
    assert (work / "server" / "candidate-1").is_dir()
    assert not (work / "server" / "model-1").exists()
    passed = make(*command)
    assert passed.returncode == 0, passed.stderr
    assert [line[0] for line in commands(passed.stdout)][-1] == "aggregate"
    assert (work / "server" / "model-1").is_dir()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("MODEL=nowhere", "MODEL='nowhere': no config.json there"),
        ("MODEL=", "MODEL is missing"),
        ("BASE=nowhere", "BASE='nowhere': no config.json there"),
        ("FORGET=nowhere.jsonl", "FORGET='nowhere.jsonl': no such file"),
        ("RETAIN=nowhere.jsonl", "RETAIN='nowhere.jsonl': no such file"),
        ("COPIES=none", "COPIES='none': expected a number from 1"),
        ("ROUNDS=0", "ROUNDS='0': expected a number from 1"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(tmp_path, change, told):
    """One line that names the variable."""
    done = make(*words(tmp_path / "work", tmp_path, change))
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()


def test_clean_needs_no_model(tmp_path):
    """And removes what was written, nothing else."""
    (tmp_path / "work" / "server").mkdir(parents=True)
    done = make("make", "-C", str(EXAMPLE), f"WORK={tmp_path / 'work'}", "clean")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    """Two rounds, killed in between: what was finished is kept, nothing is done twice."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = tmp_path / "work"
    command = words(work, tmp_path, "-j2")
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        limit = time.monotonic() + 300
        while not any(work.glob("client/to-server-1/copy-*")) and time.monotonic() < limit:
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    handoff = (work / "server" / "to-client-1" / "mpu.yaml").read_bytes()
    done = make(*command, "compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "server" / "to-client-1" / "mpu.yaml").read_bytes() == handoff
    assert [one[0] for one in commands(done.stdout)].count("perturb") == 1  # round 2's
    assert "server against noise-free" in done.stdout
    assert "Nothing to be done" in make(*command).stdout
    assert (assets() / "model" / "config.json").is_file()
