"""The options that `--preset paper` sets, one by one.

What they refuse, what they say, and what they change.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
from rounds import QUICK
from safetensors.torch import load_file

REFERENCED = ("--method", "NPO", "--max-steps", "1", "--batch-size", "4")


def rows(r) -> list[str]:
    """The data options."""
    return ["--forget", str(r.forget), "--retain", str(r.retain)]


@pytest.fixture(scope="module")
def open_handoff_(tiny_pair, tmp_path_factory):
    """A handoff of two copies that freezes nothing, its secret and its model."""
    from rounds import quietly

    pair, root = tiny_pair("llama"), tmp_path_factory.mktemp("open")
    told = (
        "perturb",
        pair.model,
        "--base",
        pair.base,
        "--handoff",
        root / "to-client",
        "--secret",
        root / "server",
        "--preset",
        "paper",
    )
    assert quietly(told) == 0
    return root, pair


@pytest.fixture(scope="module")
def others(finished_round, tiny_pair, tmp_path_factory):
    """Things that are no reference for the round.

    Another model, a handoff of one copy, an update, nothing.
    """
    from rounds import quietly

    root, pair = tmp_path_factory.mktemp("others"), tiny_pair("llama")
    one = (
        "perturb",
        pair.model,
        "--base",
        pair.base,
        "--handoff",
        root / "one",
        "--secret",
        root / "s",
        "-m",
        "1",
        "--kappa",
        "0",
    )
    assert quietly(one) == 0
    narrow = tiny_pair("llama", intermediate_size=40).model
    return {
        "narrow": narrow,
        "one": root / "one",
        "update": finished_round.update,
        "absent": root / "absent",
    }


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--method", "GradDiff", "--reference", "{model}"), 2, "GradDiff uses no reference model"),
        (
            (*REFERENCED, "--reference", "{narrow}"),
            3,
            "tensor model.layers.0.mlp.down_proj.weight is \\[32, 40\\] here and \\[32, 48\\]",
        ),
        ((*REFERENCED, "--reference", "{one}"), 2, "has no copy-2"),
        ((*REFERENCED, "--reference", "{update}"), 3, "is an update, expected a handoff"),
        ((*REFERENCED, "--reference", "{absent}"), 3, "absent"),
        ((*REFERENCED, "--reference", "{model}", "--fsdp"), 2, "--fsdp"),
        ((*QUICK, "--train-embeddings"), 2, "freezes model.embed_tokens.weight, lm_head.weight"),
        ((*QUICK, "--round", "0"), 2, "--round 0: expected a whole number, at least 1"),
        ((*QUICK, "--draws", "dealed"), 2, "--draws dealed: expected one of dealt, independent"),
        ((*QUICK, "--partial-step", "sum"), 2, "--partial-step sum: expected one of mean, share"),
        ((*QUICK, "--join-texts", "--packing"), 2, "leave --packing and --overlap out"),
        ((*QUICK, "--join-texts", "--overlap", "3"), 2, "leave --packing and --overlap out"),
        ((*QUICK, "--redraw-refusals"), 2, "no refusals to draw from"),
        ((*QUICK, "--precision", "pure-bfloat16", "--lora-rank", "2"), 2, "adapters are float32"),
        (
            ("--preset", "paper", "--method", "NPO", "--round", "2"),
            2,
            "compares with the model before round 1",
        ),
        (
            (*QUICK, "--lora-rank", "2", "--train-embeddings"),
            2,
            "an adapter does not change the embeddings",
        ),
        ((*QUICK, "--decay-all"), 2, "--decay-all: --weight-decay is 0"),
        (
            (*QUICK, "--partial-step", "share"),
            2,
            "--partial-step share: with --gradient-accumulation 1 every step is whole",
        ),
        ((*QUICK, "--join-texts"), 2, "--join-texts: no row is a plain text"),
        (
            (*QUICK, "--template-date", "2025-01-07"),
            2,
            "--template-date: the tokenizer has no chat template",
        ),
    ],
)
def test_what_is_refused(options, code, message, finished_round, others, tmp_path, mpu):
    """One line and a hint, nothing written, before anything is trained."""
    places = {**others, "model": finished_round.model}
    given = [option.format(**places) for option in options]
    done = mpu(
        "unlearn", finished_round.handoff, *rows(finished_round), *given, "--out", tmp_path / "out"
    )
    assert done.code == code, done.err
    assert re.search(message, done.err), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_handoff_is_no_reference_for_a_model(finished_round, tmp_path, mpu):
    """Which of its copies would it be?"""
    r = finished_round
    done = mpu(
        "unlearn",
        r.model,
        *rows(r),
        *REFERENCED,
        "--reference",
        r.handoff,
        "--out",
        tmp_path / "out",
    )
    assert (
        done.code == 2 and "but a model is trained" in done.err and not (tmp_path / "out").exists()
    )


@pytest.mark.slow
def test_references_that_say_the_same_are_the_same(finished_round, tmp_path, mpu):
    """The handoff itself as its reference changes no bit.

    The exact model changes the update by little, but does.
    """
    r, updates = finished_round, {}
    for name, options in {
        "own": (),
        "same": ("--reference", r.handoff),
        "model": ("--reference", r.model),
    }.items():
        out = tmp_path / name
        assert (
            mpu(
                "unlearn",
                r.handoff,
                *rows(r),
                "--method",
                "NPO",
                "--max-steps",
                "2",
                *options,
                "--out",
                out,
            ).code
            == 0
        )
        updates[name] = load_file(out / "copy-1" / "delta.safetensors")
    assert all(torch.equal(updates["own"][name], value) for name, value in updates["same"].items())
    assert any(
        not torch.equal(updates["own"][name], value) for name, value in updates["model"].items()
    )


@pytest.mark.slow
def test_retain_rows_of_a_handoff_and_of_a_round(finished_round, tmp_path, mpu):
    """By default what is seen is told.

    With --round it is that round's, and a model takes --round as well.
    """
    r = finished_round
    told = mpu("unlearn", r.handoff, *rows(r), *QUICK, "--out", tmp_path / "by-id").err
    assert "drawn by this handoff's id" in told
    told = mpu(
        "unlearn", r.handoff, *rows(r), *QUICK, "--round", "2", "--out", tmp_path / "second"
    ).err
    assert "those of round 2" in told
    assert (
        mpu("unlearn", r.model, *rows(r), *QUICK, "--round", "2", "--out", tmp_path / "model").code
        == 0
    )
    first, second = (
        load_file(tmp_path / name / "copy-1" / "delta.safetensors") for name in ("by-id", "second")
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_embeddings_move_where_both_parties_ask_for_it(
    open_handoff_, finished_round, tmp_path, mpu
):
    """Copy by copy and finished: the update holds them, the server takes them.

    Without the client's flag they stay.
    """
    root, pair = open_handoff_
    data, out = rows(finished_round), tmp_path / "to-server"
    for number in (1, 2):
        done = mpu(
            "unlearn",
            root / "to-client",
            *data,
            *QUICK,
            "--train-embeddings",
            "--copy",
            number,
            "--out",
            out,
        )
        assert done.code == 0, done.err
        assert "tell the server which tokens" in done.err
    assert mpu("unlearn", root / "to-client", "--finish", "--out", out).code == 0
    assert "model.embed_tokens.weight" in load_file(out / "copy-2" / "delta.safetensors")
    taken = mpu(
        "aggregate",
        out,
        "--secret",
        root / "server",
        "--model",
        pair.model,
        "--out",
        tmp_path / "next",
    )
    assert taken.code == 0, taken.err
    before, after = (
        load_file(where / "model.safetensors") for where in (pair.model, tmp_path / "next")
    )
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert mpu("unlearn", root / "to-client", *data, *QUICK, "--out", tmp_path / "frozen").code == 0
    assert "model.embed_tokens.weight" not in load_file(
        tmp_path / "frozen" / "copy-1" / "delta.safetensors"
    )
    assert (
        mpu(
            "unlearn", pair.model, *data, *QUICK, "--train-embeddings", "--out", tmp_path / "model"
        ).code
        == 0
    )
    moved = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    assert not torch.equal(moved, before["model.embed_tokens.weight"])


def test_a_handoff_that_freezes_embeddings_is_told(open_handoff_, finished_round, tmp_path, mpu):
    """In perturb `--no-train-embeddings` wins over the preset, and the client's preset says so."""
    pair = open_handoff_[1]
    told = mpu(
        "perturb",
        pair.model,
        "--base",
        pair.base,
        "--handoff",
        tmp_path / "h",
        "--secret",
        tmp_path / "s",
        "--preset",
        "paper",
        "--no-train-embeddings",
    )
    assert told.code == 0
    assert (
        "preset paper sets: reparam paper-rotation" in told.err
        and "yours: train-embeddings False" in told.err
    )
    done = mpu(
        "unlearn",
        tmp_path / "h",
        *rows(finished_round),
        "--preset",
        "paper",
        "--method",
        "SimNPO",
        "--out",
        tmp_path / "u",
    )
    assert done.code == 0, done.err
    assert (
        "this handoff freezes model.embed_tokens.weight, lm_head.weight, which the authors trained"
        in done.err
    )


def test_the_preset_as_it_stands(open_handoff_, finished_round, tmp_path, mpu):
    """Pure bfloat16 from end to end: copies and trained weights lie on its grid.

    Everything that was set is said.
    """
    root, pair = open_handoff_
    own = ("--learning-rate", "1e-3", "--batch-size", "2")
    done = mpu(
        "unlearn",
        root / "to-client",
        *rows(finished_round),
        "--preset",
        "paper",
        "--method",
        "WGA",
        *own,
        "--out",
        tmp_path / "u",
    )
    assert done.code == 0, done.err
    for words in (
        "optimizer adamw",
        "decay-all",
        "partial-step share",
        "precision pure-bfloat16",
        "train-embeddings",
        "order-per-copy",
        "draws independent",
        "redraw-refusals",
        "join-texts",
        "gamma 1, alpha 1",
        "yours: learning-rate 0.001, batch-size 2",
        "2 rounds of 5 epochs each",
        "in its own order",
    ):
        assert words in done.err, words
    for name in ("copy-1", "copy-2"):
        published = load_file(root / "to-client" / name / "model.safetensors")
        changed = load_file(tmp_path / "u" / name / "delta.safetensors")
        assert {value.dtype for value in published.values()} == {torch.bfloat16}
        assert changed
        for tensor, change in changed.items():
            trained = published[tensor].float() + change
            assert torch.equal(trained, trained.bfloat16().float()), tensor
    taken = mpu(
        "aggregate",
        tmp_path / "u",
        "--secret",
        root / "server",
        "--model",
        pair.model,
        "--out",
        tmp_path / "next",
    )
    assert taken.code == 0, taken.err


def test_a_model_in_pure_bfloat16_starts_from_its_rounded_weights(finished_round, tmp_path, mpu):
    """What is written is what training changed.

    An untouched tensor of a float32 model keeps its float32 bits.
    """
    r = finished_round
    done = mpu(
        "unlearn",
        r.model,
        *rows(r),
        *QUICK,
        "--precision",
        "pure-bfloat16",
        "--learning-rate",
        "1e-30",
        "--out",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    before, after = (
        load_file(where / "model.safetensors") for where in (r.model, tmp_path / "out")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_copy_by_copy_is_the_same_update(open_handoff_, finished_round, tmp_path, mpu):
    """Orders depend on the handoff and the copy's name: copies trained alone have equal bytes."""
    handoff, data = open_handoff_[0] / "to-client", rows(finished_round)
    options = (
        *data,
        "--preset",
        "paper",
        "--method",
        "GradDiff",
        "--epochs",
        "2",
        "--batch-size",
        "2",
        "--learning-rate",
        "1e-3",
    )
    whole = mpu("unlearn", handoff, *options, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    for number in (2, 1):
        assert (
            mpu("unlearn", handoff, *options, "--copy", number, "--out", tmp_path / "spread").code
            == 0
        )
    assert mpu("unlearn", handoff, "--finish", "--out", tmp_path / "spread").code == 0
    for name in ("copy-1", "copy-2"):
        assert (tmp_path / "whole" / name / "delta.safetensors").read_bytes() == (
            tmp_path / "spread" / name / "delta.safetensors"
        ).read_bytes()


def test_plain_texts_under_the_preset(open_handoff_, tmp_path, mpu):
    """Joined and cut: the note says into how many chunks, and at how many tokens."""
    for first, name in enumerate(("forget", "retain")):
        texts = [
            {"text": " ".join(f"w{(i * j + first) % 60}" for i in range(40))} for j in range(1, 6)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    data = ("--forget", tmp_path / "forget.jsonl", "--retain", tmp_path / "retain.jsonl")
    root = open_handoff_[0]
    done = mpu(
        "unlearn",
        root / "to-client",
        *data,
        "--preset",
        "paper",
        "--method",
        "WGA",
        "--max-length",
        "60",
        "--out",
        tmp_path / "u",
    )
    assert done.code == 0, done.err
    assert re.search(r"forget: 5 texts joined and cut into \d chunks of 60 tokens", done.err)
    dry = mpu(
        "unlearn", root / "to-client", "--preset", "paper", "--method", "WGA", "--dry-run", "--json"
    )
    plain = mpu(
        "unlearn",
        root / "to-client",
        "--method",
        "WGA",
        "--optimizer",
        "adamw",
        "--train-embeddings",
        "--dry-run",
        "--json",
    )
    assert 2 * dry.json["weights_bytes"] == plain.json["weights_bytes"]
    assert 1.9 < plain.json["optimizer_state_bytes"] / dry.json["optimizer_state_bytes"] <= 2.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"redraw_refusals": True}, "--redraw-refusals: there are no refusals to draw from"),
        ({"draws": "independent"}, "--draws independent: there are no retain rows or refusals"),
        ({"join_texts": True}, "--join-texts: no row"),
        ({"order_per_copy": True}, "--order-per-copy: a model has no copies"),
        ({"decay_all": True}, "--decay-all: "),
        ({"partial_step": "share"}, "--partial-step share: "),
    ],
)
def test_an_option_without_effect_is_refused_where_it_was_given(settings, message):
    """By hand it is a usage error.

    From a preset, or undone, it is not; and where it has an effect it is not.
    """
    from mpu_cli.cli.unlearn_effect import RunInput, refuse_without_effect
    from mpu_cli.errors import UsageError
    from mpu_cli.training.settings import TrainingSettings

    nothing = RunInput(is_handoff=False, retain=False, refusals=False, texts=False)
    given = {f"--{name.replace('_', '-')}" for name in settings}
    with pytest.raises(UsageError) as error:
        refuse_without_effect(TrainingSettings(**settings), nothing, given)
    assert error.value.message.startswith(message)
    refuse_without_effect(TrainingSettings(**settings), nothing, ())
    refuse_without_effect(TrainingSettings(), nothing, given)
    full = TrainingSettings(weight_decay=0.1, gradient_accumulation=2, **settings)
    everything = RunInput(is_handoff=True, retain=True, refusals=True, texts=True)
    refuse_without_effect(full, everything, given)


def test_an_adapter_under_the_preset(open_handoff_, finished_round, tmp_path, mpu):
    """The preset's embeddings are dropped with a note, and so is the warning about them."""
    told = (
        "--preset",
        "paper",
        "--method",
        "GradDiff",
        "--epochs",
        "1",
        "--precision",
        "float32",
        "--lora-rank",
        "2",
        "--copy",
        "1",
    )
    done = mpu(
        "unlearn",
        open_handoff_[0] / "to-client",
        *rows(finished_round),
        *told,
        "--out",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert (
        "which an adapter (--lora-rank) does not change" in done.err
        and "no train-embeddings" in done.err
    )
    assert "embeddings are trained" not in done.err


def test_refusals_are_drawn_alone_where_that_is_asked(finished_round, tmp_path):
    """`--draws independent` is for refusals that stay, too.

    Some come twice before all came once.
    """
    import typer

    from mpu_cli.cli import unlearn_job
    from mpu_cli.cli.app import app
    from mpu_cli.cli.flags import read_job
    from mpu_cli.cli.output import Output
    from mpu_cli.cli.unlearn_options import UnlearnOptions

    (tmp_path / "refusals.txt").write_text("".join(f"w{i} .\n" for i in range(8)))
    given = [
        "--method",
        "DPO",
        *rows(finished_round),
        "--refusals",
        str(tmp_path / "refusals.txt"),
        "--out",
        str(tmp_path / "out"),
    ]
    dealt = {}
    for draws in ("dealt", "independent"):
        command = typer.main.get_command(app).get_command(None, "unlearn")
        with command.make_context(
            "unlearn", [str(finished_round.model), *given, "--draws", draws], obj={"arguments": []}
        ) as context:
            job = read_job(UnlearnOptions, context)
            work = unlearn_job.build_job(job, Output(context, as_json=True), finished_round.model)
        dealt[draws] = [row.alternate for row in work.forget]
    assert len(set(dealt["dealt"])) == 8 > len(set(dealt["independent"]))


def test_a_run_that_ends_in_the_warm_up_is_warned_of(finished_round, tmp_path, mpu):
    """PDU's weight adapts after five epochs, and five are the default."""
    line = (
        "unlearn",
        finished_round.model,
        *rows(finished_round),
        "--method",
        "PDU",
        "--set",
        "epsilon=9",
        "--max-steps",
        "1",
    )
    done = mpu(*line, "--out", tmp_path / "five")
    assert (
        done.code,
        "PDU: no epoch comes after its warm-up of 5" in done.err,
        "--epochs 6 or more" in done.err,
    ) == (0, True, True)
    done = mpu(*line, "--epochs", "6", "--out", tmp_path / "six")
    assert (done.code, "warm-up" in done.err) == (0, False), done.err
