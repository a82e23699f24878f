"""Files as other programs write them: read and said, or named with the way to rows.

Never rows that nobody meant.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from mpu_cli.data.refusals import read_refusals
from mpu_cli.data.rows import read_rows, scan_rows
from mpu_cli.data.settings import parse_delimiter
from mpu_cli.errors import BadDataError, UsageError

PAIRS = [("Who?", "She, Ann; or | Bo."), ("And\twhere?", "Here.")]
OBJECTS = [{"question": question, "answer": answer} for question, answer in PAIRS]
LINES = "".join(json.dumps(row) + "\n" for row in OBJECTS)


def table(delimiter: str, end: str = "\n", before: str = "") -> str:
    """The pairs as CSV, every cell in quotes."""
    rows = [("question", "answer"), *PAIRS]
    return before + "".join(delimiter.join(f'"{cell}"' for cell in row) + end for row in rows)


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    """Write a data file; text is UTF-8."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


READ = {
    "commas": ("f.csv", table(","), []),
    "semicolons": ("f.csv", table(";"), ["columns separated by ';'"]),
    "semicolons and a byte-order mark": (
        "f.csv",
        b"\xef\xbb\xbf" + table(";", "\r\n").encode(),
        ["columns separated by ';'"],
    ),
    "tabs": ("f.csv", table("\t"), ["columns separated by tabs"]),
    "tabs in .tsv": ("f.tsv", table("\t"), ["columns separated by tabs"]),
    "bars": ("f.csv", table("|"), ["columns separated by '|'"]),
    "Excel's first line": ("f.csv", table("^", "\r\n", "sep=^\r\n"), ["columns separated by '^'"]),
    "Excel's Unicode text": (
        "f.txt",
        table("\t", "\r\n").encode("utf-16"),
        [
            "UTF-16",
            "read as a table because its first line names columns",
            "columns separated by tabs",
        ],
    ),
    "UTF-16, big end first": ("f.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be"), ["UTF-16"]),
    "UTF-32": ("f.jsonl", LINES.encode("utf-32"), ["UTF-32"]),
    "old Mac's line ends": ("f.csv", table(",", "\r"), []),
    "old Mac's JSON Lines": ("f.jsonl", LINES.replace("\n", "\r"), []),
    "JSON Lines as text": ("f.txt", LINES, ["read as JSON because of its content, not as .txt"]),
    "a JSON list as text": (
        "f.txt",
        json.dumps(OBJECTS),
        ["read as JSON because of its content, not as .txt"],
    ),
    "JSON Lines as CSV": ("f.csv", LINES, ["read as JSON because of its content, not as .csv"]),
    "indented objects": (
        "f.jsonl",
        "\n".join(json.dumps(row, indent=2) for row in OBJECTS),
        ["objects over several lines"],
    ),
    "indented, no line between": (
        "f.json",
        "".join(json.dumps(row, indent=1) for row in OBJECTS),
        ["objects over several lines"],
    ),
    "indented, as text": (
        "f.txt",
        "\n\n".join(json.dumps(row, indent=4) for row in OBJECTS),
        ["read as JSON because of its content, not as .txt", "objects over several lines"],
    ),
    "an indented list": ("f.json", json.dumps(OBJECTS, indent=2), []),
}


@pytest.mark.parametrize("case", READ)
def test_is_read_and_said(tmp_path: Path, case: str) -> None:
    """Each gives the same two rows, and a note says what the content decided."""
    name, content, notes = READ[case]
    told: list[str] = []
    rows = read_rows(write(tmp_path, name, content), tell=told.append)
    assert [(row.prompt, row.answer) for row in rows] == PAIRS
    assert told == [f"{name}: {note}" for note in notes]


def packed(*names: str) -> bytes:
    """A zip archive with these empty files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return target.getvalue()


BY_COLUMN = {
    key: {str(number): row[key] for number, row in enumerate(OBJECTS)}
    for key in ("question", "answer")
}
NAMED = {
    "a Word document": (
        "f.docx",
        packed("[Content_Types].xml", "word/document.xml"),
        "f.docx: is a Word document (.docx)",
        "plain text",
    ),
    "a Word document as text": (
        "f.txt",
        packed("word/document.xml"),
        "f.txt: is a Word document (.docx)",
        "plain text",
    ),
    "an Excel workbook": (
        "f.xlsx",
        packed("xl/workbook.xml"),
        "f.xlsx: is an Excel workbook (.xlsx)",
        "CSV UTF-8",
    ),
    "an Excel workbook as CSV": (
        "f.csv",
        packed("xl/workbook.xml"),
        "f.csv: is an Excel workbook (.xlsx)",
        "CSV UTF-8",
    ),
    "an OpenDocument file": (
        "f.ods",
        packed("mimetype", "content.xml"),
        "f.ods: is an OpenDocument file",
        "CSV UTF-8",
    ),
    "old Excel": (
        "f.xls",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "f.xls: is an old Office file",
        "CSV UTF-8",
    ),
    "a zip archive": ("f.zip", packed("forget.jsonl"), "f.zip: is a zip archive", "unzip f.zip"),
    "a broken zip archive": (
        "f.zip",
        b"PK\x03\x04 and no more",
        "f.zip: is a zip archive",
        "unzip f.zip",
    ),
    "gzip": (
        "f.jsonl.gz",
        gzip.compress(LINES.encode()),
        "f.jsonl.gz: is a gzip file",
        "gunzip -k f.jsonl.gz",
    ),
    "gzip as Parquet": ("f.parquet", gzip.compress(b"PAR1"), "f.parquet: is a gzip file", "gunzip"),
    "PDF": ("f.pdf", b"%PDF-1.7\n%\xe2\xe3", "f.pdf: is a PDF file", "pdftotext f.pdf"),
    "PDF as text": ("f.txt", b"%PDF-1.7\n", "f.txt: is a PDF file", "pdftotext"),
    "rich text": (
        "f.txt",
        "{\\rtf1\\ansi Hello}",
        "f.txt: is a rich text (RTF) file",
        "plain text",
    ),
    "a pickle": ("f.jsonl", b"\x80\x04\x95 and so on", "f.jsonl: is a pickle", "JSON Lines"),
    "Arrow": ("f.arrow", b"ARROW1\0\0", "f.arrow: is an Arrow (Feather) file", "Parquet"),
    "a Git LFS pointer": (
        "f.txt",
        "version https://git-lfs.github.com/spec/v1\noid x\n",
        "f.txt: is a Git LFS pointer",
        "git lfs pull",
    ),
    "a web page": (
        "f.jsonl",
        "\n<!DOCTYPE html>\n<html></html>",
        "f.jsonl: is a web page (HTML)",
        "hf download",
    ),
    "UTF-16 unmarked": (
        "f.jsonl",
        LINES.encode("utf-16-le"),
        "f.jsonl: UTF-16 without a byte-order mark",
        "iconv -f UTF-16LE",
    ),
    "UTF-16 cut": ("f.jsonl", LINES.encode("utf-16")[:-1], "f.jsonl: broken UTF-16", "again"),
    "Excel's own letters": (
        "f.csv",
        "question,answer\nWho?,Zoë\n".encode("cp1252"),
        "f.csv:2: not UTF-8",
        "CSV UTF-8",
    ),
    "a list in an object": (
        "f.json",
        json.dumps({"data": OBJECTS}),
        "f.json: one object that holds a list of 2",
        "jq .data",
    ),
    "a list under two words": (
        "f.json",
        json.dumps({"my rows": OBJECTS}),
        "a list of 2 under 'my rows'",
        "jq '.[\"my rows\"]'",
    ),
    "the same, indented": (
        "f.json",
        json.dumps({"version": "1.1", "data": OBJECTS}, indent=2),
        "a list of 2 under 'data'",
        "jq .data",
    ),
    "the same, as text": (
        "f.txt",
        json.dumps({"rows": OBJECTS}),
        "f.txt: one object that holds a list of 2 under 'rows'",
        "jq .rows",
    ),
    "rows by name": (
        "f.json",
        json.dumps(dict(zip("ab", OBJECTS, strict=True))),
        "f.json: one object that holds 2 row(s)",
        "jq -c '.[]'",
    ),
    "pandas' columns": (
        "f.json",
        json.dumps(BY_COLUMN),
        "f.json: holds columns ('question', 'answer'), not rows",
        "orient='records'",
    ),
    "columns as lists": (
        "f.json",
        json.dumps({"question": ["Q"], "answer": ["A"]}),
        "f.json: holds columns",
        "orient='records'",
    ),
    "commas between objects": (
        "f.jsonl",
        LINES.replace("}\n{", "},\n{"),
        "f.jsonl:1: broken JSON",
        "[ and ]",
    ),
    "commas between indented objects": (
        "f.json",
        ",\n".join(json.dumps(row, indent=2) for row in OBJECTS),
        "f.json:4: a comma between objects",
        "[ and ]",
    ),
    "an indented object cut short": (
        "f.json",
        json.dumps(OBJECTS[0], indent=2)[:-3],
        "f.json:3: broken JSON",
        "one JSON object on each line",
    ),
    "broken JSON as text": (
        "f.txt",
        '{"question": "Q", "answer": ',
        "f.txt:1: broken JSON",
        "one JSON object on each line",
    ),
    "broken JSON on an old Mac": (
        "f.json",
        '[{"text": "a"},\r{"text": }]',
        "f.json:2: broken JSON",
        "list of objects",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_is_named_with_the_remedy(tmp_path: Path, case: str) -> None:
    """One line says what the file is, and the hint what to do."""
    name, content, message, remedy = NAMED[case]
    with pytest.raises(BadDataError) as caught:
        read_rows(write(tmp_path, name, content))
    assert message in caught.value.message
    assert remedy.replace(f" {name}", f" {tmp_path / name}") in str(caught.value.hint)
    assert "\n" not in caught.value.message + str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        "{ braces } and more",
        "[Chapter 1]\nIt was",
        "[]",
        "My question, answer and reply\n",
        "Text; more",
        "<html> in a corpus",
        "a,b\n1,2",
    ],
)
def test_a_text_stays_a_text(tmp_path: Path, text: str) -> None:
    """What merely resembles another format is one text, byte for byte."""
    told: list[str] = []
    (row,) = read_rows(write(tmp_path, "f.txt", text), tell=told.append)
    assert (row.text, told) == (text, [])


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (
            "question;answer;a, b",
            ("question", "answer", "a, b"),
        ),  # a comma in another column's name
        (
            "question,answer,a;b;c;d",
            ("question", "answer", "a;b;c;d"),
        ),  # known names before the number of columns
        ("text", ("text",)),
        ("frage;antwort", ("frage", "antwort")),  # no known name at all
    ],
)
def test_the_delimiter_is_seen_from_the_header(
    tmp_path: Path, header: str, columns: tuple[str, ...]
) -> None:
    """By the names that are asked for, then by the number of columns."""
    cells = ";".join if ";" in header and "," not in header.partition(";")[0] else ",".join
    path = write(
        tmp_path,
        "f.csv",
        header + "\n" + cells(f"c{number}" for number in range(len(columns))) + "\n",
    )
    scan = scan_rows(path, {"text": columns[0]})
    assert tuple(scan.values[0]) == columns and scan.rows[0].text == "c0"


def test_a_delimiter_that_is_given_wins(tmp_path: Path) -> None:
    """Over what the header would say, without a word.

    A wrong one names the columns that it finds; JSON has none.
    """
    path = write(tmp_path, "f.csv", "text;note,answer\nhello,;there,\n")
    told: list[str] = []
    assert (
        read_rows(path, {"text": "note,answer"}, delimiter=";", tell=told.append)[0].text
        == "there,"
    )
    assert told == []
    with pytest.raises(BadDataError, match="columns found: 'question;answer'"):
        read_rows(write(tmp_path, "g.csv", "question;answer\nQ;A\n"), delimiter="^")
    assert len(read_rows(write(tmp_path, "f.jsonl", LINES), delimiter=";")) == 2


def test_the_option() -> None:
    """One letter, or a name of one; nothing that means something else in CSV."""
    assert [parse_delimiter(text) for text in (";", "tab", "\\t", "\t", "semicolon")] == [
        ";",
        "\t",
        "\t",
        "\t",
        ";",
    ]
    for text in ("", ";;", '"', "\n", "blank"):
        with pytest.raises(UsageError, match="expected one character"):
            parse_delimiter(text)


def test_a_single_row_of_lists_is_a_row(tmp_path: Path) -> None:
    """One chat, mapped or not, and one pair with several alternates are rows, not wrappers."""
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert read_rows(write(tmp_path, "a.jsonl", json.dumps({"messages": chat})))[0].messages
    assert read_rows(
        write(tmp_path, "b.jsonl", json.dumps({"turns": chat})), {"messages": "turns"}
    )[0].messages
    assert (
        read_rows(write(tmp_path, "c.jsonl", json.dumps({**OBJECTS[0], "alternate": ["x", "y"]})))[
            0
        ].alternate
        == "x"
    )


def test_refusals_with_old_line_ends(tmp_path: Path) -> None:
    """A list of refusals with CR alone is many, not one; UTF-16 is read here too."""
    assert read_refusals(write(tmp_path, "r.txt", "No idea.\rI cannot say.\r")) == [
        "No idea.",
        "I cannot say.",
    ]
    assert read_refusals(write(tmp_path, "s.txt", "No idea.\n".encode("utf-16"))) == ["No idea."]
