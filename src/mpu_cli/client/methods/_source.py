"""Read a method's declaration from its source, because importing the file imports torch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal

from mpu_cli.client.methods._declare import MethodInfo, parameter_of

_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


def read_declaration(path: Path) -> MethodInfo:
    """What a method's file declares.

    Raises:
        SyntaxError, ValueError, KeyError, TypeError: it does not parse, declares no method, or
            declares one by something other than literals.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and getattr(decorator.func, "id", None) == "method"
                ):
                    return _info(decorator, node)
    raise ValueError("declares no method")


def _info(decorator: ast.Call, node: ast.FunctionDef | ast.ClassDef) -> MethodInfo:
    declared: dict[str, Any] = {
        key.arg: ast.literal_eval(key.value) for key in decorator.keywords if key.arg
    }
    function = node if isinstance(node, ast.FunctionDef) else _initializer(node)
    parameters = tuple(
        parameter_of(
            argument.arg,
            _annotation(argument.annotation),
            None if default is None else ast.literal_eval(default),
            declared.get("bounds"),
            declared.get("sources"),
        )
        for argument, default in zip(
            function.args.kwonlyargs, function.args.kw_defaults, strict=True
        )
    )
    return MethodInfo(
        declared["name"],
        declared["paper"],
        declared["formula"],
        frozenset(declared.get("inputs", ())),
        parameters,
        tuple(declared.get("recommended", {}).items()),
        declared.get("recommended_by", ""),
    )


def _initializer(node: ast.ClassDef) -> ast.FunctionDef:
    return next(
        each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"
    )


def _annotation(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Name):
        return _TYPES[node.id]
    if isinstance(node, ast.Subscript):
        choices = ast.literal_eval(node.slice)
        return Literal[choices if isinstance(choices, tuple) else (choices,)]
    raise ValueError("a parameter's type is float, int, bool, str or a Literal")
