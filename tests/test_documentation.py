"""The pages say what the code does, and messages name pages by an address that opens."""

from __future__ import annotations

import ast
import re
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
def _no_cached_addresses():
    """`page` caches addresses; each test computes its own."""
    documentation.page.cache_clear()
    yield
    documentation.page.cache_clear()


def texts(tree: ast.AST) -> list[ast.Constant]:
    """All strings but docstrings: a docstring is an expression by itself."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def test_no_message_names_a_path_below_docs() -> None:
    """A user of the wheel has no such directory."""
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


def test_every_named_page_exists() -> None:
    """The argument of each `page("…")` in the sources is a file, and its address leads there."""
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


def test_a_wheel_contains_the_pages(tmp_path, monkeypatch) -> None:
    """The build puts docs/ beside the code; a page is found there first, in any path."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    assert build["force-include"] == {"docs": "mpu_cli/docs"}
    installed = tmp_path / "site packages" / "docs"
    installed.mkdir(parents=True)
    (installed / "data.md").write_text("# Data")
    monkeypatch.setattr(documentation, "_FOLDERS", (installed, *documentation._FOLDERS))
    assert documentation.page("data") == (installed / "data.md").as_uri()
    assert "%20" in documentation.page("data")
    monkeypatch.setattr(documentation, "_FOLDERS", ())
    documentation.page.cache_clear()
    assert documentation.page("data") == "docs/data.md of the source"


def test_the_address_in_the_metadata_wins(monkeypatch) -> None:
    """The publisher of the package names one address for all pages."""
    published = metadata.metadata("mpu-cli")
    published["Project-URL"] = "Documentation, https://example.org/mpu/"
    monkeypatch.setattr(metadata, "metadata", lambda name: published)
    assert (
        documentation.page("how-to/add-a-method")
        == "https://example.org/mpu/how-to/add-a-method.md"
    )


PAGES = [
    page
    for pattern in ("README.md", "docs/**/*.md", "examples/*/README.md")
    for page in sorted(ROOT.glob(pattern))
]
DATED = {"log.md", "first-hour.md"}
"""Records of one day: their counts are not updated."""
WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}


@pytest.mark.slow
def test_counts_in_the_pages_are_those_of_the_registries() -> None:
    """Numbers such as "23 metrics", "44 families", "five optimizers" are those of the registry."""
    from mpu_cli.evaluation.metrics import all_metrics
    from mpu_cli.training import optimizers

    shown = [metric for metric in all_metrics().values() if getattr(metric, "shown", True)]
    counts = {
        "metrics": len(shown),
        "famil": len(list((SOURCES / "architectures" / "families").glob("[!_]*.yaml"))),
        "optimizers": len(optimizers.names()),
    }
    said = re.compile(rf"\b(\d+|{'|'.join(WORDS)})\s+\[?({'|'.join(counts)})", re.IGNORECASE)
    claims = [
        (page.name, number, kind)
        for page in PAGES
        if page.name not in DATED
        for number, kind in said.findall(page.read_text(encoding="utf-8"))
    ]
    assert {kind for _, _, kind in claims} >= {"metrics", "famil", "optimizers"}
    for name, number, kind in claims:
        value = WORDS.get(number.lower()) or int(number)
        assert value == counts[kind], f"{name}: {number} {kind}"


@pytest.mark.slow
def test_every_method_is_named_in_the_readme() -> None:
    """The list of methods is the registry's."""
    from mpu_cli.client import methods

    (listed,) = re.findall(r"\*\*Methods\*\*: ([^;]*?), with", (ROOT / "README.md").read_text())
    assert sorted(re.split(r",\s+", listed), key=str.lower) == methods.names()


def test_the_results_in_the_readme_are_in_the_log() -> None:
    """Each number of the table is one of the log's, rounded to three digits."""
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    measured = {f"{float(number):.3f}"[1:] for number in re.findall(r"\b0\.\d{3,4}\b", log)}
    rows = re.findall(r"^\|.*\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    results = [row for row in rows if re.search(r"\| \.\d{3} \|", row)]
    assert len(results) == 7
    for row in results:
        assert set(re.findall(r"\.\d{3}\b", row)) <= measured, row


def test_pages_cite_nothing_outside_the_repository() -> None:
    """No path of the machine on which a page was written, and no document that is not shipped."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"/work/|shared/|the design, section", text), page
