"""Recognise texts that say where a file came from: paths, addresses, host names.

A settings file is published by allow-list of its keys; this looks at the values that are kept. A
user's name has no form of its own: only keys that may be published keep one out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_ADDRESS = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{1,20}:/{1,3}[^\s/]\S*|[\w.+-]+@[\w-]+(?:\.[\w-]+)*(?::\S*)?"
)
"""s3://bucket/x, https://host, file:/x; alice@host, git@host:project."""
_ABSOLUTE = re.compile(r"(?:/[^/\s]+){2,}.*|~\w*/.*|[A-Za-z]:[\\/].*|\\\\\w.*", re.DOTALL)
"""At least two separators: "/think" is a token of some chat models, not a path."""
_RELATIVE = re.compile(r"\.{0,2}/?[\w.~+=-]+(?:[/\\][\w.~+=@-]+)+[/\\]?")
"""runs/llama/7, org/model: no setting of a model has this form."""
_HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?::\d+)?|\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?")
"""gpu7.example.org, 10.0.0.7:6006; torch.float32 is none."""
_LONG = 4096


def origin_of_token(text: str) -> str | None:
    """What an origin the text is, if it is one whatever a tokenizer may use as a token; or None."""
    if len(text) > _LONG:
        return None
    if _ABSOLUTE.fullmatch(text):
        return "a path"
    return "an address" if _ADDRESS.fullmatch(text) and "//" in text else None


def origin_of(text: str) -> str | None:
    """What kind of origin the text of a setting is; None if it is none."""
    if len(text) > _LONG:
        return None
    if _ADDRESS.fullmatch(text):
        return "an address"
    if _ABSOLUTE.fullmatch(text) or _RELATIVE.fullmatch(text):
        return "a path"
    return "a host name" if _HOST.fullmatch(text) else None


def texts_in(value: Any) -> Iterator[str]:
    """All texts in parsed JSON, keys of maps included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
