"""What scripts write below docs/ is what they write today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
PICTURES = ("code-map", "protocol", "frontier", "demo")


@pytest.mark.parametrize("name", ["code-map", "protocol", "frontier"])
def test_a_picture_is_current(name: str) -> None:
    """After a change of the imports or of a script: `make docs/images`."""
    drawn = import_module(f"draw_{name.replace('-', '_')}").draw()
    assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_and_readable_in_every_mode(name: str) -> None:
    """It is well-formed, has a title, and follows the reader's colour scheme."""
    text = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).attrib["aria-label"]
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 300_000


def test_the_recording_shows_the_demo() -> None:
    """The commands and the result; it holds no path of the machine that recorded it."""
    text = (IMAGES / "demo.svg").read_text(encoding="utf-8")
    for word in ("mpu perturb", "mpu unlearn", "mpu aggregate", "mean answer probability"):
        assert word in text
    assert not re.search(r"/(work|tmp|root)/", text)


@pytest.mark.slow
def test_the_page_of_commands_is_current() -> None:
    """After a change of a command: `make docs/commands.md`. The terminal's width has no effect."""
    written = subprocess.run(
        [sys.executable, "tools/write_commands.py"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "60"},
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A broken link, or a page that the side bar does not list, is a warning."""
    pytest.importorskip("sphinx")
    built = subprocess.run(
        [sys.executable, "tools/build_site.py", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert (tmp_path / "index.html").is_file()
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:  # no font, script or style comes from elsewhere
        assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"https?:", page)
