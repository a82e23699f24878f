"""The options of `mpu eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mpu_cli.audit.gates import GateSettings
from mpu_cli.cli.flags import Job
from mpu_cli.cli.options import OutputFormat, Shared
from mpu_cli.data.settings import ColumnSettings
from mpu_cli.errors import UsageError
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.option import check, option, same_option


def parse_new_tokens(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Read `N` and `SET=N` as (set, number); the set is empty for all sets.

    Raises:
        UsageError: N is no whole number.
    """
    numbers = []
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            numbers.append((name, int(number)))
        except ValueError:
            raise UsageError(
                f"--max-new-tokens {text}: expected a whole number, or SET=NUMBER"
            ) from None
    return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions(Job):
    """What `mpu eval` was asked to do."""

    model: str | None = option(
        None,
        "Model directory, published copy or Hub id; with --handoff an update.",
        panel="Model",
        flag="MODEL",
    )
    handoff: Path | None = option(
        None, "Handoff of which to measure a copy, changed by your update MODEL.", metavar="DIR"
    )
    copy: int | None = option(None, "Number of the copy, with --handoff.", shown="1", metavar="K")
    reference: str | None = option(
        None, "Reference model for membership inference.", metavar="MODEL"
    )
    retain_record: Path | None = option(
        None,
        "Record of a model that never saw the forget set, from mpu or open-unlearning.",
        metavar="RECORD",
    )
    before: Path | None = option(None, "Record of the model before unlearning.", metavar="RECORD")
    forget: str | None = option(
        None, "Rows that the model should have forgotten.", panel="Data", metavar="FILE"
    )
    retain: str | None = option(None, "Rows that the model should still know.", metavar="FILE")
    holdout: str | None = option(
        None, "Rows that are like the forget set and that the model never saw.", metavar="FILE"
    )
    utility: tuple[str, ...] = option(
        (),
        "More rows that the model should still know. Repeatable.",
        metavar="[NAME=]FILE",
        repeated=True,
    )
    knowledge: tuple[str, ...] = option(
        (),
        "Questions about a forget set of plain texts (MUSE). Repeatable.",
        metavar="[NAME=]FILE",
        repeated=True,
    )
    few_shot: tuple[str, ...] = option(
        (),
        "Examples (questions with answers) to put before each question of a knowledge set."
        " Repeatable.",
        metavar="[NAME=]FILE",
        repeated=True,
    )
    verbatim: str | None = option(
        None, "Beginnings of forgotten texts, with their continuations (MUSE).", metavar="FILE"
    )
    allow_overlap: bool = same_option(Shared, "allow_overlap")
    columns: ColumnSettings
    settings: EvalSettings
    new_tokens: tuple[tuple[str, int], ...] = option(
        (),
        "Largest number of tokens that the model may write, for all sets or for one. Repeatable.",
        panel="Method",
        flag="--max-new-tokens",
        shown="200; for knowledge sets 32, for texts 128",
        metavar="[SET=]N",
        parse=parse_new_tokens,
        repeated=True,
    )
    list_metrics: bool = option(
        False, "Print every metric and check with its formula and source, and stop."
    )
    record: Path | None = option(
        None,
        "New directory for the record: a summary, and the numbers of each row.",
        panel="Output",
        metavar="DIR",
    )
    layout: Literal["mpu", "open-unlearning"] = option(
        "mpu",
        "Layout of the record. open-unlearning's own code ignores the last token of a plain text.",
        flag="--format",
    )
    texts: bool = option(False, "Also keep the generated texts in the record.")
    all: bool = same_option(Shared, "all")
    output_format: OutputFormat = same_option(Shared, "output_format")
    gates: GateSettings
    force: bool = same_option(Shared, "force")

    def __post_init__(self) -> None:
        """Check every value."""
        for form in ("markdown", "csv"):
            if self.layout == form:
                raise UsageError(
                    f"--format {form}: is about the record's files", f"give --output-format {form}"
                )
        check(self)

    def complete_settings(self) -> EvalSettings:
        """The settings with the numbers of new tokens, and with every check for `all`."""
        from mpu_cli.evaluation.robustness import all_checks

        by_set, checks = dict(self.new_tokens), self.settings.robustness
        return replace(
            self.settings,
            max_new_tokens=by_set.pop("", None),
            tokens_by_set=tuple(by_set.items()),
            robustness=tuple(all_checks()) if "all" in checks else checks,
        )
