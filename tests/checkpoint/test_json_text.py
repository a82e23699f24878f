"""JSON of the other party: values are counted before they are made."""

from __future__ import annotations

import tracemalloc

import pytest

from mpu_cli.checkpoint.json_text import BadJsonError, parse_json

BAD = {
    "a million empty maps": b"[" + b",".join([b"{}"] * 1_000_000) + b"]",
    "a million empty lists": b"[" + b",".join([b"[]"] * 1_000_000) + b"]",
    "a million keys": b"{" + b",".join(b'"%d":0' % i for i in range(1_000_001)) + b"}",
    "levels without end": b"[" * 100_000,
    "65 levels": b"[" * 66 + b"]" * 66,
    "an integer of 5,000 digits": b"[" + b"9" * 5000 + b"]",
    "half a character": b'["\\ud800"]',
    "not UTF-8": b'["\xff"]',
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_without_the_memory(name):
    """One short sentence, and less than twice the text in memory."""
    tracemalloc.start()
    try:
        with pytest.raises(BadJsonError) as caught:
            parse_json(BAD[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(BAD[name]) + (1 << 20)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_what_models_have_is_read():
    """Negative control: an index of 300,000 tensors, emoji as escapes, a list of 64 levels."""
    index = {f"model.layers.{i}.weight": "model-00001-of-00002.safetensors" for i in range(300_000)}
    import json

    assert parse_json(json.dumps(index).encode()) == index
    assert parse_json(b'["\\ud83d\\ude42"]') == ["\U0001f642"]
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_a_key_twice():
    """Python keeps the last of two equal keys, other readers the first."""
    assert parse_json(b'{"a":1,"a":2}') == {"a": 2}
    with pytest.raises(BadJsonError, match="twice"):
        parse_json(b'{"a":1,"a":2}', unique=True)
