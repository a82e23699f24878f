"""The server scans all files for others for the master secret before it renames them into place."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from two_parties import fingerprint, publish, take_back, untrained

from mpu_cli.checkpoint.locate import Located
from mpu_cli.errors import BadModelError
from mpu_cli.server.publishing.reissue import reissue
from mpu_cli.server.secrets.leak_scan import require_no_secret

MASTER = hashlib.sha256(b"a master").digest()
HEX = MASTER.hex()
PAIRS = [HEX[i : i + 2] for i in range(0, 64, 2)]


def _base64(shift: int, *, url: bool = False) -> bytes:
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    return encode(b"xyz"[:shift] + MASTER + b"after")


def _base32(shift: int, *, digits_first: bool = False) -> bytes:
    encode = base64.b32hexencode if digits_first else base64.b32encode
    return encode(b"vwxyz"[:shift] + MASTER + b"after")


SPELLINGS = {
    "bytes": MASTER,
    "hexadecimal": HEX.encode(),
    "upper-case hexadecimal": HEX.upper().encode(),
    "mixed hexadecimal": (HEX[:20] + HEX[20:].upper()).encode(),
    "hexadecimal in pairs": " ".join(HEX[i : i + 2] for i in range(0, 64, 2)).encode(),
    "hexadecimal with colons, upper case": (
        ":".join(HEX[i : i + 2] for i in range(0, 64, 2)).upper().encode()
    ),
    "hexadecimal in two strings": f'["{HEX[:32]}",\n "{HEX[32:]}"]'.encode(),
    **{f"base64 at {shift}": _base64(shift) for shift in range(3)},
    **{f"url base64 at {shift}": _base64(shift, url=True) for shift in range(3)},
    **{
        f"hexadecimal with {between!r}": between.join(PAIRS).encode()
        for between in ("-", "_", " - ", "; ", "|")
    },
    **{
        f"hexadecimal after {before!r}": "".join(before + pair for pair in PAIRS).encode()
        for before in ("\\x", "%", "\\u00", "&#x")
    },
    **{
        f"words of {size // 2} byte(s) after 0x": (
            ", ".join(f"0x{HEX[i : i + size]}" for i in range(0, 64, size)).encode()
        )
        for size in (2, 4, 8, 16, 64)
    },
    "upper-case 0X": ", ".join(f"0X{pair}" for pair in PAIRS).upper().encode(),
    **{
        f"{name} as {code}": text.decode().encode(code)
        for code in ("utf-16", "utf-16-be", "utf-32")
        for name, text in (
            ("hexadecimal", HEX.encode()),
            ("base64", _base64(1)),
            ("base32", _base32(2)),
        )
    },
    **{f"base32 at {shift}": _base32(shift) for shift in range(5)},
    **{
        f"base32 with the digits first at {shift}": _base32(shift, digits_first=True)
        for shift in range(5)
    },
    "lower-case base32 in groups": (
        "-".join(_base32(0).decode().lower()[i : i + 4] for i in range(0, 64, 4)).encode()
    ),
    "base64 wrapped in a JSON string": (
        json.dumps(base64.encodebytes(b"some more text before it " * 3 + MASTER).decode()).encode()
    ),
    "the same with carriage returns": (
        json.dumps(base64.encodebytes(MASTER * 3).decode().replace("\n", "\r\n")).encode()
    ),
    "wrapped base64": base64.encodebytes(b"some more text before it " * 3 + MASTER),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("before", [0, 7, *((1 << 20) - back for back in (20, 90))])
def test_every_spelling_is_found_wherever_it_lies(tmp_path, spelling, before):
    """The scan finds the secret across the border of two blocks and deep in folders."""
    (tmp_path / "copy-1").mkdir()
    (tmp_path / "copy-1" / "vocab.txt").write_bytes(
        b"." * before + SPELLINGS[spelling] + b"." * 100
    )
    with pytest.raises(BadModelError, match=r"copy-1/vocab.txt: holds the master secret"):
        require_no_secret(tmp_path, MASTER)


def test_what_is_not_the_secret_is_let_through(tmp_path):
    """Another secret, and all but the last bits of this one.

    A tensor file that is shorter than a header.
    """
    other = hashlib.sha256(b"another").digest()
    near = MASTER[:-1] + bytes([MASTER[-1] ^ 0x80])
    for number, raw in enumerate((other, near)):
        (tmp_path / f"{number}.txt").write_bytes(
            raw + raw.hex().encode() + base64.b64encode(raw) + base64.b32encode(raw)
        )
    require_no_secret(tmp_path, MASTER)


@pytest.fixture
def own_model(tiny_pair, tmp_path) -> Path:
    """A tiny Llama that a test may fill."""
    return Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "model"))


def test_a_model_that_holds_the_secret_is_never_published(own_model, tiny_pair, tmp_path, entropy):
    """In a chat template as base64.

    perturb, in the lineage's first round, writes neither handoff nor secret.
    """
    master = entropy(1).master()
    (own_model / "chat_template.jinja").write_text(
        "{# " + base64.b64encode(b"a" + master).decode() + " #}{{ messages }}"
    )
    before = fingerprint(tmp_path)
    with pytest.raises(BadModelError, match=r"copy-1/chat_template.jinja: holds the master secret"):
        publish(
            own_model, tiny_pair("llama").base, tmp_path / "h", tmp_path / "s", entropy(1), copies=2
        )
    assert fingerprint(tmp_path) == before
    assert not (tmp_path / "h").exists()


def test_a_secret_that_comes_into_a_later_round_is_not_published(
    own_model, tiny_pair, tmp_path, entropy
):
    """perturb, --reissue and aggregate of an existing lineage look too.

    What was there stays as it was.
    """
    given = entropy(2)
    first = publish(
        own_model, tiny_pair("llama").base, tmp_path / "h", tmp_path / "s", given, copies=2
    )
    update = untrained(tmp_path / "h", tmp_path / "u")
    assert update.copies
    (own_model / "chat_template.jinja").write_text(
        f"{{# {given.master().hex()} #}}{{{{ messages }}}}"
    )
    before = fingerprint(tmp_path)
    located = Located(own_model, None)
    for attempt in (
        lambda: publish(
            own_model, tiny_pair("llama").base, tmp_path / "h2", tmp_path / "s", given, copies=2
        ),
        lambda: reissue(located, tmp_path / "h3", tmp_path / "s", first.handoffs[0].id),
        lambda: take_back(tmp_path / "u", tmp_path / "s", own_model, tmp_path / "next"),
    ):
        with pytest.raises(BadModelError, match=r"chat_template.jinja: holds the master secret"):
            attempt()
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize(
    "how", ["symbolic link", "hard link", "copy", "record", "another lineage's"]
)
def test_the_secrets_own_files_are_not_published_as_side_files(
    own_model, tiny_pair, tmp_path, entropy, how
):
    """The attack of an unpacked archive: vocab.txt is secret.yaml.

    Refused before anything is computed.
    """
    publish(
        own_model, tiny_pair("llama").base, tmp_path / "h", tmp_path / "s", entropy(3), copies=2
    )
    target, source = own_model / "vocab.txt", tmp_path / "s" / "secret.yaml"
    if how == "symbolic link":
        target.symlink_to(source)
    elif how == "hard link":
        os.link(source, target)
    elif how == "copy":
        shutil.copy(source, target)
    elif how == "record":
        shutil.copy(next((tmp_path / "s" / "handoffs").iterdir()), target)
    else:
        publish(
            tiny_pair("llama").model,
            tiny_pair("llama").base,
            tmp_path / "h9",
            tmp_path / "s9",
            entropy(4),
            copies=2,
        )
        shutil.copy(tmp_path / "s9" / "secret.yaml", target)
    before = fingerprint(tmp_path / "s")
    with pytest.raises(
        BadModelError,
        match=r"vocab.txt: (is a link to a file outside|is a file of a server's secret)",
    ):
        publish(
            own_model,
            tiny_pair("llama").base,
            tmp_path / "h2",
            tmp_path / "s",
            entropy(3),
            copies=2,
        )
    assert fingerprint(tmp_path / "s") == before
    assert not (tmp_path / "h2").exists()
