"""What `mpu audit handoff` prints besides the pools: three numbers, updates, behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.output import share, table, unknown

if TYPE_CHECKING:
    from mpu_cli.audit.handoff.audit import HandoffAudit, UpdateRow
    from mpu_cli.audit.handoff.behaviour import Distance
    from mpu_cli.audit.handoff.left_out import NotAttacked
    from mpu_cli.audit.handoff.run_models import Runs


def three_numbers(result: HandoffAudit, runs: Runs | None) -> dict[str, str]:
    """What describes these handoffs; none of the three says enough alone."""
    worst = min(result.rows, key=lambda row: row.nearest.error)
    most = max(result.rows, key=lambda row: row.exact)
    return {
        "left unknown by the best attack": f"{unknown(worst.nearest.error)} ({worst.label})",
        "KL(θ‖copy) / KL(θ‖base)": _nearest_ratio(runs),
        "entries bit-exact": f"{100 * most.exact:.3g} % ({most.label})",
    }


def left_out(others: NotAttacked) -> dict[str, str]:
    """The tensors outside the layers, which no number of this audit is about."""
    lines = {
        "not attacked": (others.with_noise, "they got noise too, as --scope all says"),
        "given as they are": (others.as_they_are, "without noise: known exactly"),
    }
    return {label: f"{', '.join(roles)} ({why})" for label, (roles, why) in lines.items() if roles}


def _nearest_ratio(runs: Runs | None) -> str:
    if runs is None:
        return "not measured (--no-behaviour)"
    found = smallest_ratio(runs)
    return (
        "there is no base to compare with" if found is None else f"{share(found[0])} ({found[1]})"
    )


def smallest_ratio(runs: Runs | None) -> tuple[float, str] | None:
    """KL(θ‖copy) / KL(θ‖base) of the copy that answers most as θ does, and its name."""
    ratios = [
        (ratio, name)
        for behaviour in (runs.behaviours if runs else ())
        for name in behaviour.copies
        if (ratio := behaviour.ratio(name)) is not None
    ]
    return min(ratios, default=None)


def update_lines(updates: Sequence[UpdateRow]) -> list[Any]:
    """What is learned of the updates between rounds."""
    if not updates:
        return []
    rows = [
        (
            f"{row.rounds[0]} and {row.rounds[1]}",
            row.label,
            "not stated",
            share(row.nearest.error),
            f"{row.cosine:.3f}",
            row.nearest.label,
        )
        for row in updates
    ]
    return [
        "",
        "The update between two rounds: 1 is all of it. A holder subtracts its own part, and has"
        " that of others:",
        table("rounds", "pool", "stated", "error", "cosine", "nearest attack", rows=rows),
    ]


def update_data(updates: Sequence[UpdateRow]) -> list[dict[str, Any]]:
    """The same for --json."""
    return [
        {
            "rounds": list(row.rounds),
            "pool": row.label,
            "holders": list(row.holders),
            "stated": None,
            "measured": row.nearest.error,
            "cosine": row.cosine,
            "nearest": row.nearest.label,
            "attempts": [asdict(attempt) for attempt in row.attempts],
        }
        for row in updates
    ]


def behaviour_lines(runs: Runs | None) -> list[Any]:
    """How copies and base answer, beside θ."""
    if runs is None:
        return []
    body: list[Any] = []
    for behaviour in runs.behaviours:
        rows = [
            (
                name,
                *_distance(distance),
                "–" if (it := behaviour.ratio(name)) is None else share(it),
            )
            for name, distance in behaviour.copies.items()
        ]
        if behaviour.base is not None:
            rows.append(("base", *_distance(behaviour.base), "1"))
        body += [
            "",
            f"Behaviour beside {behaviour.model} on {behaviour.tokens} tokens of {runs.texts}:",
            table("", "KL(θ‖it), nats", "same top token", "share of the base's KL", rows=rows),
        ]
    return body


def not_run(matrices: Sequence[str]) -> list[str]:
    """A warning about matrices whose inputs were not seen."""
    if not matrices:
        return []
    return [
        "activation Wiener could not see the inputs of matrices that are fused in memory or have"
        f" more than 4096 inputs ({len(matrices)} here, for example {matrices[0]})"
    ]


def _distance(distance: Distance) -> tuple[str, str]:
    return f"{distance.kl:.3g}", f"{100 * distance.agreement:.4g} %"


def _of_base(ratio: float | None) -> str:
    return "–" if ratio is None else share(ratio)


def ran_data(runs: Runs | None) -> dict[str, Any]:
    """The behaviour for --json."""
    if runs is None:
        return {"behaviour": None}
    return {
        "behaviour": {
            "texts": runs.texts,
            "models": [
                {
                    "tokens": behaviour.tokens,
                    "base": behaviour.base and asdict(behaviour.base),
                    "copies": {
                        name: {**asdict(distance), "ratio": behaviour.ratio(name)}
                        for name, distance in behaviour.copies.items()
                    },
                }
                for behaviour in runs.behaviours
            ],
        }
    }
