"""The printed next commands run as they are: one whole round and a second one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rounds import FORGET, QUICK, RETAIN, Done

from mpu_cli.cli import next_steps

PRINTED = re.compile(r"^ +(mpu .*)$", re.MULTILINE)
SMALL = ("--max-steps", "2", "--batch-size", "4", "--learning-rate", "1e-3")
QUICKLY = ("--metric", "answer_probability", "--no-generate")


def commands(done: Done) -> list[list[str]]:
    """The arguments of every printed command, split as a shell does."""
    assert done.code == 0, done.err
    return [shlex.split(line)[1:] for line in PRINTED.findall(done.out)]


@pytest.fixture
def place(tiny_pair, tmp_path, monkeypatch) -> Path:
    """A working directory with both parties' files, below a path with special characters."""
    pair = tiny_pair("llama")
    root = tmp_path / "a b" / "it's [bold] :smile: $HOME"
    root.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pair.model, root / "model")
    shutil.copytree(pair.base, root / "base")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def first(place: Path, mpu: Callable[..., Done], *more: object) -> Done:
    """The one command that no output prints."""
    where = place.relative_to(Path.cwd())
    own = (
        "--base",
        where / "base",
        "--handoff",
        where / "to-client",
        "--secret",
        where / "server",
        "-m",
        2,
        "--kappa",
        0.01,
    )
    return mpu("perturb", where / "model", *own, *more)


def test_a_round_and_the_next_one_run_from_printed_commands(place, mpu):
    """Perturb prints the whole round, aggregate the evaluation and the next round."""
    printed = commands(first(place, mpu, "--client", "Ana & Ben"))
    assert [command[0] for command in printed] == ["verify", "unlearn", "verify", "aggregate"]
    for command in printed:
        done = mpu(*command, *(SMALL if command[0] == "unlearn" else ()))
        assert done.code == 0, (command, done.err)
        if command[0] == "unlearn":
            own, theirs = commands(done)
            assert theirs == ["verify", command[-1], "--expect", "update"]
            assert mpu(*own, *QUICKLY).code == 0
    measure, again = commands(done)
    measured = mpu(*measure, *QUICKLY)
    assert [mpu(*command).code for command in commands(measured)] == [0]
    assert again[again.index("--client") + 1] == "Ana & Ben"
    second = commands(mpu(*again))
    assert second[1][second[1].index("--out") + 1] == "to-server-2"
    assert second[3][-1] == "model-next-2"


@pytest.mark.slow
def test_a_split_round_is_printed_for_every_holder(place, mpu):
    """Each handoff has its own update, and one command aggregates all of them.

    The next round is for the same client; the holders' numbers are not part of its name.
    """
    printed = commands(first(place, mpu, "--split", "--client", "ward-7"))
    assert [command[0] for command in printed] == [
        "verify",
        "unlearn",
        "verify",
        "unlearn",
        "verify",
        "verify",
        "aggregate",
    ]
    for command in printed:
        done = mpu(*command, *(SMALL if command[0] == "unlearn" else ()))
        assert done.code == 0, (command, done.err)
    for printed_by in (done, mpu("inspect", place.relative_to(Path.cwd()) / "server")):
        again = commands(printed_by)[-1]
        assert again[again.index("--client") + 1] == "ward-7"


def test_the_commands_of_inspect_run(finished_round, tmp_path, monkeypatch, mpu):
    """For a handoff and an update."""
    monkeypatch.chdir(tmp_path)
    for name in ("forget", "retain"):
        shutil.copy(getattr(finished_round, name), f"{name}.jsonl")
    for bundle in (finished_round.handoff, finished_round.update):
        for command in commands(mpu("inspect", bundle)):
            assert mpu(*command, *(SMALL if command[0] == "unlearn" else ())).code == 0


def test_the_commands_of_inspect_run_for_a_secret(own_round, tmp_path, monkeypatch, mpu):
    """While an update is missing, aggregate; then another round, with the base of the lineage."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_round.model, "model")
    shutil.copytree(own_round.update, "to-server")
    aggregate, again = commands(mpu("inspect", own_round.secret))
    assert "--client" not in again
    assert mpu(*aggregate).code == 0
    Path("model").rename("model-before")
    Path("model-next").rename("model")
    (perturb,) = commands(mpu("inspect", own_round.secret))
    assert mpu(*perturb).code == 0


def test_single_copies_end_with_finish(finished_round, tmp_path, monkeypatch, mpu):
    """While copies are left, the next one is named; after the last, --finish."""
    monkeypatch.chdir(tmp_path)
    words = (
        "unlearn",
        finished_round.handoff,
        "--forget",
        finished_round.forget,
        "--retain",
        finished_round.retain,
        *QUICK,
    )
    one = mpu(*words, "--out", "by one", "--copy", 1)
    assert "the same command with --copy 2 (1 of 2 copies are left)" in one.out
    (finish,) = commands(mpu(*words, "--out", "by one", "--copy", 2))
    assert [command[0] for command in commands(mpu(*finish))] == ["eval", "verify"]


def test_a_model_is_evaluated_on_the_given_rows(finished_round, tmp_path, monkeypatch, mpu):
    """Also with mapped columns."""
    monkeypatch.chdir(tmp_path)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name} rows.jsonl").write_text(
            "".join(json.dumps({"q": r["question"], "a": r["answer"]}) + "\n" for r in rows)
        )
    columns = ("--map", "prompt=q", "--map", "answer=a")
    rows = ("--forget", "forget rows.jsonl", "--retain", "retain rows.jsonl")
    (command,) = commands(
        mpu("unlearn", finished_round.model, *rows, *columns, *QUICK, "--out", "m")
    )
    assert mpu(*command, *QUICKLY).code == 0


@pytest.mark.slow
def test_the_commands_for_tar_files_run(place, mpu):
    """The client gets and sends one file each, and evaluates its own update."""
    printed = commands(first(place, mpu, "--pack", "to-client.tar"))
    assert printed[0] == ["verify", "to-client.tar", "--expect", "handoff"]
    assert mpu(*printed[0]).code == 0
    own, theirs = commands(mpu(*printed[1], *SMALL, "--pack", "to-server.tar"))
    assert own[:4] == ["eval", "to-server", "--handoff", "to-client.tar"]
    assert theirs == ["verify", "to-server.tar", "--expect", "update"]
    assert [mpu(*command).code for command in ([*own, *QUICKLY], theirs)] == [0, 0]


def test_names_that_are_taken_get_a_number(tmp_path, monkeypatch):
    """A second round does not use the first one's directories."""
    monkeypatch.chdir(tmp_path)
    assert next_steps.free("to-server") == "to-server"
    (tmp_path / "to-server").mkdir()
    (tmp_path / "to-server-2").symlink_to("nowhere")
    assert next_steps.free("to-server") == "to-server-3"
    Path("to-server-3.tar").touch()  # the round before travelled as a tar file
    assert next_steps.free("to-server") == "to-server-4"


def test_a_path_that_starts_with_a_hyphen():
    """-x is ./-x."""
    assert next_steps.command("verify", next_steps.path("-x")) == "mpu verify ./-x"
