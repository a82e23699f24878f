"""The canonical YAML text of manifests and records."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpu_cli.bundle import canonical
from mpu_cli.errors import BadBundleError, BadSecretError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CONTENT = {"kind": "handoff", "list": ["a", {"b": 1, "c": 2.5}], "none": None, "yes": True}
GOOD = b'"kind": "handoff"\n"list":\n- "a"\n- "b": 1\n  "c": 2.5\n"none": null\n"yes": true\n'
BOMB = b'"a": &a ["x","x"]\n' + b"".join(
    b'"%c": &%c [*%c,*%c]\n' % (i, i, i - 1, i - 1) for i in range(98, 123)
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_any_content_survives_dump_and_parse(content):
    """Dump writes ASCII; parse returns the same content, which dumps to the same bytes."""
    data = canonical.dump(content)
    assert data.isascii()
    assert canonical.parse(data, "x", BadBundleError) == content


def test_the_canonical_text_is_fixed():
    """Sorted keys, double-quoted strings, block style: digests depend on it."""
    assert canonical.dump(CONTENT) == GOOD
    assert canonical.parse(GOOD, "x", BadBundleError) == CONTENT
    assert canonical.dump({"n": [1, 2], "no": {}}) == b'"n":\n- 1\n- 2\n"no": {}\n'
    long = "a text is one line however long it is " * 9
    assert canonical.dump({"long": long}) == f'"long": "{long}"\n'.encode()


DEVIATIONS = {
    "comment": GOOD + b"# hello\n",
    "comment in a line": GOOD.replace(b"1\n", b"1 # one\n"),
    "unquoted key": GOOD.replace(b'"kind"', b"kind"),
    "unquoted string": GOOD.replace(b'"handoff"', b"handoff"),
    "single quotes": GOOD.replace(b'"handoff"', b"'handoff'"),
    "escaped letter": GOOD.replace(b'"handoff"', b'"\\x68andoff"'),
    "folded string": GOOD.replace(b'"handoff"', b'"hand\\\n  off"'),
    "flow list": b'"list": ["a"]\n',
    "flow map": b'{"kind": "handoff"}\n',
    "indented list": GOOD.replace(b"- ", b"  - ").replace(b'  "c"', b'    "c"'),
    "explicit tag": GOOD.replace(b'"handoff"', b'!!str "handoff"'),
    "python tag": b'"a": !!python/object/apply:os.system ["true"]\n',
    "unknown tag": b'"a": !evil "b"\n',
    "bool tag that PyYAML trips over": b'"a": !!bool "x"\n',
    "int tag that PyYAML trips over": b'"a": !!int ""\n',
    "float tag that PyYAML trips over": b'"a": !!float ""\n',
    "timestamp tag that PyYAML trips over": b'"a": !!timestamp "x"\n',
    "timestamp out of range": b'"a": 0001-01-01T00:00:00+23:59\n',
    "set": b'"a": !!set {"b"}\n',
    "pairs": b'"a": !!pairs ["b": 1]\n',
    "binary": b'"a": !!binary "aGk="\n',
    "merge key": b'"a":\n  "<<": {"b": 1}\n"<<": {"c": 1}\n',
    "alias": b'"a": &x "b"\n"c": *x\n',
    "anchor without alias": b'"a": &x "b"\n',
    "alias bomb": BOMB,
    "endless alias": b'"a": &a\n- *a\n',
    "duplicate key": b'"a": 1\n"a": 1\n',
    "duplicate key deeper": b'"a":\n  "b": 1\n  "b": 1\n',
    "keys in another order": b'"b": 1\n"a": 2\n',
    "list as key": b'? ["a"]\n: 1\n',
    "document marker": b"---\n" + GOOD,
    "document end": GOOD + b"...\n",
    "two documents": GOOD + b"---\n" + GOOD,
    "directive": b"%YAML 1.1\n---\n" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "trailing newline": GOOD + b"\n",
    "trailing space": GOOD.replace(b"2.5\n", b"2.5 \n"),
    "trailing bytes": GOOD + b"x",
    "trailing zero": GOOD + b"\0",
    "no last newline": GOOD[:-1],
    "hexadecimal": GOOD.replace(b": 1\n", b": 0x1\n"),
    "infinity": GOOD.replace(b"2.5", b".inf"),
    "not a number": GOOD.replace(b"2.5", b".nan"),
    "octal": GOOD.replace(b": 1\n", b": 01\n"),
    "underscores": GOOD.replace(b": 1\n", b": 1_0\n"),
    "base sixty": GOOD.replace(b": 1\n", b": 1:30\n"),
    "another float": GOOD.replace(b"2.5", b"2.50"),
    "another null": GOOD.replace(b"null", b"~"),
    "another true": GOOD.replace(b"true", b"yes"),
    "tab": GOOD.replace(b": 1\n", b":\t1\n"),
    "UTF-8": '"a": "é"\n'.encode(),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a scalar": b'"a"\n',
    "a list": b'- "a"\n',
    "empty": b"",
    "null": b"null\n",
    "nested without end": b"- " * 30_000,
    "brackets without end": b"[" * 30_000,
    "half an escape": b'"a": "\\x1"\n',
    "a number of 5000 digits": b'"a": ' + b"9" * 5000 + b"\n",
    "binary bytes": bytes(range(256)),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_every_deviation_from_the_canonical_form_is_refused(name):
    """Other YAML is refused quickly, with the caller's error and the place in the message."""
    start = time.perf_counter()
    with pytest.raises(BadSecretError, match=r"^server/secret\.yaml: ") as caught:
        canonical.parse(DEVIATIONS[name], "server/secret.yaml", BadSecretError)
    assert caught.value.message.removeprefix("server/secret.yaml: ") in {
        "not a valid manifest",
        "not in canonical form: it was edited or damaged",
    }
    assert caught.value.hint == "ask for the files again; do not edit manifests by hand"
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_unreadable_content_is_not_written(number):
    """A record with an infinity would make its lineage unreadable."""
    with pytest.raises(ValueError, match=r"^not a finite number$"):
        canonical.dump({"a": [number]})


def test_half_a_surrogate_pair_is_not_written():
    """The parser would refuse its escape."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        canonical.dump({"a": ["\ud800"]})


def test_the_limit_is_inclusive():
    """A text of exactly this many bytes is read."""
    assert canonical.parse(GOOD, "x", BadBundleError, len(GOOD)) == CONTENT
    with pytest.raises(BadBundleError) as caught:
        canonical.parse(GOOD, "x", BadBundleError, len(GOOD) - 1)
    assert caught.value.message == f"x: larger than {len(GOOD) - 1} bytes, the limit for a manifest"
    assert caught.value.hint == "ask for the files again; do not edit manifests by hand"


def test_a_text_of_two_megabytes_is_refused_unparsed():
    """The size is checked before YAML is parsed."""
    start = time.perf_counter()
    with pytest.raises(BadBundleError, match="larger than 1048576 bytes"):
        canonical.parse(b'"a": "' + b"x" * 2_000_000 + b'"\n', "mpu.yaml", BadBundleError)
    assert time.perf_counter() - start < 1


ROOM = (1 << 20) - 100
SLOW = {
    "a number in base 60": b'"a": ' + b":".join([b"59"] * (ROOM // 3)) + b"\n",
    "a negative one": b'"a": -' + b":".join([b"59"] * (ROOM // 3)) + b"\n",
    "one with a fraction": b'"a": ' + b":".join([b"59"] * (ROOM // 3)) + b".5\n",
    "digits": b'"a": ' + b"1" * ROOM + b"\n",
    "quotes without an end": b'"' + b'\\"' * (ROOM // 2),
    "backslashes without an end": b'"' + b"\\" * (ROOM | 1),
    "flow lists": b"[" * ROOM,
    "lists in lists": b"- " * (ROOM // 2),
    "maps in maps": b"".join(b" " * depth + b'"a":\n' for depth in range(1400)),
    "question marks": b"? " * (ROOM // 2),
}
"""Texts below the limit that take a naive reader quadratic time or deep recursion."""


@pytest.mark.parametrize("kind", SLOW)
def test_a_text_below_the_limit_is_refused_quickly(kind):
    """Time grows with the size, not with its square."""
    start = time.process_time()
    with pytest.raises(BadBundleError, match="not a valid manifest"):
        canonical.parse(SLOW[kind], "mpu.yaml", BadBundleError)
    assert time.process_time() - start < 2


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('"ab:-?!&*[]{}#|>%@\\ \n\t0129.~<=_eEx\x7f'), max_size=40) | TEXT)
def test_no_text_makes_the_parser_fail_in_another_way(text):
    """Any text is either canonical or refused; no other exception occurs."""
    for form in (
        "{}",
        '"a": {}\n',
        '"a": !!float "{}"\n',
        '"a": !!int "{}"\n',
        '"a": !!timestamp "{}"\n',
    ):
        data = form.format(text).encode()
        try:
            content = canonical.parse(data, "x", BadBundleError)
        except BadBundleError:
            continue
        assert canonical.dump(content) == data


def test_the_digest_covers_every_other_field():
    """Changing any field except the digest changes the digest."""
    digest = canonical.digest(CONTENT)
    assert digest == "4d11268f6a204b7636fa9cd2862137c6e98ee9d7d018087e4cf324f095966ce0"
    assert digest == canonical.digest({**CONTENT, "digest": "x"})
    assert digest != canonical.digest({**CONTENT, "hmac": "x"})
    assert digest != canonical.digest({**CONTENT, "Digest": "x"})
    assert digest != canonical.digest({**CONTENT, "list": [{"digest": "x"}]})
