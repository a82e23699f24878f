"""--config FILE.yaml: options by their long names; flags win, an unknown key names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
import typer
import yaml
from rounds import Round, every_command

from mpu_cli.cli.app import app
from mpu_cli.cli.eval_options import EvalOptions
from mpu_cli.cli.flags import read_job
from mpu_cli.errors import UsageError
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.option import all_options


@pytest.fixture
def perturb(mpu, finished_round, tmp_path):
    """Run `mpu perturb` with a config file of this content, and see what it did."""

    def run(content: object, *options: object, name: str = "config.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        given = (
            "--base",
            finished_round.base,
            "--handoff",
            tmp_path / "new",
            "--secret",
            tmp_path / "server",
        )
        return mpu("perturb", finished_round.model, *given, "--config", path, "--json", *options)

    return run


def test_options_come_from_the_file(perturb):
    """Numbers, lists, booleans and words, under their long names."""
    done = perturb(
        {
            "copies": 2,
            "kappa": 0.02,
            "alphas": [1, 1.5],
            "offset": 0.1,
            "max-shard-size": "20KB",
            "split": True,
            "dtype": "float32",
        }
    )
    assert done.code == 0
    assert done.json["copies"] == 2
    assert done.json["kappa"] == 0.02
    assert done.json["offset"] == 0.1
    assert len(done.json["handoffs"]) == 2
    assert len(list(Path(done.json["handoffs"][0]["path"]).glob("copy-1/model-*.safetensors"))) > 1


def test_flags_win_over_the_file(perturb):
    """What is given on the command line is not taken from the file."""
    done = perturb({"copies": 2, "kappa": 0.02}, "--kappa", "0.03")
    assert (done.json["copies"], done.json["kappa"]) == (2, 0.03)


@pytest.mark.parametrize(
    ("content", "trains"),
    [
        ({"no-train-embeddings": True}, False),
        ({"no-train-embeddings": False}, True),
        ({"train-embeddings": False}, False),
        ({}, True),
    ],
)
def test_a_negative_key_means_the_negative_option(perturb, content, trains):
    """`no-x: true` is `--no-x`, and wins over a preset as that does."""
    done = perturb({"preset": "paper", **content}, "--dry-run")
    assert done.code == 0, done.err
    assert f"train-embeddings {trains}" in done.err


def test_a_negative_key_is_true_or_false(perturb):
    """Other values have no clear meaning."""
    error = perturb({"no-train-embeddings": "maybe"}).json["error"]
    assert "no-train-embeddings: is maybe, expected true or false" in error["message"]


def test_a_switch_that_the_file_sets_to_false_is_not_given():
    """Next commands repeat the options that were given; this one was not."""
    command = typer.main.get_command(app).get_command(None, "eval")
    options = {"content_parts": False, "generate": False, "system_prompt": "Hi"}
    context = command.make_context("eval", [], default_map=options)
    given = read_job(EvalOptions, context).given
    assert given == {"--generate": (), "--system-prompt": ("Hi",)}


def test_required_options_and_arguments_may_come_from_the_file(mpu, finished_round, tmp_path):
    """A whole command can live in a file."""
    r = finished_round
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": str(r.model),
                "handoff": str(tmp_path / "new"),
                "secret": str(tmp_path / "s"),
                "base": str(r.base),
            }
        )
    )
    assert mpu("perturb", f"--config={path}").code == 0
    assert (tmp_path / "new" / "mpu.yaml").exists()


def test_the_range_checks_hold_for_the_file_too(perturb, tmp_path):
    """A bad value from the file is the same usage error as from a flag."""
    for content, words in (
        ("kappa: yes", "--kappa yes"),
        ("kappa: true", "kappa: is true, expected a value"),
        ("copies: true", "copies: is true, expected a value"),
        ("kappa: 2020-99-99", "--kappa 2020-99-99"),
        ("kappa: {a: 1}", "expected a value or a list of values"),
        ("alphas: [[1], 2]", "expected a value or a list of values"),
        ("kappa: " + "1" * 5000, "kappa"),
        ("copies: " + ":".join(["59"] * 20000), "copies"),
        ("x: " + "1" * (1 << 20), "larger than 1 MiB"),
        ({"kappa": -1}, "--kappa -1: expected a finite number from 0 to 1000"),
        ({"alphas": [1, 2]}, "2 values for 3 copies"),
        ({"copies": "many"}, "--copies"),
    ):
        done = perturb(content)
        assert done.code == 2
        assert words in done.json["error"]["message"]
    assert not (tmp_path / "new").exists()


UNKNOWN = {
    "kapa": "kappa",
    "max_shard_sise": "max-shard-size",
    "alpha": "alphas",
    "Copies": "copies",
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_key_names_the_nearest(perturb, key, tmp_path):
    """A misspelt option is never ignored."""
    error = perturb({key: 1}).json["error"]
    assert error["exit_code"] == 2
    assert f"unknown option {key!r}" in error["message"]
    assert "config.yaml" in error["message"]
    assert error["hint"].replace("_", "-") == f"did you mean {UNKNOWN[key]}?"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("key", ["config", "help", "zzzzzz"])
def test_a_key_without_a_neighbour_is_an_error_too(perturb, key):
    """--config inside a config file, --help, and nonsense."""
    assert perturb({key: "x"}).json["error"]["message"].endswith(f"unknown option {key!r}")


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        "just words",
        "a: [",
        "a: !!python/object/apply:os.system ['true']",
        "\tx: 1",
        "kappa: !!int ''",
        "kappa: !!timestamp x",
        "kappa: !!float x",
        "kappa: !!binary '%'",
        "json: !unknown 1",
        "kappa: &a [*a]",
        "kappa: &a 1\nalphas: *a",
        "kappa: 0.1\nkappa: 0.2",
        "? [1]\n: 2",
        "<<: 5",
        "kappa: 1\n---\nkappa: 2",
        "kappa: " + "[" * 5000,
        "\0",
    ],
)
def test_a_file_that_is_no_map_is_refused(perturb, content):
    """The message names the file, and the line where there is one."""
    error = perturb(content).json["error"]
    assert error["exit_code"] == 2
    assert "config.yaml" in error["message"]


def test_an_empty_file_changes_nothing(perturb):
    """Comments only are a map without entries."""
    assert perturb("# nothing yet\n").json["copies"] == 3


def test_a_missing_file_is_a_usage_error(mpu, finished_round):
    """The message names it."""
    done = mpu("verify", finished_round.handoff, "--config", "/no/config.yaml")
    assert done.code == 2
    assert "/no/config.yaml: no such file or directory" in done.err
    assert "hint: give a YAML file" in done.err


def test_repeated_options_are_lists_in_the_file(mpu, finished_round: Round, tmp_path):
    """`set:` takes a list where the command line repeats --set.

    `json: true` makes errors JSON too.
    """
    path = tmp_path / "config.yaml"
    content = {
        "set": ["betta=1"],
        "method": "NPO",
        "json": True,
        "forget": str(finished_round.forget),
        "retain": str(finished_round.retain),
    }
    path.write_text(yaml.safe_dump(content))
    done = mpu("unlearn", finished_round.handoff, "--config", path, "--out", tmp_path / "new")
    assert done.code == 2
    assert "betta" in done.json["error"]["message"]


def test_repeated_arguments_are_lists_in_the_file(mpu, tmp_path):
    """`records:` takes a list where the command line has several arguments."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"records": ["same", "same"]}))
    done = mpu("compare", "--config", path)
    assert done.code == 2
    assert "the same record is given twice" in done.err


@pytest.mark.parametrize("word", ["true", "False", "[true]", "[1, false]"])
def test_a_switch_is_no_value(tmp_path, word):
    """Of every command, every option that takes a value: true is not 1."""
    path, accepted, count = tmp_path / "config.yaml", [], 0
    group = typer.main.get_command(app)
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        for part in getattr(command, "commands", {"": command}).values():
            for option in part.params:
                if getattr(option, "is_flag", False) or option.name in {"config", "help"}:
                    continue
                count += 1
                path.write_text(f"{option.name}: {word}\n")
                try:
                    accepted.append((name, part._defaults(path)))
                except UsageError as error:
                    assert option.name in error.message and "expected a value" in error.message
    assert count > 100 and accepted == []


def test_neither_a_switch_nor_nan_is_a_number():
    """However it was given: every option with a range refuses both, and every other is known."""
    unbounded, count = set(), 0
    for name, function in every_command().items():
        for item in all_options(get_type_hints(function.__wrapped__)["job"]):
            if item.type not in {int, float} or item.option.parse is not None:
                continue
            count += 1
            for value in (True, False, float("nan")):
                try:
                    item.check((value,) if item.option.repeated else value)
                    unbounded.add(f"{name} {item.flag}")
                except UsageError as error:
                    assert item.flag in error.message
    assert count > 50
    # The number of a copy is looked up; the rates are checked where they are used.
    assert unbounded == {"eval --copy", "unlearn --copy", "eval --relearn-rate"}
    with pytest.raises(UsageError, match="--relearn-rate"):
        EvalSettings(relearn_rates=(float("nan"),))
