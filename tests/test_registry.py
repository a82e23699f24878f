"""The registry: what counts as an entry, and what becomes of broken files and duplicates."""

from pathlib import Path

import pytest
import yaml

from mpu_cli.errors import BadInputError, MpuWarning, UsageError
from mpu_cli.registry import Registry, attribute, choose, did_you_mean, instances, nearest


def words(directory):
    """A registry of text files with one entry on each line."""
    return Registry(
        "word", directory, lambda path: path.read_text().split(), name=str, suffix=".txt"
    )


def test_entries_are_files_found_by_looking(tmp_path):
    """Sorted by file; `_` and `.` prefixes and other suffixes do not count."""
    for name in ("b.txt", "a.txt", "_helper.txt", ".#a.txt", "a.txt~", "a.yaml"):
        (tmp_path / name).write_text(f"{name[0]}1 {name[0]}2")
    assert list(words(tmp_path).files()) == ["a", "b"]
    assert list(words(tmp_path).entries()) == ["a1", "a2", "b1", "b2"]


def test_a_name_that_two_files_declare_is_named(tmp_path):
    """The first is used."""
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same other")
    with pytest.warns(MpuWarning, match=r"b\.txt: a\.txt already declares the word same"):
        assert list(words(tmp_path).entries()) == ["same", "other"]


BROKEN = {
    "syntax": ("x = (\n", r"line 1: '\(' was never closed"),
    "attribute": ("y = 1\n", "AttributeError: .* has no attribute 'WORDS'"),
    "import": ("import nonexistent_module\n", "No module named 'nonexistent_module'"),
    "raises": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "type": ("WORDS = 5\n", "TypeError: 'int' object is not iterable"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_python_file_is_named_and_skipped(tmp_path, monkeypatch, case):
    """A warning gives the reason; asking for the file itself is an error with the same reason."""
    package = tmp_path / f"package_{case}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("WORDS = ('good',)\n")
    (package / "b.py").write_text(BROKEN[case][0])
    monkeypatch.syspath_prepend(tmp_path)
    read = attribute(package.name, "WORDS")
    registry = Registry("word", package, read, name=str)
    with pytest.warns(MpuWarning, match=rf"b\.py: .*{BROKEN[case][1]}.*; this word is skipped"):
        assert list(registry.entries()) == ["good"]
    with pytest.raises(BadInputError, match=rf"b\.py: .*{BROKEN[case][1]}"):
        registry.load("b", lambda path: list(read(path)))


def test_a_broken_yaml_file_is_named_with_its_line(tmp_path):
    """A half-written file of a data registry."""
    (tmp_path / "a.yaml").write_text("name: one\n")
    (tmp_path / "b.yaml").write_text("name: two\nlist: [1,\n")
    registry = Registry(
        "word",
        tmp_path,
        lambda path: [yaml.safe_load(path.read_text())["name"]],
        name=str,
        suffix=".yaml",
    )
    with pytest.warns(MpuWarning, match=r"b\.yaml: line 3: .*; this word is skipped"):
        assert list(registry.entries()) == ["one"]


def test_instances_are_the_objects_of_a_type(tmp_path, monkeypatch):
    """A file without any is broken."""
    package = tmp_path / "package_of_paths"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text(
        "from pathlib import Path\nfirst, second = Path('x'), Path('y')\n"
    )
    (package / "b.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("path", package, instances(package.name, Path), name=str)
    with pytest.warns(MpuWarning, match=r"b\.py: declares no Path"):
        assert list(registry.entries()) == ["x", "y"]


def test_the_nearest_name():
    """In either case; nothing if nothing is like the word."""
    known = ["GradDiff", "NPO", "learning-rate"]
    assert nearest("graddif", known) == "GradDiff"
    assert nearest("learning_rate", known) == "learning-rate"
    assert nearest("zzzz", known) is None
    assert did_you_mean("np", known) == "did you mean NPO?"
    assert did_you_mean("zzzz", known, "known: all") == "known: all"


def test_choose_takes_either_case_and_names_the_nearest():
    """As --method and --optimizer do."""
    assert choose("--x", "npo", ["NPO", "DPO"]) == "NPO"
    with pytest.raises(UsageError, match="--x npq: unknown, expected one of NPO, DPO") as caught:
        choose("--x", "npq", ["NPO", "DPO"])
    assert caught.value.hint == "did you mean NPO?"
