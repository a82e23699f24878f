"""Hints are true: what they name exists, in the command that prints them."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

import mpu_cli
from mpu_cli.cli.app import app

SOURCE = Path(mpu_cli.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
ANY = {"--help", "--json", "--config", "--version", "--verbose", "--quiet"}
FOREIGN = re.compile(r"\b(hf upload|hf download|torchrun|snakemake|with tar) ")
"""Programs of others: what follows them is theirs."""
NO_MESSAGES = {
    "experiment/child.py": "options of a program of its own",
    "experiment/executors/slurm.py": "squeue's options",
    "report/plot.py": "variables of a style sheet",
}
"""Modules with words that begin with hyphens and are no options of mpu."""
REACHED_FROM = {
    "audit/update": ("audit update",),
    "bundle": ("unlearn", "diff", "aggregate", "verify", "inspect"),
    "bundle/signatures/pins.py": ("unlearn", "diff", "aggregate"),
    "checkpoint/change.py": ("aggregate", "unlearn"),
    "checkpoint/recognise.py": (
        "perturb",
        "unlearn",
        "diff",
        "aggregate",
        "eval",
        "inspect",
        "verify",
    ),
    "checkpoint/staging.py": ("perturb", "unlearn", "diff", "aggregate", "eval"),
    "checkpoint/writer.py": ("perturb", "unlearn", "diff", "aggregate"),
    "client": ("unlearn",),
    "client/adapters.py": ("unlearn", "diff"),
    "client/delta.py": ("unlearn", "diff"),
    "client/diff.py": ("diff",),
    "client/masks": ("mask update",),
    "client/masks/key.py": ("mask key",),
    "client/payload_writer.py": ("diff",),
    "data": ("unlearn", "eval", "data check"),
    "data/check.py": ("data check",),
    "data/settings.py": None,  # declares options of several commands
    "data/overlap.py": ("unlearn", "eval"),
    "data/encoding.py": ("unlearn",),
    "data/windows.py": ("unlearn", "data check"),
    "evaluation": ("eval",),
    "evaluation/compare.py": ("compare",),
    "evaluation/answer_scores.py": ("perturb",),
    "evaluation/records": ("eval", "compare"),
    "evaluation/comparable.py": ("compare",),
    "evaluation/settings.py": None,
    "server": ("perturb",),
    "server/aggregation": ("aggregate",),
    "server/lineage/models.py": ("perturb", "aggregate"),
    "server/lineage/records.py": ("perturb", "aggregate"),
    "server/secrets/secret.py": ("perturb", "aggregate"),
    "server/lineage/not_in_lineage.py": ("aggregate",),
    "training": ("unlearn",),
    "modeling": ("unlearn", "eval"),
    "modeling/hidden.py": ("unlearn",),
}
"""The commands that print the messages of a module; the longest matching entry counts."""


def options() -> dict[str, set[str]]:
    """The options of every command, and of `data check`."""
    group = typer.main.get_command(app)
    found = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        single = (
            {name: command}
            if not hasattr(command, "commands")
            else {f"{name} {key}": one for key, one in command.commands.items()}
        )
        for key, one in single.items():
            found[key] = ANY | {
                option
                for parameter in one.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
    return found


def messages(path: Path) -> list[str]:
    """Every string of a file except docstrings, joined, with values as {}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(
                    part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
                )
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and not {id(node)} & (alone | parts)
        ):
            found.append(node.value)
    return found


def commands_of(path: str) -> tuple[str, ...] | None:
    """The commands that print the messages of a module."""
    named = [key for key in REACHED_FROM if path == key or path.startswith(f"{key}/")]
    return REACHED_FROM[max(named, key=len)] if named else None


def unknown_flags(
    text: str, printed_by: tuple[str, ...] | None, known: dict[str, set[str]]
) -> list[str]:
    """Flags in a message that its command and the command named before them do not have."""
    wrong = []
    for found in FLAG.finditer(text):
        flag, before = found[0], text[: found.start()]
        if FOREIGN.search(before) or flag in {
            "--private",
            "--revision",
            "--nproc-per-node",
        }:  # these are joined to their program elsewhere
            continue
        named = [command for command in known if re.search(rf"\b{command}\b", before)]
        owners = named + list(known if printed_by is None else ())
        if not any(flag in known[command] for command in owners) and not (
            printed_by is not None and all(flag in known[command] for command in printed_by)
        ):
            wrong.append(flag)
    return wrong


def test_every_flag_in_a_message_exists_where_it_is_printed():
    """In all messages of all modules."""
    known = options()
    assert "--new-lineage" not in known["aggregate"]
    wrong = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        for text in messages(path) if name not in NO_MESSAGES else ():
            if found := unknown_flags(text, commands_of(name), known):
                wrong[f"{name}: {text}"] = found
    assert not wrong


def test_every_module_in_the_table_exists():
    """A module that was moved takes its entry with it."""
    assert not [name for name in (*REACHED_FROM, *NO_MESSAGES) if not (SOURCE / name).exists()]


def test_the_search_finds_an_unknown_flag():
    """Negative control."""
    known = options()
    assert unknown_flags("give --new-lineage DIR", ("aggregate",), known) == ["--new-lineage"]
    assert unknown_flags("perturb begins one with --new-lineage DIR", ("aggregate",), known) == []
    assert unknown_flags("give --frobnicate", None, known) == ["--frobnicate"]


@pytest.fixture
def other(own_round, tiny_pair, mpu, tmp_path) -> Path:
    """A lineage of another model, in its own directory."""
    pair = tiny_pair("llama", seed=5)
    place = tmp_path / "elsewhere"
    shutil.copytree(pair.model, place / "model")
    words = (
        "--base",
        pair.base,
        "--handoff",
        place / "to-client",
        "--secret",
        place / "server",
        "-m",
        1,
    )
    assert mpu("perturb", place / "model", *words).code == 0
    return place


def aggregated(mpu, r, **changed):
    """The two lines that a refused `aggregate` prints."""
    given = {"model": r.model, "secret": r.secret, "update": r.update} | changed
    done = mpu(
        "aggregate",
        given["update"],
        "--secret",
        given["secret"],
        "--model",
        given["model"],
        "--out",
        r.model.parent / "next",
    )
    assert done.code == 1
    return done.err.splitlines()


def test_a_wrong_model_names_the_published_one(own_round, other, mpu):
    """The hint has no option that aggregate lacks."""
    from mpu_cli.checkpoint.digest import model_digest
    from mpu_cli.checkpoint.model import open_checkpoint

    wrong, right = (
        model_digest(open_checkpoint(path)) for path in (other / "model", own_round.model)
    )
    assert aggregated(mpu, own_round, model=other / "model") == [
        (
            f"mpu: error: {other / 'model'}: this model (digest {wrong[:12]}…) is not in the"
            f" lineage of {own_round.secret}"
        ),
        (
            f"mpu: hint: the update's handoff was made from the model of digest {right[:12]}…: give"
            " that model, or one that aggregate made from it, as --model (mpu verify MODEL prints"
            " a model's digest)"
        ),
    ]


def test_a_wrong_secret_names_the_right_one(own_round, other, tmp_path, mpu):
    """If it is beside the model or the update; else the hint describes it."""
    error, hint = aggregated(mpu, own_round, secret=other / "server")
    assert error.endswith(f"is not in the lineage of {other / 'server'}")
    assert (
        hint == f"mpu: hint: give the secret of this model's lineage: --secret {own_round.secret}"
    )
    (tmp_path / "away").mkdir()
    own_round.secret.rename(tmp_path / "away" / "server")
    _, hint = aggregated(mpu, own_round, secret=other / "server")
    assert (
        hint == "mpu: hint: the update answers no handoff of this lineage either: give as --secret"
        " the directory that mpu perturb wrote for it"
    )


def test_another_lineage_of_the_same_model_names_the_right_one(own_round, mpu, tmp_path):
    """The model is right, the secret is not."""
    place = tmp_path / "second"
    words = (
        "--base",
        own_round.base,
        "--handoff",
        place / "to-client",
        "--new-lineage",
        place / "server",
        "-m",
        1,
    )
    assert mpu("perturb", own_round.model, *words).code == 0
    error, hint = aggregated(mpu, own_round, secret=place / "server")
    assert error.endswith("which this lineage never made")
    assert hint == f"mpu: hint: give --secret {own_round.secret}"


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("it's here.tar.gz", b"\x1f\x8b", "tar -xf {}"),
        ("two words.zip", b"PK\x03\x04", "unzip {}"),
        ("rows of ours.jsonl.gz", b"\x1f\x8b", "gunzip -k {}"),
        (
            "rows of ours.csv",
            b"question,answer\nWho?,Zo\xeb\n",
            "iconv -f WINDOWS-1252 -t UTF-8 {} >",
        ),
    ],
)
def test_a_command_in_a_hint_quotes_the_path(tmp_path, mpu, name, content, command):
    """So that it runs as printed."""
    path = tmp_path / name
    path.write_bytes(content)
    asked = ("data", "check", path) if "rows" in name else ("verify", path)
    done = mpu(*asked, "--json")
    assert command.format(shlex.quote(str(path))) in done.json["error"]["hint"]


def test_a_hint_about_probe_rows_names_no_foreign_option(tiny_pair, tmp_path, mpu):
    """Perturb has no --map."""
    pair = tiny_pair("llama")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "w1", "output": "w2"}\n')
    own = (
        "--base",
        pair.base,
        "--handoff",
        tmp_path / "h",
        "--secret",
        tmp_path / "s",
        "-m",
        1,
        "--probe",
        tmp_path / "rows.jsonl",
    )
    done = mpu("perturb", pair.model, *own)
    assert done.code == 3
    assert "rows.jsonl" in done.err
    assert "--map" not in done.err
    assert not (tmp_path / "h").exists()
