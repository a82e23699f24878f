"""A recipe holds its rows as tokens: another tokenizer, template or limit is another recipe."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpu_cli.client import methods
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.run import Run
from mpu_cli.client.training_rows import RowEncoder, possible_alternates
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.rows import Row
from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.training.settings import TrainingSettings
from tiny_models import CHATML

FORGET = [
    Row("f:1", prompt="Where was Mira born?", answer="In Oskel."),
    Row("f:2", text="Mira writes short novels. " * 9),
]
RETAIN = [Row("r:1", prompt="Who taught Ilan?", answer="His aunt.")]


def recipe(prompting: Prompting | None = None, **settings: Any) -> Recipe:
    """GradDiff on two files."""
    values = tuple(sorted(methods.get("GradDiff").parse(()).items()))
    return Recipe(
        "GradDiff",
        values,
        TrainingSettings(**settings),
        "0" * 64,
        "1" * 64,
        prompting=prompting or Prompting(),
    )


@pytest.fixture
def chatting(model_directory: Path, tmp_path: Path) -> Path:
    """The model with a chat template."""
    copied = Path(shutil.copytree(model_directory, tmp_path / "model"))
    (copied / "chat_template.jinja").write_text("{{ strftime_now('%d') }}" + CHATML)
    return copied


def test_the_digest_is_of_the_tokens(model_directory: Path, chatting: Path) -> None:
    """Template, date, system prompt, limit, windows and the order of rows change the digest.

    The seed and the order of training do not.
    """

    def digest(place: Path, forget: list[Row], retain: list[Row], **settings: Any) -> str:
        return RowEncoder(place, recipe(**settings)).training_rows(forget, retain).digest

    usual = digest(chatting, FORGET, RETAIN)
    assert len(usual) == 64
    assert usual == digest(chatting, FORGET, RETAIN, seed=7, epochs=9, batch_size=1)
    others = [
        digest(model_directory, FORGET, RETAIN),
        digest(chatting, FORGET, RETAIN, prompting=Prompting(date="2024-07-27")),
        digest(chatting, FORGET, RETAIN, prompting=Prompting("Be short.")),
        digest(chatting, FORGET, RETAIN, max_length=40),
        digest(chatting, FORGET, RETAIN, max_length=40, overlap=3),
        digest(chatting, FORGET[::-1], RETAIN),
        digest(chatting, RETAIN, FORGET),
        digest(chatting, FORGET[:1], RETAIN),
        digest(chatting, FORGET, []),
    ]
    assert len({usual, *others}) == len(others) + 1


def test_labels_are_a_part_of_it(model_directory: Path) -> None:
    """The same ids with another part labelled are other rows."""
    from mpu_cli.data.templates import IGNORED, TokenizedRow
    from mpu_cli.data.tokens import tokens_digest

    assert tokens_digest([TokenizedRow((1, 2), (IGNORED, 2))]) != tokens_digest(
        [TokenizedRow((1, 2), (1, 2))]
    )
    assert tokens_digest([TokenizedRow((1, 2), (1, 2)), TokenizedRow((3,), (3,))]) != tokens_digest(
        [TokenizedRow((1, 2, 3), (1, 2, 3))]
    )


def test_the_context_bounds_a_row(chatting: Path) -> None:
    """Rows are cut at the model's context with a note, and a longer limit is refused."""
    config = json.loads((chatting / "config.json").read_text())
    (chatting / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 60}))
    long, told = [replace(FORGET[0], answer="In Oskel. " * 30)], []
    encoded = RowEncoder(chatting, recipe(), told.append).training_rows(long, RETAIN)
    assert [len(row.input_ids) for row in encoded.forget] == [60]
    assert told == ["forget: 1 row is cut at 60 tokens (the model's context), the first is f:1"]
    for settings, most in (({"max_length": 61}, 60), ({"max_length": 61, "join_texts": True}, 60)):
        with pytest.raises(
            UsageError, match="--max-length 61: the model's context has 60 tokens"
        ) as error:
            RowEncoder(chatting, recipe(**settings))
        assert error.value.hint == f"give at most {most}"


def test_a_row_that_the_template_refuses_is_named(chatting: Path) -> None:
    """Before weights are read."""
    (chatting / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(
        BadDataError, match=r"f:1: the tokenizer's chat template refuses this row \(no\)"
    ):
        RowEncoder(chatting, recipe()).training_rows(FORGET, RETAIN)


def test_alternate_answers_are_a_part_of_it(model_directory: Path) -> None:
    """The digest covers the alternates, and every refusal that a later epoch may draw."""
    rows = [replace(FORGET[0], alternate="I do not know.")]
    once, anew = TrainingSettings(), TrainingSettings(redraw_refusals=True)
    encoder = RowEncoder(model_directory, recipe())

    def digest(forget: list[Row], refusals: tuple[str, ...], settings: TrainingSettings) -> str:
        return encoder.training_rows(
            forget, RETAIN, possible_alternates(forget, refusals, settings)
        ).digest

    bare = digest(FORGET[:1], (), once)
    assert bare == encoder.training_rows(FORGET[:1], RETAIN).digest
    other = [replace(FORGET[0], alternate="I cannot say.")]
    made = {
        bare,
        digest(rows, (), once),
        digest(other, (), once),
        digest(rows, ("No.",), anew),
        digest(rows, ("Yes.",), anew),
    }
    assert len(made) == 5
    assert digest(rows, ("No.",), once) == digest(rows, (), once)


def test_two_words_of_the_refusals_alone(chatting: Path) -> None:
    """A tokenizer that differs only in tokens of the alternates gives another digest."""
    settings = TrainingSettings()
    dpo = Recipe(
        "DPO", tuple(sorted(methods.get("DPO").parse(()).items())), settings, "0" * 64, "1" * 64
    )
    work = UnlearnJob([replace(FORGET[0], alternate="QQ ZZ")], RETAIN, dpo, "float32", 1 << 30)
    before = Run.of(work, chatting).job.recipe
    table = (chatting / "tokenizer.json").read_text()
    changed = table.replace('"Q":', '"@@":').replace('"Z":', '"Q":').replace('"@@":', '"Z":')
    assert changed != table
    (chatting / "tokenizer.json").write_text(changed)
    after = Run.of(work, chatting).job.recipe
    assert before.tokens_digest is not None and after.tokens_digest is not None
    assert before.tokens_digest[:64] == after.tokens_digest[:64]
    assert before.fingerprint() != after.fingerprint()
