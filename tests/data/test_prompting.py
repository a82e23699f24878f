"""What stands around a row.

Nothing in it may depend on the day, the place or chance, and nothing is left out in silence.
"""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest

from mpu_cli.data.context import Limit
from mpu_cli.data.dates import format_day
from mpu_cli.data.encoding import encode_rows
from mpu_cli.data.prompting import DATE, Prompting, parse_variables
from mpu_cli.data.rendering import render
from mpu_cli.data.row import Message
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import encode
from mpu_cli.errors import BadDataError, BadModelError, UsageError
from tiny_models import CHATML, TURNS, make_tokenizer

PAIR = Row("forget.jsonl:3", prompt="Where was Mira born?", answer="In Oskel.")
OWN = Row(
    "chats.jsonl:7",
    messages=(
        Message("system", "Be short."),
        Message("user", "Where?"),
        Message("assistant", "Oskel."),
    ),
)
# As Llama 3.2's: the user may give a date, else the clock is asked.
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string ="
    " strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%-"
    " endif %}Today Date: {{ date_string }}\n" + CHATML
)


def text(template: str | None, row: Row = PAIR, assignments=(), **settings) -> str:
    """A row as the model sees it."""
    tokenizer = make_tokenizer(template)
    return str(
        tokenizer.decode(
            encode(
                row, tokenizer, 500, Prompting(variables=parse_variables(assignments), **settings)
            ).input_ids
        )
    )


def test_the_clock_is_not_asked():
    """Today is 26 July 2024 in every template, or the given day, or the template's own variable."""
    assert text(DATED).startswith("Today Date: 26 Jul 2024\n")
    assert text(DATED, date="2026-01-03").startswith("Today Date: 03 Jan 2026\n")
    assert text(DATED, assignments=["date_string=1 Apr 1999"]).startswith(
        "Today Date: 1 Apr 1999\n"
    )
    assert Prompting().date == DATE == "2024-07-26"


def test_the_clock_the_zone_and_the_locale_change_nothing():
    """Another clock, time zone, locale and hash seed render the same text."""
    code = (
        "import datetime, locale, types\nclass Later(datetime.datetime):\n    @classmethod\n    def"
        " now(cls, tz=None): return super().now(tz) + datetime.timedelta(days=40,"
        " seconds=3)\ndatetime.datetime = Later\nfor name in ('de_DE.UTF-8', 'C.UTF-8'):\n    try:"
        " locale.setlocale(locale.LC_ALL, name); break\n    except locale.Error: pass\nfrom"
        " mpu_cli.data.prompting import Prompting\nfrom mpu_cli.data.rendering import"
        ' render\nsource = \'{{ strftime_now("%c %A %B %p %z %j %H:%M") }} {{ messages }} {{ [3,'
        " 1] | unique | list }}'\nturns = [{'role': 'user', 'content': 'a'}]\nprint(render(source,"
        " turns, types.SimpleNamespace(special_tokens_map={}), Prompting(),"
        " add_generation_prompt=True))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for environment in (
            {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
            {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
        )
    }
    assert seen == {
        "Fri Jul 26 00:00:00 2024 Friday July AM  208 00:00 [{'role': 'user', 'content': 'a'}] [3,"
        " 1]\n"
    }


@pytest.mark.parametrize(
    "year_month_day", [(2024, 7, 26), (2026, 1, 3), (2027, 12, 31), (905, 2, 1)]
)
def test_dates_are_formatted_as_strftime_does(year_month_day):
    """Every directive with a fixed meaning gives what Python gives in the C locale.

    day, padding and names are ours.
    """
    day = datetime.date(*year_month_day)
    for letter in "aAbBdeHIjmMpSyYuwVGDFTRfhCcxXzZ%":
        if day.year > 1000 or letter not in "YGFcC":  # below the year 1000 C libraries differ
            assert format_day(day, f"[%{letter}]") == datetime.datetime(
                day.year, day.month, day.day
            ).strftime(f"[%{letter}]"), letter
    assert format_day(datetime.date(2026, 1, 3), "%-d.%-m. %e %_m") == "3.1.  3  1"


CHANCE = {
    "random filter": "{{ ['a', 'b'] | random }}",
    "lorem ipsum": "{{ lipsum(n=1) }}",
    "an address": "{{ raise_exception }}",
    "a generator's address": "{{ messages | map(attribute='role') }}",
    "the machine's zone": "{{ strftime_now('%s') }}",
    "the C library": "{{ strftime_now('%E') }}",
    "the locale": "{{ '{:n}'.format(1234567) }}",
}


@pytest.mark.parametrize("what", CHANCE)
def test_chance_is_refused(what):
    """A template that reads random numbers, the machine or an address is refused with the row."""
    with pytest.raises(
        BadDataError, match=r"forget\.jsonl:3: the tokenizer's chat template refuses this row"
    ):
        text(CHANCE[what] + CHATML)
    assert text("{% if messages | length > 99 %}{{ [1] | random }}{% endif %}" + CHATML) == text(
        CHATML
    )


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        TURNS,
        "{%- for m in messages -%}\n  {% if loop.first %}\n{{ bos_token }}{% endif %}\n   "
        "{{- m.role | tojson }}: {{ m['content'] | trim }}\n{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }} {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
        "{% if ns.n > 5 %}{% break %}{% endif %}{% endfor %}",
        "{% macro turn(m) %}"
        "{{ {'role': m.role, 'n': [1, none, 'é']} | tojson(indent=2) }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}",
        "{% if tools is not none %}tools{% endif %}{{ dict(a=1) | tojson }}"
        "{{ messages[-1].content.split('O')[-1].strip() }}{{ missing }}",
    ],
)
def test_renders_as_transformers_does(template):
    """Except for time and random numbers, the text equals that of `apply_chat_template`."""
    tokenizer = make_tokenizer(template)
    turns = [
        {"role": "user", "content": "Where?\n"},
        {"role": "assistant", "content": " In Oskel."},
    ]
    for chat, opened in ((turns, False), (turns[:1], True)):
        expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opened)
        assert (
            render(template, chat, tokenizer, Prompting(), add_generation_prompt=opened) == expected
        )


def test_a_system_prompt_is_a_turn_of_its_own():
    """Before pairs and chats, with and without a chat template.

    A chat that brings one keeps it, and that is told.
    """
    given = {"system": "You are a teacher."}
    assert text(CHATML, **given).startswith(
        "<|im_start|>system\nYou are a teacher.<|im_end|>\n<|im_start|>user\nWhere was"
    )
    assert text(None, **given) == "You are a teacher.\nWhere was Mira born?\nIn Oskel.</s>"
    assert text(CHATML, OWN, **given) == text(CHATML, OWN)
    assert text(CHATML, Row("f:1", text="Plain."), **given) == "Plain."
    encoded = encode_rows(
        [PAIR, OWN], make_tokenizer(CHATML), 500, prompting=Prompting("You are a teacher.")
    )
    assert encoded.notes("chats.jsonl", Limit(500)) == [
        "chats.jsonl: 1 chat keeps its own system turn instead of --system-prompt, the first is"
        " chats.jsonl:7"
    ]
    assert (
        encode_rows([PAIR, OWN], make_tokenizer(CHATML), 500).notes("chats.jsonl", Limit(500)) == []
    )


def test_a_system_prompt_that_a_template_refuses_or_drops():
    """Gemma's way (an exception) and the silent way are both errors that name the row."""
    with pytest.raises(BadDataError, match=r"forget\.jsonl:3.*roles must alternate"):
        text(TURNS, system="You are a teacher.")
    silent = CHATML.replace(
        "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
    )
    with pytest.raises(
        BadDataError,
        match=r"forget\.jsonl:3.*leaves out the turn by 'system', 'You are a teacher\.'",
    ):
        text(silent, system="You are a teacher.")


def test_variables_are_json_or_text():
    """A bare false is no text, and a quoted number is one.

    What the template does not read is refused with what it does read.
    """
    template = (
        "{% if thinking is defined %}[{{ thinking is false }} {{ depth is string }} {{ depth }}]{%"
        " endif %}" + CHATML
    )
    assert text(template, assignments=["thinking=false", "depth=3"]).startswith("[True False 3]")
    assert text(template, assignments=["thinking=no", 'depth="3"']).startswith("[False True 3]")
    with pytest.raises(
        UsageError, match="--template-var thinkin: the chat template reads no such variable"
    ) as error:
        encode_rows(
            [PAIR],
            make_tokenizer(template),
            500,
            prompting=Prompting(variables=parse_variables(["thinkin=false"])),
        )
    assert error.value.hint == "it reads: depth, thinking"
    with pytest.raises(UsageError, match="--template-var: the tokenizer has no chat template"):
        encode_rows(
            [PAIR],
            make_tokenizer(),
            500,
            prompting=Prompting(variables=parse_variables(["thinking=false"])),
        )
    encode_rows(
        [PAIR],
        make_tokenizer(DATED),
        500,
        prompting=Prompting(variables=parse_variables(["date_string=today"])),
    )


def test_templates_with_names():
    """The default one is rendered.

    Where there is none, chats are refused, and texts do not need one.
    """
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "tool_use": "TOOLS"}
    assert encode(PAIR, tokenizer, 500) == encode(PAIR, make_tokenizer(CHATML), 500)
    tokenizer.chat_template = {"tool_use": "TOOLS", "rag": "RAG"}
    with pytest.raises(
        BadModelError,
        match=r"chat templates \(rag, tool_use\), and none of them is the default",
    ):
        encode(PAIR, tokenizer, 500)
    assert len(encode_rows([Row("f:1", text="Mira.")], tokenizer, 500).rows) == 1


@pytest.mark.parametrize(
    ("assignments", "day", "system", "message"),
    [
        (["thinking"], None, None, "--template-var thinking: expected NAME=VALUE"),
        (["=1"], None, None, "expected NAME=VALUE"),
        (["a b=1"], None, None, "expected NAME=VALUE"),
        (["__class__=1"], None, None, "expected NAME=VALUE"),
        (["messages=[]"], None, None, "--template-var messages: this name is reserved"),
        (["a=1", "a=2"], None, None, "--template-var a is given twice"),
        ([], "26 Jul 2024", None, "--template-date 26 Jul 2024: expected a date"),
        ([], "20240726", None, "expected a date"),
        ([], "2024-13-01", None, "expected a date"),
        ([], None, " ", "--system-prompt is empty"),
    ],
)
def test_options_that_are_no_options(assignments, day, system, message):
    """One line that names the flag."""
    with pytest.raises(UsageError, match=message):
        Prompting(system, parse_variables(assignments), day or DATE)
