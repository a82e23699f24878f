"""The output of `mpu eval`, of `mpu inspect RECORD`, and of `mpu eval --list-metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType

from mpu_cli.cli.figures import (
    CSV,
    TEXT,
    arrow,
    comma_separated,
    grid,
    interval,
    not_shown,
    number,
    probability,
)
from mpu_cli.cli.output import facts

Means = Mapping[tuple[str, str], float]


def listed() -> tuple[Any, ...]:
    """Every metric and robustness check, as JSON and as text."""
    from mpu_cli.evaluation.metrics import all_metrics
    from mpu_cli.evaluation.robustness import all_checks

    metrics = [metric for metric in all_metrics().values() if getattr(metric, "shown", True)]
    checks = list(all_checks().values())
    body: list[RenderableType] = []
    for m in metrics:
        meaning = {"meaning": m.about, "forgotten is": m.better, "source": m.source}
        body += [m.name, facts(meaning), ""]
    for c in checks:
        body += [f"--robustness {c.name}", facts({"meaning": c.about, "source": c.source}), ""]
    data = {
        "metrics": [
            {"name": m.name, "about": m.about, "better": m.better, "source": m.source}
            for m in metrics
        ],
        "robustness": [{"name": c.name, "about": c.about, "source": c.source} for c in checks],
    }
    return (data, *body)


@dataclass(frozen=True, slots=True)
class Beside:
    """Means of other records by (set, metric), each in its own column; None if not given."""

    before: Means | None = None
    never_saw: Means | None = None
    """The means of a model that never saw the forget set."""

    def columns(self) -> dict[str, Means]:
        """The given means by column title."""
        return {
            title: means
            for title, means in (("before", self.before), ("never saw", self.never_saw))
            if means is not None
        }


@dataclass(frozen=True, slots=True)
class View:
    """How a record is shown."""

    form: str = TEXT
    every: bool = False
    """Show all numbers, not only the most important ones."""
    beside: Beside = field(default_factory=Beside)


def shown(summary: Mapping[str, Any], view: View) -> tuple[list[RenderableType], list[str]]:
    """Return a record for a reader, and lines about the numbers that are not shown.

    Args:
        summary: the content of summary.json.
        view: how to show it. CSV holds every number in full, and nothing else.
    """
    from mpu_cli.evaluation.key_numbers import direction, key_numbers

    sets = summary["sets"]
    roles = {owner: sets[owner]["role"] if owner in sets else owner for owner in summary["values"]}
    keys = [
        (owner, roles[owner], metric)
        for owner, metrics in summary["values"].items()
        for metric in metrics
    ]
    chosen = keys if view.every or view.form == CSV else key_numbers(keys)
    beside = view.beside.columns()
    if view.form == CSV:
        return [_csv(summary, chosen, beside)], _reasons(summary)
    rows = []
    for owner, role, metric in chosen:
        result = summary["values"][owner][metric]
        rows.append(
            (
                f"{owner} {metric}",
                arrow(direction(owner, role, metric)),
                number(result["value"]),
                interval(result.get("low"), result.get("high")),
                *(number(means.get((owner, metric))) for means in beside.values()),
            )
        )
    body: list[RenderableType] = []
    if (sentence := headline(summary, view.beside)) is not None:
        body += [sentence, ""]
    sizes = ", ".join(f"{name} {info['rows']}" for name, info in sets.items())
    body += grid(view.form, (f"rows: {sizes}", "better", "value", "95 %", *beside), rows)
    body += _relearning(summary, view)
    return body, [*not_shown(len(keys) - len(chosen)), *_reasons(summary)]


def headline(summary: Mapping[str, Any], beside: Beside) -> str | None:
    """Sentences on what was forgotten, retained and relearned; None without probabilities."""
    from mpu_cli.evaluation.questions import FORGET, RETAIN
    from mpu_cli.evaluation.relearned import PROBABILITY

    names = {
        role: [name for name, info in summary["sets"].items() if info["role"] == role]
        for role in (FORGET, RETAIN)
    }
    parts = []
    for role, better, others in (
        (FORGET, "lower", beside),
        (RETAIN, "higher", Beside(before=beside.before)),
    ):
        for name in names[role]:
            if (result := summary["values"].get(name, {}).get(PROBABILITY)) is not None:
                value = probability(result["value"]) + _compared(others, (name, PROBABILITY))
                parts.append(
                    f"{name.capitalize()} rows: answer probability {value}, {better} is better."
                )
    return (
        " ".join(
            [*parts, *(part for name in names[FORGET] for part in _worst(summary, name, beside))]
        )
        or None
    )


def _compared(beside: Beside, key: tuple[str, str]) -> str:
    named = (("before", beside.before), ("a model that never saw them", beside.never_saw))
    values = [
        f"{name} {probability(means[key])}"
        for name, means in named
        if means is not None and key in means
    ]
    return f" ({', '.join(values)})" if values else ""


def _worst(summary: Mapping[str, Any], name: str, beside: Beside) -> list[str]:
    from mpu_cli.evaluation.relearned import PROBABILITY, WORST, worst

    results = summary["values"].get(name, {})
    highest = worst({metric: result["value"] for metric, result in results.items()})
    if highest is None:
        return []
    control = (beside.never_saw or {}).get((name, f"{PROBABILITY}@{WORST}"))
    against = (
        f" ({probability(control)} in a model that never saw them)" if control is not None else ""
    )
    value = probability(highest.value)
    return [f"Relearning a few {name} rows brings the others to {value}{against}."]


def _relearning(summary: Mapping[str, Any], view: View) -> list[RenderableType]:
    """The relearning curves of each forget set by learning rate, beside those of the control."""
    from mpu_cli.evaluation.relearned import curves, worst

    body: list[RenderableType] = []
    for name, metrics in summary["values"].items():
        means = {metric: result["value"] for metric, result in metrics.items()}
        highest = worst(means)
        if highest is None:
            continue
        control = curves(
            {
                metric: value
                for (owner, metric), value in (view.beside.never_saw or {}).items()
                if owner == name
            }
        )
        rows = []
        for rate, curve in curves(means).items():
            peak = max((step for step in curve if step), key=lambda step: (curve[step], -step))
            never = control.get(rate, {})
            best = max((value for step, value in never.items() if step), default=None)
            rows.append(
                (
                    f"{rate or 'one rate'}{', worst' if rate == highest.rate else ''}",
                    number(curve.get(0)),
                    number(curve[peak]),
                    str(peak),
                    "–" if best is None else f"{number(never.get(0))} to {number(best)}",
                )
            )
        body += grid(
            view.form, (f"{name}, relearned at rate", "from", "to", "at step", "never saw"), rows
        )
        if not control:
            body += [
                "no control: a model that never saw these rows would learn them too; evaluate such"
                " a model with --robustness relearning and give its record as --retain-record",
                "",
            ]
    return body


def _csv(
    summary: Mapping[str, Any], keys: list[tuple[str, str, str]], beside: Mapping[str, Means]
) -> str:
    from mpu_cli.evaluation.key_numbers import direction

    rows = []
    for owner, role, metric in keys:
        result = summary["values"][owner][metric]
        values = result["value"], result.get("low"), result.get("high")
        others = (means.get((owner, metric)) for means in beside.values())
        rows.append((owner, metric, direction(owner, role, metric), *values, *others))
    titles = (title.replace(" ", "_") for title in beside)
    return comma_separated(("set", "metric", "better", "value", "low", "high", *titles), rows)


def _reasons(summary: Mapping[str, Any]) -> list[str]:
    """The metrics that are left out, one line per reason."""
    from mpu_cli.evaluation.metrics import all_metrics

    by_reason: dict[str, list[str]] = {}
    for owner, reasons in summary["left_out"].items():
        for metric, reason in reasons.items():
            if getattr(all_metrics().get(metric.partition("@")[0]), "shown", True):
                name = metric if owner == "model" else f"{owner} {metric}"
                by_reason.setdefault(reason, []).append(name)
    return [f"left out  {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
