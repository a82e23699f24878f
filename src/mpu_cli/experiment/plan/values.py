"""The values of options: from the plan's YAML to one form, and from there to words.

Equal settings must give equal words, because the words decide the key of a step: 1e-1 is 0.1.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mpu_cli.experiment.plan.document import Document, Keys
from mpu_cli.experiment.plan.schema import Scalar, Value
from mpu_cli.option import Declared


def option_value(document: Document, keys: Keys, declared: Declared, value: Any) -> Value:
    """The value of an option in its one form.

    Raises:
        UsageError: the value has another type than the option.
    """
    if value is None:
        return None
    if isinstance(value, list):
        if not declared.option.repeated and declared.option.parse is None:
            raise document.wrong(keys, f"{declared.name} takes one value, not a list")
        return tuple(_scalar(document, keys, declared, item) for item in value)
    scalar = _scalar(document, keys, declared, value)
    return (scalar,) if declared.option.repeated else scalar


def shown(value: Value) -> str:
    """A value as names of runs and result files show it."""
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, str):  # a line break would end a line of a log or of a Makefile
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def option_words(declared: Declared, value: Value) -> list[str]:
    """The flag and its values, or nothing for an option that is not given."""
    flag, _, off = (declared.option.flag or declared.flag).partition("/")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag] if value else [off] if off else []
    if isinstance(value, tuple):
        texts = [_text(item) for item in value]
        if declared.option.repeated:
            return [word for text in texts for word in (flag, text)]
        return [flag, ",".join(texts)]
    return [flag, _text(value)]


def _scalar(document: Document, keys: Keys, declared: Declared, value: Any) -> Scalar:
    if isinstance(value, dict | list) or value is None:
        raise document.wrong(keys, f"{declared.name} takes a plain value")
    if declared.type is bool:
        if not isinstance(value, bool):
            raise document.wrong(keys, f"{declared.name} {value}: expected true or false")
        return value
    if isinstance(value, bool):
        raise document.wrong(keys, f"{declared.name}: expected a value, not {str(value).lower()}")
    if declared.type is float and value != "auto":
        with suppress(ValueError):
            return float(value)
    if declared.type is int and isinstance(value, float) and value.is_integer():
        return int(value)
    scalar: Scalar = value
    return scalar if declared.type in {int, float} else str(scalar)


def _text(value: Scalar) -> str:
    return repr(value) if isinstance(value, float) else str(value)
