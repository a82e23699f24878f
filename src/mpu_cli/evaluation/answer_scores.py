"""Scores of rows' answers by models on disk, without a record of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpu_cli.data.rows import Row, read_rows
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.metric import probability
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, Question, QuestionSet
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer


def answers_of(tested: ModelUnderTest) -> dict[tuple[str, int], TokenScores]:
    """The scores of every row's answer, by set and row."""
    metric = row_metrics()["answer_probability"]
    scores = tested.scores(tested.sets, {rows.name: [metric] for rows in tested.sets})
    return {key: variants["answer"][0][1] for key, variants in scores.items()}


def answer_scores(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int | None = None, batch_size: int = 8
) -> list[list[TokenScores]]:
    """Score every row's answer, for each set of rows; the model is loaded once.

    Args:
        model: a model directory.
        sets: rows.
        max_length: tokens of a row at most; None = the model's context.
        batch_size: rows in a batch.
    """
    questions = [
        QuestionSet.of(str(number), FORGET, [Question(row) for row in rows])
        for number, rows in enumerate(sets)
    ]
    settings = EvalSettings(max_length=max_length, batch_size=batch_size)
    scores = answers_of(
        ModelUnderTest(load_model(model).model, load_tokenizer(model), questions, settings)
    )
    return [
        [scores[str(number), row] for row in range(len(rows))] for number, rows in enumerate(sets)
    ]


def answer_probabilities(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int | None = None, batch_size: int = 8
) -> list[float]:
    """A model's mean answer probability on each set of rows, between 0 and 1."""
    return [
        sum(map(probability, rows)) / len(rows)
        for rows in answer_scores(model, sets, max_length, batch_size)
    ]


def copy_losses(rows: Path, model: Path, copies: Sequence[Path]) -> dict[str, float]:
    """Mean loss per labelled token, in nats, of the model and of every copy (`perturb --probe`).

    One model is in memory at a time.

    Raises:
        BadDataError: the rows cannot be used.
    """
    parsed = read_probe(rows)
    return {name: mean_loss(path, parsed) for name, path in _names(model, copies).items()}


def read_probe(file: Path) -> list[Row]:
    """The rows of `--probe`.

    Raises:
        BadDataError: the rows cannot be used.
    """
    try:
        return read_rows(file)
    except BadDataError as error:  # its hint names --map, which comes with --forget only
        raise BadDataError(
            error.message,
            "give rows of question and answer or of text, or leave --probe out;"
            " see: mpu data check",
        ) from error


def mean_loss(model: Path, rows: Sequence[Row]) -> float:
    """Mean loss per labelled token over all rows, in nats."""
    (scores,) = answer_scores(model, [rows])
    return float(-sum(row.log_p.sum() for row in scores) / sum(map(len, scores)))


def _names(model: Path, copies: Sequence[Path]) -> dict[str, Path]:
    """The models by the names to show; a copy of one of several holders has the holder's too."""
    return {"model": model} | {
        f"{copy.parent.name}/{copy.name}"
        if copy.parent.name.startswith("holder-")
        else copy.name: (copy)
        for copy in copies
    }
