"""Change small modules in every way that mutmut knows, and list the changes that no test notices.

`make mutation` does all of `MODULES`, `make mutation MODULES=bundle/schema` one; docs/mutation.md
explains what survives. Each module is mutated in a copy below build/mutation, against the tests
that state what it does: with all tests of the package one mutant would take minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutation"
MODULES = {
    "bundle/canonical": ("tests/bundle/test_canonical.py",),
    "bundle/manifest": ("tests/bundle/test_manifest.py",),
    "bundle/schema": ("tests/bundle/test_schema.py",),
    "server/denoising": ("tests/server/test_denoising.py",),
    "server/lineage/exposure": ("tests/server/test_exposure.py",),
    "server/secrets/randomness": ("tests/server/test_randomness.py",),
}
SETTINGS = """
[tool.mutmut]
source_paths = ["src/mpu_cli/"]
only_mutate = ["src/mpu_cli/{module}.py"]
also_copy = ["tests", "tools", "docs"]
pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = [{tests}]
"""
KILLED = {"killed", "timeout", "suspicious", "segfault"}


def mutate(module: str, tests: Sequence[str]) -> None:
    """Run mutmut on one module, and print the counts and the survivors' changes."""
    copy = WORK / module.replace("/", "-")
    shutil.rmtree(copy, ignore_errors=True)  # mutmut keeps verdicts, also of tests that changed
    for name in ("src", "tests", "tools", "docs"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    settings = SETTINGS.format(module=module, tests=json.dumps(list(tests))[1:-1])
    (copy / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)
    _mutmut(copy, "run", "--max-children", str(os.cpu_count() or 1))
    verdicts = dict(
        line.strip().rsplit(": ", 1)
        for line in _mutmut(copy, "results", "--all", "true").splitlines()
        if "__mutmut_" in line
    )
    left = [name for name, verdict in verdicts.items() if verdict not in KILLED]
    print(f"{module}: {len(verdicts)} mutants, {len(left)} not noticed", flush=True)
    for name in left:
        shown = _mutmut(copy, "show", name).splitlines()
        change = [line for line in shown if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
        print(f"  {name} ({verdicts[name]})", *change, sep="\n    ", flush=True)


def _mutmut(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        sys.exit(f"mutmut {' '.join(arguments)} failed in {directory}:\n{done.stdout[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODULES:
        mutate(chosen, MODULES[chosen])
