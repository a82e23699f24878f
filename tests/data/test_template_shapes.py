"""What is labelled under the chat templates that models really come with.

The answer and its end token, nothing else.

The templates are written here, as short as they show each model's way; ⟦ ⟧ is what counts, ‖ where
generation would start.
"""

from __future__ import annotations

import pytest

from mpu_cli.data.prompting import Prompting, parse_variables
from mpu_cli.data.row import Message
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import IGNORED, encode_whole
from mpu_cli.errors import BadDataError
from tiny_models import make_tokenizer

MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|eot|>",
    "<|head|>",
    "<|/head|>",
    "<turn>",
    "</turn>",
    "[INST]",
    "[/INST]",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|eos|>",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nEXTRA{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last"
    " %}{% set parts = m.content.split('</think>') %}<think>\n{{"
    " parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 }}\n</think>\n\n{{"
    " parts[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if"
    " add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and"
    " enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim"
    " }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }}"
    " [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not"
    " supported') }}{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2"
    " == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}<turn>{{ 'model' if m.role =="
    " 'assistant' else m.role }}\n{{ m.content | trim }}</turn>\n{% endfor %}{% if"
    " add_generation_prompt %}<turn>model\n{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else"
    " %}<|assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}{%"
    " if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>Today: {{ strftime_now('%Y-%m-%d') }}<|end|>{% for m in messages"
    " %}{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content"
    " }}{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}<|start|>{{ m.role }}<|message|>{{"
    " m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{%"
    " endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}"
)
PARTS = CHATML.replace(
    "{{ m.content }}", "{% for c in m.content %}{{ c.text }}{% endfor %}"
).replace("EXTRA", "")
ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n###"
    " Response:\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
)
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% else"
    " %}<think></think>A: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
SHAPES = {
    # name: (template, settings, the row as the model sees it)
    "ChatML": (
        CHATML.replace("EXTRA", ""),
        {},
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n⟦Oskel.<|im_end|>⟧",
    ),
    "a thinking ChatML": (
        CHATML.replace("EXTRA", "<think>\n"),
        {},
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n⟦Oskel.<|im_end|>⟧",
    ),
    "Qwen3": (
        QWEN3,
        {},
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n⟦Oskel.<|im_end|>⟧",
    ),
    "Qwen3, not thinking": (
        QWEN3,
        {"assignments": ["enable_thinking=false"]},
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n⟦Oskel.<|im_end|>⟧",
    ),
    "Llama 3": (
        LLAMA3,
        {},
        "<s><|head|>user<|/head|>\n\nWhere?<|eot|><|head|>assistant<|/head|>\n\n⟦Oskel.<|eot|>⟧",
    ),
    "Llama 2": (LLAMA2, {}, "<s>[INST] Where? [/INST]⟦ Oskel. </s>⟧"),
    "Mistral": (MISTRAL, {}, "<s>[INST] Where?[/INST]⟦ Oskel.</s>⟧"),
    "Gemma": (GEMMA, {}, "<s><turn>user\nWhere?</turn>\n<turn>model\n⟦Oskel.</turn>⟧"),
    "DeepSeek-R1": (DEEPSEEK_R1, {}, "<s><|user|>Where?<|assistant|>⟦Oskel.</s>⟧"),
    "Phi-3": (PHI3, {}, "<|user|>\nWhere?<|end|>\n<|assistant|>\n⟦Oskel.<|end|>⟧"),
    "harmony": (
        HARMONY,
        {},
        "<|start|>system<|message|>Today: 2024-07-26<|end|><|start|>user<|message|>Where?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>⟦Oskel.<|return|>⟧",
    ),
    "Zephyr": (ZEPHYR, {}, "<|user|>\nWhere?</s>\n<|assistant|>\n⟦Oskel.</s>⟧"),
    "content parts": (
        PARTS,
        {"content_parts": True},
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n⟦Oskel.<|im_end|>⟧",
    ),
    "no end token": (ALPACA, {}, "### Instruction:\nWhere?\n\n### Response:\n⟦Oskel.\n\n⟧"),
    "a space after what is not said": (SPACED, {}, "Q: Where?\n<think></think>A:⟦ Oskel.</s>⟧"),
}
ROW = Row("f.jsonl:1", prompt="Where?", answer="Oskel.")


@pytest.fixture(scope="module")
def tokenizer():
    """The tiny byte-level tokenizer with the marks of all these models."""
    made = make_tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return made


def seen(tokenizer, template: str, row: Row, assignments=(), **settings) -> str:
    """A row as the model sees it, what counts between ⟦ and ⟧."""
    tokenizer.chat_template = template
    encoded = encode_whole(
        row, tokenizer, Prompting(variables=parse_variables(assignments), **settings)
    )
    start = encoded.prompt_length
    assert all(
        label == token
        for label, token in zip(encoded.labels[start:], encoded.input_ids[start:], strict=True)
    )
    assert all(label == IGNORED for label in encoded.labels[:start])
    ids = encoded.input_ids
    return f"{tokenizer.decode(ids[:start])}⟦{tokenizer.decode(ids[start:])}⟧"


@pytest.mark.parametrize("name", SHAPES)
def test_exactly_the_answer_and_its_end_token_count(tokenizer, name):
    """The prompt keeps what a template puts before a finished answer.

    Behind the end token there is nothing.
    """
    template, settings, expected = SHAPES[name]
    assert seen(tokenizer, template, ROW, **settings) == expected


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "answer",
    [
        "d",
        "im",
        "end",
        "user",
        "assistant",
        "Where?",
        "a\nb",
        ".",
        "</s",
        "{{ x }}",
        "Ω ≠ ω",
        "<",
        "2024",
    ],
)
def test_an_answer_that_is_a_word_of_the_template(tokenizer, name, answer):
    """Short answers that occur in marks, roles or the question are found in the right place."""
    template, settings, expected = SHAPES[name]
    whole = seen(tokenizer, template, Row("f.jsonl:1", prompt="Where?", answer=answer), **settings)
    assert whole == expected.replace("Oskel.", answer)


@pytest.mark.parametrize("name", SHAPES)
def test_the_last_answer_of_several(tokenizer, name):
    """In a chat whose answers are alike only the last counts, and all earlier turns are there."""
    template, settings, _ = SHAPES[name]
    turns = (
        Message("user", "Where?"),
        Message("assistant", "Oskel."),
        Message("user", "Sure?"),
        Message("assistant", "Oskel."),
    )
    prompt, _, counts = seen(
        tokenizer, template, Row("f.jsonl:1", messages=turns), **settings
    ).partition("⟦")
    assert (prompt.count("Oskel."), prompt.count("Sure?"), counts.count("Oskel.")) == (1, 1, 1)


@pytest.mark.parametrize("name", SHAPES)
def test_white_space_around_an_answer(tokenizer, name):
    """A template that trims an answer gives the trimmed one, any other the answer as it is."""
    template, settings, expected = SHAPES[name]
    whole = seen(
        tokenizer, template, Row("f.jsonl:1", prompt="Where?", answer=" Oskel.\n"), **settings
    )
    assert whole in (
        expected.replace("Oskel.", kept) for kept in ("Oskel.", " Oskel.\n", "Oskel.\n", " Oskel.")
    )


def test_an_answer_with_thoughts(tokenizer):
    """Qwen3 writes them anew, in its own way, and they count.

    DeepSeek-R1 throws them away, which is an error.
    """
    row = Row("f.jsonl:1", prompt="Where?", answer="<think>\nSea.\n</think>\n\nOskel.")
    assert seen(tokenizer, QWEN3, row).endswith(
        "<|im_start|>assistant\n⟦<think>\nSea.\n</think>\n\nOskel.<|im_end|>⟧"
    )
    with pytest.raises(
        BadDataError, match=r"f\.jsonl:1: the tokenizer's chat template changes the answer '<think>"
    ):
        seen(tokenizer, DEEPSEEK_R1, row)


ALTERING = {
    "upper case": CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"),
    "cut": CHATML.replace("{{ m.content }}", "{{ m.content[:3] }}"),
    "escaped": CHATML.replace("{{ m.content }}", "{{ m.content | replace('.', '&#46;') }}"),
    "twice": CHATML.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}"),
    "parts": PARTS,
    "dropped": CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}"),
    "question dropped": CHATML.replace(
        "{{ m.content }}", "{{ m.content if m.role == 'assistant' }}"
    ),
}


@pytest.mark.parametrize("what", ALTERING)
def test_what_a_template_changes_is_refused(tokenizer, what):
    """Each in one line that names the row and shows it.

    A template for lists of parts gets the remedy.
    """
    refusal = r"f\.jsonl:1: the tokenizer's chat template (changes|renders|leaves out)"
    with pytest.raises(BadDataError, match=refusal) as error:
        seen(tokenizer, ALTERING[what], ROW)
    assert "\n" not in error.value.message
    assert ("--content-parts" in (error.value.hint or "")) == (what == "parts")


def test_a_tool_turn_is_rendered_or_refused(tokenizer):
    """A template that knows the role renders its content; one that skips it is refused."""
    turns = (
        Message("user", "Where?"),
        Message("assistant", "look"),
        Message("tool", "Oskel"),
        Message("assistant", "Oskel."),
    )
    assert "<|im_start|>tool\nOskel<|im_end|>" in seen(
        tokenizer, CHATML, Row("f.jsonl:1", messages=turns)
    )
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    turns = (*turns[:2], Message("tool", "found in the atlas"), turns[3])
    with pytest.raises(BadDataError, match=r"leaves out the turn by 'tool', 'found in the atlas'"):
        seen(tokenizer, deaf, Row("f.jsonl:1", messages=turns))


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_turn_that_is_left_out_is_seen_though_its_words_stand_elsewhere(tokenizer, role):
    """Each earlier turn says what the last answer says.

    A template that skips its role is refused, however many turns there are.
    """
    deaf = CHATML.replace(
        "{{ m.content }}", "{{ m.content if m.role != '" + role + "' or loop.last }}"
    ).replace("EXTRA", "")
    turns = (Message("user", "Oskel"), Message("assistant", "Oskel")) * 20 + (
        Message("user", "Oskel"),
        Message("tool", "Oskel"),
    )
    row = Row(
        "f.jsonl:1", messages=(Message("system", "Oskel"), *turns, Message("assistant", "Oskel."))
    )
    seen(tokenizer, CHATML.replace("EXTRA", ""), row)
    with pytest.raises(BadDataError, match=f"leaves out the turn by '{role}', 'Oskel'"):
        seen(tokenizer, deaf, row)


def test_a_template_that_reads_what_a_turn_says(tokenizer):
    """It may refuse a mark in a turn's place; what the turn says is then looked for itself."""
    strict = CHATML.replace("EXTRA", "").replace(
        "{{ m.content }}",
        "{% if m.role == 'tool' and m.content[0] != '{' %}{{ raise_exception('no JSON') }}{% endif"
        " %}{{ m.content }}",
    )
    turns = (Message("user", "Where?"), Message("tool", '{"a": 1}'), Message("assistant", "Oskel."))
    assert '{"a": 1}' in seen(tokenizer, strict, Row("f.jsonl:1", messages=turns))
    loud = strict.replace(
        "{% endif %}{{ m.content }}",
        "{% endif %}{{ m.content | upper if m.role == 'user' else m.content }}",
    )
    assert "WHERE?" in seen(tokenizer, loud, Row("f.jsonl:1", messages=turns))
