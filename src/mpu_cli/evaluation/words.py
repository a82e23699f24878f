"""The words of a text in any script, for ROUGE and for metrics of repeated words.

rouge-score knows the letters a–z and the digits 0–9 and drops everything else: nothing is left of a
Russian or Chinese text, and only "caf" of "café". Here a text of ASCII characters goes through
rouge-score's own tokenizer, so numbers for English stay the same. In any other text a word is a run
of letters, digits and their marks; where the script writes no spaces between words it is a single
character. Only words of a–z are stemmed, in mixed texts too.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import regex

_SPACELESS = r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Line_Break=SA}"
"""Han, Kana, Bopomofo, and scripts that Unicode breaks by dictionary only (Thai, Lao, Khmer …)."""
_LETTER = r"[\p{L}\p{Nd}\p{Nl}]"
_ALONE = rf"(?=[{_SPACELESS}])[\p{{L}}\p{{Nl}}]\p{{M}}*"
"""One character of such a script, with its marks."""
_RUN = rf"(?:(?![{_SPACELESS}]){_LETTER}\p{{M}}*)+"
_WORD = regex.compile(rf"{_ALONE}|{_RUN}")
_PIECE = regex.compile(rf"{_ALONE}|(?:(?!{_ALONE}).)+", regex.DOTALL)
_INVISIBLE = regex.compile(r"(?!\u200b)\p{Cf}")
"""Joiners, soft hyphens and direction marks, which stand inside words; not the zero-width space."""
_WIDTHS = ("<wide>", "<narrow>")


def words(text: str, *, stem: bool) -> list[str]:
    """The words of a text in lower case, without punctuation and symbols.

    Accents and combining marks stay, in composed form; full-width and half-width forms become the
    usual ones.

    Args:
        text: in any script.
        stem: reduce English words of more than three letters to their stems (Porter), as
            rouge-score does.
    """
    if text.isascii():
        return list(_rouge_tokenizer(stem).tokenize(text))
    tokens: list[str] = _WORD.findall(_folded(text))
    if not stem:
        return tokens
    return [
        part
        for token in tokens
        for part in (_rouge_tokenizer(True).tokenize(token) if token.isascii() else [token])
    ]


def pieces(text: str) -> list[str]:
    """The text split at white space and around each character of a script without spaces."""
    return [piece for part in text.split() for piece in _PIECE.findall(part)]


def _folded(text: str) -> str:
    usual = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_WIDTHS) else c
        for c in text
    )
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", usual)).casefold()


@cache
def _rouge_tokenizer(stem: bool) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=stem)
