"""Which run a checkpoint belongs to, and how another run differs from it.

An identity is a flat mapping from a name that the user knows (`--seed`, `the forget file`) to a
plain value.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

Identity = Mapping[str, Any]
TOKENS = "the rows as the model's tokens"
"""It follows from files, options and model, so it is named only if nothing else differs."""
_MOST = 4
_DIGEST = re.compile(r"[0-9a-f]{64,}")


def identity_digest(identity: Identity) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()


def difference(then: object, now: Identity) -> str:
    """Describe what differs, for example `--seed was 0 and is 1`; digests are not shown.

    `then` is the identity in a checkpoint's marker, None in one of an earlier version.
    """
    if not isinstance(then, dict):
        return "its recipe, data, handoff, copy, versions or number of processes differ"
    absent = object()
    names = [
        name
        for name in {**then, **now}
        if _canonical(then.get(name)) != _canonical(now.get(name))
        or (name in then) != (name in now)
    ]
    names = [name for name in names if name != TOKENS] or names
    parts = [
        _part(name, then.get(name, absent), now.get(name, absent), absent) for name in names[:_MOST]
    ]
    return ", ".join(parts) + (f", and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _part(name: str, then: Any, now: Any, absent: object) -> str:
    if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (then, now)):
        missing = [when for when, value in (("was", then), ("is", now)) if value in (None, absent)]
        return f"{name} {missing[0]} not given" if missing else f"{name} changed"
    was, is_ = (
        "not given" if value is None or value is absent else _short(value) for value in (then, now)
    )
    return f"{name} was {was} and is {is_}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
