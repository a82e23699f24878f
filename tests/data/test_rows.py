"""Reading rows: the four forms, and one clear line for everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.data.rows import Message, Row, read_rows
from mpu_cli.errors import BadDataError

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 1}]


def write(tmp_path: Path, content: str | bytes, name: str = "forget.jsonl") -> Path:
    """Write a data file."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_reads_every_form_and_tolerates_other_keys(tmp_path: Path) -> None:
    """The four forms become rows in order; blank lines and other keys are skipped."""
    lines = [
        json.dumps({"question": "Q1", "answer": "A1", "perturbed_answer": ["x"]}),
        "",
        json.dumps({"prompt": "", "completion": "A2", "id": 7}),
        json.dumps({"messages": CHAT}),
        json.dumps({"text": "T"}),
    ]
    assert read_rows(write(tmp_path, "\n".join(lines) + "\n")) == [
        Row("forget.jsonl:1", prompt="Q1", answer="A1"),
        Row("forget.jsonl:3", prompt="", answer="A2"),
        Row("forget.jsonl:4", messages=(Message("user", "Q"), Message("assistant", "A"))),
        Row("forget.jsonl:5", text="T"),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_reads_a_json_list(tmp_path: Path, indent: int | None) -> None:
    """A JSON list on one or many lines is read under any suffix, and places are row numbers."""
    rows = read_rows(
        write(tmp_path, json.dumps([{"text": "a"}, {"text": "b"}], indent=indent), "forget.json")
    )
    assert [(row.where, row.text) for row in rows] == [
        ("forget.json row 1", "a"),
        ("forget.json row 2", "b"),
    ]


def test_lines_in_a_file_called_json(tmp_path: Path) -> None:
    """JSON Lines under the suffix .json, as TOFU's own files are, are read as lines."""
    assert len(read_rows(write(tmp_path, '{"text": "a"}\n{"text": "b"}', "forget01.json"))) == 2


def test_byte_order_mark_and_unicode_line_separator(tmp_path: Path) -> None:
    """A byte-order mark is ignored, and U+2028 inside a string does not end the line."""
    path = write(
        tmp_path, b"\xef\xbb\xbf" + json.dumps({"text": "a\u2028b"}, ensure_ascii=False).encode()
    )
    assert read_rows(path)[0].text == "a\u2028b"


BAD = {
    "empty file": ("", "forget.jsonl has no rows"),
    "blank file": ("\n \n", "forget.jsonl has no rows"),
    "empty list": ("[]", "forget.jsonl has no rows"),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xff"}', "forget.jsonl:2: not UTF-8"),
    "broken line": ('{"text": "a"}\n{"text": ', "forget.jsonl:2: broken JSON"),
    "broken list": ('[{"text": "a"},\n{"text"]', "forget.jsonl:2: broken JSON"),
    "deep": ("[" * 200_000, "forget.jsonl:1: broken JSON"),
    "not an object": ('"text"', "forget.jsonl:1: a row must be a JSON object, found a string"),
    "a number in a list": (
        '[{"text": "a"}, 3]',
        "forget.jsonl row 2: a row must be a JSON object, found a number",
    ),
    "no form": ('{"input": 1, "output": 2}', "no recognised form, keys found: 'input', 'output'"),
    "no keys": ("{}", "no recognised form, keys found: none"),
    "no answer": ('{"question": "Q"}', "'question' without 'answer'"),
    "no prompt": ('{"completion": "A"}', "'completion' without 'prompt'"),
    "empty answer": ('{"question": "Q", "answer": " "}', "'answer' is empty"),
    "null answer": ('{"question": "Q", "answer": null}', "'answer' must be a string, found null"),
    "list answer": (
        '{"prompt": "Q", "completion": ["A"]}',
        "'completion' must be a string, found a list",
    ),
    "number prompt": (
        '{"prompt": 3, "completion": "A"}',
        "'prompt' must be a string, found a number",
    ),
    "empty text": ('{"text": ""}', "'text' is empty"),
    "two forms": (
        '{"question": "Q", "answer": "A", "text": "T"}',
        "the row has two forms, question/answer and text",
    ),
    "half a surrogate pair": ('{"text": "\\ud83d"}', "half a surrogate pair"),
    "messages no list": ('{"messages": "hi"}', "'messages' must be a list, found a string"),
    "messages empty": ('{"messages": []}', "'messages' has 0 turn(s)"),
    "message no object": ('{"messages": ["hi", "ho"]}', "message 1 must be an object"),
    "message no role": (
        '{"messages": [{"content": "Q"}, {"role": "assistant", "content": "A"}]}',
        "has no 'role'",
    ),
    "message last by user": (
        json.dumps({"messages": CHAT + CHAT[:1]}),
        "the last message is by 'user'",
    ),
    "message empty answer": (
        json.dumps({"messages": [CHAT[0], {"role": "assistant", "content": ""}]}),
        "message 2: 'content' is empty",
    ),
    "tool calls": (
        json.dumps(
            {
                "messages": [
                    CHAT[0],
                    {**CHAT[1], "tool_calls": [{"id": "a", "function": {"name": "look"}}]},
                ]
            }
        ),
        "message 2: 'tool_calls' would be lost, since mpu does not render it",
    ),
    "tool calls without words": (
        json.dumps(
            {
                "messages": [
                    CHAT[0],
                    {"role": "assistant", "content": None, "function_call": {"name": "f"}},
                    *CHAT,
                ]
            }
        ),
        "message 2: 'function_call' would be lost",
    ),
    "a tool's answer to a call": (
        json.dumps(
            {"messages": [CHAT[0], {"role": "tool", "content": "x", "tool_call_id": "a"}, CHAT[1]]}
        ),
        "message 2: 'tool_call_id' would be lost",
    ),
    "thoughts": (
        json.dumps({"messages": [CHAT[0], {**CHAT[1], "reasoning_content": "hm"}]}),
        "message 2: 'reasoning_content' would be lost",
    ),
    "tools": (
        json.dumps({"messages": CHAT, "tools": [{"type": "function"}]}),
        "'tools' would be lost, since mpu does not render it",
    ),
    "message parts": (
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text"}]}, CHAT[1]]}),
        "message 1: 'content' must be a string, found a list",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_bad_files(tmp_path: Path, case: str) -> None:
    """Each way of being wrong gives one line that names the file and what was found, and a hint."""
    content, expected = BAD[case]
    with pytest.raises(BadDataError) as caught:
        read_rows(write(tmp_path, content))
    assert expected in caught.value.message
    assert caught.value.message.startswith("forget.jsonl")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_keys_without_content_are_tolerated(tmp_path: Path) -> None:
    """Empty fields beside a message lose nothing, nor does a row's name or weight."""
    turns = [{**turn, "tool_calls": None, "reasoning_content": "", "weight": 0} for turn in CHAT]
    (row,) = read_rows(write(tmp_path, json.dumps({"messages": turns, "tools": [], "id": 3})))
    assert [turn.content for turn in row.messages] == ["Q", "A"]


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    """A missing file and a directory are named as such."""
    with pytest.raises(BadDataError, match="no such file"):
        read_rows(tmp_path / "nothing.jsonl")
    with pytest.raises(BadDataError, match="is a directory"):
        read_rows(tmp_path)


def test_needs_no_torch() -> None:
    """Rows are checked before the seconds that torch takes to import."""
    code = (
        "import sys, mpu_cli.data.rows, mpu_cli.data.templates; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
