"""Model utility: the harmonic mean of numbers on rows that unlearning should not change.

TOFU, arXiv 2401.06121, section 2.2.1. Three numbers for the retain set and each utility set:
probability (normalised if the rows are multiple choice), ROUGE-L recall and truth ratio; nine with
TOFU's retain set, real authors and world facts. Utility over other sets is another number, so only
records of the same sets can be compared; `mpu compare` ensures it.
"""

from mpu_cli.evaluation.columns import Columns, MissingInputError
from mpu_cli.evaluation.metric import ModelMetric
from mpu_cli.evaluation.questions import RETAIN, UTILITY
from mpu_cli.evaluation.statistics import Array, harmonic_mean


def parts(columns: Columns) -> dict[tuple[str, str], Array]:
    """The means by set and metric.

    Raises:
        MissingInputError: no retain or utility set was given, or a number is missing.
    """
    names = columns.sets(RETAIN, UTILITY)
    if not names:
        raise MissingInputError("no retain or utility set was given")
    keys = [
        (name, metric)
        for name in names
        for metric in (_probability(columns, name), "rouge_recall", "truth_ratio")
    ]
    return {key: columns.mean(*key) for key in keys}


def _probability(columns: Columns, name: str) -> str:
    return "normalised_probability" if name in columns.choices else "answer_probability"


METRICS = (
    ModelMetric(
        name="model_utility",
        about=(
            "harmonic mean of probability, ROUGE-L recall and truth ratio over retain and utility"
            " sets"
        ),
        source="TOFU, arXiv 2401.06121, section 2.2.1",
        better="higher",
        uses=("answer_probability", "normalised_probability", "rouge_recall", "truth_ratio"),
        value=lambda columns: harmonic_mean(list(parts(columns).values())),
    ),
)
