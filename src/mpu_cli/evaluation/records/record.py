"""What a record of an evaluation holds, and when two records are of the same rows.

On disk it is `summary.json`, and `items.jsonl` with one line for each row of each set. The whole
summary can be computed again from the items; `mpu compare` does so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.questions import FORGET, HOLDOUT, QuestionSet
from mpu_cli.evaluation.statistics import Array

FORMAT = 1
SUMMARY, ITEMS = "summary.json", "items.jsonl"
OTHER_TOKENS = (
    "run mpu eval on both with one tokenizer and chat template, and the same --system-prompt,"
    " --template-var and --template-date"
)


@dataclass(frozen=True, slots=True)
class SetInfo:
    """What a record says about a set of rows."""

    role: str
    rows: int
    digest: str | None
    """SHA-256 of the rows' content; None in another tool's record."""
    multiple_choice: bool = False
    tokens: str | None = None
    """Digest of the rows as tokens, prompts included.

    None in a record of an earlier mpu or of another tool.
    """

    @classmethod
    def of(cls, question_set: QuestionSet, tokens: str | None = None) -> SetInfo:
        """Describe a set that is in memory."""
        return cls(
            question_set.role,
            len(question_set.questions),
            question_set.digest,
            question_set.multiple_choice,
            tokens,
        )

    def has_same_rows(self, other: SetInfo) -> bool:
        """Whether both describe the same rows, as far as the digests can tell."""
        return self.rows == other.rows and (
            self.digest is None or other.digest is None or self.digest == other.digest
        )

    def has_same_tokens(self, other: SetInfo) -> bool:
        """Whether the rows were the same tokens; False where prompts or tokenizers differ."""
        return self.tokens is None or other.tokens is None or self.tokens == other.tokens


@dataclass(frozen=True, slots=True)
class Record:
    """The results of one evaluation."""

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    sets: Mapping[str, SetInfo]
    columns: Mapping[tuple[str, str], Array]
    """Numbers of the rows by (set, metric or metric@condition), each (n,); NaN = not measured."""
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Reasons by (set, metric); the set is "" for metrics of the model."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The means and intervals of the summary."""
    written: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """What the model wrote, by set and row."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Date, versions, device and the other models used (see `provenance.py`).

    Empty in a record of an earlier mpu or of another tool.
    """

    def view(self, retain_record: Record | None = None) -> Columns:
        """The columns as metrics of the model read them."""
        return Columns(
            self.columns,
            {name: info.role for name, info in self.sets.items()},
            frozenset(name for name, info in self.sets.items() if info.multiple_choice),
            replace(retain_record.view(), whose="the retain record") if retain_record else None,
            self.left_out,
        )

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        left_out: dict[str, dict[str, str]] = {}
        for (name, metric), reason in self.left_out.items():
            left_out.setdefault(name or "model", {})[metric] = reason
        return {
            "kind": "evaluation",
            "format": FORMAT,
            "model": dict(self.model),
            "made": dict(self.made),
            "settings": dict(self.settings),
            "sets": {name: asdict(info) for name, info in self.sets.items()},
            "values": dict(self.values),
            "left_out": left_out,
        }

    def items(self) -> list[dict[str, Any]]:
        """The lines of items.jsonl."""
        lines = []
        for name, info in self.sets.items():
            columns = {key[1]: values for key, values in self.columns.items() if key[0] == name}
            for row in range(info.rows):
                numbers = {metric: plain_number(values[row]) for metric, values in columns.items()}
                text = {"written": self.written[name, row]} if (name, row) in self.written else {}
                lines.append({"set": name, "row": row, **numbers, **text})
        return lines


def require_same_rows(flag: str, record: Record, sets: Mapping[str, SetInfo]) -> None:
    """Refuse a record of other forget or holdout rows.

    Raises:
        BadDataError: the digests of rows or tokens differ, or the numbers of rows where a record
            has no digests.
    """
    for name, ours in sets.items():
        theirs = record.sets.get(name)
        if theirs is None or ours.role not in (FORGET, HOLDOUT):
            continue
        if theirs.has_same_rows(ours):
            if theirs.has_same_tokens(ours):
                continue
            raise BadDataError(
                f"{flag}: its {name} set has the same rows, but they became other tokens",
                OTHER_TOKENS,
            )
        if theirs.digest is not None and ours.digest is not None and theirs.digest != ours.digest:
            fault = f"has other rows (digest {theirs.digest[:12]}, here {ours.digest[:12]})"
        else:
            fault = f"has {theirs.rows} rows, the set given here has {ours.rows}"
        raise BadDataError(
            f"{flag}: its {name} set {fault}", "evaluate both models on the same rows"
        )


def plain_number(value: float) -> float | None:
    """The number as JSON holds it: null for a row that was not measured."""
    return None if math.isnan(value) else float(value)
