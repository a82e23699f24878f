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
OTHER_LIBRARIES = {"os._exit", "hashlib._Hash", "torch.nn.modules.conv._ConvNd"}
"""Private names of Python and torch, which have no hooks."""


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
    """A private name that mpu does not define itself is used in modeling/hooks alone."""
    trees = {
        path.relative_to(SOURCE): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    ours |= {  # fields of a dataclass
        node.target.id
        for node in nodes
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    strangers = {
        f"{path}: {ast.unparse(node)}"
        for path, tree in trees.items()
        if "hooks" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in ours
    }
    assert {name.partition(": ")[2] for name in strangers} <= OTHER_LIBRARIES, strangers
