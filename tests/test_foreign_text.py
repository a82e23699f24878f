"""Names of the other party on a terminal: seen, short, and not obeyed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpu_cli.foreign_text import LINE, NAME, cell, one_line, shown, visible

HOSTILE = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;gone\x07",
    "a single control code": "\x9b2J",
    "turns the text": "\u202egpj.exe",
    "isolates": "\u2066x\u2069",
    "zero width": "a\u200bb\ufeffc",
    "a tag": "\U000e0041",
    "ends the line": "x\nmpu: error: no",
    "another line end": "x\u2028y",
    "goes back": "x\rmpu",
    "half a character": "\ud800",
    "no shape": "\u3164",
}


def unseen(text: str) -> list[str]:
    """The letters that a terminal obeys or does not show."""
    return [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize("name", HOSTILE)
def test_codes_are_shown_as_codes(name):
    """Nothing of them is left, and what was there can be read."""
    text = HOSTILE[name]
    for function in (shown, one_line, lambda text: visible(text, lines=False)):
        assert unseen(function(text)) == []
        assert "\\" in function(text)


@given(st.text())
def test_any_text_becomes_visible_and_short(text):
    """Also with its own line feeds kept, and doing it twice changes nothing."""
    assert unseen(shown(text)) == unseen(one_line(text)) == []
    assert unseen(visible(text).replace("\n", "")) == unseen(cell(text).replace("\n", "")) == []
    assert len(shown(text)) <= NAME
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("text", ["x" * 3_000_000, "\x1b" * 3_000_000, "x " * 1_500_000])
def test_megabytes_lose_their_middle(text):
    """The beginning and the end stay, since a message begins with a file and ends with a reason."""
    message = f"file.json: {text} is not a name"
    line = one_line(message)
    assert len(line) <= LINE
    assert line.startswith("file.json: ")
    assert line.endswith(" is not a name")
    assert "…" in line
    assert len(shown(text)) <= NAME


@pytest.mark.parametrize("text", ["κ = 0.1 → Δ̄", "日本語 🙂", "a b", 'it\'s "quoted"\\n'])
def test_other_text_is_left_alone(text):
    """Negative control."""
    assert visible(text) == shown(text) == one_line(text) == cell(text) == text
