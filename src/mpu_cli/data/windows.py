"""Long texts to windows with an overlap, short texts to blocks.

Either way every token counts exactly as often as before.

Or, to repeat published runs, all texts joined and cut into chunks. All are for plain texts alone: a
prompt and its answer stay one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpu_cli.data.templates import IGNORED, TokenizedRow, lead_ids
from mpu_cli.errors import BadDataError, UsageError

SEPARATOR = "\n\n"
"""Between two texts that are joined."""
OVERLAP_SHARE = 8
"""By default an eighth of a window repeats what came before it."""


def default_overlap(max_length: int) -> int:
    """Tokens of context that a window takes over from the one before it."""
    return max(1, max_length // OVERLAP_SHARE)


def split(
    whole: TokenizedRow, tokenizer: Any, max_length: int, overlap: int | None = None
) -> list[TokenizedRow]:
    """Cut a text of any length into windows of at most `max_length` tokens.

    A window starts `max_length − overlap` tokens after the one before it (fewer by the
    beginning-of-sequence token, which every window gets if the tokenizer puts one). The repeated
    tokens are context: their label is `IGNORED`, so every token of the text is predicted once, all
    but the first with a context of at least `overlap` tokens or the text's beginning. A text that
    fits is returned as it is.

    Args:
        whole: the text as `encode_whole` gives it, T tokens.
        tokenizer: its tokenizer.
        max_length: tokens in a window at most.
        overlap: tokens that are repeated; None = `default_overlap`.

    Raises:
        UsageError: the overlap leaves no room for anything new, or is 0 (a window's first token
            would never count).
    """
    lead = _lead_of(whole, tokenizer)
    size = max_length - lead
    kept = default_overlap(max_length) if overlap is None else overlap
    if not 1 <= kept < size:
        raise UsageError(
            f"--overlap {kept}: expected 1 to {size - 1} with --max-length {max_length}",
            "choose a smaller overlap",
        )
    start, ids, labels = whole.input_ids[:lead], whole.input_ids[lead:], whole.labels[lead:]
    windows = [TokenizedRow(start + ids[:size], whole.labels[:lead] + labels[:size])]
    at = size - kept
    while at + kept < len(ids):
        known = (IGNORED,) * (lead + kept)
        windows.append(
            TokenizedRow(start + ids[at : at + size], known + labels[at + kept : at + size])
        )
        at += size - kept
    return windows


def pack(texts: Sequence[TokenizedRow], tokenizer: Any, max_length: int) -> list[TokenizedRow]:
    """Put whole texts, in their order, into blocks of at most `max_length` tokens, an end-of-sequence token between two.

    No text is torn. Attention does reach across texts of one block, and positions go on: there is
    no mask between them. A text that the tokenizer ends (or begins) with that token itself gets no
    second one. What counts stays what it was: separators do not, nor does a later text's first
    token, which nothing of its own predicts.

    Raises:
        BadDataError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise BadDataError(
            "--packing needs an end-of-sequence token, and the tokenizer has none",
            "leave --packing out",
        )
    blocks: list[TokenizedRow] = []
    for text in texts:
        last = blocks[-1] if blocks else None
        between = () if last is None or end in (last.input_ids[-1], text.input_ids[0]) else (end,)
        if (
            last is not None
            and len(last.input_ids) + len(between) + len(text.input_ids) <= max_length
        ):
            ids = (*last.input_ids, *between, *text.input_ids)
            blocks[-1] = TokenizedRow(
                ids, (*last.labels, *(IGNORED for _ in between), IGNORED, *text.labels[1:])
            )
        else:
            blocks.append(text)
    return blocks


def join(texts: Sequence[str], tokenizer: Any, max_length: int) -> list[TokenizedRow]:
    """Join texts by blank lines and cut the whole into chunks of `max_length` tokens, as open-unlearning does for MUSE.

    Nothing is repeated: a chunk's first token has no context, and the very first is not predicted.
    A chunk is turned into text and encoded again, so it gets the special tokens that the tokenizer
    puts before a text (on top of its `max_length` tokens), and may begin with other tokens than it
    was cut at.

    Args:
        texts: in their order; a chunk may hold the end of one and the beginning of the next.
        tokenizer: the model's.
        max_length: tokens that a chunk is cut at.
    """
    ids = tokenizer(SEPARATOR.join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    lead = lead_ids(tokenizer)
    chunks = []
    for start in range(0, len(ids), max_length):
        text = tokenizer.decode(ids[start : start + max_length])
        chunk = tuple(tokenizer(text, verbose=False)["input_ids"][: len(lead) + max_length])
        unpredicted = max(len(lead), 1)
        if len(chunk) > unpredicted:  # a rest of one token has nothing to predict
            chunks.append(TokenizedRow(chunk, (IGNORED,) * unpredicted + chunk[unpredicted:]))
    return chunks


def _lead_of(whole: TokenizedRow, tokenizer: Any) -> int:
    lead = lead_ids(tokenizer)
    return len(lead) if lead and list(whole.input_ids[: len(lead)]) == lead else 0
