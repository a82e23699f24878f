"""The verdict of `mpu unlearn`, and `mpu eval` of an update with its handoff."""

from __future__ import annotations

import json

import pytest
from rounds import QUICK

from mpu_cli.cli.verdict import verdict
from mpu_cli.data.rows import read_rows
from mpu_cli.evaluation.answer_scores import answer_probabilities
from mpu_cli.training.effect import Change, Effect
from mpu_cli.training.report import TrainingReport
from mpu_cli.training.usual_rate import usual_rate

STRONG = ("--learning-rate", "3e-2", "--epochs", "4", "--batch-size", "4", "--method", "GradAscent")


def probabilities(model, r):
    """Forget and retain probabilities as evaluation measures them."""
    return answer_probabilities(model, [read_rows(r.forget), read_rows(r.retain)])


def test_the_verdict_equals_the_evaluation(finished_round, mpu, tmp_path):
    """Before and after are the values of `mpu eval` for the source and the result."""
    r = finished_round
    data = ("--forget", r.forget, "--retain", r.retain)
    done = mpu("unlearn", r.model, *data, *STRONG, "--out", tmp_path / "out", "--json")
    found = done.json["verdict"]
    assert done.code == 0 and done.json["copies"]["model"]["effect"] == {
        "forget": found["forget"],
        "retain": found["retain"],
    }
    for part, before, after in zip(
        ("forget", "retain"),
        probabilities(r.model, r),
        probabilities(tmp_path / "out", r),
        strict=True,
    ):
        assert found[part]["before"] == pytest.approx(before, rel=1e-4)
        assert found[part]["after"] == pytest.approx(after, rel=1e-4)
        assert found[part]["rows"] == found[part]["all_rows"] == 8
    assert found["forget"]["after"] < 0.5 * found["forget"]["before"]
    assert not any("little was forgotten" in line for line in found["warnings"])
    shown = mpu("unlearn", r.model, *data, *STRONG, "--out", tmp_path / "out", "--force")
    assert f"\n{found['words']}\n" in shown.out


def test_a_run_that_forgets_little_gives_a_warning(finished_round, mpu, tmp_path):
    """Every copy of a handoff is measured, also with `--copy K`."""
    r = finished_round
    recipe = ("--forget", r.forget, *QUICK, "--learning-rate", "1e-9", "--method", "GradAscent")
    done = mpu("unlearn", r.handoff, *recipe, "--out", tmp_path / "all", "--json")
    effects = [copy["effect"] for copy in done.json["copies"].values()]
    assert len(effects) == 2 and all(
        effect["forget"]["before"] == pytest.approx(effect["forget"]["after"]) for effect in effects
    )
    assert done.json["verdict"]["forget"]["before"] == pytest.approx(
        sum(effect["forget"]["before"] for effect in effects) / 2
    )
    words = done.json["verdict"]["words"]
    assert (
        words.endswith("Mean of 2 copies; the server's model may differ.")
        and "Retain rows: not measured, because there was no --retain." in words
    )
    value = f"{effects[1]['forget']['before']:.3f}".removeprefix("0")
    one = mpu("unlearn", r.handoff, *recipe, "--out", tmp_path / "one", "--copy", 2)
    assert (
        one.err.splitlines()[-1]
        == f"mpu: warning: little was forgotten (forget rows {value} → {value}): triple"
        " --learning-rate or raise --epochs, then train again"
    )


CASES = {
    "forgot": ((0.9, 0.4), (0.9, 0.88), ()),
    "little": ((0.961, 0.957), (0.9, 0.9), ("little was forgotten",)),
    "a tenth is not little": ((0.9, 0.8), (0.9, 0.85), ()),
    "rose": ((0.5, 0.6), None, ("little was forgotten",)),
    "retained knowledge fell": ((0.9, 0.1), (0.9, 0.7), ("retained knowledge fell",)),
    "both": ((0.9, 0.89), (0.9, 0.7), ("little was forgotten", "retained knowledge fell")),
    "nothing was known": (
        (0.0004, 0.0),
        None,
        ("the model did not know these rows before",),
    ),
    "little was known": ((0.0006, 0.0), None, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_warnings_of_a_verdict(case):
    """Little was forgotten, or retained knowledge fell, relative to the value before."""
    forget, retain, expected = CASES[case]
    effect = Effect(Change(*forget, 8, 8), retain and Change(*retain, 8, 8))
    given = verdict({"copy-1": TrainingReport(1, 1.0, 1.0, 1.0, effect=effect)}).warnings
    assert [text.partition(" (")[0] for text in given] == list(expected)
    assert all(
        ("--forget" if "did not know" in text else "--learning-rate") in text for text in given
    )


def test_a_report_of_an_older_mpu_can_be_read():
    """It has no effect, so there is no verdict; a report of today is read completely."""
    old = {
        "steps": 2,
        "seconds": 1.0,
        "first_loss": 3.0,
        "last_loss": 2.0,
        "evaluations": [],
        "resumed_from": None,
    }
    assert verdict({"copy-1": TrainingReport.of(old)}) is None
    effect = {"forget": {"before": 0.5, "after": 0.2, "rows": 3, "all_rows": 9}, "retain": None}
    assert TrainingReport.of({**old, "effect": effect}).effect == Effect(
        Change(0.5, 0.2, 3, 9), None
    )


QUIETLY = ("--no-generate", "--resamples", "1000", "--metric", "answer_probability", "--json")


@pytest.mark.parametrize("lora", [(), ("--lora-rank", 4)])
def test_eval_of_an_update_measures_the_changed_copy(finished_round, mpu, tmp_path, lora):
    """Training and `mpu eval` report the same values, for a delta and an adapter."""
    r = finished_round
    data = ("--forget", r.forget, "--retain", r.retain)
    trained = mpu(
        "unlearn", r.handoff, *data, *STRONG, *lora, "--out", tmp_path / "u", "--json"
    ).json
    for number in (1, 2):
        options = ("--copy", number) if number > 1 else ()
        found = mpu(
            "eval",
            tmp_path / "u",
            "--handoff",
            r.handoff,
            *options,
            *data,
            *QUIETLY,
            "--record",
            tmp_path / f"r{number}",
        )
        assert found.code == 0, found.err
        for part in ("forget", "retain"):
            expected = trained["copies"][f"copy-{number}"]["effect"][part]["after"]
            assert found.json["values"][part]["answer_probability"]["value"] == pytest.approx(
                expected, rel=1e-3
            )
        assert (
            json.loads((tmp_path / f"r{number}" / "summary.json").read_text())["model"]["name"]
            == f"u, copy-{number}"
        )


def test_eval_refuses_inputs_that_do_not_match(finished_round, own_round, mpu, tmp_path):
    """Another handoff, a missing copy, a model, an altered byte: one line, hint and code."""
    r, rows = finished_round, ("--forget", finished_round.forget, *QUIETLY)
    other = (
        "perturb",
        r.model,
        "--base",
        r.base,
        "--new-lineage",
        tmp_path / "s",
        "--handoff",
        tmp_path / "other",
        "-m",
        2,
    )
    assert mpu(*other).code == 0
    wrong = mpu("eval", r.update, "--handoff", tmp_path / "other", *rows)
    assert wrong.code == 1
    assert wrong.json["error"]["message"].startswith(
        f"{r.update} was not made from {tmp_path / 'other'}: the update was made from handoff "
    )
    assert wrong.json["error"]["hint"] == "give the handoff that was trained on"
    third = mpu("eval", r.update, "--handoff", r.handoff, "--copy", 3, *rows)
    assert (third.code, third.json["error"]["message"]) == (2, "--copy 3: the handoff has 2 copies")
    alone = mpu("eval", r.model, "--copy", 1, *rows)
    assert (alone.code, alone.json["error"]["hint"]) == (
        2,
        "give --handoff DIR too, and the update as MODEL",
    )
    bare = mpu("eval", r.update, *rows)
    assert bare.code == 3 and "--handoff DIR" in bare.json["error"]["hint"]
    model = mpu("eval", r.model, "--handoff", r.handoff, *rows)
    assert model.code == 3 and "update" in model.json["error"]["message"]
    file = own_round.update / "copy-1" / "delta.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    altered = mpu("eval", own_round.update, "--handoff", own_round.handoff, *rows)
    assert altered.code == 3 and "do not match" in altered.json["error"]["message"]


def test_eval_of_an_update_leaves_no_copy_behind(finished_round, mpu, tmp_path, monkeypatch):
    """The changed copy is in the temporary directory only while it is evaluated."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    r = finished_round
    assert mpu("eval", r.update, "--handoff", r.handoff, "--forget", r.forget, *QUIETLY).code == 0
    assert (
        mpu(
            "eval",
            r.update,
            "--handoff",
            r.handoff,
            "--forget",
            r.forget,
            *QUIETLY,
            "--max-length",
            100000,
        ).code
        == 2
    )
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_learning_rate_follows_the_size_unless_it_is_given(finished_round, mpu, tmp_path):
    """A model, a handoff and a dry run give the same rate; a given or a preset's rate wins."""
    r, said = finished_round, "chosen from the model's size; --learning-rate overrides it"
    config = json.loads((r.model / "config.json").read_text())
    rate = (
        "mpu: note: learning rate"
        f" {usual_rate(config['hidden_size'], config['num_hidden_layers']):g}, {said}"
    )
    options = ("--forget", r.forget, "--retain", r.retain, "--max-steps", 1, "--method", "GradDiff")
    for number, source in enumerate((r.model, r.handoff)):
        assert (
            rate
            in mpu("unlearn", source, *options, "--out", tmp_path / f"{number}").err.splitlines()
        )
    assert rate in mpu("unlearn", r.model / "config.json", "--dry-run").err.splitlines()
    assert (
        said
        not in mpu(
            "unlearn", r.model, *options, "--learning-rate", "1e-3", "--out", tmp_path / "given"
        ).err
    )
    assert (
        said
        not in mpu(
            "unlearn", r.model, *options, "--preset", "paper", "--out", tmp_path / "paper"
        ).err
    )


def test_perturb_explains_equal_alphas_only_on_request(finished_round, mpu, tmp_path):
    """With -v, or if unequal ones were given."""
    r = finished_round

    def perturb(name, *options, before=()):
        places = ("--new-lineage", tmp_path / f"s{name}", "--handoff", tmp_path / name)
        return mpu(*before, "perturb", r.model, "--base", r.base, *places, *options)

    plain, verbose, own = (
        perturb("a"),
        perturb("b", before=("-v",)),
        perturb("c", "--alphas", "1,1.5,2"),
    )
    assert "equal alphas" not in plain.out + plain.err
    assert "mpu: equal alphas (--alphas 1,1,1)" in verbose.err and "equal alphas" in own.out
