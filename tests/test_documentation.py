"""Messages name the documentation by an address that opens, from a wheel as from a checkout.

docs/… is a place in neither.
"""

from __future__ import annotations

import ast
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

import mpu_cli
from mpu_cli import documentation

SOURCES = Path(mpu_cli.__file__).parent
ROOT = SOURCES.parents[1]
WRITES_THE_PAGE = ROOT / "tools" / "tiny_families.py"


@pytest.fixture(autouse=True)
def _anew():
    """Addresses are kept once they are known."""
    documentation.page.cache_clear()
    yield
    documentation.page.cache_clear()


def texts(tree: ast.AST) -> list[ast.Constant]:
    """Strings that are no docstrings: a docstring is an expression by itself."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [node for node in found if id(node) not in alone]


def test_no_message_names_a_path_below_docs() -> None:
    """They would be read by people who have no such directory."""
    sources = [
        file
        for file in SOURCES.rglob("*.py")
        if file not in {WRITES_THE_PAGE, Path(documentation.__file__)}
    ]
    assert len(sources) > 200
    for file in sources:
        for node in texts(ast.parse(file.read_text(encoding="utf-8"))):
            assert "docs/" not in node.value.replace("github.com", ""), (
                f"{file}:{node.lineno}: use documentation.page"
            )


def test_every_page_that_is_named_is_there() -> None:
    """Each page("…") of the sources is a file, and its address leads to it."""
    names = {
        node.args[0].value
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "page"
        and node.args
    }
    assert {"threat-model", "how-to/add-an-architecture", "data"} <= names
    for name in names:
        address = urlparse(documentation.page(name))
        assert address.scheme == "file"
        assert Path(unquote(address.path)) == ROOT / "docs" / f"{name}.md"


def test_a_wheel_brings_its_pages(tmp_path, monkeypatch) -> None:
    """The build puts docs/ beside the code, and there a page is found first, blanks in the path or not."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    assert build["force-include"] == {"docs": "mpu_cli/docs"}
    installed = tmp_path / "site packages" / "docs"
    installed.mkdir(parents=True)
    (installed / "data.md").write_text("# Data")
    monkeypatch.setattr(documentation, "_PLACES", (installed, *documentation._PLACES))
    assert documentation.page("data") == (installed / "data.md").as_uri()
    assert "%20" in documentation.page("data")
    monkeypatch.setattr(documentation, "_PLACES", ())
    documentation.page.cache_clear()
    assert documentation.page("data") == "docs/data.md of the source"


def test_the_address_of_the_metadata_wins(monkeypatch) -> None:
    """Whoever publishes the package names one place for all of it."""
    published = metadata.metadata("mpu-cli")
    published["Project-URL"] = "Documentation, https://example.org/mpu/"
    monkeypatch.setattr(metadata, "metadata", lambda name: published)
    assert (
        documentation.page("how-to/add-a-method")
        == "https://example.org/mpu/how-to/add-a-method.md"
    )
