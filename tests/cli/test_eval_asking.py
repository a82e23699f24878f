"""`mpu eval` with MUSE's two sets, in this process: options, record, refusals."""

from __future__ import annotations

import json

import pytest

from mpu_cli.cli.app import run

QUESTIONS = [{"question": f"w{i} ?", "answer": f"w{i + 1} w{i + 2}"} for i in range(4)]
EXAMPLES = [{"question": f"w{i} w{i} ?", "answer": f"w{i}"} for i in range(3)]
TEXTS = [{"prompt": f"w{i} w{i + 1}", "gt": f"w{i + 2} w{i + 3} w{i + 4}"} for i in range(4)]
PLAIN = [{"text": f"w{i} w{i + 1} w{i + 2} w{i + 3}"} for i in range(4)]


@pytest.fixture
def here(tiny_pair, tmp_path, monkeypatch):
    """A directory with the files of these tests and `model`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_pair("llama").model)
    for name, values in (
        ("questions", QUESTIONS),
        ("examples", EXAMPLES),
        ("texts", TEXTS),
        ("plain", PLAIN),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in values))
    return tmp_path


def evaluated(*arguments: str) -> int:
    """Run `mpu eval model …` on the CPU; return the exit code."""
    return run(["eval", "model", "--device", "cpu", *arguments])


MUSE = (
    "--knowledge",
    "questions.jsonl",
    "--few-shot",
    "examples.jsonl",
    "--knowledge",
    "retain_knowledge=questions.jsonl",
    "--verbatim",
    "texts.jsonl",
    "--forget",
    "plain.jsonl",
)


def test_muses_sets_in_one_command(here, capfd):
    """Two knowledge sets, examples for one, limits for all and for one, and a stop string.

    The record holds all of it.
    """
    more = (
        "--max-new-tokens",
        "6",
        "--max-new-tokens",
        "verbatim=3",
        "--stop",
        "w9",
        "--stop",
        "\\nQ",
    )
    assert evaluated(*MUSE, *more, "--allow-overlap", "--record", "record") == 0, (
        capfd.readouterr().err
    )
    summary = json.loads((here / "record" / "summary.json").read_text())
    asked = summary["settings"]["asked"]
    assert {name: one["max_new_tokens"] for name, one in asked.items()} == {
        "forget": 6,
        "knowledge": 6,
        "retain_knowledge": 6,
        "verbatim": 3,
    }
    assert (asked["knowledge"]["examples"], "examples" in asked["retain_knowledge"]) == (3, False)
    assert asked["knowledge"]["stop"] == ["w9", "\nQ"]
    assert asked["verbatim"]["stop"] == asked["forget"]["stop"] == []
    assert {"knowledge_memorization", "knowledge_memorization_stemmed"} <= set(
        summary["values"]["retain_knowledge"]
    )
    assert "asked without examples" in capfd.readouterr().err


def test_open_unlearnings_last_token_gives_a_warning(here, capfd):
    """If its layout is written and there are plain texts."""
    assert (
        evaluated(
            "--forget",
            "plain.jsonl",
            "--no-generate",
            "--record",
            "theirs",
            "--format",
            "open-unlearning",
        )
        == 0
    )
    assert "leaves out the last token of plain texts" in capfd.readouterr().err
    assert (
        evaluated(
            "--forget",
            "questions.jsonl",
            "--no-generate",
            "--record",
            "others",
            "--format",
            "open-unlearning",
        )
        == 0
    )
    assert "last token" not in capfd.readouterr().err


def test_repeatable_options_from_a_config_file(here, capfd):
    """A value or a list, numbers included."""
    (here / "run.yaml").write_text(
        "knowledge: questions.jsonl\nfew-shot: [examples.jsonl]\nmax-new-tokens: 5\nstop: w9\n"
    )
    assert evaluated("--config", "run.yaml", "--record", "record") == 0, capfd.readouterr().err
    asked = json.loads((here / "record" / "summary.json").read_text())["settings"]["asked"][
        "knowledge"
    ]
    assert (asked["max_new_tokens"], asked["stop"], asked["examples"]) == (5, ["w9"], 3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("--forget", "questions.jsonl", "--few-shot", "examples.jsonl"),
            2,
            "no set is called knowledge",
        ),
        (
            ("--knowledge", "a=questions.jsonl", "--few-shot", "b=examples.jsonl"),
            2,
            "no set is called b",
        ),
        (
            ("--knowledge", "questions.jsonl", "--few-shot", "questions.jsonl"),
            3,
            "questions.jsonl:1: this example is also asked",
        ),
        (
            ("--knowledge", "questions.jsonl", "--knowledge", "examples.jsonl"),
            2,
            "two sets are called knowledge",
        ),
        (("--knowledge", "retain=questions.jsonl"), 2, "a knowledge set cannot be called retain"),
        (("--knowledge", "plain.jsonl"), 3, "plain.jsonl:1: a plain text in the knowledge set"),
        (
            ("--forget", "questions.jsonl", "--max-new-tokens", "many"),
            2,
            "--max-new-tokens many: expected a whole number, or SET=NUMBER",
        ),
        (
            ("--forget", "questions.jsonl", "--max-new-tokens", "forgot=3"),
            2,
            "no set is called forgot",
        ),
        (("--forget", "questions.jsonl", "--stop", ""), 2, "--stop: an empty text"),
    ],
)
def test_options_without_effect_are_refused(arguments, code, message, here, capfd):
    """One line and the exit code; nothing is written."""
    assert evaluated(*arguments, "--record", "record") == code
    assert message in capfd.readouterr().err
    assert not (here / "record").exists()
