"""What `mpu eval` and `mpu compare` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from mpu_cli.cli.output import facts, table

if TYPE_CHECKING:
    from mpu_cli.evaluation.compare import Comparison
    from mpu_cli.evaluation.record import Record


def listed() -> tuple[Any, ...]:
    """Every metric and check, as JSON and for a reader."""
    from mpu_cli.evaluation.metrics import all_metrics
    from mpu_cli.evaluation.robustness import all_checks

    metrics = [metric for metric in all_metrics().values() if getattr(metric, "shown", True)]
    told: list[dict[str, str]] = [{"name": m.name, "about": m.about, "better": m.better, "source": m.source} for m in metrics]
    checks: list[dict[str, str]] = [{"name": c.name, "about": c.about, "source": c.source} for c in all_checks().values()]
    body: list[RenderableType] = []
    for one in told:
        body += [one["name"], facts({"what": one["about"], "forgotten is": one["better"], "source": one["source"]}), ""]
    for one in checks:
        body += [f"--robustness {one['name']}", facts({"what": one["about"], "source": one["source"]}), ""]
    return ({"metrics": told, "robustness": checks}, *body)


def shown(record: Record, before: Record | None, kept: Path | None) -> list[RenderableType]:
    """A record for a reader: a table for each set, then what was left out and why."""
    from mpu_cli.evaluation.summarise import means

    body: list[RenderableType] = []
    old = means(before) if before else {}
    for owner, metrics in record.values.items():
        rows = []
        for metric, one in metrics.items():
            cells = [metric, _number(one["value"]), _interval(one)]
            if before is not None:
                cells.append(_number(old.get((owner, metric))))
            rows.append(tuple(cells))
        info = record.sets.get(owner)
        title = f"{owner}, {info.rows} rows" if info else "the model"
        body += [table(title, "value", "95 %", *(["before"] if before is not None else []), rows=rows), ""]
    for reason, names in _reasons(record).items():
        body.append(f"left out  {', '.join(names)}: {reason}")
    if kept is not None:
        body.append(f"kept  {kept}  (for --before, --retain-record, and mpu compare)")
    return body


def compared(found: Comparison) -> list[RenderableType]:
    """A table for each pair of the first record and another."""
    body: list[RenderableType] = []
    for pair in found.pairs:
        rows = [
            (
                f"{line.owner} {line.metric}", _number(line.first), _number(line.other), _number(line.difference, signed=True),
                _interval({"low": line.low, "high": line.high}), "–" if line.margin is None else f"±{_number(line.margin)}", line.verdict,
            )
            for line in pair.lines
        ]  # fmt: skip
        body += [table("", pair.first, pair.other, "difference", "95 %", "margin", "verdict", rows=rows), ""]
    body += [f"note: {note}" for note in found.notes]
    return body


def _reasons(record: Record) -> dict[str, list[str]]:
    """What is left out, by reason: one line for all that lack the same thing."""
    from mpu_cli.evaluation.metrics import all_metrics

    found: dict[str, list[str]] = {}
    for (owner, metric), reason in record.left_out.items():
        if getattr(all_metrics().get(metric.partition("@")[0]), "shown", True):
            found.setdefault(reason, []).append(f"{owner} {metric}".strip())
    return found


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None or value != value:
        return "–"
    sign = "+" if signed else ""
    return f"{value:{sign}.4f}" if abs(value) < 1000 and (abs(value) >= 1e-4 or value == 0) else f"{value:{sign}.3g}"


def _interval(one: dict[str, Any]) -> str:
    return f"{_number(one['low'])} … {_number(one['high'])}" if one.get("low") is not None else "–"
