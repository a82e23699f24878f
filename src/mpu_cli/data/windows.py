"""Split long texts into windows, pack short ones into blocks, or join all texts and cut them.

Windows and blocks leave every token's weight as it was. Joining repeats what published runs do. All
three are for plain texts: a prompt and its answer stay one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpu_cli.data.templates import IGNORED, TokenizedRow, lead_ids
from mpu_cli.errors import BadDataError, UsageError

SEPARATOR = "\n\n"
"""Between two texts that are joined."""
OVERLAP_SHARE = 8
"""By default an eighth of a window repeats the end of the window before it."""


def default_overlap(max_length: int) -> int:
    """Tokens that a window repeats from the window before it."""
    return max(1, max_length // OVERLAP_SHARE)


def split(
    whole: TokenizedRow, tokenizer: Any, max_length: int, overlap: int | None = None
) -> list[TokenizedRow]:
    """Split a text into windows of at most `max_length` tokens.

    A window starts `max_length − overlap` tokens after the one before it, less one if the tokenizer
    puts a beginning-of-sequence token, which every window then gets. Repeated tokens are context:
    their label is `IGNORED`, so every token of the text is predicted once, with a context of at
    least `overlap` tokens or the whole beginning of the text. A text that fits is not changed.

    Args:
        whole: the text as `encode_whole` returns it, T tokens.
        tokenizer: its tokenizer.
        max_length: the most tokens in a window.
        overlap: repeated tokens; None = `default_overlap`.

    Raises:
        UsageError: the overlap leaves no room for new tokens, or is 0, so that a window's first
            token would never count.
    """
    lead = _lead_of(whole, tokenizer)
    size = max_length - lead
    overlap = default_overlap(max_length) if overlap is None else overlap
    if not 1 <= overlap < size:
        raise UsageError(
            f"--overlap {overlap}: expected 1 to {size - 1} with --max-length {max_length}",
            "choose a smaller overlap",
        )
    start, ids, labels = whole.input_ids[:lead], whole.input_ids[lead:], whole.labels[lead:]
    windows = [TokenizedRow(start + ids[:size], whole.labels[:lead] + labels[:size])]
    at = size - overlap
    while at + overlap < len(ids):
        known = (IGNORED,) * (lead + overlap)
        windows.append(
            TokenizedRow(start + ids[at : at + size], known + labels[at + overlap : at + size])
        )
        at += size - overlap
    return windows


def pack(texts: Sequence[TokenizedRow], tokenizer: Any, max_length: int) -> list[TokenizedRow]:
    """Pack whole texts, in their order, into blocks of at most `max_length` tokens.

    An end-of-sequence token separates two texts, unless the tokenizer already ends the first or
    begins the second with it. There is no mask between texts: attention reaches across them, and
    positions continue. Separators have no label, nor has the first token of a later text, since no
    token of its own text predicts it.

    Raises:
        BadDataError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise BadDataError(
            "--packing needs an end-of-sequence token, but the tokenizer has none",
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
    """Join texts by blank lines and cut them into chunks, as open-unlearning does for MUSE.

    Nothing is repeated: a chunk's first token has no context, and the very first is not predicted.
    Each chunk is decoded and encoded again. So it gets the special tokens that the tokenizer puts
    before a text, beyond its `max_length` tokens, and may begin with other tokens.

    Args:
        texts: in their order; a chunk may hold the end of one and the beginning of the next.
        tokenizer: the model's.
        max_length: tokens of a chunk.
    """
    ids = tokenizer(SEPARATOR.join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    lead = lead_ids(tokenizer)
    chunks = []
    for start in range(0, len(ids), max_length):
        text = tokenizer.decode(ids[start : start + max_length])
        chunk = tuple(tokenizer(text, verbose=False)["input_ids"][: len(lead) + max_length])
        unpredicted = max(len(lead), 1)
        if len(chunk) > unpredicted:  # one token alone has nothing to predict
            chunks.append(TokenizedRow(chunk, (IGNORED,) * unpredicted + chunk[unpredicted:]))
    return chunks


def _lead_of(whole: TokenizedRow, tokenizer: Any) -> int:
    lead = lead_ids(tokenizer)
    return len(lead) if lead and list(whole.input_ids[: len(lead)]) == lead else 0
