"""The documented exit codes and kinds are those of the code, and every command has help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpu_cli import errors
from mpu_cli.cli.app import INTERNAL_ERROR, INTERRUPTED, run

DOCS = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
COMMANDS = ["aggregate", "demo", "diff", "inspect", "perturb", "unlearn", "verify"]


def _kinds() -> dict[str, int]:
    found = {
        name: item
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, errors.MpuError)
    }
    del found["MpuError"], found["StoppedError"]  # the second is told as Interrupted
    return {name.removesuffix("Error"): item.exit_code for name, item in found.items()}


def test_every_code_is_documented():
    """0, 1, 2, 3, 70 and 130, and no others."""
    documented = {int(code) for code in re.findall(r"^\| \*\*(\d+)\*\* \|", DOCS, re.MULTILINE)}
    assert documented == {0, *_kinds().values(), INTERNAL_ERROR, INTERRUPTED}


def test_every_kind_is_documented_with_its_code():
    """The table of kinds matches errors.py."""
    line = next(line for line in DOCS.splitlines() if line.startswith("| `kind` |"))
    documented = {}
    for group in line.split("|")[2].split("·"):
        code = int(re.search(r"\((?:exit )?(\d+)\)", group)[1])
        documented.update(dict.fromkeys(re.findall(r"`(\w+)`", group), code))
    assert documented == {**_kinds(), "Internal": INTERNAL_ERROR, "Interrupted": INTERRUPTED}


def test_the_documented_messages_are_the_real_ones(mpu, own_round, tmp_path, monkeypatch):
    """The commands print the messages on the page."""
    r = own_round
    monkeypatch.chdir(r.forget.parent)
    done = mpu(
        "perturb", "model", "--base", r.base, "--handoff", "new", "--secret", "s", "--alphas", "1,2"
    )
    assert done.err in DOCS
    r.forget.write_text('{"text": "w1 w2"}\n\n{"question": "w1 ?"}\n')
    assert (
        mpu(
            "unlearn",
            r.handoff,
            "--forget",
            "forget.jsonl",
            "--retain",
            "retain.jsonl",
            "--out",
            "new",
        ).err
        in DOCS
    )
    given = ("--secret", r.secret, "--out")
    assert mpu("aggregate", "to-server", "--model", "model", *given, "model-next").code == 0
    assert mpu("aggregate", "to-server", "--model", "model-next", *given, "model-3").err in DOCS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_names_its_options(command, mpu):
    """--help and -h print the same on stdout, with exit code 0."""
    done = mpu(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: mpu {command}" in done.out
    assert "--json" in done.out
    assert mpu(command, "-h").out == done.out


def test_the_command_table_is_complete(mpu):
    """`mpu --help` lists the commands; --version prints the version."""
    from mpu_cli import __version__

    done = mpu("--help")
    assert done.code == 0
    assert all(f"\n  {command} " in done.out for command in COMMANDS)
    assert mpu("--version").out == f"mpu {__version__}\n"
    assert run(["--version"]) == 0


def test_mpu_alone_says_where_to_begin(mpu):
    """As a newcomer, as the server and as the client, on 80 columns; its commands exist."""
    done = mpu()
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    begun = re.findall(r"^ {6}mpu (\w+)", done.out, re.MULTILINE)
    assert begun == ["demo", "perturb", "aggregate", "inspect", "unlearn"]
    assert set(begun) <= set(COMMANDS)


@pytest.mark.parametrize(
    "line", ["insect x", "perturb --kapa 1", "data chek", "data check --strit"]
)
def test_a_misspelt_command_or_option_names_the_nearest(line, mpu):
    """In a hint, as for any other word."""
    done = mpu(*line.split())
    assert done.code == 2
    assert re.search(
        r"^mpu: hint: did you mean (inspect|--kappa|check|--strict)\?$", done.err, re.M
    )


@pytest.mark.parametrize("name", ["handoff", "update", "secret", "model"])
def test_inspect_and_verify_print_json_or_text(name, mpu, finished_round):
    """Both name the kind."""
    path = getattr(finished_round, name)
    for command in ("inspect", "verify"):
        done = mpu(command, path, "--json")
        assert (done.code, done.err, done.json["kind"]) == (0, "", name)
        assert name in mpu(command, path).out


def test_an_option_with_a_variable_names_it(mpu, monkeypatch):
    """Without --secret the hint names MPU_SECRET; without another option it names none."""
    monkeypatch.delenv("MPU_SECRET", raising=False)
    given = ("aggregate", "update", "--model", "m", "--out", "o")
    done = mpu(*given)
    assert "missing option '--secret'" in done.err
    assert "set MPU_SECRET" in done.err
    assert "set MPU" not in mpu(*given[:-2], "--secret", "s").err


def test_inspect_never_shows_a_secret(mpu, finished_round):
    """Neither the master secret nor α nor σ."""
    from mpu_cli.server.lineage.models import Lineage

    lineage = Lineage.read(finished_round.secret)
    record = next(iter(lineage.handoffs.values()))
    told = (
        mpu("inspect", finished_round.secret).out
        + mpu("inspect", finished_round.secret, "--json").out
    )
    assert lineage.secret.master.hex() not in told
    assert record.draw not in told
    assert not [value for value in record.sigma.values() if repr(value) in told]
    assert "coefficient" not in told
