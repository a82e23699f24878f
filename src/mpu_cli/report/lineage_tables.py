"""The tables of a dossier: models, handoffs, updates, exposure, and the settings if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpu_cli.report.page import Block, Facts, Paragraph
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.server.lineage.exposure import Ledger
    from mpu_cli.server.lineage.models import Lineage
    from mpu_cli.server.lineage.records import ModelRecord

SHORT = 12
"""Letters of a digest in a sentence."""


def state_of(lineage: Lineage, model: ModelRecord) -> str:
    """head, accepted or candidate."""
    if model.digest == lineage.head:
        state = "head"
    else:
        state = "accepted" if lineage.accepted(model.digest) else "candidate"
    return f"{state}, interrupted while it was written" if model.state == "prepared" else state


def short_date(date: str) -> str:
    """A record's date to the minute; "" in records of an earlier mpu."""
    return f"{date[:16].replace('T', ' ')} UTC" if date else ""


def models_table(lineage: Lineage) -> PageTable:
    """Every model, in the order of the records."""
    models = lineage.models.values()
    return PageTable(
        name="models",
        caption="In the order of the records. Dates are those of the records; records of an earlier"
        " mpu have none.",
        columns=("model", "made from", "state", "updates in it", "date"),
        rows=tuple(
            (
                model.digest,
                model.parent or "the first model",
                state_of(lineage, model),
                str(len(model.updates)),
                short_date(model.date) or "–",
            )
            for model in models
        ),
    )


def handoffs_table(lineage: Lineage, answered: set[str], *, disclose: bool) -> PageTable:
    """Every handoff: who got it when, and whether it was answered."""
    columns = ["handoff", "holder", "date", "state", "copies", "layers", "of model", "answered"]
    columns.append("digest")
    secret = ["copies of the draw", "κ", "denoising", "offset"] if disclose else []
    rows = []
    for handoff in lineage.handoffs.values():
        row = [
            handoff.id,
            handoff.holder,
            short_date(handoff.date) or "–",
            "issued" if handoff.state == "issued" else "interrupted",
            str(len(handoff.copies)),
            f"{handoff.layers} of {handoff.all_layers}" if handoff.layers else "all",
            handoff.model,
            "yes" if handoff.id in answered else "no",
            handoff.digest,
        ]
        if disclose:
            row += [
                str(handoff.size),
                f"{handoff.kappa:g}",
                handoff.denoising,
                f"{handoff.offset:g}",
            ]
        rows.append(tuple(row))
    return PageTable(
        name="handoffs",
        caption="In the order in which they were made.",
        columns=tuple(columns + secret),
        rows=tuple(rows),
    )


def updates_table(lineage: Lineage) -> PageTable:
    """The updates in every model, and whose they are."""
    rows = []
    for model in lineage.models.values():
        for place, update in enumerate(model.updates):
            handoff = model.handoffs[place] if place < len(model.handoffs) else ""
            holder = lineage.handoffs[handoff].holder if handoff in lineage.handoffs else "–"
            rows.append((update, handoff or "–", holder, model.digest))
    return PageTable(
        name="updates",
        caption="The updates that were aggregated." if rows else "No update was aggregated yet.",
        columns=("update", "answers handoff", "of", "in model"),
        rows=tuple(rows),
    )


def exposure_table(exposed: Ledger) -> PageTable:
    """What stays unknown to every holder, and to several together."""
    rows = [(name, left) for name, left in exposed.by_holder.items()]
    count = len(rows)
    rows += [
        (f"any {size} together" if size < count else f"all {size} together", left)
        for size, left in exposed.coalitions[1:]
    ]
    return PageTable(
        name="exposure",
        caption="Of several holders together, the best-informed ones count."
        if rows
        else "Nothing was given out.",
        columns=("to", "left unknown, at most"),
        rows=tuple((name, _coarse(left)) for name, left in rows),
    )


def _coarse(left: float) -> str:
    return f"{left:.2g}" if left else "nothing (≤ 1e-5)"


def secret_blocks(lineage: Lineage) -> list[Block]:
    """The settings of the noise, for who asked with --disclose."""
    offset = lineage.secret.offset
    return [
        Paragraph(
            "Shown with --disclose. Who knows these numbers and all copies of a handoff can remove"
            " its noise. The master secret is never shown.",
            "bad",
        ),
        Facts(
            {
                "offset": f"{offset.ratio:g} of the {offset.relative_to}, frozen",
                "base": lineage.secret.base or "none",
            }
        ),
        PageTable(
            name="copies",
            caption="The copies of every handoff.",
            columns=("copy", "handoff", "α or node", "digest"),
            rows=tuple(
                (copy.name, handoff.id, f"{copy.coefficient:g}", copy.digest)
                for handoff in lineage.handoffs.values()
                for copy in handoff.copies
            ),
        ),
        PageTable(
            name="settings",
            caption="How each model and handoff was made.",
            columns=("of", "server learning rate", "dtype", "reparameterization"),
            rows=(
                *(
                    (f"model {model.digest[:SHORT]}…", f"{model.server_lr:g}", "–", "–")
                    for model in lineage.models.values()
                    if model.parent is not None
                ),
                *(
                    (
                        f"handoff {handoff.id[:SHORT]}…",
                        "–",
                        handoff.dtype,
                        ", ".join(handoff.transforms) or "none",
                    )
                    for handoff in lineage.handoffs.values()
                ),
            ),
        ),
    ]
