"""The options of prompts in `data check`, `unlearn` and `eval`.

One mechanism, and copies of other prompts do not go together.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rounds import QUICK

TEMPLATE = (
    "{% if mode is defined %}{{ mode }} {% endif %}{{ strftime_now('w%-d') }} "
    "{% for m in messages %}w1 {{ m['role'] }} w2 {{ m['content'] }} w3 {% endfor %}"
    "{% if add_generation_prompt %}w1 assistant w2 {% endif %}"
)
GIVEN = (
    "--system-prompt",
    "w20 w21",
    "--template-var",
    "mode=w19",
    "--template-date",
    "2025-01-07",
)


@pytest.fixture
def dated(own_round) -> Path:
    """The round's model with a chat template that asks for the date."""
    (own_round.model / "chat_template.jinja").write_text(TEMPLATE)
    return own_round.model


def test_data_check_shows_the_prompt(mpu, dated, own_round):
    """System prompt, variable and date are in the row as the model sees it.

    Without them, the usual date.
    """
    done = mpu("data", "check", own_round.forget, "--model", dated, *GIVEN, "--json")
    shown = "".join(text for text, _ in done.json["sample"]["parts"])
    assert shown.startswith("w19 w7 w1 <unk> w2 w20 w21 w3 w1 <unk> w2")
    done = mpu("data", "check", own_round.forget, "--model", dated, "--json")
    assert "".join(text for text, _ in done.json["sample"]["parts"]).startswith("w26 w1 <unk> w2")


@pytest.mark.parametrize("command", ["data check", "eval", "unlearn"])
def test_every_command_refuses_alike(mpu, dated, own_round, command, tmp_path):
    """A variable that the template does not read, and a day that is none."""
    line = {
        "data check": ("data", "check", own_round.forget, "--model", dated),
        "eval": ("eval", dated, "--forget", own_round.forget, "--no-generate"),
        "unlearn": (
            "unlearn",
            dated,
            "--forget",
            own_round.forget,
            "--retain",
            own_round.retain,
            *QUICK,
            "--out",
            tmp_path / "out",
        ),
    }[command]
    for given, message in (
        (
            ("--template-var", "mood=w19"),
            "--template-var mood: the chat template reads no such variable",
        ),
        (("--template-date", "yesterday"), "--template-date yesterday: expected a date"),
    ):
        done = mpu(*line, *given)
        assert (done.code, message in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_prompts_are_a_part_of_the_recipe(mpu, own_round, tmp_path):
    """A copy trained with another system prompt is not put into one update with the first."""
    for copy, prompt in ((1, "w1"), (2, "w2")):
        data = (
            "--forget",
            own_round.forget,
            "--retain",
            own_round.retain,
            *QUICK,
            "--system-prompt",
            prompt,
        )
        assert (
            mpu("unlearn", own_round.handoff, *data, "--copy", copy, "--out", tmp_path / "out").code
            == 0
        )
    done = mpu("unlearn", own_round.handoff, "--finish", "--out", tmp_path / "out")
    assert (done.code, "was made by another recipe" in done.err) == (1, True)


def test_a_record_says_with_which_prompts(mpu, dated, own_round, tmp_path):
    """Variables and date as given.

    Of the system prompt only its digest, since a record holds no text.
    """
    record = tmp_path / "record"
    assert (
        mpu(
            "eval", dated, "--forget", own_round.forget, "--no-generate", *GIVEN, "--record", record
        ).code
        == 0
    )
    said = json.loads((record / "summary.json").read_text())["settings"]["prompting"]
    assert len(said.pop("system_prompt")) == 64
    assert said == {"variables": {"mode": "w19"}, "date": "2025-01-07", "content_parts": False}


def test_records_of_other_prompts_are_not_compared(mpu, dated, own_round, tmp_path):
    """The same rows under another date are other tokens: refused by compare and by eval --before.

    An older record has no say.
    """
    asked = ("eval", dated, "--forget", own_round.forget, "--no-generate")
    for name, day in (("one", "2024-07-01"), ("same", "2024-07-01"), ("other", "2024-07-02")):
        assert mpu(*asked, "--template-date", day, "--record", tmp_path / name).code == 0
    done = mpu("compare", tmp_path / "one", tmp_path / "other")
    assert (
        done.code,
        "other: its forget set has the rows of one, but they became other tokens" in done.err,
    ) == (
        3,
        True,
    )
    assert "--template-date" in done.err
    assert mpu("compare", tmp_path / "one", tmp_path / "same").code == 0
    done = mpu(
        *asked,
        "--template-date",
        "2024-07-02",
        "--before",
        tmp_path / "one",
        "--record",
        tmp_path / "never",
    )
    assert (
        done.code,
        "--before: its forget set has the same rows, but they became other tokens" in done.err,
    ) == (3, True)
    assert not (tmp_path / "never").exists()
    summary = tmp_path / "other" / "summary.json"
    content = json.loads(summary.read_text())
    del content["sets"]["forget"]["tokens"]
    summary.write_text(json.dumps(content))
    assert mpu("compare", tmp_path / "one", tmp_path / "other").code == 0


def test_an_interrupted_run_is_not_gone_on_with_under_another_template(
    mpu, dated, own_round, tmp_path, monkeypatch
):
    """The data files and options are the same, the tokens are not: --resume says so."""
    from mpu_cli.client import trained_model

    line = (
        "unlearn",
        dated,
        "--forget",
        own_round.forget,
        "--retain",
        own_round.retain,
        *QUICK,
        "--out",
        tmp_path / "out",
    )
    with monkeypatch.context() as patched:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(trained_model, "write_changed", interrupted)
        assert mpu(*line, "--save-steps", 1).code == 130
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".mpu-work")]
    (dated / "chat_template.jinja").write_text(TEMPLATE.replace("w1", "w4"))
    done = mpu(*line, "--save-steps", 1, "--resume")
    assert (done.code, "recipe" in done.err or "another run" in done.err) == (1, True), done.err
    assert not (tmp_path / "out").exists()


def test_copies_that_would_see_other_tokens_are_refused(mpu, own_round, tmp_path):
    """A handoff whose copies have different templates.

    What differs between copies beside the noise does not cancel.
    """
    from mpu_cli.bundle.manifest import (
        MANIFEST,
        FileEntry,
        HandoffManifest,
        PublishedCopy,
        decode,
        encode,
    )
    from mpu_cli.checkpoint.digest import file_digest

    manifest = decode((own_round.handoff / MANIFEST).read_bytes(), "mpu.yaml")
    assert isinstance(manifest, HandoffManifest)
    template = own_round.handoff / "copy-2" / "chat_template.jinja"
    template.write_text(TEMPLATE)
    first, second = manifest.copies
    files = {
        **second.files,
        template.name: FileEntry(file_digest(template), template.stat().st_size),
    }
    changed = HandoffManifest(
        manifest.id, manifest.dtype, manifest.frozen, (first, PublishedCopy(second.name, files))
    )
    (own_round.handoff / MANIFEST).write_bytes(encode(changed))
    data = ("--forget", own_round.forget, "--retain", own_round.retain, *QUICK)
    done = mpu("unlearn", own_round.handoff, *data, "--out", tmp_path / "out")
    assert (done.code, "copy-2/chat_template.jinja differs from that of copy-1" in done.err) == (
        3,
        True,
    ), done.err
    for options in (("--copy", 1), ("--copy", 2), ("--finish",)):
        given = () if options == ("--finish",) else data
        done = mpu("unlearn", own_round.handoff, *given, *options, "--out", tmp_path / "apart")
        assert (
            done.code,
            "copy-2/chat_template.jinja differs from that of copy-1" in done.err,
        ) == (
            3,
            True,
        ), done.err
    assert not (tmp_path / "apart").exists()
