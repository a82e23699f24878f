"""`--map field=column`: which column of a file holds which field of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpu_cli.errors import UsageError
from mpu_cli.registry import did_you_mean, nearest

FIELDS = ("prompt", "answer", "messages", "text", "alternate")
_FORMS = ({"prompt", "answer"}, {"messages"}, {"text"})


def parse_mapping(assignments: Iterable[str]) -> dict[str, str]:
    """Parse `prompt=instruction answer=output`, sorted by field.

    Raises:
        UsageError: an assignment is not field=column, a field is unknown or given twice, or the
            fields belong to two forms.
    """
    mapping: dict[str, str] = {}
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
        if field in mapping:
            raise UsageError(
                f"--map {assignment}: {field!r} is mapped twice", "map each field once"
            )
        mapping[field] = column
    _refuse_two_forms(mapping)
    return dict(sorted(mapping.items()))


def for_retain(mapping: Mapping[str, str]) -> dict[str, str]:
    """The mapping of a retain file, which needs no column of alternates."""
    return {field: column for field, column in mapping.items() if field != "alternate"}


def nearest_column(column: str, columns: Iterable[str]) -> str:
    """The hint for a missing column."""
    known = [str(name) for name in columns]
    match = nearest(column, known, cutoff=0.75)  # a typo, not a word of another language
    if match is not None:
        return f"did you mean {match}?"
    listed = ", ".join(map(repr, known)) or "none"
    return (
        f"columns found: {listed}; --map applies to every file of rows: use the same column names"
    )


def _refuse_two_forms(mapping: Mapping[str, str]) -> None:
    forms = [form for form in _FORMS if form & set(mapping)]
    if len(forms) > 1 or ("alternate" in mapping and "text" in mapping):
        fields = " and ".join(sorted(mapping))
        raise UsageError(
            f"--map: {fields} are fields of two kinds of row",
            "map prompt and answer, or messages, or text",
        )
