"""The pictures of docs/images are what their scripts draw today."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.mark.parametrize("name", ["code-map", "protocol"])
def test_a_picture_is_current(name: str) -> None:
    """After a change of the imports or of a script: `make docs/images`."""
    drawn = import_module(f"draw_{name.replace('-', '_')}").draw()
    assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("name", ["code-map", "protocol"])
def test_a_picture_has_a_title_and_a_dark_mode(name: str) -> None:
    """It is well-formed, says what it shows, and follows the reader's colour scheme."""
    text = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).attrib["aria-label"]
    assert "prefers-color-scheme: dark" in text
