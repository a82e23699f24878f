"""Files of rows: broken JSON, CSV and Parquet, encodings, types, depth, lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from testkit.case import Case

ROW = {"question": "w1 w2 ?", "answer": "w3 w4 ."}
GOOD = json.dumps(ROW)
JSONL: dict[str, bytes] = {
    "a broken line": f"{GOOD}\n{{\n".encode(),
    "a line cut in the middle": f"{GOOD}\n{GOOD[:20]}".encode(),
    "a list as a row": f"{GOOD}\n[]\n".encode(),
    "a number as a row": f"{GOOD}\n3\n".encode(),
    "a question without an answer": b'{"question": "w1"}\n',
    "an answer that is a number": b'{"question": "w1", "answer": 3}\n',
    "an answer that is null": b'{"question": "w1", "answer": null}\n',
    "an empty answer": b'{"question": "w1", "answer": ""}\n',
    "an unknown form": b'{"x": "w1"}\n',
    "a key twice": b'{"question": "w1", "answer": "w2", "answer": "w3"}\n',
    "100,000 lists deep": b"[" * 100_000 + b"\n",
    "an integer of 5,000 digits": b'{"question": "w1", "answer": "w2", "n": '
    + b"9" * 5000
    + b"}\n",
    "half a character": b'{"question": "w1", "answer": "\\ud800"}\n',
    "bytes that are no text": GOOD.encode() + b"\n\xff\xfe\n",
    "NULs": b"\0" * 4096,
    "nothing": b"",
    "blank lines only": b"\n\n\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "messages that are a text": b'{"messages": "hello"}\n',
    "messages without an answer": b'{"messages": [{"role": "user", "content": "w1"}]}\n',
    "a role that is unknown": b'{"messages": [{"role": "god", "content": "w1"}]}\n',
    "rows of two forms": f'{GOOD}\n{{"text": "w1"}}\n'.encode(),
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n(S'true'\ntR.",
}
CSV: dict[str, bytes] = {
    "a quote that never ends": b'question,answer\n"w1,w2\n' + b"w3,w4\n" * 100,
    "a row with a column more": b"question,answer\nw1,w2,w3\n",
    "a column twice": b"question,question,answer\nw1,w2,w3\n",
    "no answer column": b"question\nw1\n",
    "a header only": b"question,answer\n",
    "UTF-16 without a mark": "question,answer\nw1,w2\n".encode("utf-16-le"),
}
OTHERS: dict[str, bytes] = {
    "forget.json": b'{"question": ["w1"], "answer": "w2"}',
    "forget.parquet": b"PAR1 no table PAR1",
    "forget.xlsx": b"PK\x03\x04",
    "forget.jsonl.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


def _write(name: str, data: bytes):
    def damage(x: Path, w: object) -> None:
        (x / "forget.jsonl").unlink()
        (x / name).write_bytes(data)

    return damage


def _parquet(cut: float, flip: bool = False):
    def damage(x: Path, w: object) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (x / "forget.jsonl").unlink()
        path = x / "forget.parquet"
        pq.write_table(pa.table({"question": ["w1 w2"] * 50, "answer": ["w3 w4"] * 50}), path)
        data = bytearray(path.read_bytes())
        if flip:
            data[-60:-8] = bytes(52)
        path.write_bytes(data[: int(cut * len(data))])

    return damage


def cases() -> Iterator[Case]:
    """Given as --forget or to data check."""
    for said, data in JSONL.items():
        yield Case(f"rows: JSONL: {said}", "rows", _write("forget.jsonl", data))
    for said, data in CSV.items():
        yield Case(f"rows: CSV: {said}", "rows", _write("forget.csv", data))
    for name, data in OTHERS.items():
        yield Case(f"rows: {name}", "rows", _write(name, data))
    yield Case("rows: Parquet: cut in half", "rows", _parquet(0.5))
    yield Case("rows: Parquet: a damaged footer", "rows", _parquet(1.0, flip=True))
