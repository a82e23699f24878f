"""What a shared test must know of one entry of a registry, from that entry's own test file."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def case_of(folder: Path, stem: str, page: str) -> Any:
    """Return `CASE` of the test file of one entry.

    Args:
        folder: where the test files of these entries are.
        stem: name of the entry's source file, without its suffix.
        page: the page of docs/how-to that describes the test file.
    """
    path = folder / f"test_{stem}.py"
    assert path.is_file(), f"write {path.relative_to(ROOT)} with its CASE: docs/how-to/{page}.md"
    spec = spec_from_file_location(f"case_of_{stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASE
