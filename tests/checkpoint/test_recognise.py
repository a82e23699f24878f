"""A hint with a command runs as printed, for any path."""

from __future__ import annotations

import json
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest

from mpu_cli.checkpoint.model import open_config
from mpu_cli.checkpoint.recognise import MODEL, SECRET, UPDATE, instead_of, recognise
from mpu_cli.data.rows import read_rows
from mpu_cli.errors import BadDataError, BadModelError

NAMES = ["plain", "my model", "it's", 'a "quoted" one', "$HOME `id`; ls & #"]


def _words(remedy: str | None, after: str) -> list[str]:
    """The command at the end of a hint, split as a shell does."""
    assert remedy is not None and after in remedy
    return shlex.split(remedy.split(after, 1)[1])


@pytest.mark.parametrize("name", NAMES)
def test_archives_are_unpacked_with_the_printed_command(tmp_path: Path, name: str) -> None:
    """Unzip and tar get the path as one word, also for an archive inside the given directory."""
    folder = tmp_path / name
    folder.mkdir()
    zipped, packed = folder / f"{name}.zip", folder / f"{name}.tar"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("x", "x")
    assert _words(recognise(zipped).hint, "unpack it first: ") == ["unzip", str(zipped)]
    assert _words(recognise(folder).hint, "unpack it first: ") == ["unzip", str(zipped)]
    with tarfile.open(packed, "w"):
        pass
    assert _words(recognise(packed).hint, "unpack it first: ") == ["tar", "-xf", str(packed)]


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_is_merged_with_the_printed_command(tmp_path: Path, name: str) -> None:
    """The Python code is complete and gets the path as its argument."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    program, option, code, argument = _words(recognise(folder).hint, "beside the result: ")
    assert (program, option, argument) == ("python", "-c", str(folder))
    compile(code, "hint", "exec")
    assert "from_pretrained(sys.argv[1])" in code and "import sys;" in code


@pytest.mark.parametrize("name", NAMES)
def test_a_suggested_directory_is_one_word(tmp_path: Path, name: str) -> None:
    """One level too high, a file of a model, copies, the Hub cache."""
    inner = tmp_path / name / "inner"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    assert _words(recognise(inner.parent).hint, "give ") == [str(inner)]
    assert _words(recognise(inner / "config.json").hint, "give the directory: ") == [str(inner)]
    copies = tmp_path / "copies" / name
    (copies / "copy-1").mkdir(parents=True)
    assert shlex.quote(str(copies / "copy-1")) in (recognise(copies).hint or "")
    snapshot = tmp_path / "models--a--b" / "snapshots" / name
    snapshot.mkdir(parents=True)
    assert _words(recognise(snapshot.parent).hint, "give its snapshot: ") == [str(snapshot)]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_extracted_with_the_printed_command(tmp_path: Path, name: str) -> None:
    """From a file of rows in the wrong form.

    The file and jq's filter are one word each, for any key.
    """
    packed, wrapped = tmp_path / f"{name}.gz", tmp_path / f"{name}.json"
    packed.write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(BadDataError) as caught:
        read_rows(packed)
    assert _words(caught.value.hint, "unpack it first: ") == ["gunzip", "-k", str(packed)]
    wrapped.write_text(json.dumps({name: [{"question": "Q", "answer": "A"}]}))
    with pytest.raises(BadDataError) as caught:
        read_rows(wrapped)
    wanted = f".{name}" if name == "plain" else f".[{json.dumps(name)}]"
    assert _words(caught.value.hint, "for instance: ") == [
        "jq",
        wanted,
        wrapped.name,
        ">",
        "rows.json",
    ]


def test_a_missing_path_names_what_lies_beside_it(tmp_path: Path) -> None:
    """The tar file that travelled is named for its directory, and a typo's nearest neighbour."""
    (tmp_path / "to-server.tar").write_bytes(b"")
    (tmp_path / "server").mkdir()
    assert instead_of(tmp_path / "to-server", UPDATE).hint == (
        f"did you mean {tmp_path / 'to-server.tar'}?"
    )
    assert instead_of(tmp_path / "sever", SECRET).hint == f"did you mean {tmp_path / 'server'}?"
    assert str(instead_of(tmp_path / "zzz", UPDATE).hint).startswith("give ")


def test_a_model_in_place_of_a_secret_and_a_tar_file_in_place_of_a_model(tmp_path: Path) -> None:
    """Both say what to give."""
    (tmp_path / "config.json").write_text("{}")
    assert "mpu perturb created" in str(instead_of(tmp_path, SECRET).hint)
    packed = tmp_path / "to-client.tar"
    with tarfile.open(packed, "w"):
        pass
    with pytest.raises(BadModelError, match="is an archive, expected a model directory") as caught:
        open_config(packed)
    assert caught.value.hint == f"unpack it first: tar -xf {packed}"
    assert str(instead_of(tmp_path / "absent", MODEL).hint).startswith("give a model directory")
