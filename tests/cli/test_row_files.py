"""Row files of other programs, with the exact messages, in every command that reads rows."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import mpu_cli.demo

MODEL = Path(mpu_cli.demo.__file__).parent / "assets" / "model"


@pytest.fixture
def german(tmp_path) -> Path:
    """A file as a German Excel saves "CSV UTF-8": byte-order mark and semicolons."""
    (tmp_path / "forget.csv").write_bytes(
        b"\xef\xbb\xbf" + "question;answer\r\nWer?;Zoë, ja.\r\n".encode()
    )
    return tmp_path / "forget.csv"


def test_semicolons_are_read_with_a_note(mpu, german):
    """On stderr, not with -q, and in the JSON."""
    done = mpu("data", "check", german)
    assert (done.code, done.err) == (0, "mpu: forget.csv: columns separated by ';'\n")
    assert "1 (prompt/answer)" in done.out
    assert mpu("-q", "data", "check", german).err == ""
    found = mpu("data", "check", german, "--retain", german, "--json").json["files"][str(german)]
    assert (found["rows"], found["notes"]) == (1, ["forget.csv: columns separated by ';'"])


def test_json_lines_in_a_text_file(mpu, tmp_path):
    """They are rows, with a note, and not one text of raw JSON."""
    path = tmp_path / "forget.txt"
    path.write_text(
        "".join(json.dumps({"question": "Q", "answer": answer}) + "\n" for answer in "AB")
    )
    done = mpu("data", "check", path)
    assert (done.code, done.err) == (
        0,
        "mpu: forget.txt: read as JSON because of its content, not as .txt\n",
    )
    assert "2 (prompt/answer)" in done.out


OFFICE = {
    "forget.docx": (
        "word/document.xml",
        "is a Word document (.docx)",
        "save it as plain text (.txt, UTF-8), or write its rows as JSON Lines",
    ),
    "forget.xlsx": (
        "xl/workbook.xml",
        "is an Excel workbook (.xlsx)",
        "save it as CSV UTF-8 (comma delimited), or write the rows as JSON Lines",
    ),
}


@pytest.mark.parametrize("name", OFFICE)
@pytest.mark.parametrize("command", ["data check", "unlearn", "eval"])
def test_office_files_are_named(mpu, tmp_path, command, name):
    """One line and a hint, exit 3, before a model is loaded."""
    inside, message, hint = OFFICE[name]
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr(inside, "")
    done = mpu(*arguments(command, tmp_path / name))
    assert (done.code, done.out, done.err) == (
        3,
        "",
        f"mpu: error: {name}: {message}\nmpu: hint: {hint}\n",
    )


def arguments(command: str, forget: Path) -> tuple[object, ...]:
    """A command line that reads these rows."""
    return {
        "data check": ("data", "check", forget),
        "unlearn": (
            "unlearn",
            MODEL,
            "--forget",
            forget,
            "--method",
            "GradAscent",
            "--out",
            forget.parent / "out",
        ),
        "eval": ("eval", MODEL, "--forget", forget),
    }[command]


@pytest.mark.parametrize("command", ["data check", "unlearn", "eval"])
def test_the_delimiter_is_used(mpu, german, command):
    """In every command: a wrong one finds one column, an invalid one is a usage error."""
    done = mpu(*arguments(command, german), "--delimiter", "tab")
    assert done.code == 3
    assert done.err.startswith(
        "mpu: error: forget.csv: no recognised form, columns found: 'question;answer'\n"
    )
    done = mpu(*arguments(command, german), "--delimiter", ";;")
    assert done.code == 2
    assert (
        done.err == "mpu: error: --delimiter ';;': expected one character\nmpu: hint: for instance"
        " --delimiter ';' or --delimiter tab\n"
    )
