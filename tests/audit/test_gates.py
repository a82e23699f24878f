"""`--fail-if`: the language, its errors, and what a condition does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpu_cli.audit.gates import OPERATORS, Gate, check, failure, parse_gates, require_names
from mpu_cli.errors import CheckFailedError, UsageError

NAMES = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True).filter(
    lambda name: not {"and", "or"} & set(name.split("."))
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COMPARISONS = st.tuples(NAMES, st.sampled_from(sorted(OPERATORS)), NUMBERS)
SPACES = st.sampled_from(["", " ", "  "])


@given(
    st.lists(st.lists(COMPARISONS, min_size=1, max_size=3), min_size=1, max_size=3),
    SPACES,
    st.data(),
)
def test_a_condition_means_what_python_means(any_of, space, data):
    """Any mix of and, or and comparisons: `and` binds more tightly than `or`."""
    text = " or ".join(
        " and ".join(space.join((name, sign, repr(bound))) for name, sign, bound in every)
        for every in any_of
    )
    gate = Gate.parse(text)
    values = {name: data.draw(NUMBERS) for name in gate.names}
    assert set(gate.names) == {name for every in any_of for name, _, _ in every}
    expected = any(
        all(OPERATORS[sign](values[name], bound) for name, sign, bound in every) for every in any_of
    )
    assert bool(check([gate], values)) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_a_usage_error(text):
    """Nothing else is raised, and nothing is evaluated."""
    try:
        gate = Gate.parse(text)
    except UsageError as error:
        assert "\n" not in error.message.replace(text, "")
    else:
        assert gate.names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one_copy",
        "one_copy <",
        "one_copy < x",
        "0.05 > one_copy",
        "one_copy = 1",
        "one_copy < 1 and",
        "or one_copy < 1",
        "(one_copy < 1)",
        "one_copy < 1 < 2",
        "one_copy < inf",
        "one_copy > 1e999",
        "__import__('os') < 1",
        "a<1 or " * 200 + "a<1",
    ],
)
def test_what_is_no_condition(text):
    """The message has the text, the hint the form."""
    with pytest.raises(UsageError, match="expected NAME OPERATOR NUMBER") as caught:
        Gate.parse(text)
    assert "quote the condition" in caught.value.hint


def test_each_condition_that_holds_is_one_line():
    """The line has the condition and the numbers in it."""
    gates = parse_gates(["one_copy<0.05", "all >= 1", "one_copy < 1 and all < .5"])
    lines = check(gates, {"one_copy": 0.031, "all": 0.25})
    assert lines == [
        "--fail-if one_copy<0.05: one_copy is 0.031",
        "--fail-if one_copy < 1 and all < .5: one_copy is 0.031, all is 0.25",
    ]
    assert check(gates[1:2], {"one_copy": 0.031, "all": 0.25}) == []
    assert failure(lines[:1]).message == lines[0]
    assert isinstance(failure(lines), CheckFailedError)


def test_a_number_that_does_not_exist():
    """A wrong name is refused before the audit begins, with the nearest."""
    with pytest.raises(UsageError, match="there is no number one_kopy") as caught:
        require_names([Gate.parse("one_kopy<1")], ["one_copy", "all_copies"])
    assert caught.value.hint == "did you mean one_copy?"
    with pytest.raises(UsageError) as caught:
        check([Gate.parse("zzz<1")], {"one_copy": 1.0, "all_copies": 0.5})
    assert caught.value.hint == "the numbers are one_copy, all_copies"


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_number_that_was_not_measured(nothing):
    """It is neither below nor above anything: the gate cannot pass by chance."""
    with pytest.raises(UsageError, match="one_copy was not measured in this run"):
        check([Gate.parse("one_copy<1")], {"one_copy": nothing, "all_copies": 0.5})
