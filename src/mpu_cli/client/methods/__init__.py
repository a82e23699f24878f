"""The unlearning methods, one file each, found by looking into this directory: adding one touches only its own file.

A file defines one function under the `method` decorator: `loss(model, batch, *, gamma: float = 1.0, …) → scalar`. Its
keyword parameters are the method's parameters, with the published defaults; `--set name=value` follows their types.
By convention gamma weighs the forget loss and alpha the retain loss. Methods are listed from the files' source, since
importing one imports torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mpu_cli.errors import UsageError

Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method: its type, published default and, for a choice, what may be chosen."""

    name: str
    type: type
    default: Value
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Method:
    """What a method's file declares."""

    name: str
    paper: str
    formula: str
    needs: frozenset[str]
    """Of "retain" (retain rows) and "reference" (the forget rows' NLL under the model before unlearning)."""
    parameters: tuple[Parameter, ...]
    loss: Callable[..., Any]

    def parse(self, assignments: Iterable[str]) -> dict[str, Value]:
        """All parameters' values: the defaults, changed by `--set` assignments such as "beta=0.5".

        Raises:
            UsageError: not of the form name=value, an unknown name, the same name twice, or a value of another type.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        given: dict[str, Value] = {}
        for assignment in assignments:
            name, equals, value = (part.strip() for part in assignment.partition("="))
            if not equals or not name or not value:
                raise UsageError(f"--set {assignment}: expected name=value, for example --set gamma=1")
            if name not in known:
                raise _unknown(f"--set {assignment}: {self.name} has no parameter {name!r}", name, list(known))
            if name in given:
                raise UsageError(f"--set {assignment}: {name} is set twice")
            given[name] = _convert(known[name], value, assignment)
        return {parameter.name: given.get(parameter.name, parameter.default) for parameter in self.parameters}

    def needs_with(self, parameters: Mapping[str, Value]) -> frozenset[str]:
        """What is needed under these parameters: with alpha 0 no retain row has any say."""
        return self.needs - {"retain"} if parameters.get("alpha") == 0 else self.needs

    def check_retain(self, parameters: Mapping[str, Value], has_retain: bool) -> None:
        """Refuse before any work starts.

        Raises:
            UsageError: the method needs a retain set and there is none.
        """
        if "retain" in self.needs_with(parameters) and not has_retain:
            raise UsageError(f"{self.name} needs a retain set", "add --retain FILE, or --set alpha=0 to go without")

    def bind(self, parameters: Mapping[str, Value]) -> Callable[[Any, Any], Any]:
        """The loss as a function of (model, batch) alone."""
        return partial(self.loss, **parameters)


def method(*, name: str, paper: str, formula: str, needs: Iterable[str] = ()) -> Callable[[Callable[..., Any]], Method]:
    """Declare the decorated loss as a method.

    Args:
        name: on the command line, a string literal; upper and lower case do not matter there.
        paper: link to the paper whose formula this is.
        formula: the loss in one line, for help texts and docs.
        needs: any of "retain" and "reference".
    """

    def declare(loss: Callable[..., Any]) -> Method:
        hints = get_type_hints(loss)
        keywords = [p for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = tuple(_parameter(p.name, hints[p.name], p.default) for p in keywords)
        return Method(name, paper, formula, frozenset(needs), parameters, loss)

    return declare


def names() -> list[str]:
    """All methods' names as users write them, sorted; nothing is imported."""
    return sorted(_files(), key=str.lower)


def get(name: str) -> Method:
    """The method of that name (upper or lower case), importing its file only.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    stems = {known.lower(): stem for known, stem in _files().items()}
    if name.lower() not in stems:
        raise _unknown(f"--method {name}: unknown, expected one of {', '.join(names())}", name, names())
    module = importlib.import_module(f"{__name__}.{stems[name.lower()]}")
    return next(value for value in vars(module).values() if isinstance(value, Method))


def _files() -> dict[str, str]:
    """File stems by declared name."""
    return {_declared_name(path): path.stem for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}


def _declared_name(path: Path) -> str:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        # A file that somebody is still writing must not break the help text; choosing it will say what is wrong.
        return path.stem
    for node in ast.walk(tree):
        is_declaration = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "method"
        for keyword in node.keywords if isinstance(node, ast.Call) and is_declaration else []:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return path.stem


def _parameter(name: str, hint: Any, default: Value) -> Parameter:
    if get_origin(hint) is Literal:
        return Parameter(name, str, default, get_args(hint))
    return Parameter(name, hint, default)


def _convert(parameter: Parameter, value: str, assignment: str) -> Value:
    if parameter.choices:
        for choice in parameter.choices:
            if choice.lower() == value.lower():
                return choice
        raise UsageError(f"--set {assignment}: {parameter.name} is one of {', '.join(parameter.choices)}")
    if parameter.type is bool:
        if value.lower() not in ("true", "false"):
            raise UsageError(f"--set {assignment}: {parameter.name} is true or false")
        return value.lower() == "true"
    try:
        converted: Value = parameter.type(value)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[parameter.type]
        raise UsageError(f"--set {assignment}: {parameter.name} is {kind}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UsageError(f"--set {assignment}: {parameter.name} must be finite")
    return converted


def _unknown(message: str, name: str, known: list[str]) -> UsageError:
    nearest = difflib.get_close_matches(name.lower(), [each.lower() for each in known], n=1, cutoff=0.4)
    match = next((each for each in known if nearest and each.lower() == nearest[0]), None)
    return UsageError(message, f"did you mean {match}?" if match else f"known: {', '.join(known)}")
