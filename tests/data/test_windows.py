"""Windows and blocks: every token counts exactly as often as it did before."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from mpu_cli.data.context import Limit
from mpu_cli.data.encoding import encode_rows
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import IGNORED, TokenizedRow, encode, encode_whole
from mpu_cli.data.windows import default_overlap, join, pack, split
from mpu_cli.errors import BadDataError, UsageError
from tiny_models import CHATML, make_prefix_space_tokenizer, make_tokenizer

TOKENIZERS = {
    "plain": make_tokenizer(),
    "bos": make_tokenizer(bos=True),
    "spaces": make_prefix_space_tokenizer(),
}
BOOK = " ".join(f"Mira Tolvanen wrote page {number} of her novel." for number in range(60))


def predicted(encoded: TokenizedRow) -> list[int]:
    """The tokens that count, in order; nothing predicts the first of a row."""
    return [label for label in encoded.labels[1:] if label != IGNORED]


@given(length=st.integers(2, 150), max_length=st.integers(4, 40), data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_token_counts_once(name: str, length: int, max_length: int, data: Any) -> None:
    """The labelled tokens of all windows are those of the text, each with its true context."""
    tokenizer = TOKENIZERS[name]
    lead = [tokenizer.bos_token_id] if name != "plain" else []
    body = list(range(10, 10 + length))  # all different, so that a token names its place
    whole = TokenizedRow((*lead, *body), (*lead, *body))
    overlap = data.draw(st.integers(1, max_length - len(lead) - 1))
    windows = split(whole, tokenizer, max_length, overlap)
    assert [token for window in windows for token in predicted(window)] == predicted(whole)
    for window in windows:
        ids = window.input_ids
        assert len(ids) <= max_length
        assert list(ids[: len(lead)]) == lead
        inner = ids[len(lead) :]
        assert list(inner) == list(range(inner[0], inner[0] + len(inner)))
        first = next(at for at, label in enumerate(window.labels) if label != IGNORED and at)
        assert inner[0] == 10 or first - len(lead) == overlap
        assert all(
            label in (IGNORED, token) for token, label in zip(ids, window.labels, strict=True)
        )


def test_a_real_text_is_split_and_comes_back() -> None:
    """A book of several windows.

    The labelled parts put together are the book, and the default overlap is an eighth.
    """
    tokenizer = make_tokenizer(bos=True)
    row = Row("raw.txt", text=BOOK)
    encoded = encode_rows([row], tokenizer, 64)
    assert len(encoded.rows) > 10
    assert (
        tokenizer.decode([token for window in encoded.rows for token in predicted(window)]) == BOOK
    )
    assert encoded.split == ("raw.txt",)
    assert encoded.cut == ()
    assert encoded.lengths == (len(tokenizer(BOOK)["input_ids"]),)
    first, second = encoded.rows[:2]
    assert default_overlap(64) == 8
    assert second.input_ids[1:9] == first.input_ids[-8:]


def test_a_text_that_fits_is_left_alone() -> None:
    """Up to max_length tokens it is what `encode` gives; one token more makes two windows."""
    tokenizer = make_tokenizer(bos=True)
    row = Row("f:1", text="Mira was born in Oskel.")
    length = len(encode_whole(row, tokenizer).input_ids)
    assert encode_rows([row], tokenizer, length).rows == [encode(row, tokenizer, length)]
    assert len(encode_rows([row], tokenizer, length - 1).rows) == 2


@pytest.mark.parametrize("overlap", [0, -1, 15, 99])
def test_refuses_an_overlap_that_does_not_fit(overlap: int) -> None:
    """0 would lose the first token of each window, a whole window would never end."""
    with pytest.raises(
        UsageError, match=rf"--overlap {overlap}: expected 1 to 14 with --max-length 16"
    ):
        encode_rows([Row("f:1", text=BOOK)], make_tokenizer(bos=True), 16, overlap=overlap)


def test_a_pair_is_cut_and_that_is_told() -> None:
    """Pairs and chats are never split.

    They are cut at the right, and their places are in the notes.
    """
    tokenizer = make_tokenizer(CHATML)
    rows = [
        Row(f"f:{number}", prompt="Where?", answer="In Oskel. " * number) for number in (1, 2, 9)
    ]
    encoded = encode_rows(rows, tokenizer, 60)
    assert [len(row.input_ids) for row in encoded.rows] == [
        encoded.lengths[0],
        encoded.lengths[1],
        60,
    ]
    assert encoded.cut == ("f:9",)
    assert encoded.notes("forget.jsonl", Limit(60)) == [
        "forget.jsonl: 1 row is cut at 60 tokens (--max-length), the first is f:9"
    ]
    assert encode_rows(rows, tokenizer, 600).notes("forget.jsonl", Limit(600)) == []


@pytest.mark.parametrize("name", TOKENIZERS)
def test_packing_changes_no_label(name: str) -> None:
    """The same tokens count, block by block in the texts' order.

    Separators and what nothing of a text predicts do not.
    """
    tokenizer = TOKENIZERS[name]
    rows = [
        Row(f"f:{number}", text=f"Mira wrote {'novels ' * (number % 5)}.")
        for number in range(1, 20)
    ]
    alone = encode_rows(rows, tokenizer, 64)
    packed = encode_rows(rows, tokenizer, 64, pack=True)
    assert [token for row in packed.rows for token in predicted(row)] == [
        token for row in alone.rows for token in predicted(row)
    ]
    assert len(packed.rows) < len(alone.rows)
    assert packed.packed == (19, len(packed.rows))
    assert all(len(row.input_ids) <= 64 for row in packed.rows)
    separators = sum(Counter(row.input_ids)[tokenizer.eos_token_id] for row in packed.rows)
    assert separators == 19 - len(packed.rows)
    assert "attention reaches across" in packed.notes("raw.jsonl", Limit(64))[0]


def test_packing_tears_no_text_and_leaves_pairs_alone() -> None:
    """A block is whole texts with the end token between them.

    A pair stays a row; a long text becomes windows as ever.
    """
    tokenizer = make_tokenizer()
    short = [Row(f"f:{number}", text=f"novel {number}") for number in range(3)]
    pair, long = Row("f:4", prompt="Who?", answer="Mira."), Row("f:5", text=BOOK)
    encoded = encode_rows([short[0], pair, short[1], long, short[2]], tokenizer, 64, pack=True)
    assert encoded.rows[0] == encode(pair, tokenizer, 64)
    assert tokenizer.decode(encoded.rows[-1].input_ids) == "novel 0</s>novel 1</s>novel 2"
    assert encoded.rows[1:-1] == encode_rows([long], tokenizer, 64).rows


def test_packing_needs_an_end_token() -> None:
    """Without one there is nothing to put between two texts."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(BadDataError, match="--packing needs an end-of-sequence token"):
        pack([TokenizedRow((1, 2), (1, 2))] * 2, tokenizer, 8)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("size", [7, 16, 64, 5000])
def test_joined_texts_are_open_unlearnings_chunks(name: str, size: int) -> None:
    """Three texts, chunks of several sizes.

    As `PretrainingDataset` of open-unlearning makes them, written out here.
    """
    tokenizer, texts = TOKENIZERS[name], [BOOK, "Short.", BOOK[:200]]
    ids = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    before = len(tokenizer("")["input_ids"])
    expected = []
    for number in range(len(ids) // size + 1):
        whole = tokenizer(tokenizer.decode(ids[number * size : (number + 1) * size]))["input_ids"][
            : before + size
        ]
        labels = [IGNORED] * max(before, 1) + whole[max(before, 1) :]
        if len(whole) > max(
            before, 1
        ):  # an empty last chunk, which theirs has where the size divides the text
            expected.append(TokenizedRow(tuple(whole), tuple(labels)))
    assert join(texts, tokenizer, size) == expected
    assert all(
        label in (IGNORED, token)
        for row in expected
        for token, label in zip(row.input_ids, row.labels, strict=True)
    )


def test_joining_leaves_pairs_alone_and_is_told() -> None:
    """Questions keep rows and places, texts become chunks after them, and a note says so."""
    tokenizer = make_tokenizer()
    rows = [
        Row("f:1", text=BOOK),
        Row("f:2", prompt="Who?", answer="Mira."),
        Row("f:3", text="The end of it."),
    ]
    found = encode_rows(rows, tokenizer, 64, join=True)
    assert found.rows[0] == encode(rows[1], tokenizer, 64)
    assert found.rows[1:] == join([BOOK, "The end of it."], tokenizer, 64)
    told = (
        f"forget: 2 texts joined and cut into {len(found.rows) - 1} chunks of 64 tokens"
        " (--join-texts)"
    )
    assert found.notes("forget", Limit(64)) == [told]
    with pytest.raises(BadDataError, match="no token to predict"):
        encode_rows([Row("f:1", text="a")], tokenizer, 64, join=True)


def ending(*, bos: bool, same: bool = False) -> Any:
    """A tokenizer that ends every text itself.

    With `same` the beginning token is the end token, as GPT-2's.
    """
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    form = "</s> $A" if same else "<s> $A </s>" if bos else "$A </s>"
    marks = [("<s>", tokenizer.bos_token_id), ("</s>", end)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=form, special_tokens=marks
    )
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (ending(bos=False), "aa</s>bb</s>cc</s>"),
        (ending(bos=True), "<s>aa</s><s>bb</s><s>cc</s>"),
        (ending(bos=True, same=True), "</s>aa</s>bb</s>cc"),
        (TOKENIZERS["bos"], "<s>aa</s><s>bb</s><s>cc"),
        (TOKENIZERS["plain"], "aa</s>bb</s>cc"),
    ],
)
def test_packing_never_doubles_the_end_token(tokenizer: Any, expected: str) -> None:
    """One end token between two texts, whether the tokenizer puts it, or we do.

    What counts stays what it was.
    """
    rows = [Row(f"f:{text}", text=text) for text in ("aa", "bb", "cc")]
    packed = encode_rows(rows, tokenizer, 64, pack=True).rows
    assert [tokenizer.decode(block.input_ids) for block in packed] == [expected]
    alone = encode_rows(rows, tokenizer, 64).rows
    assert predicted(packed[0]) == [token for row in alone for token in predicted(row)]


@pytest.mark.parametrize(
    "tokenizer", [ending(bos=False), ending(bos=True), ending(bos=True, same=True)]
)
def test_a_text_that_brings_its_own_end_gets_no_second(tokenizer: Any) -> None:
    """A file's own end or beginning token makes no difference to the tokens of its text."""
    own = "</s>Mira" if tokenizer("a")["input_ids"][0] == tokenizer.eos_token_id else "Mira</s>"
    assert encode_whole(Row("f:1", text=own), tokenizer) == encode_whole(
        Row("f:1", text="Mira"), tokenizer
    )


@pytest.mark.parametrize("bos", [False, True])
def test_windows_of_a_tokenizer_that_ends_texts(bos: bool) -> None:
    """The end token counts once, in the last window; every window has the beginning token once."""
    tokenizer = ending(bos=bos)
    whole = encode_whole(Row("raw.txt", text=BOOK), tokenizer)
    windows = split(whole, tokenizer, 64)
    assert [token for window in windows for token in predicted(window)] == predicted(whole)
    assert [window.input_ids.count(tokenizer.eos_token_id) for window in windows] == [0] * (
        len(windows) - 1
    ) + [1]
    assert all(window.input_ids.count(tokenizer.bos_token_id) == int(bos) for window in windows)
