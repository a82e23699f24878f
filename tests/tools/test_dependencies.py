"""What is installed: declared, used, pinned, and with a hash of every file."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import audit_dependencies
import mpu_cli
import write_hashes

SOURCES = Path(mpu_cli.__file__).parent
ROOT = SOURCES.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOADED_BY_OTHERS = {
    "accelerate": "transformers loads and shards models with it",
    "gguf": "transformers reads GGUF files with it",
    "tensorboard": "torch writes logs with it",
}
PROGRAMS = {
    *("pytest-xdist", "pytest-cov", "ruff", "mypy", "types-pyyaml", "import-linter", "pre-commit"),
    *("coverage", "mutmut", "build", "sphinx", "myst-parser", "furo", "mpu-cli"),
}
"""Development tools that are run, or loaded by a name in a settings file."""


def name(requirement: str) -> str:
    """The normal form of a distribution's name."""
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")


@cache
def imported(folder: Path) -> set[str]:
    """The distributions that the code of a folder imports, without the standard library."""
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    own |= {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    own |= {path.stem for path in (*(ROOT / "tools").iterdir(), *(ROOT / "benchmarks").iterdir())}
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            found |= {module.split(".")[0] for module in modules}
    # Scripts and tests import each other by bare names; the package imports none of them.
    found -= set() if folder == SOURCES else own
    found -= {*sys.stdlib_module_names, "mpu_cli", "__future__", ""}
    places = packages_distributions()
    return {name(places.get(module, [module])[0]) for module in found}


EXTRAS = PROJECT["project"]["optional-dependencies"]
RUN = {name(text) for text in PROJECT["project"]["dependencies"]}
OPTIONAL = {name(text) for extra, texts in EXTRAS.items() if extra != "dev" for text in texts}
DEVELOP = {name(text) for text in EXTRAS["dev"]}


def test_every_import_is_declared_and_every_dependency_is_used():
    """In both directions, for what users install and for what developers install."""
    assert imported(SOURCES) - RUN - OPTIONAL == set()
    assert RUN - imported(SOURCES) - set(LOADED_BY_OTHERS) == set()
    everywhere = imported(SOURCES) | imported(ROOT / "tests") | imported(ROOT / "benchmarks")
    everywhere |= imported(ROOT / "tools")
    assert everywhere - RUN - OPTIONAL - DEVELOP - PROGRAMS == set()
    assert OPTIONAL - everywhere - set(LOADED_BY_OTHERS) - PROGRAMS == set()
    assert DEVELOP - everywhere - PROGRAMS == set()


def pins(text: str) -> dict[str, str]:
    """Versions by normal name."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    return {name(package): version for package, version in lines}


def test_the_hashed_files_have_the_versions_of_the_constraints():
    """`make` with and without hashes installs the same; every entry has a hash; no index is named.

    Packages that only other platforms need are in the hashed files alone.
    """
    constraints = pins((ROOT / "constraints.txt").read_text())
    hashed = {}
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        text = file.read_text()
        parts = write_hashes.by_package(text)
        assert parts
        assert all("--hash=sha256:" in part for part in parts.values()), file
        assert "://" not in text
        hashed |= pins(text)
    hashed["torch"] = hashed["torch"].removesuffix("+cpu")
    different = {
        package: (version, hashed[package])
        for package, version in constraints.items()
        if package in hashed and hashed[package] != version
    }
    assert different == {}
    assert set(constraints) - set(hashed) <= {"gguf"}  # only two examples need it
    assert RUN - {"torch"} <= set(pins((ROOT / "requirements" / "run.txt").read_text()))


def test_the_build_backend_is_pinned_and_hashed():
    """Building runs its code."""
    (backend,) = PROJECT["build-system"]["requires"]
    assert backend == (ROOT / "requirements" / "build.in").read_text().strip()
    assert pins(backend) == {"hatchling": backend.split("==")[1]}
    assert "\nhatchling==" in (ROOT / "requirements" / "run.txt").read_text()


def test_no_page_mixes_two_indices():
    """A package that one index lacks would be taken from whoever registers its name there."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Containerfile"]
    pages += [*(ROOT / "examples").rglob("*.md"), ROOT / "Makefile"]
    for page in pages:
        for line in page.read_text().splitlines():
            assert not re.search(r"(pip|PIP).*(extra.index|EXTRA_INDEX)", line), (page, line)


def test_the_verdict_of_an_audit():
    """None, some, and no list at all are three answers."""
    clean = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]}
    absent = {"name": "c", "skip_reason": "not found"}
    assert audit_dependencies.verdict({"dependencies": [clean, absent]}) == (
        0,
        "1 packages audited, 1 not: no known vulnerability",
    )
    code, told = audit_dependencies.verdict({"dependencies": [clean, bad]})
    assert (code, "b 2 (CVE-1)" in told) == (1, True)
    code, told = audit_dependencies.verdict({"dependencies": [absent]})
    assert code == 2
    assert "no list" in told


def test_an_audit_without_its_program(capsys, tmp_path):
    """It says that nothing is known, and its exit code says so, too."""
    assert audit_dependencies.main(str(tmp_path / "absent")) == 2
    assert "no list of vulnerabilities" in capsys.readouterr().out
