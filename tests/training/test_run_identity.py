"""In what two runs differ, named by what a user calls it."""

from __future__ import annotations

import pytest

from mpu_cli.training.run_identity import TOKENS, difference, identity_digest

A, B = "a" * 64, "b" * 64
NOW = {
    "--seed": 1,
    "--system-prompt": None,
    "the forget file": A,
    TOKENS: A,
    "--map": [["answer", "a"]],
}


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({**NOW, "--seed": 0}, "--seed was 0 and is 1"),
        ({**NOW, "the forget file": B, TOKENS: B}, "the forget file changed"),
        ({**NOW, TOKENS: B}, f"{TOKENS} changed"),
        ({**NOW, "--system-prompt": "Be kind."}, "--system-prompt was Be kind. and is not given"),
        ({**NOW, "the retain file": A}, "the retain file is not given"),
        ({**NOW, "--map": []}, '--map was [] and is [["answer", "a"]]'),
        (
            {**NOW, "--lora-rank": 8, "--seed": 2},
            "--seed was 2 and is 1, --lora-rank was 8 and is not given",
        ),
        ({**NOW, **{f"--{letter}": 1 for letter in "abcdef"}}, ", and 2 more"),
        (None, "its recipe, data, handoff, copy, versions or number of processes differ"),
    ],
)
def test_what_differs_is_named(then, told):
    """Each kind of value has its line; a marker of an earlier version names what may differ."""
    assert difference(then, NOW).endswith(told)
    assert difference(then, NOW) == told or told.startswith(",")


def test_the_digest_follows_every_value():
    """Tuples and lists are the same JSON, and anything else is not."""
    assert identity_digest({"a": (1, 2)}) == identity_digest({"a": [1, 2]})
    assert (
        len({identity_digest(one) for one in ({"a": 1}, {"a": 1.5}, {"a": None}, {}, {"b": 1})})
        == 5
    )
