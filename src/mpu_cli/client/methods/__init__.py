"""The unlearning methods; adding one is adding a file to this directory.

A file defines one function (or, where the loss has a state, one class) under the `method`
decorator: `loss(model, batch, *, gamma: float = 1.0, …) → scalar`. Its keyword parameters are the
method's parameters, with the published defaults; `--set name=value` follows their types. By
convention gamma weighs the forget loss and alpha the retain loss. Methods are listed and described
from their source, because importing one imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mpu_cli.client.methods._declare import Method, MethodInfo, Parameter, Value, method
from mpu_cli.client.methods._source import read_declaration
from mpu_cli.registry import Registry, choose, instances


class Declaration(NamedTuple):
    """The stem of a method's file, and what the file declares."""

    stem: str
    info: MethodInfo


__all__ = [
    "Method",
    "MethodInfo",
    "Parameter",
    "Value",
    "describe",
    "find",
    "get",
    "method",
    "names",
]


_METHODS: Registry[Declaration] = Registry(
    "method",
    Path(__file__).parent,
    lambda path: [Declaration(path.stem, read_declaration(path))],
    name=lambda declaration: declaration.info.name,
)


def names() -> list[str]:
    """List all methods' names as users write them, sorted; nothing is imported."""
    return sorted(_METHODS.entries(), key=str.lower)


def describe() -> list[MethodInfo]:
    """List what every method's file declares, sorted by name; nothing is imported."""
    infos = [declaration.info for declaration in _METHODS.entries().values()]
    return sorted(infos, key=lambda info: info.name.lower())


def find(name: str) -> MethodInfo:
    """What the method of that name (upper or lower case) declares.

    This is enough to parse and check parameters, without torch.

    Raises:
        UsageError: there is none; the hint names the nearest.
    """
    return _find(name).info


def get(name: str) -> Method:
    """The method of that name (upper or lower case), importing its file only.

    Raises:
        UsageError: there is none; the hint names the nearest.
        BadInputError: its file cannot be imported.
    """
    return _METHODS.load(_find(name).stem, instances(__name__, Method))[0]


def _find(name: str) -> Declaration:
    declarations = _METHODS.entries()
    known = sorted(declarations, key=str.lower)
    return declarations[
        choose("--method", name, known, "mpu unlearn --list-methods shows them all")
    ]
