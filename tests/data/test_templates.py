"""Encoding: only the answer is labelled, and the prompt is a prefix, with every tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from mpu_cli.data.rows import Message, Row
from mpu_cli.data.templates import IGNORED, TokenizedRow, encode
from mpu_cli.errors import BadDataError
from tiny_models import CHATML, TURNS, make_prefix_space_tokenizer, make_tokenizer

PAIR = Row("forget.jsonl:3", prompt="Where was Mira born?", answer="In Oskel.")
CHAT = Row(
    "forget.jsonl:4",
    messages=(
        Message("user", "Where was Mira born?"),
        Message("assistant", "In Oskel."),
        Message("user", "What does she write?"),
        Message("assistant", "Short novels."),
    ),
)


def labelled(encoded: TokenizedRow, tokenizer: Any) -> str:
    """The text of the labelled tokens."""
    return str(tokenizer.decode([label for label in encoded.labels if label != IGNORED]))


def prompt(encoded: TokenizedRow, tokenizer: Any) -> str:
    """The text of the tokens before the first label."""
    return str(tokenizer.decode(encoded.input_ids[: encoded.prompt_length]))


def test_plain_template() -> None:
    """A pair without a chat template is prompt, newline, answer, end; the last two count."""
    tokenizer = make_tokenizer()
    encoded = encode(PAIR, tokenizer, 100)
    assert prompt(encoded, tokenizer) == "Where was Mira born?\n"
    assert labelled(encoded, tokenizer) == "In Oskel.</s>"
    assert len(encoded.input_ids) == len(encoded.labels)
    assert all(
        label in (IGNORED, token)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    )


@pytest.mark.parametrize(
    ("question", "answer"), [("Mira was born ", "in Oskel"), ("Mira was born", " in Oskel")]
)
def test_no_separator_where_white_space_is_there(question: str, answer: str) -> None:
    """A prompt that ends or an answer that begins with white space is joined without a newline."""
    tokenizer = make_tokenizer()
    encoded = encode(Row("f:1", prompt=question, answer=answer), tokenizer, 100)
    assert tokenizer.decode(encoded.input_ids) == question + answer + "</s>"
    assert labelled(encoded, tokenizer) == answer + "</s>"


def test_plain_template_for_a_chat() -> None:
    """A chat without a chat template is its turns joined by newlines, of which the last counts."""
    tokenizer = make_tokenizer()
    encoded = encode(CHAT, tokenizer, 100)
    assert prompt(encoded, tokenizer) == "Where was Mira born?\nIn Oskel.\nWhat does she write?\n"
    assert labelled(encoded, tokenizer) == "Short novels.</s>"


@pytest.mark.parametrize("row", [PAIR, CHAT])
def test_chat_template(row: Row) -> None:
    """Only the last turn and its end-of-turn token count; the newline after it is dropped."""
    tokenizer = make_tokenizer(CHATML)
    encoded = encode(row, tokenizer, 200)
    turns = [{"role": turn.role, "content": turn.content} for turn in row.messages] or [
        {"role": "user", "content": row.prompt},
        {"role": "assistant", "content": row.answer},
    ]
    assert prompt(encoded, tokenizer) == tokenizer.apply_chat_template(
        turns[:-1], tokenize=False, add_generation_prompt=True
    )
    assert labelled(encoded, tokenizer) == f"{turns[-1]['content']}<|im_end|>"


def test_prompt_is_what_generation_starts_from() -> None:
    """The prompt equals, id for id, what apply_chat_template returns for generation."""
    tokenizer = make_tokenizer(CHATML, bos=True)
    encoded = encode(PAIR, tokenizer, 200)
    started = tokenizer.apply_chat_template(
        [{"role": "user", "content": PAIR.prompt}], add_generation_prompt=True, return_dict=False
    )
    assert list(encoded.input_ids[: encoded.prompt_length]) == started


@pytest.mark.parametrize(("template", "expected"), [(None, 1), (CHATML, 0), (TURNS, 1)])
@pytest.mark.parametrize(
    "row", [PAIR, Row("f:1", prompt="<s>Where was Mira born?", answer="In Oskel.")]
)
def test_beginning_of_sequence_is_never_doubled(
    row: Row, template: str | None, expected: int
) -> None:
    """The beginning token comes from the tokenizer or from the template, never from both."""
    tokenizer = make_tokenizer(template, bos=True)
    encoded = encode(row, tokenizer, 200)
    extra = 1 if template and row is not PAIR else 0
    assert encoded.input_ids.count(tokenizer.bos_token_id) == expected + extra
    if expected:
        assert encoded.input_ids[0] == tokenizer.bos_token_id


def test_no_beginning_token_is_invented() -> None:
    """A tokenizer that has a beginning token but does not put one is left alone."""
    tokenizer = make_tokenizer()
    assert tokenizer.bos_token_id not in encode(PAIR, tokenizer, 100).input_ids


def test_token_across_the_boundary_keeps_the_prompt_a_prefix() -> None:
    """A token that would span the boundary is not used: the prompt's own tokens stay."""
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif"
        " %}{% endfor %}"
    )
    tokenizer = make_tokenizer(template)
    encoded = encode(Row("f:1", prompt="the harb", answer="our town"), tokenizer, 100)
    started = tokenizer("the harb")["input_ids"]
    assert list(encoded.input_ids[: encoded.prompt_length]) == started
    assert labelled(encoded, tokenizer) == "our town</s>"
    # Negative control: tokenised in one go the two do merge.
    assert tokenizer("the harbour town")["input_ids"][: len(started)] != started


def test_prefix_space_tokenizer_adds_no_space_inside() -> None:
    """A tokenizer that puts a space mark before a text puts none between prompt and answer."""
    tokenizer = make_prefix_space_tokenizer()
    encoded = encode(PAIR, tokenizer, 100)
    assert (
        tokenizer.decode(encoded.input_ids, skip_special_tokens=True)
        == "Where was Mira born?\nIn Oskel."
    )
    assert (
        encoded.input_ids[0] == tokenizer.bos_token_id
        and encoded.input_ids[-1] == tokenizer.eos_token_id
    )


def test_template_whose_generation_prompt_differs() -> None:
    """If a generated turn begins in another way than a finished one, labels begin at the answer."""
    tokenizer = make_tokenizer(CHATML.replace("assistant\n{% endif", "assistant\nprompt:{% endif"))
    assert labelled(encode(PAIR, tokenizer, 200), tokenizer) == "In Oskel.<|im_end|>"


def test_chat_template_that_refuses_the_row() -> None:
    """A template's own refusal becomes bad data that names the row."""
    row = Row("forget.jsonl:9", messages=(Message("system", "s"), Message("assistant", "a")))
    with pytest.raises(BadDataError, match=r"forget\.jsonl:9.*roles must alternate"):
        encode(row, make_tokenizer(TURNS), 100)


def test_chat_template_that_drops_the_answer() -> None:
    """A template that does not show the answer cannot be trained on, and the row is named."""
    with pytest.raises(BadDataError, match=r"forget\.jsonl:3.*leaves out the answer"):
        encode(PAIR, make_tokenizer("{% if add_generation_prompt %}answer{% endif %}question"), 100)


def test_text_counts_in_full() -> None:
    """Every token of a text is labelled, also the beginning token, and nothing is appended."""
    tokenizer = make_tokenizer(CHATML, bos=True)
    encoded = encode(Row("f:1", text="Mira was born in Oskel."), tokenizer, 100)
    assert (
        encoded.input_ids
        == encoded.labels
        == tuple(tokenizer("Mira was born in Oskel.")["input_ids"])
    )
    assert (
        encode(Row("f:1", text="<s>Mira"), tokenizer, 100).input_ids.count(tokenizer.bos_token_id)
        == 1
    )


def test_truncation_is_from_the_right() -> None:
    """A long row keeps its first max_length tokens and their labels."""
    tokenizer = make_tokenizer()
    full = encode(PAIR, tokenizer, 100)
    cut = encode(PAIR, tokenizer, full.prompt_length + 2)
    assert cut.input_ids == full.input_ids[: full.prompt_length + 2]
    assert cut.labels == full.labels[: full.prompt_length + 2]


@pytest.mark.parametrize("template", [None, CHATML])
def test_row_without_a_label_left(template: str | None) -> None:
    """A prompt that fills max_length is refused by name, and one more token is enough."""
    tokenizer = make_tokenizer(template)
    length = encode(PAIR, tokenizer, 200).prompt_length
    with pytest.raises(
        BadDataError, match=rf"forget\.jsonl:3: no answer token is left within {length} tokens"
    ):
        encode(PAIR, tokenizer, length)
    assert encode(PAIR, tokenizer, length + 1).labels[-1] != IGNORED


def test_text_of_one_token() -> None:
    """A text of one token is refused: no token predicts the first one."""
    with pytest.raises(BadDataError, match="no answer token is left"):
        encode(Row("f:1", text="M"), make_tokenizer(), 100)


def test_no_end_token() -> None:
    """A tokenizer without an end-of-sequence token gets none appended."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    assert labelled(encode(PAIR, tokenizer, 100), tokenizer) == "In Oskel."
