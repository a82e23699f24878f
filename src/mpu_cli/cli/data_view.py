"""The output of `mpu data check`: text for a reader, and plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from mpu_cli.cli.output import facts
from mpu_cli.data.templates import IGNORED
from mpu_cli.foreign_text import visible

if TYPE_CHECKING:
    from mpu_cli.data.check import Findings, PromptSample, Report, Spread
    from mpu_cli.data.context import Limit

OPEN, CLOSE = "⟦", "⟧"
"""Marks around the tokens that are trained on."""
_SHOWN = 10


def describe(findings: Findings, warnings: list[str]) -> dict[str, Any]:
    """All findings as plain values."""
    return {
        "files": {location: _describe(report) for location, report in reversed(findings.reports)},
        "in_both": [list(pair) for pair in findings.in_both],
        "same_prompt": [list(pair) for pair in findings.same_prompt],
        "sample": asdict(findings.sample) if findings.sample else None,
        "warnings": warnings,
    }


def shown(findings: Findings, limit: Limit) -> list[RenderableType]:
    """All findings for a reader: a table for each file, then the sample."""
    parts: list[RenderableType] = []
    for location, report in findings.reports:
        parts += [Text(location), facts(_facts(report, limit.tokens)), ""]
    return [*parts, *_sample(findings.sample)] if findings.sample else parts[:-1]


def warnings_of(findings: Findings, limit: Limit) -> list[str]:
    """The findings that are warnings; an invalid row is an error instead."""
    lines = []
    for location, report in dict(findings.reports).items():
        name = Path(location).name
        if report.duplicates:
            lines.append(
                f"{name}: {_rows(report.duplicates, 'occurs', 'occur')} more than once:"
                f" {' = '.join(report.duplicates[0])}"
            )
        if len(report.forms) > 1:
            lines.append(f"{name}: rows have different forms ({', '.join(report.forms)})")
        if report.encoded is not None:
            lines += report.encoded.notes(name, limit)
    if findings.in_both:
        every = ", which is every row of one of the files" if findings.all_in_both else ""
        lines.append(
            f"{_rows(findings.in_both, 'is', 'are')} in both the forget and the retain set:"
            f" {' = '.join(findings.in_both[0])}{every}"
        )
    if findings.same_prompt:
        lines.append(
            f"{_rows(findings.same_prompt, 'has', 'have')} the prompt of a retain row with another"
            f" answer: {' / '.join(findings.same_prompt[0])}"
        )
    return lines


def _describe(report: Report) -> dict[str, Any]:
    encoded = report.encoded
    spreads = {
        "characters": report.characters,
        "tokens": report.tokens,
        "answer_tokens": report.answer_tokens,
    }
    return {
        "rows": report.rows,
        "forms": report.forms,
        "notes": list(report.notes),
        "alternates": report.alternates,
        "empty": report.empty,
        "bad": [{"message": message, "hint": hint} for message, hint in report.bad],
        "duplicates": [list(group) for group in report.duplicates],
        **{name: None if spread is None else asdict(spread) for name, spread in spreads.items()},
        "cut": list(encoded.cut) if encoded else None,
        "split": list(encoded.split) if encoded else None,
        "trained_rows": len(encoded.rows) if encoded else None,
    }


def _facts(report: Report, max_length: int) -> dict[str, str]:
    forms = ", ".join(
        form if len(report.forms) == 1 else f"{form} {count}"
        for form, count in report.forms.items()
    )
    shown = {"rows": f"{report.rows} ({forms})" if forms else "0"}
    if report.alternates:
        shown["with an alternate"] = str(report.alternates)
    encoded = report.encoded
    if encoded is None:
        shown["characters"] = _spread(report.characters)
    else:
        shown["tokens"] = _spread(report.tokens)
        shown["trained tokens"] = _spread(report.answer_tokens)
        shown[f"cut at {max_length}"] = _places(len(encoded.cut), encoded.cut)
        if encoded.split:
            shown[f"split at {max_length}"] = _places(len(encoded.split), encoded.split)
        if len(encoded.rows) != report.rows:
            shown["trained on as"] = f"{len(encoded.rows)} rows"
    shown["duplicates"] = _places(
        len(report.duplicates), tuple(" = ".join(group) for group in report.duplicates)
    )
    shown["empty"] = str(report.empty)
    shown["invalid"] = _places(
        len(report.bad), tuple(message for message, _ in report.bad), separator="\n"
    )
    return shown


def _sample(sample: PromptSample) -> list[RenderableType]:
    """The row with the trained tokens in brackets; control characters are escaped."""
    tokens, trained = len(sample.input_ids), sum(label != IGNORED for label in sample.labels[1:])
    of_all = f" of {sample.whole}" if sample.whole > tokens else ""
    title = (
        f"{sample.where} as the model sees it: {tokens}{of_all} tokens, {trained} of them trained,"
        f" between {OPEN} and {CLOSE}"
    )
    body = "".join(
        f"{OPEN}{visible(text)}{CLOSE}" if is_trained else visible(text)
        for text, is_trained in sample.parts
    )
    return [Text(title), Text(body)]


def _rows(rows: Sequence[object], one: str, several: str) -> str:
    return f"1 row {one}" if len(rows) == 1 else f"{len(rows)} rows {several}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "none"
    return (
        f"minimum {spread.least}, median {spread.median}, 95 % up to {spread.most_of_95}, maximum"
        f" {spread.most}"
    )


def _places(count: int, places: tuple[str, ...], separator: str = ", ") -> str:
    if not count:
        return "0"
    more = [f"and {count - _SHOWN} more"] if count > _SHOWN else []
    return f"{count}: {separator.join([*places[:_SHOWN], *more])}"
