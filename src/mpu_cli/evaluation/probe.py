"""What each published copy loses on a text, beside the model itself (`perturb --probe`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpu_cli.data.rows import Row, read_rows
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.evaluate import answer_scores


def copy_losses(rows: Path, model: Path, copies: Sequence[Path]) -> dict[str, float]:
    """Mean loss per labelled token, nats, of the model and of every copy.

    One model is in memory at a time.

    Raises:
        BadDataError: the rows cannot be used.
    """
    try:
        parsed = read_rows(rows)
    except (
        BadDataError
    ) as error:  # perturb has no --map, which the hint of the other commands names
        raise BadDataError(
            error.message,
            "give rows of question and answer or of text, or without --probe; see: mpu data check",
        ) from error
    named = {"model": model} | {_name(copy): copy for copy in copies}
    return {name: mean_loss(path, parsed) for name, path in named.items()}


def mean_loss(model: Path, rows: Sequence[Row]) -> float:
    """Mean loss per labelled token over all rows, nats."""
    (scores,) = answer_scores(model, [rows])
    return float(-sum(row.log_p.sum() for row in scores) / sum(map(len, scores)))


def _name(copy: Path) -> str:
    return (
        f"{copy.parent.name}/{copy.name}" if copy.parent.name.startswith("holder-") else copy.name
    )
