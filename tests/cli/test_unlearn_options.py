"""The options of `mpu unlearn` that are not about data: lists, presets, stops, dry runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mpu_cli.client import methods


def rows(r) -> list[str]:
    """The data options."""
    return ["--forget", str(r.forget), "--retain", str(r.retain)]


def test_methods_are_listed_without_torch(environment):
    """Every method with formula, parameters and source.

    No source or output is needed, and torch is not imported.
    """
    code = (
        "import sys; from mpu_cli.cli.app import run; code = run(['unlearn', '--list-methods',"
        " '--json']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {info["name"]: info for info in json.loads(done.stdout)["methods"]}
    assert sorted(listed) == sorted(methods.names())
    assert all(info["formula"] and info["paper"].startswith("https://") for info in listed.values())
    assert {p["name"]: p["default"] for p in listed["NPO"]["parameters"]}["beta"] == 0.1


def test_methods_for_a_reader(mpu):
    """The same as text."""
    done = mpu("unlearn", "--list-methods")
    assert done.code == 0
    for info in methods.describe():
        assert info.name in done.out
        assert info.paper in done.out
    # Training settings are not the papers', and do not pretend to be.
    assert "paper's" not in done.out
    shown = done.out.partition("NPO")[2].partition("source")[0]
    assert "--learning-rate 1e-05 --epochs 10" in shown
    assert "negative-preference-optimization" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "SOURCE is missing"),
        (("{handoff}",), "--out is missing"),
        (("{handoff}", "--out", "{out}"), "--forget is needed"),
        (
            (
                "{handoff}",
                "--out",
                "{out}",
                "--forget",
                "{forget}",
                "--method",
                "GradAscent",
                "--stop-retain-below",
                "0.5",
            ),
            "needs a retain set",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--stop-forget-below", "0.1", "--copy", "1"),
            "same number of steps",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--preset", "papers"),
            "--preset papers: expected paper",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--preset", "paper", "--method", "RMU"),
            "the paper does not use RMU",
        ),
        (
            (
                "{handoff}",
                "--out",
                "{out}",
                "{rows}",
                "--warmup-steps",
                "1",
                "--warmup-ratio",
                "0.1",
            ),
            "--warmup-steps and --warmup-ratio",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--method", "LUNAR"),
            "LUNAR needs questions that the model refuses or cannot answer",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--unanswerable", "{forget}"),
            "--unanswerable: NPO has no use for unanswerable questions",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--smoothing", "0.1", "--fsdp"),
            "--smoothing and --fsdp",
        ),
        (
            (
                "{handoff}",
                "--out",
                "{out}",
                "{rows}",
                "--smoothing",
                "0.1",
                "--method",
                "PDU",
                "--set",
                "epsilon=1",
            ),
            "--smoothing: the forget and retain losses of PDU cannot be taken apart",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--work", "{out}/work"),
            "inside it, or contains it",
        ),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--log-dir", "{out}/log"),
            "inside it, or contains it",
        ),
        (("{handoff}", "--out", "{out}", "{rows}", "--lora-alpha", "4"), "--lora-rank"),
        (
            ("{handoff}", "--out", "{out}", "{rows}", "--refusals", "{forget}", "--method", "NPO"),
            "no use for alternate answers",
        ),
    ],
)
def test_options_that_contradict_each_other(arguments, message, finished_round, tmp_path, mpu):
    """Usage errors, before anything is loaded or written."""
    r, given = finished_round, []
    for argument in arguments:
        places = {"handoff": r.handoff, "out": tmp_path / "out", "forget": r.forget, "rows": ""}
        given += rows(r) if argument == "{rows}" else [argument.format(**places)]
    done = mpu("unlearn", *given)
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_the_preset_and_what_is_given_besides(finished_round, tmp_path, mpu):
    """The preset's values reach the run, given options and files win, the rounds are printed."""
    r = finished_round
    (tmp_path / "options.yaml").write_text("gradient-accumulation: 1\n")
    preset = [
        "--preset",
        "paper",
        "--method",
        "SimNPO",
        "--config",
        str(tmp_path / "options.yaml"),
        "--batch-size",
        "2",
    ]
    done = mpu("unlearn", r.handoff, *rows(r), *preset, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert "10 rounds of 1 epoch each" in done.err
    # 8 rows in batches of 2, one epoch: 4 steps; with the preset's accumulation of 4 it would be 1.
    assert done.json["copies"]["copy-1"]["steps"] == 4


def test_the_first_copy_decides_where_all_end(finished_round, tmp_path, mpu):
    """Both copies are trained for the same number of steps, and only the first is measured."""
    r = finished_round
    options = [
        "--method",
        "GradAscent",
        "--learning-rate",
        "1e-2",
        "--epochs",
        "20",
        "--stop-forget-below",
        "1e-3",
    ]
    done = mpu("unlearn", r.handoff, *rows(r), *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    first, second = done.json["copies"]["copy-1"], done.json["copies"]["copy-2"]
    assert first["steps"] == second["steps"] < 20
    assert first["evaluations"][-1]["forget"] <= 1e-3 < first["evaluations"][0]["forget"]
    assert second["evaluations"] == []
    assert mpu("verify", tmp_path / "out").code == 0


def test_rows_to_forget_and_to_keep(finished_round, tmp_path, mpu):
    """A part in both is a warning; all of them are trained on only with --allow-overlap."""
    r = finished_round
    both = tmp_path / "both.jsonl"
    both.write_text(
        "".join(
            r.retain.read_text().splitlines(keepends=True)[:3]
            + r.forget.read_text().splitlines(keepends=True)[4:6]
        )
    )
    quick = ["--method", "GradDiff", "--max-steps", "1"]
    done = mpu(
        "unlearn",
        r.model,
        "--forget",
        r.forget,
        "--retain",
        both,
        *quick,
        "--out",
        tmp_path / "part",
    )
    assert done.code == 0, done.err
    assert (
        "mpu: warning: --forget: 2 of its 8 rows are in --retain too: forget.jsonl:5 ="
        " both.jsonl:4, forget.jsonl:6 = both" in done.err
    )
    done = mpu(
        "unlearn",
        r.model,
        "--forget",
        r.forget,
        "--retain",
        r.forget,
        "--allow-overlap",
        *quick,
        "--out",
        tmp_path / "all",
    )
    assert done.code == 0, done.err
    assert "mpu: warning: --forget: all of its rows (8) are in --retain too" in done.err


def test_a_dry_run_needs_no_rows_and_writes_nothing(finished_round, tmp_path, mpu, monkeypatch):
    """A handoff, a model, and a configuration alone; the handoff's copies and bytes are counted."""
    monkeypatch.chdir(tmp_path)
    r = finished_round
    handoff = mpu("unlearn", r.handoff, "--dry-run", "--json").json
    model = mpu("unlearn", r.model, "--dry-run", "--json").json
    assert (handoff["copies"], model["copies"]) == (2, 1)
    assert handoff["memory_bytes"] == model["memory_bytes"]
    assert handoff["received_bytes"] == sum(
        path.stat().st_size for path in r.handoff.rglob("copy-*/*")
    )
    sent = sum(path.stat().st_size for path in r.update.rglob("delta.safetensors"))
    assert handoff["sent_bytes"] <= sent <= handoff["sent_bytes"] + 10_000
    (tmp_path / "config.json").write_bytes((r.model / "config.json").read_bytes())
    assert (
        mpu("unlearn", "config.json", "--dry-run", "--json", "--method", "GradDiff").json == model
    )
    less = mpu(
        "unlearn",
        r.model,
        "--dry-run",
        "--json",
        "--method",
        "GradAscent",
        "--gradient-checkpointing",
    ).json
    assert less["activations_bytes"] < model["activations_bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    text = mpu("unlearn", r.handoff, "--dry-run").out
    assert "optimizer state" in text


def test_a_dry_run_is_about_the_rows_that_were_given(finished_round, tmp_path, mpu):
    """Their longest, their steps and their time, in words and in JSON.

    Without rows no time is claimed.
    """
    r = finished_round
    rows = (
        "--forget",
        r.forget,
        "--retain",
        r.retain,
        "--method",
        "GradDiff",
        "--dry-run",
        "--batch-size",
        2,
        "--epochs",
        3,
    )
    found, anything = (
        mpu("unlearn", r.handoff, *rows, "--json").json,
        mpu("unlearn", r.handoff, "--dry-run", "--json").json,
    )
    assert (found["rows"], found["steps"], found["copies"]) == (8, 12, 2)
    assert found["longest_row_tokens"] < 20
    assert found["activations_bytes"] < anything["activations_bytes"] / 10
    assert 0 < found["seconds"] < 600
    assert "seconds" not in anything
    assert (
        mpu("unlearn", r.handoff, *rows, "--max-steps", 5, "--copy", 1, "--json").json["steps"] == 5
    )
    one = mpu("unlearn", r.handoff, *rows, "--copy", 1, "--json").json
    assert (one["copies"], one["disk_bytes"] * 2) == (1, found["disk_bytes"])
    text = mpu("unlearn", r.handoff, *rows).out
    assert f"for rows of at most {found['longest_row_tokens']} tokens" in text
    assert "for 2 copies of 12 steps (a third to three times that" in text
    assert "time    give --forget" in mpu("unlearn", r.handoff, "--dry-run").out
    (tmp_path / "config.json").write_bytes((r.model / "config.json").read_bytes())
    done = mpu("unlearn", tmp_path, "--dry-run", "--forget", r.forget)
    assert done.code == 2
    assert done.err.endswith(
        "has no tokenizer to count tokens with\nmpu: hint: leave --forget out\n"
    )


def test_the_servers_dry_runs_are_in_words(finished_round, tmp_path, mpu):
    """Disk and memory; nothing is written."""
    r = finished_round
    text = mpu(
        "perturb", r.model, "--handoff", tmp_path / "h", "--secret", tmp_path / "s", "--dry-run"
    ).out
    assert "disk    at most " in text
    assert " for 3 copies in 3 files\nmemory  about " in text
    text = mpu(
        "aggregate",
        r.update,
        "--secret",
        r.secret,
        "--model",
        r.model,
        "--out",
        tmp_path / "n",
        "--dry-run",
    ).out
    assert " for the new model\nmemory  about " in text
    assert list(tmp_path.iterdir()) == []
