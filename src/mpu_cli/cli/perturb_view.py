"""What `mpu perturb` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.next_steps import after_perturb
from mpu_cli.cli.output import facts, share, table, unknown
from mpu_cli.documentation import page

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.server.lineage.records import HandoffRecord
    from mpu_cli.server.publishing.noise_search import Trial
    from mpu_cli.server.publishing.result import PerturbResult


def trial_rows(
    trials: Sequence[Trial], result: PerturbResult, budget: float | None
) -> list[RenderableType]:
    """What was tried, if anything was."""
    if not trials or budget is None:
        return []
    first = result.handoffs[0]
    rows = [
        (
            f"{trial.kappa:g}",
            f"{first.offset if trial.offset is None else trial.offset:g}",
            f"{trial.lost:.4f}",
            "fits" if trial.lost <= budget else "too much",
        )
        for trial in trials
    ]
    columns = ("κ", "offset", "worst copy loses, nats per token", f"budget {budget:g}")
    chosen = f"κ = {first.kappa:g}, offset = {first.offset:g}"
    return [
        table(*columns, rows=rows),
        f"found {chosen} (more noise is taken to lose more; the real copies were measured too)",
    ]


def data(
    result: PerturbResult, trials: Sequence[Trial], handoff: Path, secret: Path
) -> dict[str, Any]:
    """What --json prints."""
    from mpu_cli.server.publishing.advice import meaning

    first = result.handoffs[0]
    return {
        "handoffs": [
            {"path": h.target, "id": h.id, "digest": h.digest, "holder": h.holder}
            for h in result.handoffs
        ],
        "handoff": str(handoff),
        "secret": str(secret),
        "new_lineage": result.new_lineage,
        "model": first.model,
        "copies": first.size,
        "dtype": first.dtype,
        "denoising": first.denoising,
        "kappa": first.kappa,
        "offset": first.offset,
        "relative_to": result.relative_to,
        "transforms": list(first.transforms),
        "sigma": dict(first.sigma),
        "realised": dict(first.realised),
        "exposure": result.exposure.content(),
        "exposure_by": dict(result.exposure.bounds),
        "exposure_means": meaning(
            result.relative_to, result.exposure.no_copy, is_cut=bool(first.layers)
        ),
        "layers": first.layers or None,
        "withheld": first.withheld,
        "ledger": result.ledger.content(),
        "checks": len(result.checks),
        "probe": dict(result.probe),
        "trials": [asdict(trial) for trial in trials],
        "advice": list(result.advice),
        "warnings": list(result.warnings),
    }


def body(
    result: PerturbResult, sent: Sequence[Path], secret: Path, model: str
) -> list[RenderableType]:
    """What was published, what it exposes, and what to do next."""
    first = result.handoffs[0]
    unit = "of the task vector" if result.relative_to == "task-vector" else "of the weights"
    measured = first.realised
    noise = [f"asked for {first.kappa:g} {unit}"]
    if "noise" in measured:
        noise.append(f"measured {measured['noise']:.4f} of that")
    noise.append(f"{measured['changed']:.2%} of entries changed" if measured["changed"] else "none")
    cut = {"layers": cut_words(first)} if first.layers else {}
    properties = cut | {
        "copies": f"{first.size}, {first.dtype}, {first.denoising}",
        "noise": ", ".join(noise),
        "cancels to": f"{share(measured['residual'])} of the weights",
        "recoverable": (
            f"{measured['recoverable']:.2%} of entries, by rounding a copy to the model's own"
            " number grid"
        ),
        "checked": _checked(result),
    }
    lines: list[RenderableType] = [facts(properties)]
    from mpu_cli.server.publishing.advice import interrupted, meaning

    lines.append(
        table("exposure", f"share {unit} still unknown (upper bound)", rows=_exposed(result))
    )
    told = meaning(result.relative_to, result.exposure.no_copy, is_cut=bool(first.layers))
    lines.append(f"{told} ({page('threat-model')})")
    if result.ledger.prepared:
        lines.append(interrupted(result.ledger.prepared))
    lines.append(f"error of a smooth update: order {result.exposure.order} in the noise")
    if result.probe:
        rows = [(name, f"{loss:.4f}") for name, loss in result.probe.items()]
        lines.append(table("probe", "loss, nats per token", rows=rows))
    lines.extend(f"note: {line}" for line in result.advice)
    lines.append("")
    for place, record in zip(sent, result.handoffs, strict=True):
        lines.append(f"send  {place}  to {record.holder}")
    lines.append(f"keep  {secret}  (secret; back it up, never send it)")
    return [*lines, *after_perturb(sent, secret, model, is_cut=bool(first.layers))]


def cut_words(record: HandoffRecord) -> str:
    """What a cut handoff holds, and what it withholds."""
    from mpu_cli.server.publishing.advice import sent_layers

    unit = "‖θ − base‖²" if record.relative_to == "task-vector" else "‖θ‖²"
    # Embeddings without noise are sent exactly and are not in the share.
    unit = f"the layers' {unit}" if record.scope == "layers" else unit
    held = sent_layers(record.layers, record.all_layers).partition(" ")[2]
    return f"{held}; {record.withheld:.1%} of {unit} is not sent"


def handed_out(result: PerturbResult, handoff: Path) -> list[Path]:
    """The handoffs as the user named them; the records have absolute paths."""
    here = handoff.absolute()
    targets = [Path(record.target) for record in result.handoffs]
    return [
        handoff / target.relative_to(here) if target.is_relative_to(here) else target
        for target in targets
    ]


def _exposed(result: PerturbResult) -> list[tuple[str, str]]:
    """The exposure by this draw, then by all that its holders have of the lineage."""
    from mpu_cli.server.publishing.advice import attack, who_pool

    shown, ledger = result.exposure, result.ledger
    earlier = ledger.handoffs - len(result.handoffs)
    lefts = [
        ("with no copy", shown.no_copy, ""),
        (
            "to a holder of one copy (the best-known one)",
            shown.one_copy,
            attack(shown.bounds["one_copy"]),
        ),
        ("to a holder of all copies", shown.all_copies, attack(shown.bounds["all_copies"])),
    ]
    before = f", with {earlier} earlier handoff{'s' * (earlier > 1)}" if earlier else ""
    pools = (
        ledger.coalitions if earlier else ledger.coalitions[1:-1]
    )  # the first and the last are above
    lefts += [
        (
            who_pool(size, len(ledger.by_holder)) + before,
            left,
            attack(ledger.bounds[f"{size} together"]),
        )
        for size, left in pools
    ]
    if earlier and not ledger.coalitions:
        lefts += [
            (f"to {holder}{before}", left, attack(ledger.bounds[holder]))
            for holder, left in ledger.by_holder.items()
        ]
    if ledger.all_together < min(left for _, left, _ in lefts):
        together = attack(ledger.bounds["all together"])
        lefts.append(("to all holders of this lineage together", ledger.all_together, together))
    return [(who, unknown(left, how)) for who, left, how in lefts]


def _checked(result: PerturbResult) -> str:
    if not result.checks:
        return "nothing (no reparameterization, or --check none)"
    worst = max(check.difference / check.rounding for check in result.checks)
    layers = len({check.layer for check in result.checks})
    return (
        f"{layers} layers × {result.handoffs[0].size} copies keep the function, at most"
        f" {worst:.1f}× their own rounding (limit 20×)"
    )
