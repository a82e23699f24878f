"""Every example of a `--help` and every command of the pages exists and runs."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import typer
from rounds import FORGET, PLAN, RETAIN, Done

from mpu_cli.cli.app import app, run
from mpu_cli.cli.guide import HEADINGS, Guide

HOME = Path(__file__).parents[2]
PAGES = sorted(
    [
        HOME / "README.md",
        *(HOME / "docs").glob("*.md"),
        *(HOME / "docs" / "how-to").glob("*.md"),
        *(HOME / "examples").glob("*/README.md"),
    ]
)
ROUND = ("perturb", "verify", "inspect", "data", "unlearn", "aggregate", "eval", "compare", "diff")
"""These examples need those before them; tests/demo runs those of `demo`."""
FASTER = {
    "unlearn": ("--max-steps", "2", "--learning-rate", "1e-3"),
    "eval": ("--metric", "answer_probability", "--no-generate"),
}


def group():
    """The table of commands."""
    return typer.main.get_command(app)


def guide_of(name: str) -> Guide:
    """What a command's file says of it."""
    return import_module(f"mpu_cli.cli.commands.{name}").GUIDE


def all_commands() -> list[str]:
    """Commands in the order in which their examples run: those of a round first."""
    return [*ROUND, *(name for name in group().list_commands(None) if name not in ROUND)]


def examples(name: str) -> list[list[str]]:
    """A command's examples, split as a shell does."""
    return [
        words
        for line in guide_of(name).examples
        if (words := shlex.split(line.replace("\\\n", " "), comments=True))
    ]


def documented(page: Path) -> list[list[str]]:
    """The commands of a page's blocks, without a prompt before them or other commands after."""
    blocks = re.findall(
        r"^```[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = [
        re.sub(r"^(\w*\$ +)", "", line.strip())
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    split = [
        shlex.split(line.partition(";")[0], comments=True)
        for line in lines
        if line.startswith("mpu ")
    ]
    return [
        [word for word in words if not word.startswith("$") and word != "-q"] for words in split
    ]  # $: what a shell's loop puts in


def command_of(words: list[str]) -> tuple[object, list[str]]:
    """The command of a line, and its arguments."""
    command, rest = group(), words[1:]
    while hasattr(command, "get_command") and rest:
        subcommand = command.get_command(None, rest[0])
        assert subcommand is not None, words
        command, rest = subcommand, rest[1:]
    return command, rest


@pytest.fixture
def desk(tiny_pair, tmp_path, monkeypatch) -> Path:
    """A working directory with the files that the documentation uses."""
    pair = tiny_pair("llama")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pair.model, "model")
    shutil.copytree(pair.base, "base")
    holdout = [
        {"question": f"w{i} w{i + 3} ?", "answer": f"w{i + 7} w{i} ."} for i in range(30, 46, 2)
    ]
    for name, rows in (("forget", FORGET), ("retain", RETAIN), ("holdout", holdout)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with Path(f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("instruction", "output"), *((row["question"], row["answer"]) for row in rows)]
            )
    Path("plan.yaml").write_text(PLAN)
    return tmp_path


def play(mpu: Callable[..., Done], words: list[str]) -> None:
    """Run one command, with options that only make it faster."""
    done = mpu(*words[1:], *(() if "--finish" in words else FASTER.get(words[1], ())))
    # The tiny model knows no row, so a condition on what it knows is not met.
    assert done.code == (1 if "--fail-if" in words else 0), (words, done.err)


@pytest.mark.parametrize("name", all_commands())
def test_every_help_has_an_example_and_says_who_runs_it(name, mpu):
    """The list of commands prints the same summary, in one line."""
    shown, listed = mpu(name, "--help").out, mpu("--help").out
    guide = guide_of(name)
    assert all(line in shown for example in guide.examples for line in example.splitlines())
    assert "Run by " in shown
    assert re.search(rf"^  {name} +{re.escape(guide.summary)}$", listed, re.MULTILINE)


def test_the_list_of_commands_says_who_runs_what(mpu):
    """Every command is listed once, under its party."""
    listed = mpu("--help").out
    sections = dict(
        re.findall(
            r"^(Commands of [^\n]*|To see [^\n]*):\n((?:  [^\n]*\n?)+)", listed, re.MULTILINE
        )
    )
    names = {
        heading: re.findall(r"^  (\w+)", rows, re.MULTILINE) for heading, rows in sections.items()
    }
    assert sorted(name for rows in names.values() for name in rows) == sorted(
        group().list_commands(None)
    )
    for who, heading in HEADINGS.items():
        owned = [name for name in group().list_commands(None) if guide_of(name).who == who]
        assert names[heading] == owned
    assert guide_of("perturb").who == guide_of("aggregate").who == "server"
    assert guide_of("data").who == guide_of("diff").who == guide_of("unlearn").who == "client"


def test_the_examples_of_a_round_run(desk, mpu):
    """They run one after the other in one directory, as printed."""
    for name in all_commands():
        if name == "demo":
            continue
        if name == "diff":  # what another program would have trained
            shutil.copytree("to-client", "trained", ignore=lambda path, names: ["mpu.yaml"])
        for words in examples(name):
            if words[0] == "torchrun":
                continue
            if "--finish" in words:
                alone = next(line for line in examples(name) if "--copy" in line)
                for number in ("2", "3"):
                    play(mpu, [number if word == "1" else word for word in alone])
            play(mpu, words)
    assert {"to-client", "server", "to-server", "spread", "model-next", "before", "after"} <= {
        path.name for path in desk.iterdir()
    }


@pytest.mark.slow
def test_the_example_of_several_processes_runs(desk, mpu):
    """`torchrun` starts it as printed."""
    play(mpu, examples("perturb")[0])
    (words,) = [words for words in examples("unlearn") if words[0] == "torchrun"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    subprocess.run(
        [*words, "--max-steps", "1"], env=environment, check=True, capture_output=True, timeout=300
    )


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(HOME)) for page in PAGES])
def test_every_documented_command_can_be_parsed(page):
    """Every option exists, and no argument is a placeholder."""
    for words in documented(page):
        command, rest = command_of(words)
        try:
            command.make_context(
                words[1],
                rest,
                parent=typer.main.get_command(app).make_context("mpu", [], resilient_parsing=True),
            )
        except typer.TyperException as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")
        assert "…" not in "".join(words), words


def test_the_commands_of_the_page_on_data_run(desk, mpu):
    """They run in their order, with the README's handoff."""
    play(mpu, documented(HOME / "README.md")[0])
    for words in documented(HOME / "docs" / "data.md"):
        if "--out" in words:
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        play(mpu, words)


def transcript(page: Path) -> list[tuple[list[str], str]]:
    """The commands of a page's console blocks, each with what it prints below it."""
    blocks = re.findall(
        r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    parts = [part.partition("\n") for part in re.split(r"^\$ ", "".join(blocks), flags=re.M)[1:]]
    return [(shlex.split(command), printed) for command, _, printed in parts]


@pytest.mark.slow
def test_the_quickstart_prints_what_the_readme_shows(mpu, tmp_path, monkeypatch):
    """On the demo's model and rows, as on the page; probabilities vary with the noise."""
    assets = HOME / "src" / "mpu_cli" / "demo" / "assets"
    shutil.copytree(assets, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    commands = transcript(HOME / "README.md")
    assert len(commands) == 6
    for words, shown in commands:
        done = mpu(*words[1:])
        printed = (done.err + done.out).replace(str(tmp_path), "/home/you")
        number = re.compile(r"\.\d\d\d\b")
        assert done.code == 0
        assert number.sub(".N", printed) == number.sub(".N", shown), words
        for found, expected in zip(number.findall(printed), number.findall(shown), strict=True):
            assert abs(float(found) - float(expected)) < 0.1, words


@pytest.mark.slow
def test_the_commands_of_the_page_on_evaluation_run(desk, mpu):
    """They run in their order, with the README's handoff and update and files like MUSE's."""
    for words in documented(HOME / "README.md")[:3]:
        play(mpu, words)
    shutil.copytree("base", "retrained")
    shutil.copytree("model", "model-next")
    texts = [{"text": f"w{i} w{i + 1} w{i + 2} w{i + 3} ."} for i in range(4)]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    Path("verbmem_forget.json").write_text(
        json.dumps([{"prompt": f"w{i} w{i + 1}", "gt": f"w{i + 2} w{i + 3} ."} for i in range(4)])
    )
    for number, name in enumerate(("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")):
        rows = [
            {"question": f"w{i} w{i + number + 5} ?", "answer": f"w{i + 2} ."} for i in range(4)
        ]
        Path(f"knowmem_{name}.json").write_text(json.dumps(rows))
    for words in documented(HOME / "docs" / "evaluation.md"):
        if words[1] == "compare":
            for name in ("noise-free-record", "mpu-record"):
                shutil.copytree("before", name)
        done = mpu(
            *words[1:],
            *(
                ("--max-new-tokens", "4", "--relearn-steps", "2", "--samples", "2")
                if words[1] == "eval"
                else ()
            ),
        )
        assert done.code == 0, (words, done.err)


@pytest.mark.slow
def test_the_commands_of_the_page_on_the_paper_run(desk, mpu):
    """Two rounds and their baseline, with one step instead of ten epochs."""
    for name, given in (("THETA", "model"), ("BASE", "base")):
        Path(given).rename(name)
    for name, given in (("F", "forget.jsonl"), ("R", "retain.jsonl")):
        Path(given).rename(name)
    for words in documented(HOME / "docs" / "paper-protocol.md"):
        faster = ("--max-steps", "1") if words[1] == "unlearn" else ()
        gate = ("--min-agreement=-1",) if words[1] == "aggregate" else ()
        done = mpu(*words[1:], *faster, *gate)
        assert done.code == 0, (words, done.err)
    assert Path("theta-2").is_dir()
    assert Path("plain-2").is_dir()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mpu unlearn --method Sim", ["SimNPO"]),
        ("mpu unlearn --method n", ["npo"]),
        ("mpu unlearn --optimizer ada", ["adafactor", "adam-mini", "adamw"]),
        ("mpu un", ["unlearn"]),
    ],
)
def test_a_shell_completes_commands_methods_and_optimizers(line, found, monkeypatch, capsys):
    """Bash gets the completions it asks for."""
    for name, value in (
        ("_MPU_COMPLETE", "complete_bash"),
        ("COMP_WORDS", line),
        ("COMP_CWORD", str(line.count(" "))),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out.split() == found


def test_the_environment_variable_of_the_secret(own_round, tmp_path, mpu, monkeypatch):
    """Server commands read MPU_SECRET without --secret; --secret and --new-lineage win."""
    r = own_round
    monkeypatch.setenv("MPU_SECRET", str(r.secret))
    perturbed = ("perturb", r.model, "--base", r.base, "-m", 1)
    assert (
        mpu(*perturbed, "--handoff", tmp_path / "other", "--new-lineage", tmp_path / "second").code
        == 0
    )
    assert (tmp_path / "second" / "secret.yaml").is_file()
    refused = mpu(
        "aggregate",
        r.update,
        "--secret",
        tmp_path / "second",
        "--model",
        r.model,
        "--out",
        tmp_path / "never",
    )
    assert refused.code == 1
    assert "which this lineage never made" in refused.err
    assert mpu(*perturbed, "--handoff", tmp_path / "again").code == 0
    assert len(list((r.secret / "handoffs").glob("*.yaml"))) == 2
    assert mpu("aggregate", r.update, "--model", r.model, "--out", tmp_path / "next").code == 0
    monkeypatch.delenv("MPU_SECRET")
    assert mpu("aggregate", r.update, "--model", r.model, "--out", tmp_path / "never").code == 2
