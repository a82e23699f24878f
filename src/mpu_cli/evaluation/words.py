"""Words of a text in any script, for ROUGE and for what counts repeated words.

rouge-score knows the letters a–z and the digits 0–9 and drops all else: of a Russian or a Chinese
text nothing is left, of "café" only "caf". A text of ASCII characters goes through rouge-score's
own tokenizer here, so its numbers for English stay what they are; in any other text a word is a run
of letters, digits and their marks, and a single character where the script writes no spaces between
words. Words of a–z are stemmed where that is asked for, also in mixed texts; others never are.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import regex

_SPACELESS = r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Line_Break=SA}"
"""Han, Kana, Bopomofo, and what Unicode breaks by dictionaries only: Thai, Lao, Khmer, Myanmar, Tai scripts."""
_LETTER = r"[\p{L}\p{Nd}\p{Nl}]"
_ALONE = rf"(?=[{_SPACELESS}])[\p{{L}}\p{{Nl}}]\p{{M}}*"
"""One character of such a script, with the marks on it."""
_RUN = rf"(?:(?![{_SPACELESS}]){_LETTER}\p{{M}}*)+"
_WORD = regex.compile(rf"{_ALONE}|{_RUN}")
_PIECE = regex.compile(rf"{_ALONE}|(?:(?!{_ALONE}).)+", regex.DOTALL)
_UNSEEN = regex.compile(r"(?!\u200b)\p{Cf}")
"""Joiners, soft hyphens and direction marks stand inside words; the zero-width space stands between them."""
_WIDTHS = ("<wide>", "<narrow>")


def words(text: str, *, stem: bool) -> list[str]:
    """The words of a text in lower case, without punctuation and symbols.

    See the module for what a word is.

    Accents and combining marks are kept, in composed form; full-width and half-width forms count as
    the usual ones.

    Args:
        text: in any script.
        stem: reduce English words of more than three letters to their stems (Porter), as
            rouge-score does.
    """
    if text.isascii():
        return list(_rouge_tokenizer(stem).tokenize(text))
    found: list[str] = _WORD.findall(_folded(text))
    if not stem:
        return found
    return [
        token
        for word in found
        for token in (_rouge_tokenizer(True).tokenize(word) if word.isascii() else [word])
    ]


def pieces(text: str) -> list[str]:
    """The text cut at white space, and around every character of a script that writes no spaces.

    Nothing else is dropped.
    """
    return [piece for part in text.split() for piece in _PIECE.findall(part)]


def _folded(text: str) -> str:
    usual = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_WIDTHS) else c
        for c in text
    )
    return unicodedata.normalize("NFC", _UNSEEN.sub("", usual)).casefold()


@cache
def _rouge_tokenizer(stem: bool) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=stem)
