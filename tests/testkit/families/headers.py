"""Safetensors headers that lie: overlaps, holes, sizes, dtypes, names, depth; digests are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import edit_header, parts, redigest, write_parts


def _first(header: dict) -> dict:
    return next(value for name, value in header.items() if name != "__metadata__")


def _overlap(header: dict) -> None:
    entries = [value for name, value in header.items() if name != "__metadata__"]
    same = [one for one in entries if one["shape"] == entries[0]["shape"]]
    entries[0]["data_offsets"] = list((same[1] if len(same) > 1 else entries[1])["data_offsets"])


def _shift(header: dict) -> None:
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [one + 8 for one in entry["data_offsets"]]


def _changed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda path: edit_header(path, change)


def _length(value: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        header, data = parts(path)
        write_parts(path, header, data, value)

    return damage


def _raw(make: Callable[[dict], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        header, data = parts(path)
        write_parts(path, make(header), data)

    return damage


def _twice(header: dict) -> bytes:
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__")
    text = json.dumps(header)
    return (text[:-1] + f', "{name}": {json.dumps(entry)}}}').encode()


def _empty_tensors(header: dict) -> None:
    end = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
    for number in range(100_000):
        header[f"x{number}"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 8)


HEADERS: dict[str, Callable[[Path], None]] = {
    "two tensors on the same bytes": _changed(_overlap),
    "a hole before the first tensor": _changed(_shift),
    "bytes after the last tensor": _append,
    "a length beyond the file": _length(1 << 40),
    "a length of 2⁶⁴ − 1": _length(2**64 - 1),
    "a length of zero": _length(0),
    "a length that cuts the JSON": _length(20),
    "a shape that is too large for its bytes": _changed(lambda h: _first(h)["shape"].append(1000)),
    "a shape of 2⁶³ entries": _changed(lambda h: _first(h).update(shape=[1 << 31, 1 << 32])),
    "a negative size": _changed(lambda h: _first(h).update(shape=[-1])),
    "a negative offset": _changed(lambda h: _first(h).update(data_offsets=[-8, 8])),
    "an end before its beginning": _changed(lambda h: _first(h)["data_offsets"].reverse()),
    "100,000 axes": _changed(lambda h: _first(h).update(shape=[1] * 100_000)),
    "a size that is a float": _changed(lambda h: _first(h).update(shape=[1.5])),
    "a size of 5,000 digits": _raw(
        lambda h: json.dumps(h).replace('"shape": [', '"shape": [' + "9" * 5000 + ", ", 1).encode()
    ),
    "an unknown dtype": _changed(lambda h: _first(h).update(dtype="F31")),
    "a dtype that is a list": _changed(lambda h: _first(h).update(dtype=["F32"])),
    "integers that say they are floats": _changed(lambda h: _first(h).update(dtype="F64")),
    "a key more": _changed(lambda h: _first(h).update(stride=[1])),
    "no offsets": _changed(lambda h: _first(h).pop("data_offsets")),
    "a tensor twice": _raw(_twice),
    "metadata that is a list": _changed(lambda h: h.update(__metadata__=["pt"])),
    "metadata with a number": _changed(lambda h: h.update(__metadata__={"format": 1})),
    "no JSON": _raw(lambda h: b"\x80\x02" + b"x" * 62),
    "a list": _raw(lambda h: b"[1, 2, 3]       "),
    "100,000 lists deep": _raw(lambda h: b"[" * 100_000 + b"]" * 100_000),
    "a number as the entry of a tensor": _changed(lambda h: h.update(x=1)),
    "a name with a terminal code": _changed(
        lambda h: h.update({"\x1b[2J": h.pop(next(reversed(h)))})
    ),
    "a name of a MiB": _changed(lambda h: h.update({"m" * (1 << 20): h.pop(next(reversed(h)))})),
    "a name with half a character": _raw(
        lambda h: json.dumps(h).replace("model.", "model\\ud800.", 1).encode()
    ),
}
"""Headers that the specification forbids, or that no model has."""
FILES = {
    "handoff": "copy-1/model.safetensors",
    "update": "copy-1/delta.safetensors",
    "masked update": "copy-1/masked.safetensors",
    "LoRA update": "copy-1/adapter_model.safetensors",
    "model": "model.safetensors",
}


def cases() -> Iterator[Case]:
    """Every header in a file of every kind."""
    for thing, place in FILES.items():
        for said, make in HEADERS.items():

            def damage(
                x: Path, w: object, place: str = place, make=make, thing: str = thing
            ) -> None:
                make(x / place)
                if thing != "model":
                    redigest(x)

            but: dict[str, str] = {}
            if thing == "handoff":
                but = UNSEEN
            elif thing == "model":
                but = {"data check": "0"}
            yield Case(f"{thing}: {said}", thing, damage, but=but)
    for thing in ("update", "model"):

        def many(x: Path, w: object, thing: str = thing) -> None:
            edit_header(x / FILES[thing], _empty_tensors)
            if thing != "model":
                redigest(x)

        yield Case(
            f"{thing}: 100,000 empty tensors",
            thing,
            many,
            but={} if thing == "update" else {"data check": "0"},
            slow=True,
        )
