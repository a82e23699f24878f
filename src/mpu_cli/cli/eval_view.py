"""What `mpu eval --list-metrics` prints, and `mpu eval` and `mpu inspect RECORD` of a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType

from mpu_cli.cli.figures import CSV, TEXT, arrow, comma_separated, grid, interval, number
from mpu_cli.cli.output import facts

Means = Mapping[tuple[str, str], float]


def listed() -> tuple[Any, ...]:
    """Every metric and check, as JSON and for a reader."""
    from mpu_cli.evaluation.metrics import all_metrics
    from mpu_cli.evaluation.robustness import all_checks

    metrics = [metric for metric in all_metrics().values() if getattr(metric, "shown", True)]
    told: list[dict[str, str]] = [
        {"name": m.name, "about": m.about, "better": m.better, "source": m.source} for m in metrics
    ]
    checks: list[dict[str, str]] = [
        {"name": c.name, "about": c.about, "source": c.source} for c in all_checks().values()
    ]
    body: list[RenderableType] = []
    for one in told:
        body += [
            one["name"],
            facts({"what": one["about"], "forgotten is": one["better"], "source": one["source"]}),
            "",
        ]
    for one in checks:
        body += [
            f"--robustness {one['name']}",
            facts({"what": one["about"], "source": one["source"]}),
            "",
        ]
    return ({"metrics": told, "robustness": checks}, *body)


@dataclass(frozen=True, slots=True)
class Beside:
    """Means of other records by (set, metric), in a column of their own.

    None where no such record was given.
    """

    before: Means | None = None
    never_saw: Means | None = None
    """Of a model that never saw the forget set."""

    def columns(self) -> dict[str, Means]:
        """Those that there are, by the column's title."""
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
    """All numbers, not only the most telling ones."""
    beside: Beside = field(default_factory=Beside)


def shown(summary: Mapping[str, Any], view: View) -> tuple[list[RenderableType], list[str]]:
    """A record for a reader: one sentence, about a dozen numbers, relearning by rate.

    and, a line each, what is not shown and why.

    Args:
        summary: the content of summary.json.
        view: how. CSV has every number, in full, and nothing else.
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
        one = summary["values"][owner][metric]
        told = number(one["value"]), interval(one.get("low"), one.get("high"))
        rows.append(
            (
                f"{owner} {metric}",
                arrow(direction(owner, role, metric)),
                *told,
                *(number(means.get((owner, metric))) for means in beside.values()),
            )
        )
    body: list[RenderableType] = []
    if (words := headline(summary, view.beside)) is not None:
        body += [words, ""]
    sizes = ", ".join(f"{name} {info['rows']}" for name, info in sets.items())
    body += grid(view.form, (f"rows: {sizes}", "better", "value", "95 %", *beside), rows)
    body += _relearning(summary, view)
    hidden = len(keys) - len(chosen)
    return body, [
        *([f"not shown  {hidden} more numbers: --all"] if hidden else []),
        *_reasons(summary),
    ]


def headline(summary: Mapping[str, Any], beside: Beside) -> str | None:
    """What was forgotten, what was kept and what came back, a short sentence each.

    None without answer probabilities.
    """
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
            if (one := summary["values"].get(name, {}).get(PROBABILITY)) is not None:
                told = _probability(one["value"]) + _otherwise(others, (name, PROBABILITY))
                parts.append(
                    f"{name.capitalize()} rows: answer probability {told}, {better} is better."
                )
    return (
        " ".join(
            [*parts, *(part for name in names[FORGET] for part in _worst(summary, name, beside))]
        )
        or None
    )


def _otherwise(beside: Beside, key: tuple[str, str]) -> str:
    told = [
        f"{words} {_probability(means[key])}"
        for words, means in (
            ("before", beside.before),
            ("a model that never saw them", beside.never_saw),
        )
        if means is not None and key in means
    ]
    return f" ({', '.join(told)})" if told else ""


def _worst(summary: Mapping[str, Any], name: str, beside: Beside) -> list[str]:
    from mpu_cli.evaluation.relearned import PROBABILITY, WORST, worst

    found = worst({metric: one["value"] for metric, one in summary["values"].get(name, {}).items()})
    if found is None:
        return []
    control = (beside.never_saw or {}).get((name, f"{PROBABILITY}@{WORST}"))
    against = (
        f" ({_probability(control)} in a model that never saw them)" if control is not None else ""
    )
    return [
        f"Relearning a few brings the other {name} rows to {_probability(found.value)}{against}."
    ]


def _probability(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _relearning(summary: Mapping[str, Any], view: View) -> list[RenderableType]:
    """For each forget set its curves by rate, the worst marked, beside those of the model that never saw it."""
    from mpu_cli.evaluation.relearned import curves, worst

    body: list[RenderableType] = []
    for name, metrics in summary["values"].items():
        means = {metric: one["value"] for metric, one in metrics.items()}
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
            rows.append(
                (
                    f"{rate or 'one rate'}{', worst' if rate == highest.rate else ''}",
                    number(curve.get(0)),
                    number(curve[peak]),
                    str(peak),
                    f"{number(never.get(0))} to {number(max(value for step, value in never.items() if step))}"
                    if len(never) > 1
                    else "–",
                )
            )
        body += grid(
            view.form, (f"{name}, relearned at rate", "from", "to", "at step", "never saw"), rows
        )
        if not control:
            body += [
                "no control: a model that never saw these rows learns them, too; evaluate one with --robustness relearning and give "
                "its record as --retain-record",
                "",
            ]
    return body


def _csv(
    summary: Mapping[str, Any], keys: list[tuple[str, str, str]], beside: Mapping[str, Means]
) -> str:
    from mpu_cli.evaluation.key_numbers import direction

    rows = []
    for owner, role, metric in keys:
        one = summary["values"][owner][metric]
        rows.append(
            (
                owner,
                metric,
                direction(owner, role, metric),
                one["value"],
                one.get("low"),
                one.get("high"),
                *(means.get((owner, metric)) for means in beside.values()),
            )
        )
    return comma_separated(
        (
            "set",
            "metric",
            "better",
            "value",
            "low",
            "high",
            *(title.replace(" ", "_") for title in beside),
        ),
        rows,
    )


def _reasons(summary: Mapping[str, Any]) -> list[str]:
    """What is left out, by reason: one line for all that lack the same thing."""
    from mpu_cli.evaluation.metrics import all_metrics

    found: dict[str, list[str]] = {}
    for owner, reasons in summary["left_out"].items():
        for metric, reason in reasons.items():
            if getattr(all_metrics().get(metric.partition("@")[0]), "shown", True):
                found.setdefault(reason, []).append(
                    metric if owner == "model" else f"{owner} {metric}"
                )
    return [f"left out  {', '.join(names)}: {reason}" for reason, names in found.items()]
