"""Search every byte of an update for strings of the data: texts, file names, user, host.

Searched are pieces of each text (12 bytes, one after the other, so that any 23 bytes in a row hold
one), its words of six letters and more, and names of files, user and machine; each as UTF-8, UTF-16
in both byte orders, hexadecimal, and base64 at each alignment and in both alphabets. A string of
four or five bytes counts only between other text: among numbers it would be chance. Strings that
every update of this handoff holds (names of tensors, keys of the format) are not searched.

The whole of a tar file is read, headers included; of a directory its files' names and bytes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpu_cli.audit.update.encoded_rows import Progress
from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.subject import Subject
from mpu_cli.bundle.adapter import AdapterConfig, encode_config
from mpu_cli.bundle.manifest import UpdateManifest, encode
from mpu_cli.data.duplicates import contents
from mpu_cli.data.row import Row

_PIECE = 12
_WORD = re.compile(r"\w{6,24}")
_HEX = re.compile(r"[0-9a-f]{1,7}")
"""A digest may hold so short a name by chance."""
_SHORTEST = 4
"""Bytes of a name below which it is not searched."""
_CERTAIN = 6
"""Bytes of a string below which gigabytes of weights hold it by chance: it counts only in text."""
_AROUND = 8
"""Bytes before and after so short a string that must be text, or padding of text."""
_TEXT = bytes([0, 9, 10, 13, *range(32, 127)])
_ENCODED = 6
"""Bytes of a string whose base64 and hexadecimal forms are searched."""
_BLOCK = 4 << 20
_Block = tuple[int, bytes, int]
_FORMAT = "__metadata__ data_offsets dtype shape weight_map metadata total_size ustar safetensors"
"""Words of safetensors, of its index and of tar."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A string of the data in the update."""

    text: str
    form: str
    file: str
    offset: int


def string_scan(
    subject: Subject, rows: Iterable[Row], names: Iterable[str], place: Path, progress: Progress
) -> Finding:
    """Scan the update as it will be sent.

    Args:
        subject: the copy and its change.
        rows: all rows whose texts must not be in the update.
        names: of files, user, host.
        place: the tar file or directory that the user gave.
        progress: see `Progress`.
    """
    strings = data_strings(rows, names, known_strings(subject))
    searched, found = scan(place, strings, progress)
    # A string may lie in the overlap of two blocks, or many times in one file.
    hits = list({(hit.text, hit.file): hit for hit in found}.values())
    first = f", the first {hits[0].text!r} ({hits[0].form}) in {hits[0].file}" if hits else ""
    return Finding(
        "string_scan",
        "strings of the data",
        f"{len(hits)} of {len(strings)} strings found in {searched} bytes{first}",
        "The update holds text of yours: do not send it, and report it."
        if hits
        else "No text of your rows, no name of a file, of you or of this machine.",
        numbers={
            "strings": len(strings),
            "bytes": searched,
            "found": [[hit.text, hit.form, hit.file, hit.offset] for hit in hits],
        },
    )


def scan(
    place: Path, strings: Iterable[str], progress: Progress = lambda *_: None
) -> tuple[int, list[Hit]]:
    """The number of bytes of a file or of all files of a directory, and the strings in them."""
    table = _Table([form for text in strings for form in spellings(text)])
    searched, hits = 0, []
    for name, blocks in _files(place, table.longest):
        for offset, block, new in blocks:
            hits += [Hit(text, form, name, offset + at) for text, form, at in _find(block, table)]
            searched += new
            progress("scanning", searched, 0)
    return searched, hits


def known_strings(subject: Subject) -> str:
    """What every update of this handoff holds, whatever the data."""
    empty = UpdateManifest(subject.handoff.id, subject.handoff.digest, subject.update.copies)
    return "\n".join(
        (
            encode(empty).decode(),
            encode_config(AdapterConfig(1, 1.0, (), fan_in_fan_out=False)).decode(),
            *subject.published.tensors,
            _FORMAT,
        )
    )


def data_strings(rows: Iterable[Row], names: Iterable[str], known: str) -> list[str]:
    """The strings to search, without those that `known` holds."""
    found: dict[str, None] = {}
    for row in rows:
        for text in contents(row):
            for form in {text, json.dumps(text)[1:-1]}:
                data = form.encode()
                pieces = [
                    data[at : at + _PIECE] for at in range(0, len(data) - _ENCODED + 1, _PIECE)
                ]
                found |= dict.fromkeys(
                    piece.decode(errors="ignore") for piece in pieces if len(piece) >= _ENCODED
                )
                found |= dict.fromkeys(_WORD.findall(form))
    found |= dict.fromkeys(names)
    return [
        text
        for text in found
        if len(text.encode()) >= _SHORTEST and text not in known and not _HEX.fullmatch(text)
    ]


def spellings(text: str) -> list[tuple[bytes, str, str]]:
    """(bytes, the text, the form's name) of every form that is searched."""
    raw = text.encode()
    forms = [
        (raw, "UTF-8"),
        (text.encode("utf-16-le"), "UTF-16"),
        (text.encode("utf-16-be"), "UTF-16"),
    ]
    if len(raw) >= _ENCODED:
        forms += [
            (raw.hex().encode(), "hexadecimal"),
            (raw.hex().upper().encode(), "hexadecimal"),
        ]
        for shift in range(3):
            core = base64.b64encode(bytes(shift) + raw)[
                -(-8 * shift // 6) : 8 * (shift + len(raw)) // 6
            ]
            forms += [(core, "base64"), (core.translate(bytes.maketrans(b"+/", b"-_")), "base64")]
    return [(form, text, name) for form, name in dict.fromkeys(forms)]


class _Table:
    """The strings by their first four bytes, and which pairs of bytes those begin with."""

    def __init__(self, forms: Sequence[tuple[bytes, str, str]]) -> None:
        self.by_prefix: dict[bytes, list[tuple[bytes, str, str]]] = {}
        self.first, self.second = np.zeros(1 << 16, dtype=bool), np.zeros(1 << 16, dtype=bool)
        self.longest = max((len(form) for form, _, _ in forms), default=0)
        for form in forms:
            prefix = form[0][:_SHORTEST]
            self.by_prefix.setdefault(prefix, []).append(form)
            self.first[prefix[0] | prefix[1] << 8] = True
            self.second[prefix[2] | prefix[3] << 8] = True
        self.prefixes: NDArray[np.uint32] = np.sort(np.frombuffer(b"".join(self.by_prefix), "<u4"))


def _find(block: bytes, table: _Table) -> Iterator[tuple[str, str, int]]:
    """(text, form, offset) of every string in a block."""
    letters = np.frombuffer(block, np.uint8).astype(np.uint16)
    if len(letters) < _SHORTEST:
        return
    pairs = letters[:-1] | letters[1:] << 8
    starts = np.flatnonzero(table.first[pairs[:-2]] & table.second[pairs[2:]])
    # Many strings let many pairs pass, so all four bytes are looked up before Python looks.
    words = pairs[starts].astype(np.uint32) | pairs[starts + 2].astype(np.uint32) << 16
    places = np.searchsorted(table.prefixes, words) % max(1, len(table.prefixes))
    for start in starts[table.prefixes[places] == words].tolist():
        for form, text, name in table.by_prefix[block[start : start + _SHORTEST]]:
            if block.startswith(form, start) and (
                len(form) >= _CERTAIN or _in_text(block, start, start + len(form))
            ):
                yield text, name, start


def _in_text(block: bytes, start: int, stop: int) -> bool:
    around = block[max(0, start - _AROUND) : start] + block[stop : stop + _AROUND]
    return not around.translate(None, _TEXT)


def _files(place: Path, overlap: int) -> Iterator[tuple[str, Iterator[_Block]]]:
    """Each file's name and its blocks; of a file in a directory, its name is read too."""
    if place.is_file():
        yield place.name, _blocks(place, b"", overlap)
        return
    for path in sorted(place.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(place))
            yield name, _blocks(path, name.encode() + b"\n", overlap)


def _blocks(path: Path, lead: bytes, overlap: int) -> Iterator[_Block]:
    """(offset, `overlap` bytes of the block before and then the new ones, number of new bytes)."""
    offset, tail = -len(lead), lead
    with path.open("rb") as file:
        while new := file.read(_BLOCK):
            block = tail + new
            yield offset, block, len(new)
            tail = block[-overlap:]
            offset += len(block) - len(tail)


def private_names(files: Iterable[str]) -> list[str]:
    """Names that must not be in an update: of the files, the user, the host, and paths."""
    import getpass
    import socket
    from contextlib import suppress

    names = {str(Path.home()), socket.gethostname(), str(Path.cwd())}
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        names.add(getpass.getuser())
    for file in files:
        path = Path(file)
        names |= {path.name, str(path.absolute())}
    return sorted(names)
