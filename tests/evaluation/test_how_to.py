"""The how-to pages: a metric and a robustness check are one file and its test, and nothing else."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

import mpu_cli.evaluation.metrics as metrics_package
import mpu_cli.evaluation.robustness as robustness_package
from mpu_cli.evaluation.metrics import METRICS, all_metrics
from mpu_cli.evaluation.robustness import CHECKS, all_checks

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
CASES = {
    "add-a-metric": (metrics_package, METRICS, all_metrics),
    "add-a-robustness-check": (robustness_package, CHECKS, all_checks),
}


@pytest.mark.parametrize("page", CASES)
def test_the_files_of_the_page_are_enough(page, tmp_path, monkeypatch, request):
    """The page's file beside the existing ones is found by name, and the page's test passes."""
    package, registry, entries = CASES[page]
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    code, test = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    name = re.search(r"the whole of `(\w+)\.py`", text)[1]
    known = set(entries())
    for path in registry.files().values():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / f"_test_{name}.py").write_text(test)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "directory", tmp_path)
    entries.cache_clear()
    try:
        assert set(entries()) == known | {name}
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"_test_{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (function,) = (value for key, value in vars(module).items() if key.startswith("test_"))
        fixtures = inspect.signature(function).parameters
        function(**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})
    finally:
        entries.cache_clear()
        sys.modules.pop(f"{package.__name__}.{name}", None)
        if hasattr(package, name):
            delattr(package, name)
