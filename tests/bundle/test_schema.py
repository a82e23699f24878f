"""Fields of parsed content: what each kind accepts, and the exact words of each refusal."""

from __future__ import annotations

import re

import pytest

from mpu_cli.bundle.schema import COPY_NAME, FILE_NAME, HEX_128, HEX_256, FieldReader
from mpu_cli.errors import BadBundleError, BadSecretError

HINT = "update mpu if a newer version wrote the file, or else ask for the file again"
AB = re.compile("[ab]+")


def reader(**content: object) -> FieldReader:
    """A reader of a file called here.yaml."""
    return FieldReader(content, "here.yaml", BadSecretError)


GOOD = {
    "text": (lambda r: r.text("x"), "anything", "anything"),
    "text of a form": (lambda r: r.text("x", AB), "abba", "abba"),
    "text of choices": (lambda r: r.text("x", choices=("a", "b")), "b", "b"),
    "natural": (lambda r: r.natural("x"), 0, 0),
    "number": (lambda r: r.number("x"), 2.5, 2.5),
    "whole number": (lambda r: r.number("x"), -3, -3.0),
    "flag": (lambda r: r.flag("x"), True, True),
    "optional text": (lambda r: r.optional_text("x", AB), "ab", "ab"),
    "no text": (lambda r: r.optional_text("x", AB), None, None),
    "texts": (lambda r: r.texts("x"), ["a", "q"], ("a", "q")),
    "texts of a form": (lambda r: r.texts("x", AB), ["a", "b"], ("a", "b")),
    "no texts": (lambda r: r.texts("x", AB), [], ()),
    "numbers": (lambda r: r.numbers("x"), {"a": 1, "b": 0.5}, {"a": 1.0, "b": 0.5}),
    "maps": (lambda r: [item.natural("n") for item in r.maps("x")], [{"n": 1}, {"n": 2}], [1, 2]),
    "entries": (
        lambda r: r.entries("x", AB, lambda item: item.natural("n")),
        {"a": {"n": 1}, "b": {"n": 2}},
        {"a": 1, "b": 2},
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_field_of_its_kind_is_read(kind):
    """And counts as read, so that `done` accepts the map."""
    read, value, expected = GOOD[kind]
    fields = reader(x=value)
    result = read(fields)
    assert result == expected and type(result) is type(expected)
    fields.done()


VALUE = "here.yaml: field 'x' has an unexpected value"
INTEGER = "here.yaml: field 'x' is not an integer ≥ 0"
NUMBER = "here.yaml: field 'x' is not a finite number"
FLAG = "here.yaml: field 'x' is neither true nor false"
TEXTS = "here.yaml: field 'x' is not a list of strings"
BAD = {
    "text that is a number": (lambda r: r.text("x"), 1, VALUE),
    "text of another form": (lambda r: r.text("x", AB), "abc", VALUE),
    "text beyond the choices": (lambda r: r.text("x", choices=("a",)), "b", VALUE),
    "natural that is negative": (lambda r: r.natural("x"), -1, INTEGER),
    "natural that is a float": (lambda r: r.natural("x"), 1.0, INTEGER),
    "natural that is a boolean": (lambda r: r.natural("x"), True, INTEGER),
    "number that is a text": (lambda r: r.number("x"), "1", NUMBER),
    "number that is a boolean": (lambda r: r.number("x"), False, NUMBER),
    "number that is none": (lambda r: r.number("x"), float("nan"), NUMBER),
    "number that is infinite": (lambda r: r.number("x"), float("inf"), NUMBER),
    "number that is infinite below": (lambda r: r.number("x"), float("-inf"), NUMBER),
    "flag that is a number": (lambda r: r.flag("x"), 1, FLAG),
    "flag that is null": (lambda r: r.flag("x"), None, FLAG),
    "optional text of another form": (lambda r: r.optional_text("x", AB), "q", VALUE),
    "texts that are one text": (lambda r: r.texts("x"), "ab", TEXTS),
    "texts with a number": (lambda r: r.texts("x"), ["a", 1], TEXTS),
    "texts of another form": (lambda r: r.texts("x", AB), ["a", "q"], TEXTS),
    "numbers that are a list": (lambda r: r.numbers("x"), [1], "here.yaml: x: expected a map"),
    "numbers with a text": (
        lambda r: r.numbers("x"),
        {"a": 1, "b": "2"},
        "here.yaml: x: field 'b' is not a finite number",
    ),
    "maps that are one map": (lambda r: r.maps("x"), {}, "here.yaml: field 'x' is not a list"),
    "maps with a text": (lambda r: r.maps("x"), [{}, "a"], "here.yaml: x: expected a map"),
    "a field of a map": (
        lambda r: r.maps("x")[0].natural("n"),
        [{"n": "1"}],
        "here.yaml: x: field 'n' is not an integer ≥ 0",
    ),
    "entries that are a list": (
        lambda r: r.entries("x", AB, dict),
        [],
        "here.yaml: x: expected a map",
    ),
    "an entry of another name": (
        lambda r: r.entries("x", AB, lambda item: item),
        {"a": {}, "q": {}},
        "here.yaml: x: field 'q' is not an allowed name",
    ),
    "an entry that is no map": (
        lambda r: r.entries("x", AB, lambda item: item),
        {"a": 1},
        "here.yaml: x: a: expected a map",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_field_of_another_kind_is_refused(kind):
    """The message names the file and the field, the error is the caller's, and there is a hint."""
    read, value, message = BAD[kind]
    with pytest.raises(BadSecretError) as refused:
        read(reader(x=value))
    assert refused.value.message == message
    assert refused.value.hint == (None if message.endswith("a map") else HINT)


def test_a_missing_field_is_named():
    """Only a flag may be absent, which is false; `has` tells whether a field is there."""
    fields = reader(y=1)
    assert fields.has("y") and not fields.has("x")
    assert fields.flag("x") is False
    with pytest.raises(BadSecretError, match=r"^here.yaml: field 'x' is missing$") as refused:
        fields.take("x")
    assert refused.value.hint == HINT


def test_fields_that_nobody_read_are_refused():
    """The first by name, whatever the order in the file."""
    fields = reader(b=1, c=2, a=3)
    fields.take("c")
    with pytest.raises(BadSecretError, match=r"^here.yaml: field 'a' is not a known field$"):
        fields.done()


@pytest.mark.parametrize("content", [None, [], "text", {1: "a"}, {"a": 1, 2: "b"}])
def test_content_that_is_no_map_of_texts_is_refused(content):
    """YAML also has numbers as keys."""
    with pytest.raises(BadBundleError) as refused:
        FieldReader(content, "here.yaml", BadBundleError)
    assert refused.value.message == "here.yaml: expected a map"


NAMES = {
    "copy": (
        COPY_NAME,
        ("copy-1", "copy-10", "copy-9999"),
        ("copy-0", "copy-01", "copy-10000", "COPY-1", "copy-", "copy-1/"),
    ),
    "file": (
        FILE_NAME,
        ("a", "_x", "model-00001-of-2.safetensors", "additional_chat_templates/a+b.jinja"),
        (".a", "", "a/b", "-a", "additional_chat_templates/", "../a", "ä", "a" * 129),
    ),
    "id": (HEX_128, ("0" * 32, "f" * 32), ("F" * 32, "0" * 31, "0" * 33, "g" * 32)),
    "digest": (HEX_256, ("0" * 64, "f" * 64), ("F" * 64, "0" * 63, "0" * 65)),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_that_are_allowed(kind):
    """No path leaves its directory, and every digest has one spelling."""
    form, good, bad = NAMES[kind]
    assert all(form.fullmatch(name) for name in good)
    assert not any(form.fullmatch(name) for name in bad)
