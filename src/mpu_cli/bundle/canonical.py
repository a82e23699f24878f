"""The canonical YAML text of a manifest or a secret record.

Keys are sorted and strings double-quoted; there are no anchors, tags or comments. Reading parses
the text, dumps the content again, and refuses any other bytes, so the digest or HMAC over the
content covers every byte of a file.
"""

from __future__ import annotations

import hashlib
import re
from math import isfinite
from typing import Any

import yaml

from mpu_cli.errors import MpuError

MAX_BYTES = 1 << 20
"""The limit of a manifest: about 6,000 files. The other party writes it, and parsing takes time."""


class _Dumper(yaml.SafeDumper):
    """Quotes every string and never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML could write an infinity or half a surrogate pair, but mpu could not read it again.
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


# libyaml parses ten times faster. Both loaders give the same result, because the content is dumped
# again and compared.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The end of the data ends a string too: else a missing quote is searched for again and again.
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)
_INSIDE_A_SCALAR = re.compile(rb":(?![ \n])")


def _refuse_references(data: bytes) -> None:
    # Check before parsing: aliases can expand without bound, and tags can construct objects. YAML
    # reads 1:30:00 as a number in base 60, in quadratic time.
    plain = _QUOTED.sub(b"", data)
    if any(mark in plain for mark in (b"&", b"*", b"!")) or _INSIDE_A_SCALAR.search(plain):
        raise yaml.YAMLError("anchors, aliases, tags and numbers in base 60 are not allowed")


def dump(content: dict[str, Any]) -> bytes:
    """Return the canonical text of maps, lists, strings, integers, floats, booleans and null."""
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


def parse(
    data: bytes, where: object, error: type[MpuError], limit: int = MAX_BYTES
) -> dict[str, Any]:
    """Parse a canonical text of at most `limit` bytes.

    Raises:
        error: too large, not YAML, not a map, or not the canonical form of its content.
    """
    if len(data) > limit:
        raise error(f"{where}: larger than {limit} bytes, the limit for a manifest", _HINT)
    try:
        _refuse_references(data)
        content: dict[str, Any] = yaml.load(data.decode("ascii"), Loader=_Loader)  # noqa: S506
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
        # PyYAML raises these for tagged scalars such as `!!bool "x"` or `!!int ""`.
        raise error(f"{where}: not a valid manifest", _HINT) from problem
    if not same:
        raise error(f"{where}: not in canonical form: it was edited or damaged", _HINT)
    return content


_HINT = "ask for the files again; do not edit manifests by hand"


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical text of the content without its own `digest`."""
    return hashlib.sha256(without(content, "digest")).hexdigest()


def without(content: dict[str, Any], field: str) -> bytes:
    """The canonical text without one field: the input of that field's digest or HMAC."""
    return dump({key: value for key, value in content.items() if key != field})
