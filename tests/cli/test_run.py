"""`mpu run`: whole plans of real commands on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rounds import FORGET, PLAN, QUICK, RETAIN, Done, quietly

from mpu_cli.experiment.lock import locked

TABLES = ("plan.yaml", "runs.csv", "rounds.csv", "provenance.json")
"""What is bit for bit the same however often the run was interrupted."""


@pytest.fixture(scope="session")
def desk(tiny_pair, tmp_path_factory) -> Path:
    """A directory with models, rows and plans, and a finished run of `plan.yaml`."""
    pair, place = tiny_pair("llama"), tmp_path_factory.mktemp("desk")
    shutil.copytree(pair.model, place / "model")
    shutil.copytree(pair.base, place / "base")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "plan.yaml").write_text(PLAN)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(place)
        code = quietly(("run", "plan.yaml", "--out", "first", "--keep", "all", "--json"))
    assert code == 0, out.getvalue()
    (place / "first.json").write_text(out.getvalue())
    (place / "first.log").write_text(err.getvalue())
    return place


def start(place: Path, *words: object, **more) -> subprocess.Popen[str]:
    """Begin `mpu run` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mpu_cli", "run", *map(str, words)],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


@pytest.fixture
def run(desk, mpu, monkeypatch) -> Callable[..., Done]:
    """`run("plan.yaml", …)`: the command in this process, in the desk's directory."""
    monkeypatch.chdir(desk)
    return lambda *words: mpu("run", *words)


def rows(path: Path) -> list[dict[str, str]]:
    """A table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tables(path: Path) -> dict[str, bytes]:
    """The tables that must not change."""
    return {name: (path / name).read_bytes() for name in TABLES}


def test_a_plan_becomes_tables(desk):
    """One row for the untouched model, one without noise, one with."""
    before, plain, noisy = rows(desk / "first" / "runs.csv")
    assert [row["kind"] for row in (before, plain, noisy)] == ["before", "noise-free", "mpu"]
    assert [noisy[name] for name in ("kappa", "copies", "seed")] == ["0.01", "2", "1"]
    assert 0 < float(noisy["error"]) < 0.5
    assert float(noisy["agreement"]) > 0.5
    assert plain["error"] == ""
    assert before["forget"] != plain["forget"] != noisy["forget"]
    assert len(rows(desk / "first" / "rounds.csv")) == 3
    answer = json.loads((desk / "first.json").read_text())
    assert (answer["made"], answer["found"], answer["rows"], answer["failed"]) == (8, 0, 3, [])
    assert (desk / "first.log").read_text().count(" s") >= 8
    facts = json.loads((desk / "first" / "provenance.json").read_text())
    assert facts["complete"]
    assert len(facts["steps"]) == 8
    assert {(desk / name).exists() for name in facts["sources"]} == {True}
    assert not any(name.startswith("/") for name in facts["sources"])


def test_the_noise_free_row_is_what_the_command_gives_by_hand(desk, mpu, tmp_path, monkeypatch):
    """Bit for bit: the same model, the same numbers."""
    monkeypatch.chdir(desk)
    by_hand = tmp_path / "plain"
    done = mpu(
        *("unlearn", "model", "--forget", "forget.jsonl", "--retain", "retain.jsonl"),
        *(*QUICK, "--seed", 1, "--round", 1, "--out", by_hand),
    )
    assert done.code == 0, done.err
    measured = mpu(
        *("eval", by_hand, "--forget", "forget.jsonl", "--retain", "retain.jsonl"),
        *("--metric", "answer_probability", "--no-generate", "--json"),
    ).json
    row = rows(desk / "first" / "runs.csv")[1]
    assert row["model_digest"] == measured["model"]["digest"]
    for name in ("forget", "retain"):
        assert float(row[name]) == measured["values"][name]["answer_probability"]["value"]
    (key,) = [
        key
        for name, key in json.loads((desk / "first" / "provenance.json").read_text())[
            "steps"
        ].items()
        if name.endswith("noise-free / round 1 / unlearn")
    ]
    weights = desk / "mpu-work" / "steps" / key / "model" / "model.safetensors"
    assert weights.read_bytes() == (by_hand / "model.safetensors").read_bytes()


def test_a_second_call_finds_everything_done(desk, run):
    """And writes the same tables; --dry-run says so before."""
    planned = run("plan.yaml", "--dry-run", "--json").json
    assert (planned["steps"], planned["found"], planned["to_make"]) == (8, 8, {})
    began = time.monotonic()
    again = run("plan.yaml", "--out", "second", "--keep", "all", "--json").json
    assert time.monotonic() - began < 10
    assert (again["made"], again["found"]) == (0, 8)
    assert tables(desk / "second") == tables(desk / "first")


def test_plans_share_their_steps(desk, run):
    """Another noise needs only its own; the time is predicted from the first plan's."""
    (desk / "more.yaml").write_text(PLAN.replace("[0.01]", "[0.01, 0.02]"))
    planned = run("more.yaml", "--dry-run", "--json").json
    assert (planned["steps"], planned["found"]) == (13, 8)
    assert planned["seconds"] > 0
    assert planned["disk_bytes"] > 0
    done = run("more.yaml", "--out", "more", "--keep", "all", "--json")
    assert (done.json["made"], done.json["found"], done.json["rows"]) == (5, 8, 4)


def test_a_killed_run_goes_on_to_the_same_tables(desk, run, tmp_path):
    """Kill -9 in the middle of a step, then the same command."""
    process = start(desk, "plan.yaml", "--out", tmp_path / "out", "--work", tmp_path / "work")
    for line in process.stderr:
        if "perturb (" in line:
            break
    process.kill()
    process.wait()
    done = run("plan.yaml", "--out", tmp_path / "out", "--work", tmp_path / "work", "--json")
    assert done.code == 0, done.err
    assert done.json["found"] >= 4
    assert tables(tmp_path / "out") == tables(desk / "first")


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times(desk, tmp_path):
    """At random moments, with two steps at a time: the tables are those of an undisturbed run."""
    moments = random.Random(21)
    (desk / "long.yaml").write_text(
        PLAN.replace("seeds: [1]", "seeds: [1, 2]\nrounds: 2").replace("[0.01]", "[0.01, 0.1]")
    )
    words = ("long.yaml", "--jobs", 2, "--work", tmp_path / "work", "--out", tmp_path / "out")
    kills = 0
    while True:
        process = start(desk, *words)
        try:
            process.communicate(timeout=moments.uniform(3, 25) if kills < 20 else 1000)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert process.returncode == 0
    undisturbed = start(
        desk, "long.yaml", "--work", tmp_path / "other", "--out", tmp_path / "undisturbed"
    )
    assert undisturbed.communicate(timeout=1000) is not None
    assert tables(tmp_path / "out") == tables(tmp_path / "undisturbed")


def test_a_second_run_waits_for_the_first(desk):
    """It says so, and then finds the steps done."""
    with locked(desk / "mpu-work", print):
        second = start(desk, "plan.yaml", "--out", "third", "--keep", "all", "--json")
        for line in second.stderr:
            if "waiting" in line:
                break
        assert f"process {os.getpid()} is working there; waiting for its end" in line
        time.sleep(1)
        assert second.poll() is None
    out, _ = second.communicate(timeout=60)
    assert (json.loads(out)["made"], json.loads(out)["found"]) == (0, 8)


@pytest.mark.slow
def test_two_runs_of_one_plan_at_once(desk, run, tmp_path):
    """Nothing is done twice, and both write the same tables."""
    words = ("plan.yaml", "--work", tmp_path / "work", "--json")
    first = start(desk, *words, "--out", tmp_path / "one")
    for line in first.stderr:
        if "before (" in line:
            break
    second = run(*words, "--out", tmp_path / "two")
    out, err = first.communicate()
    assert first.returncode == 0, err
    assert "waiting for its end" in second.err
    assert (second.json["made"], second.json["found"]) == (0, 8)
    assert json.loads(out)["made"] == 8
    assert tables(tmp_path / "one") == tables(tmp_path / "two") == tables(desk / "first")


def test_a_step_that_fails(desk, run, tmp_path):
    """One line with step, reason, log and what to do; the other branch goes on; exit code 1."""
    plan = PLAN.replace("seeds: [1]", "seeds: [1]\nbaseline: false")
    (desk / "bad.yaml").write_text(plan.replace("kappa: [0.01]", "learning_rate: [1e-3, 1e30]"))
    done = run("bad.yaml", "--out", tmp_path / "out", "--json")
    assert done.code == 1
    error = done.json["error"]
    assert "learning_rate=1e+30 copies=2 seed=1 / round 1 / unlearn: step 2" in error["message"]
    assert "2 steps that depend on it were not run" in error["message"]
    assert "stderr.log; then run the same command again" in error["hint"]
    assert Path(done.json["failed"][0]["log"]).is_file()
    assert [row["kind"] for row in rows(tmp_path / "out" / "runs.csv")] == ["before", "mpu"]
    assert not json.loads((tmp_path / "out" / "provenance.json").read_text())["complete"]


def test_an_interrupted_run_says_how_to_go_on(desk, tmp_path):
    """Exit code 130; the tables hold what is done."""
    words = ("plan.yaml", "--out", tmp_path / "out", "--work", tmp_path / "work")
    process = start(desk, *words, start_new_session=True)
    for line in process.stderr:
        if "8 steps" in line:
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "mpu: error: interrupted; 0 of 8 steps were made" in err
    assert "mpu: hint: run the same command again" in err
    assert (tmp_path / "out" / "runs.csv").is_file()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("model: model", "model: nowhere"), 3, "wrong.yaml:1: model: "),
        (("kappa", "kapa"), 2, "kapa"),
        (("GradDiff", "GradDif"), 2, "GradDif"),
        (("max_steps: 2", "max_steps: -2"), 2, "max"),
    ],
)
def test_a_wrong_plan_runs_nothing(desk, run, tmp_path, change, code, words):
    """One line, and no directory."""
    (desk / "wrong.yaml").write_text(PLAN.replace(*change))
    done = run("wrong.yaml", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert done.code == code
    assert words in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either a plan or a --preset"),
        (("plan.yaml", "--preset", "paper-tofu"), "give either a plan or a --preset"),
        (("plan.yaml", "--base", "base"), "--base has no effect without --preset"),
        (("--preset", "paper-tofu"), "--preset needs --model"),
        (("--preset", "paper-tof"), "paper-tofu"),
        (("plan.yaml", "--emit", "make", "--executor", "slurm"), "no effect with --emit"),
    ],
)
def test_a_plan_or_a_preset(run, words, message):
    """One of them, and its own options: usage errors."""
    done = run(*words)
    assert done.code == 2
    assert message in done.err


def test_other_files_are_not_overwritten(run, tmp_path):
    """A results directory that is none, a work directory that is a file or holds other files."""
    (tmp_path / "mine").write_text("x")
    done = run("plan.yaml", "--out", tmp_path)
    assert done.code == 3
    assert "no runs.csv of an earlier run" in done.err
    done = run("plan.yaml", "--out", "out", "--work", tmp_path)
    assert done.code == 3
    assert "no steps of an earlier run" in done.err
    done = run("plan.yaml", "--out", tmp_path / "out", "--work", tmp_path / "mine")
    assert done.code == 3
    assert str(tmp_path / "mine") in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_cluster_that_does_not_answer(desk, tmp_path):
    """The last line of what squeue says, and nothing of its other lines."""
    pytest.importorskip("submitit")
    script = "#!/bin/sh\necho 'squeue: a' >&2; echo 'squeue: b' >&2; exit 1\n"
    for name in ("squeue", "sbatch", "srun"):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    search = f"{tmp_path}:{os.environ['PATH']}"
    places = ("--out", tmp_path / "out", "--work", tmp_path / "work")
    words = ("plan.yaml", "--executor", "slurm", *places)
    with start(desk, *words, env=os.environ | {"PATH": search}) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "error: squeue does not answer: b\n" in err


def test_results_do_not_replace_a_plan(desk, run, tmp_path):
    """A directory in which the user keeps plans is no directory of results."""
    (tmp_path / "plan.yaml").write_text("mine")
    done = run("plan.yaml", "--out", tmp_path)
    assert done.code == 3
    assert (tmp_path / "plan.yaml").read_text() == "mine"


def test_a_results_directory_that_cannot_be_made_is_found_at_once(run, tmp_path):
    """Before any step is made."""
    (tmp_path / "file").write_text("x")
    done = run("plan.yaml", "--out", tmp_path / "file" / "results", "--work", tmp_path / "work")
    assert done.code == 3
    assert "file/results: cannot be written" in done.err
    assert not (tmp_path / "work").exists()
