"""The undocumented places of other libraries that mpu uses are where, and what, they were."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from mpu_cli.modeling import hooks
from mpu_cli.modeling.hooks import HOOKS, Hook

SOURCE = Path(hooks.__file__).parents[2]
PRIVATE_ALLOWED = {"os._exit", "Columns._key", "inner._content", "lineage._check"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook.place}: {hook.marker[:30]}")
def test_the_place_still_has_its_marker(hook: Hook) -> None:
    """A library that moves or changes a hook fails here, with the version that was read."""
    module, _, path = hook.place.partition(":")
    library = module.partition(".")[0]
    message = f"{library} {version(library)}, read in {hook.version}: look at {hook.place} again"
    found = importlib.import_module(module)
    for name in path.split(".") if path else ():
        assert hasattr(found, name), message
        found = getattr(found, name)
    if isinstance(found, Mapping):
        assert hook.marker in found, message
    else:
        target = found.fget if isinstance(found, property) else found
        assert hook.marker in inspect.getsource(target), message


def test_no_other_module_touches_a_private_name() -> None:
    """`something._private` of another library stands in modeling/hooks alone."""
    strangers = []
    for path in sorted(SOURCE.rglob("*.py")):
        if "hooks" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            owner = ast.unparse(node.value)
            if node.attr.startswith("__") or owner in ("self", "cls"):
                continue
            if f"{owner}.{node.attr}" not in PRIVATE_ALLOWED:
                strangers.append(f"{path.relative_to(SOURCE)}:{node.lineno} {owner}.{node.attr}")
    assert not strangers
