"""Files of other programs: recognised by their first bytes, and refused with a way to get rows."""

from __future__ import annotations

import zipfile
from pathlib import Path
from shlex import quote

from mpu_cli.checkpoint.plain_file import is_lfs_pointer
from mpu_cli.errors import BadDataError

HEAD = 512
"""The number of first bytes to look at."""
_TABLE = "save it as CSV UTF-8 (comma delimited), or write the rows as JSON Lines"
_TEXT = "save it as plain text (.txt, UTF-8), or write its rows as JSON Lines"
_MAGIC = (
    (b"%PDF-", "a PDF file", "extract the text first, for instance: pdftotext {name} text.txt"),
    (b"{\\rtf", "a rich text (RTF) file", _TEXT),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file (.xls or .doc)",
        "save it as CSV UTF-8 (a table) or as plain text",
    ),
    (b"\x1f\x8b", "a gzip file", "unpack it first: gunzip -k {name}"),
    (b"BZh", "a bzip2 file", "unpack it first: bunzip2 -k {name}"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first: unxz -k {name}"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it first: unzstd {name}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first: 7z x {name}"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first: unrar x {name}"),
    (
        b"SQLite format 3\0",
        "an SQLite database",
        "export the table's rows first: sqlite3 -csv -header {name} 'select …' > rows.csv",
    ),
    (b"ARROW1", "an Arrow (Feather) file", "save it as Parquet, CSV or JSON Lines"),
)
_ZIPPED = (
    ("word/", "a Word document (.docx)", _TEXT),
    ("xl/", "an Excel workbook (.xlsx)", _TABLE),
    ("ppt/", "a PowerPoint file (.pptx)", _TEXT),
    (
        "content.xml",
        "an OpenDocument file (.odt or .ods)",
        "save it as CSV UTF-8 (a table) or as plain text",
    ),
)


def refuse_foreign(path: Path, head: bytes) -> None:
    """Refuse a file of another program.

    Args:
        path: the file.
        head: its first `HEAD` bytes.

    Raises:
        BadDataError: it is another program's file, or a pointer to a file; the hint says how to get
            rows from it.
    """
    if (kind := _kind(path, head)) is not None:
        about, remedy = kind
        raise BadDataError(f"{path.name}: is {about}", remedy.replace("{name}", quote(str(path))))


def _kind(path: Path, head: bytes) -> tuple[str, str] | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(path)
    for magic, about, remedy in _MAGIC:
        if head.startswith(magic):
            return about, remedy
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return (
            "a pickle, which mpu never reads because it can run code",
            "write the rows as JSON Lines",
        )
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first: tar -xf {name}"
    if is_lfs_pointer(head):
        return (
            "a Git LFS pointer, not the file itself",
            "fetch the files: git lfs install, then git lfs pull, in the clone",
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) and path.suffix.lower() != ".txt":
        return (
            "a web page (HTML)",
            "download the file itself; on the Hub: hf download --repo-type dataset ORG/NAME PATH",
        )
    return None


def _zipped(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    for start, about, remedy in _ZIPPED:
        if any(name.startswith(start) for name in names):
            return about, remedy
    return "a zip archive", "unpack it first: unzip {name}"
