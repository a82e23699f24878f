"""What fits, what does not, and which tokens a prompt has."""

from __future__ import annotations

import shutil

import pytest
from tiny_rows import questions, rows, settings
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.prompt_format import CONTINUATION, PromptFormat
from mpu_cli.evaluation.texts import Encoder
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer

LONG = " ".join(["w3"] * 130)


@pytest.fixture
def encoder(tiny_pair) -> Encoder:
    """Of a model with a context of 128."""
    directory = tiny_pair("llama").model
    return Encoder(load_tokenizer(directory), load_model(directory).model.config, None)


@pytest.mark.parametrize(
    ("key", "variant"),
    [
        ("answer", "answer"),
        ("perturbed_answer", "perturbed answers"),
        ("paraphrased_answer", "paraphrased answer"),
    ],
)
def test_an_answer_longer_than_the_context_is_refused(key, variant, tiny_pair, tmp_path):
    """With file, line, which answer, how long it is and what the limit is; it is not cut."""
    values = rows(3, 0)
    values[1][key] = [LONG] if key == "perturbed_answer" else LONG
    with pytest.raises(
        BadDataError, match=rf"^forget\.jsonl:2: {variant} needs \d+ tokens, the limit is 128$"
    ):
        evaluate(
            tiny_pair("llama").model,
            [questions(tmp_path, "forget", "forget", values)],
            settings(generate=False),
        )


def test_the_limit_may_be_set_lower_but_not_above_the_context(tiny_pair, tmp_path):
    """--max-length 8 refuses what needs nine tokens; 129 is refused itself."""
    question_set = questions(
        tmp_path, "forget", "forget", [{"question": "w1 w2 ?", "answer": "w1 w2 w3 w4 ."}]
    )
    for limit, refused in ((8, True), (9, False)):
        if refused:
            with pytest.raises(BadDataError, match="needs 9 tokens, the limit is 8"):
                evaluate(tiny_pair("llama").model, [question_set], settings(max_length=limit))
        else:
            assert (
                evaluate(tiny_pair("llama").model, [question_set], settings(max_length=limit)).notes
                == ()
            )
    with pytest.raises(UsageError, match="the model's context has 128 tokens"):
        evaluate(tiny_pair("llama").model, [question_set], settings(max_length=129))


def test_a_long_plain_text_is_measured_at_its_beginning_and_said(tiny_pair, tmp_path):
    """One note for all of them, however often they are measured."""
    question_set = questions(
        tmp_path, "forget", "forget", [{"text": LONG}, {"text": "w1 w2 w3"}, {"text": LONG}]
    )
    found = evaluate(
        tiny_pair("llama").model, [question_set], settings(robustness=("quantization",))
    )
    assert found.notes == (
        "2 plain texts are longer than 128 tokens: only their first tokens are measured",
    )


def test_a_tokenizer_of_another_model_is_refused(tiny_pair, tmp_path):
    """A token that the model has no row for.

    The row, the token and the model's size, not an index error.
    """
    directory = shutil.copytree(tiny_pair("llama").model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["Oskel"])
    tokenizer.save_pretrained(directory)
    question_set = questions(
        tmp_path, "forget", "forget", [*rows(2, 0), {"question": "w1 ?", "answer": "Oskel ."}]
    )
    with pytest.raises(
        BadDataError,
        match=(
            r"^forget\.jsonl:3: the token .* \(id 64\) is outside the model's embedding of 64 rows$"
        ),
    ):
        evaluate(directory, [question_set], settings(generate=False))


def test_the_prompt_is_the_question_as_it_was_scored(encoder, tmp_path):
    """The tokens before the answer; of a plain text the first half; of a paraphrase its own."""
    row = {"question": "w1 w2 ?", "answer": "w3 .", "paraphrased_question": "w9 ?"}
    question, text = questions(
        tmp_path, "forget", "forget", [row, {"text": "w1 w2 w3 w4 w5"}]
    ).questions
    vocabulary = encoder.tokenizer.vocab
    assert encoder.prompt(question) == tuple(vocabulary[word] for word in ("w1", "w2", "?"))
    assert encoder.prompt(question, "paraphrased question") == tuple(
        vocabulary[word] for word in ("w9", "?")
    )
    assert encoder.prompt(text) == tuple(vocabulary[word] for word in ("w1", "w2"))
    assert encoder.rest_of_text(text) == "w3 w4 w5"


def test_an_end_mark_is_no_word_and_an_unknown_word_is(encoder, tmp_path):
    """The end-of-sequence token after an answer counts as a mark.

    The token for unknown words does not.
    """
    question_set = questions(
        tmp_path, "forget", "forget", [{"question": "w1 ?", "answer": "w3 Oskel"}]
    )
    (text,) = encoder.texts([question_set], ["answer"])
    assert text.ended
    assert encoder.ends(question_set.questions) == (1,)
    encoder.tokenizer.eos_token = None
    (text,) = Encoder(encoder.tokenizer, load_config(), None).texts([question_set], ["answer"])
    assert text.encoded.input_ids[-1] == encoder.tokenizer.unk_token_id
    assert not text.ended


def load_config():
    """Any configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=64, max_position_embeddings=128)


@pytest.mark.parametrize("begins", [False, True])
def test_an_empty_prompt_to_go_on_from(begins, encoder, tmp_path):
    """Without a token that begins texts there is nothing to start from: the row is named.

    With one it is that token alone.
    """
    if begins:
        end = ("</s>", encoder.tokenizer.eos_token_id)
        encoder.tokenizer._tokenizer.post_processor = TemplateProcessing(
            "</s> $A", special_tokens=[end]
        )
    question_set = questions(
        tmp_path, "verbatim", "verbatim", [{"prompt": "w1", "gt": "w2"}, {"prompt": "", "gt": "w2"}]
    )
    asked = PromptFormat(CONTINUATION, 4)
    assert encoder.prompt(question_set.questions[0], "answer", asked)
    if begins:
        assert encoder.prompt(question_set.questions[1], "answer", asked) == (
            encoder.tokenizer.eos_token_id,
        )
    else:
        with pytest.raises(
            BadDataError,
            match=r"^verbatim\.jsonl:2: the prompt is empty, and this tokenizer puts no token",
        ):
            encoder.prompt(question_set.questions[1], "answer", asked)
