"""`--map field=column`: which column of a file holds which field of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpu_cli.errors import UsageError
from mpu_cli.registry import did_you_mean

FIELDS = ("prompt", "answer", "messages", "text", "alternate")
_FORMS = ({"prompt", "answer"}, {"messages"}, {"text"})


def parse_mapping(assignments: Iterable[str]) -> dict[str, str]:
    """Parse `prompt=instruction answer=output`, sorted by field.

    Raises:
        UsageError: not field=column, an unknown field (the nearest is named), a field twice, or
            fields of two forms.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        field, equals, column = assignment.partition("=")
        if not equals or not column:
            raise UsageError(
                f"--map {assignment}: expected field=column",
                "for instance --map prompt=instruction --map answer=output",
            )
        if field not in FIELDS:
            hint = did_you_mean(field, FIELDS, f"fields are {', '.join(FIELDS)}")
            raise UsageError(f"--map {assignment}: unknown field {field!r}", hint)
        if field in found:
            raise UsageError(
                f"--map {assignment}: {field!r} is mapped twice", "map each field once"
            )
        found[field] = column
    _refuse_two_forms(found)
    return dict(sorted(found.items()))


def for_retain(mapping: Mapping[str, str]) -> dict[str, str]:
    """The mapping of a retain file.

    Alternates are the forget rows' affair, so their column need not be there.
    """
    return {field: column for field, column in mapping.items() if field != "alternate"}


def nearest_column(column: str, columns: Iterable[str]) -> str:
    """The hint for a column that is not there."""
    known = [str(name) for name in columns]
    found = f"columns found: {', '.join(map(repr, known)) or 'none'}"
    return did_you_mean(column, known, found) or found


def _refuse_two_forms(mapping: Mapping[str, str]) -> None:
    forms = [form for form in _FORMS if form & set(mapping)]
    if len(forms) > 1 or ("alternate" in mapping and "text" in mapping):
        fields = " and ".join(sorted(mapping))
        raise UsageError(
            f"--map: {fields} are fields of two kinds of row",
            "map prompt and answer, or messages, or text",
        )
