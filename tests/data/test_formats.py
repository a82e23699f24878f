"""JSON, CSV, Parquet and plain text.

What is odd in a file is named with its place, or does no harm.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mpu_cli.data.rows import Row, read_rows, scan_rows
from mpu_cli.errors import BadDataError


def write(tmp_path: Path, content: str | bytes, name: str) -> Path:
    """Write a data file."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_in_full(tmp_path: Path) -> None:
    """Quoted commas, line breaks and quotes, a byte-order mark, CRLF and blank lines.

    A row's place is where it starts.
    """
    text = 'id,question,answer\r\n1,"Who, and\r\nwhere?","She said ""here""."\r\n\r\n2,Q2,A2\r\n'
    rows = read_rows(write(tmp_path, b"\xef\xbb\xbf" + text.encode(), "forget.csv"))
    assert rows == [
        Row("forget.csv:2", prompt="Who, and\r\nwhere?", answer='She said "here".'),
        Row("forget.csv:5", prompt="Q2", answer="A2"),
    ]


def test_a_csv_cell_may_be_a_book(tmp_path: Path) -> None:
    """A cell beyond the csv module's limit is read, and the limit is restored afterwards."""
    import csv

    before = csv.field_size_limit()
    book = "word " * 100_000
    assert read_rows(write(tmp_path, f'text\n"{book}"\n', "forget.csv"))[0].text == book
    assert csv.field_size_limit() == before < len(book)


BAD_CSV = {
    "header only": ("question,answer\n", "forget.csv has no rows"),
    "no header": (
        "What is it?,A thing\nAnd this?,Another\n",
        "forget.csv: no recognised form, columns found: 'What is it?', 'A thing'",
    ),
    "one column missing": ("question\nQ\n", "forget.csv:2: 'question' without 'answer'"),
    "too few cells": (
        "question,answer\nQ,A\nQ2\n",
        "forget.csv:3: 1 cells, but the header names 2 columns",
    ),
    "too many cells": (
        "question,answer\nQ,A,B\n",
        "forget.csv:2: 3 cells, but the header names 2 columns",
    ),
    "open quote": (
        'question,answer\nQ,A\n"Q2,A2\nQ3,A3\n',
        "forget.csv:3: broken CSV (unexpected end of data)",
    ),
    "letters after a quote": ('question,answer\nQ,"A" b\n', "forget.csv:2: broken CSV"),
    "column twice": (
        "question,answer,answer\nQ,A,B\n",
        "forget.csv:1: the column 'answer' occurs twice",
    ),
    "no names": (",\n1,2\n", "forget.csv:1: no column has a name"),
    "empty answer": ("question,answer\nQ,A\nQ2, \n", "forget.csv:3: 'answer' is empty"),
    "not UTF-8": (b"question,answer\nQ,\xff\n", "forget.csv:2: not UTF-8"),
    "chat in a cell": (
        'messages\n"[]"\n',
        "forget.csv:2: 'messages' must be a list, found a string",
    ),
}
BAD_JSON = {
    "NaN": ('{"text": "a"}\n{"text": "b", "score": NaN}', "forget.jsonl:2: NaN is not JSON"),
    "minus infinity": (
        '{"text": "b", "score": -Infinity}',
        "forget.jsonl:1: -Infinity is not JSON",
    ),
    "key twice": (
        '{"question": "Q", "answer": "A", "answer": "B"}',
        "forget.jsonl:1: the key 'answer' occurs twice in one object",
    ),
    "key twice inside": ('{"text": "T", "meta": {"a": 1, "a": 1}}', "the key 'a' occurs twice"),
    "key twice in a list": (
        '[{"text": "a"}, {"text": "b", "text": "c"}]',
        "forget.jsonl row 2: the key 'text' occurs twice",
    ),
    "NaN in a list": ('[{"text": "a"}, {"text": NaN}]', "forget.jsonl row 2: NaN is not JSON"),
    "list not closed": (
        '[{"text": "a"},\n {"text": "b"}',
        "forget.jsonl:2: broken JSON (expecting ',' or ']')",
    ),
    "comma at the end": ('[{"text": "a"},\n]', "forget.jsonl:2: broken JSON"),
    "two lists": (
        '[{"text": "a"}]\n[{"text": "b"}]',
        "forget.jsonl:2: broken JSON (text after the end of the list)",
    ),
    "number too long": (
        '{"text": "a", "n": ' + "9" * 10_000 + "}",
        "forget.jsonl:1: broken JSON (nested too deeply, or a number too long)",
    ),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("forget.csv", case) for case in BAD_CSV] + [("forget.jsonl", case) for case in BAD_JSON],
)
def test_refuses_broken_files(tmp_path: Path, name: str, case: str) -> None:
    """One line with the file and the place, and a remedy."""
    content, expected = {**BAD_CSV, **BAD_JSON}[case]
    with pytest.raises(BadDataError) as caught:
        read_rows(write(tmp_path, content, name))
    assert expected in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_list_of_bare_texts(tmp_path: Path) -> None:
    """MUSE's own files are JSON lists of strings: each is a text.

    A number among them is still refused by its place.
    """
    rows = read_rows(write(tmp_path, '["first", "second"]', "forget.json"))
    assert [(row.where, row.text) for row in rows] == [
        ("forget.json row 1", "first"),
        ("forget.json row 2", "second"),
    ]
    with pytest.raises(BadDataError, match="row 2: a row must be a JSON object, found a number"):
        read_rows(write(tmp_path, '["first", 2]', "forget.json"))


def test_a_text_file_is_one_text(tmp_path: Path) -> None:
    """MUSE's raw corpora are .txt: the whole file is one text, line breaks and all.

    An empty one has no rows.
    """
    assert read_rows(write(tmp_path, "one\n\n[two]\n", "raw.txt")) == [
        Row("raw.txt", text="one\n\n[two]\n")
    ]
    with pytest.raises(BadDataError, match=r"raw\.txt has no rows"):
        read_rows(write(tmp_path, " \n", "raw.txt"))


def test_odd_but_harmless(tmp_path: Path) -> None:
    """CRLF between lines, CR inside text, NUL, a field of a megabyte and deep values do no harm."""
    big, deep = "x" * 1_000_000, "[" * 500 + "]" * 500
    lines = [
        json.dumps({"text": "a\rb\0c"}),
        json.dumps({"text": big}),
        f'{{"text": "t", "unused": {deep}}}',
    ]
    rows = read_rows(write(tmp_path, "\r\n".join(lines) + "\r\n", "forget.jsonl"))
    assert [row.text for row in rows] == ["a\rb\0c", big, "t"]


def test_a_scan_goes_on_after_a_bad_row(tmp_path: Path) -> None:
    """All bad rows are found with their places, good rows are kept, and empty ones are marked."""
    lines = ['{"text": "a"}', '{"text": ', '{"question": "Q", "answer": ""}', '{"text": "b"}']
    scan = scan_rows(write(tmp_path, "\n".join(lines), "forget.jsonl"))
    assert [row.text for row in scan.rows] == ["a", "b"]
    assert [(error.where, error.empty) for error in scan.bad] == [
        ("forget.jsonl:2", False),
        ("forget.jsonl:3", True),
    ]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It could be read only once, and would be waited for.

    The rows and their digest need a file.
    """
    os.mkfifo(tmp_path / "forget.jsonl")
    with pytest.raises(BadDataError, match="a pipe or a device"):
        read_rows(tmp_path / "forget.jsonl")


class TestParquet:
    """With pyarrow, which is an extra: these skip without it, all but the first."""

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The remedy names the extra; a Parquet file under another name is recognised as one."""
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        for name in ("forget.parquet", "forget.jsonl"):
            with pytest.raises(BadDataError, match="Parquet needs pyarrow") as caught:
                read_rows(write(tmp_path, b"PAR1 and so on", name))
            assert "mpu-cli[parquet]" in (caught.value.hint or "")

    def test_rows_chats_and_alternates(self, tmp_path: Path) -> None:
        """Text columns of any string type, and chats as lists of objects, are rows as in JSON.

        Null is no alternate.
        """
        pyarrow, parquet = _arrow()
        table = pyarrow.table(
            {
                "question": pyarrow.array(["Q1", "Q2"], pyarrow.large_string()),
                "answer": pyarrow.array(["A1", "A2"]).dictionary_encode(),
                "alternate": ["B1", None],
            }
        )
        parquet.write_table(table, tmp_path / "forget.parquet", row_group_size=1)
        assert read_rows(tmp_path / "forget.parquet") == [
            Row("forget.parquet row 1", prompt="Q1", answer="A1", alternate="B1"),
            Row("forget.parquet row 2", prompt="Q2", answer="A2"),
        ]
        chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
        parquet.write_table(pyarrow.table({"messages": [chat]}), tmp_path / "chat.parquet")
        assert [turn.content for turn in read_rows(tmp_path / "chat.parquet")[0].messages] == [
            "Q",
            "A",
        ]

    def test_reads_no_column_that_is_not_asked_for(self, tmp_path: Path) -> None:
        """A column with broken bytes does no harm unless it is mapped."""
        pyarrow, parquet = _arrow()
        path = tmp_path / "forget.parquet"
        table = pyarrow.table(
            {
                "question": ["Q"] * 50,
                "answer": ["A"] * 50,
                "secret": [f"s{number}" * 100 for number in range(50)],
            }
        )
        parquet.write_table(table, path, compression="none", use_dictionary=False)
        chunk = parquet.ParquetFile(path).metadata.row_group(0).column(2)
        raw = bytearray(path.read_bytes())
        raw[chunk.data_page_offset : chunk.data_page_offset + 64] = bytes([255]) * 64
        path.write_bytes(raw)
        assert len(read_rows(path)) == 50
        with pytest.raises(BadDataError, match="cannot be read as Parquet"):
            read_rows(path, {"answer": "secret"})

    def test_a_name_with_a_dot_is_a_name(self, tmp_path: Path) -> None:
        """`a.b` is the column of that name, and never a path into a struct `a`."""
        pyarrow, parquet = _arrow()
        parquet.write_table(
            pyarrow.table({"a.b": ["Q"], "answer": ["A"]}), tmp_path / "forget.parquet"
        )
        assert read_rows(tmp_path / "forget.parquet", {"prompt": "a.b"})[0].prompt == "Q"
        parquet.write_table(
            pyarrow.table({"a": [{"b": "Q"}], "answer": ["A"]}), tmp_path / "forget.parquet"
        )
        with pytest.raises(BadDataError, match=r"no column 'a\.b'"):
            read_rows(tmp_path / "forget.parquet", {"prompt": "a.b"})

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (
                {"question": ["Q"], "answer": [{"text": "A"}]},
                "row 1: 'answer' must be a string, found an object",
            ),
            (
                {"question": ["Q"], "answer": [["A"]]},
                "row 1: 'answer' must be a string, found a list",
            ),
            (
                {"question": ["Q"], "answer": [b"A"]},
                "row 1: 'answer' must be a string, found bytes",
            ),
            (
                {"question": ["Q"], "answer": [1.5]},
                "row 1: 'answer' must be a string, found a number",
            ),
            (
                {"question": ["Q", "Q"], "answer": ["A", None]},
                "row 2: 'answer' must be a string, found null",
            ),
            ({"question": ["Q"]}, "row 1: 'question' without 'answer'"),
            (
                {"instruction": ["Q"], "output": ["A"]},
                "no recognised form, columns found: 'instruction', 'output'",
            ),
            ({"text": []}, "has no rows"),
        ],
    )
    def test_refuses_other_types_and_columns(
        self, tmp_path: Path, columns: dict[str, list[object]], expected: str
    ) -> None:
        """Nested, binary and numeric columns are named with the row, missing ones too."""
        pyarrow, parquet = _arrow()
        parquet.write_table(pyarrow.table(columns), tmp_path / "forget.parquet")
        with pytest.raises(BadDataError) as caught:
            read_rows(tmp_path / "forget.parquet")
        assert caught.value.message.startswith("forget.parquet")
        assert expected in caught.value.message

    @pytest.mark.parametrize(
        "content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b'{"text": "a"}']
    )
    def test_refuses_what_only_claims_to_be_parquet(self, tmp_path: Path, content: bytes) -> None:
        """Empty, cut and foreign files are one line."""
        _arrow()
        with pytest.raises(
            BadDataError, match=r"forget\.parquet: cannot be read as Parquet"
        ) as caught:
            read_rows(write(tmp_path, content, "forget.parquet"))
        assert "\n" not in caught.value.message


def _arrow():
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet is the extra [parquet]")
    from pyarrow import parquet

    return pyarrow, parquet
