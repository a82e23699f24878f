"""The unlearning methods, one file each, found by looking into this directory.

Adding one touches only its own file.

A file defines one function (or, where the loss has a state, one class) under the `method`
decorator: `loss(model, batch, *, gamma: float = 1.0, …) → scalar`. Its keyword parameters are the
method's parameters, with the published defaults; `--set name=value` follows their types. By
convention gamma weighs the forget loss and alpha the retain loss. Methods are listed and described
from the files' source, since importing one imports torch.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from mpu_cli.client.methods._declare import Method, MethodInfo, Parameter, Value, method
from mpu_cli.client.methods._source import read_declaration
from mpu_cli.errors import UsageError

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


def names() -> list[str]:
    """All methods' names as users write them, sorted; nothing is imported."""
    return sorted(_files(), key=str.lower)


def describe() -> list[MethodInfo]:
    """What every method's file declares, sorted by name; nothing is imported.

    A file that does not parse is left out.
    """
    infos = [info for _, info in _files().values() if info is not None]
    return sorted(infos, key=lambda info: info.name.lower())


def find(name: str) -> MethodInfo:
    """What the method of that name (upper or lower case) declares.

    Enough to parse and check parameters, without torch.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    info = _lookup(name)[1]
    return get(name) if info is None else info


def get(name: str) -> Method:
    """The method of that name (upper or lower case), importing its file only.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    module = importlib.import_module(f"{__name__}.{_lookup(name)[0]}")
    return next(value for value in vars(module).values() if isinstance(value, Method))


def _lookup(name: str) -> tuple[str, MethodInfo | None]:
    known = {declared.lower(): found for declared, found in _files().items()}
    if name.lower() not in known:
        nearest = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.4)
        match = next((each for each in names() if nearest and each.lower() == nearest[0]), None)
        hint = f"did you mean {match}?" if match else "mpu unlearn --list-methods shows them all"
        raise UsageError(f"--method {name}: unknown, expected one of {', '.join(names())}", hint)
    return known[name.lower()]


def _files() -> dict[str, tuple[str, MethodInfo | None]]:
    """File stem and declaration by declared name.

    The stem is the name of a file that cannot be read.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        info = read_declaration(path)
        found[path.stem if info is None else info.name] = (path.stem, info)
    return found
