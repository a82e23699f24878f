"""Data on the Hub: the address, its revision, and the cache of a machine without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpu_cli.data.rows import read_rows
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, made by hand.

    org/rows with one file, at main, at v1 and at refs/convert/parquet.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "datasets--org--rows"
    for revision, commit in (
        ("main", COMMIT),
        ("v1", "1" * 40),
        ("refs/convert/parquet", "2" * 40),
    ):
        file = root / "snapshots" / commit / "data" / "forget.jsonl"
        file.parent.mkdir(parents=True)
        blob = root / "blobs" / commit
        blob.parent.mkdir(exist_ok=True)
        blob.write_text(f'{{"text": "{revision}"}}\n')
        file.symlink_to(Path("..") / ".." / ".." / "blobs" / commit)
        reference = root / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return root


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("", "main"),
        ("@main", "main"),
        ("@v1", "v1"),
        (f"@{COMMIT}", "main"),
        ("@refs/convert/parquet", "refs/convert/parquet"),
        ("@refs%2Fconvert%2Fparquet", "refs/convert/parquet"),
    ],
)
def test_a_file_comes_from_the_cache_by_its_revision(
    cache: Path, revision: str, expected: str
) -> None:
    """A branch, a tag, a commit and the Hub's own references.

    Messages name the file, not the cache.
    """
    (row,) = read_rows(f"hf://datasets/org/rows{revision}/data/forget.jsonl")
    assert (row.where, row.text) == ("forget.jsonl:1", expected)


@pytest.mark.parametrize(
    "address",
    [
        "hf://datasets/org/rows/data/other.jsonl",
        "hf://datasets/org/none/data/forget.jsonl",
        "hf://datasets/org/rows@v9/forget.jsonl",
    ],
)
def test_what_the_cache_does_not_have_is_one_line(cache: Path, address: str) -> None:
    """The address, and the command that downloads it."""
    with pytest.raises(BadDataError) as caught:
        find_data(address)
    assert caught.value.message.startswith(f"{address}: ")
    assert "\n" not in caught.value.message
    assert "hf download --repo-type dataset org/" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "address",
    [
        "hf://org/rows/forget.jsonl",
        "hf://datasets/rows/forget.jsonl",
        "hf://datasets/org/rows",
        "hf://datasets/org/rows/",
        "hf://datasets/org/rows/../../x.jsonl",
        "hf://datasets/org/rows//x.jsonl",
        "hf:forget.jsonl",
        "hf://datasets/org/rows@/x.jsonl",
    ],
)
def test_refuses_what_is_no_address(address: str) -> None:
    """The remedy shows the form; a path never leads out of the repository."""
    with pytest.raises(BadDataError, match="not a data file on the Hub") as caught:
        find_data(address)
    assert "hf://datasets/org/name[@revision]/path/file.jsonl" in (caught.value.hint or "")


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for models."""
    monkeypatch.chdir(tmp_path)
    local = Path("hf:/datasets/org/rows/forget.jsonl")
    local.parent.mkdir(parents=True)
    local.write_text('{"text": "here"}')
    assert read_rows("hf://datasets/org/rows/forget.jsonl")[0].text == "here"
