"""The one YAML text that a manifest or a secret record may be.

Sorted keys, double-quoted strings, no anchors, tags or comments. Reading parses the text, dumps
what it found, and refuses anything that is not the same bytes; so every byte of a file is covered
by the digest or HMAC over its content.
"""

from __future__ import annotations

import hashlib
import re
from math import isfinite
from typing import Any

import yaml

from mpu_cli.errors import MpuError

MAX_BYTES = 16 << 20


class _Dumper(yaml.SafeDumper):
    """Quotes every string and never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# A record with an infinity, or half a surrogate pair, could be written and never be read again.
def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if not text.isascii():
        text.encode()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _finite(dumper: yaml.SafeDumper, number: float) -> yaml.Node:
    if not isfinite(number):
        raise ValueError("not a finite number")
    return dumper.represent_float(number)


_Dumper.add_representer(str, _quoted)
_Dumper.add_representer(float, _finite)


# libyaml parses ten times faster; what it parses is dumped again by the same code everywhere, so
# the choice cannot show.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _refuse_references(data: bytes) -> None:
    # Before parsing: an alias could grow without bound, and a tag could mean anything.
    if any(mark in _QUOTED.sub(b"", data) for mark in (b"&", b"*", b"!")):
        raise yaml.YAMLError("anchors, aliases and tags are not allowed")


def dump(content: dict[str, Any]) -> bytes:
    """The canonical text of a map of maps, lists, strings, integers, floats, booleans and null."""
    text = yaml.dump(
        content,
        Dumper=_Dumper,
        sort_keys=True,
        default_flow_style=False,
        allow_unicode=False,
        width=2**31,
        line_break="\n",
    )
    return text.encode("ascii")


def parse(data: bytes, where: object, error: type[MpuError]) -> dict[str, Any]:
    """Parse a canonical text.

    Raises:
        error: too large, not YAML, not a map, or not byte for byte the canonical form of its
            content.
    """
    if len(data) > MAX_BYTES:
        raise error(f"{where}: more than {MAX_BYTES} bytes, which no manifest has", _HINT)
    try:
        _refuse_references(data)
        content: dict[str, Any] = yaml.load(data.decode("ascii"), Loader=_Loader)  # noqa: S506 - a SafeLoader either way
        same = isinstance(content, dict) and dump(content) == data
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        RecursionError,
        AttributeError,
        LookupError,
        ArithmeticError,
    ) as problem:
        # PyYAML lets these through for tagged scalars such as `!!bool "x"` or `!!int ""`.
        raise error(f"{where}: not a valid manifest", _HINT) from problem
    if not same:
        raise error(f"{where}: not in canonical form: it was edited or damaged", _HINT)
    return content


_HINT = "ask for the files again; manifests are not meant to be edited by hand"


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical text of the content without its own `digest`."""
    return hashlib.sha256(without(content, "digest")).hexdigest()


def without(content: dict[str, Any], field: str) -> bytes:
    """The canonical text of everything but one field.

    What that field, a digest or an HMAC, is computed over.
    """
    return dump({key: value for key, value in content.items() if key != field})
