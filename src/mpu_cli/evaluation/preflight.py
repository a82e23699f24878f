"""What an evaluation refuses before it loads a model, and the metrics that it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpu_cli.errors import UsageError
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import all_metrics, model_metrics, row_metrics
from mpu_cli.evaluation.questions import ROLES, QuestionSet
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.summarise import MODEL
from mpu_cli.registry import did_you_mean


def check_names(settings: EvalSettings) -> None:
    """Refuse names of metrics and checks that do not exist.

    Raises:
        UsageError: the message names the flag and lists the known names.
    """
    shown = [name for name, metric in all_metrics().items() if getattr(metric, "shown", True)]
    for flag, names, known in (
        ("--metric", settings.metrics, shown),
        ("--robustness", settings.robustness, list(all_checks())),
    ):
        for name in names:
            if name not in known:
                raise UsageError(
                    f"{flag} {name}: expected one of {', '.join(known)}",
                    did_you_mean(name, known, "see: mpu eval --list-metrics"),
                )


def check_sets(sets: Sequence[QuestionSet]) -> None:
    """Refuse sets that a record could not tell apart.

    Raises:
        UsageError: there is no set, two have one name, or a name belongs to another role.
    """
    if not sets:
        raise UsageError("nothing to evaluate on", "give --forget, --retain or another set of rows")
    names = [question_set.name for question_set in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two sets are called {twice}", "name them: --utility NAME=FILE")
    for name, role in ((question_set.name, question_set.role) for question_set in sets):
        if name == MODEL or (name in ROLES and name != role):
            raise UsageError(
                f"a {role} set cannot be called {name}", f"name it: --{role} NAME=FILE"
            )


def chosen_row_metrics(settings: EvalSettings) -> list[RowMetric]:
    """The row metrics to measure: the named ones, and those that the named model metrics use."""
    usual = [
        metric for metric in row_metrics().values() if settings.generate or not metric.generates
    ]
    if not settings.metrics:
        return usual
    models = [model_metrics()[name] for name in settings.metrics if name in model_metrics()]
    names = {*settings.metrics, *(part for metric in models for part in metric.uses)}
    return [metric for metric in usual if metric.name in names]


def without_generation(settings: EvalSettings) -> dict[tuple[str, str], str]:
    """Reasons why metrics are missing, by (set, metric), where the model is not to write."""
    if settings.generate:
        return {}
    return {
        ("", metric.name): "needs generation (--no-generate)"
        for metric in chosen_row_metrics(replace(settings, generate=True))
        if metric.generates
    }
