"""The owner's dossier of one lineage: its models, who got what, what came back, and the exposure.

Without `disclose` the page holds nothing that a holder should not know: no α, node, κ, σ, offset,
master secret, seed or id of a draw, no denoising and no number of copies of other holders. An
exposure follows from the noise and says roughly how large that is, so it has two digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpu_cli.evaluation.key_numbers import direction
from mpu_cli.report.numbers import counted, number
from mpu_cli.report.page import Block, Branch, Facts, Page, Paragraph, Section, Tree
from mpu_cli.report.record import BETTER, Value
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.evaluation.records.record import Record
    from mpu_cli.server.lineage.exposure import Ledger
    from mpu_cli.server.lineage.models import Lineage
    from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord

_SHORT = 12
_EXPOSURE = (
    "Of what the noise hides, the share that stays unknown to a holder with everything that was"
    " given out so far, at most: a better attack may be found, and mpu audit handoff measures the"
    " known ones. It follows from the noise, so whoever reads it can tell roughly how large the"
    " noise is. It says nothing of how a copy behaves: a copy behaves about as the model does."
)


def lineage_page(
    lineage: Lineage,
    exposed: Ledger,
    records: Mapping[str, tuple[Record, Sequence[Value]]],
    *,
    disclose: bool,
) -> Page:
    """The dossier.

    Args:
        lineage: read and checked.
        exposed: what all its holders know so far.
        records: evaluation records with their numbers, by the name to show.
        disclose: also show the settings of the noise.
    """
    models, handoffs = lineage.models, lineage.handoffs
    answered = {id_ for model in models.values() for id_ in model.handoffs}
    summary = [
        Paragraph(
            f"{counted(len(models), 'model')}; {counted(len(handoffs), 'handoff')} to"
            f" {counted(len(exposed.by_holder), 'holder')}, of which"
            f" {len([id_ for id_ in handoffs if id_ in answered])} answered. The head is model"
            f" {lineage.head[:_SHORT]}…"
        )
    ]
    if lineage.secret.origin == "test":
        summary.append(
            Paragraph("This secret was prepared by a test (origin: test): it hides nothing.", "bad")
        )
    if exposed.prepared:
        summary.append(
            Paragraph(
                f"{counted(exposed.prepared, 'handoff')} interrupted: it may or may not have left,"
                " and counts as given out.",
                "note",
            )
        )
    matched, strangers = _match(lineage, records)
    sections = [
        Section("The models", [Tree(_branch(lineage, _root(lineage), matched)), _models(lineage)]),
        Section("Who got which handoff", [_handoffs(lineage, answered, disclose=disclose)]),
        Section("What came back", [_updates(lineage)]),
        Section("Exposure so far", [Paragraph(_EXPOSURE), _exposure(exposed)]),
        Section("Evaluations", _evaluations(lineage, matched, strangers)),
        Section("Gates", [Paragraph(_GATES), *_rules(lineage)]),
    ]
    if disclose:
        sections.append(Section("Secret settings", _secrets(lineage)))
    return Page("Dossier of a lineage", f"Lineage {lineage.secret.lineage}", summary, sections)


_GATES = (
    "mpu aggregate accepts an update only of a handoff of this lineage, once on the chain of a"
    " model, with every tensor finite and of the published shape, and unless the owner changed the"
    " limits, with an agreement and a norm within them. Every update above passed. For this page"
    " every file of the secret was read, and its HMAC checked."
)


def _rules(lineage: Lineage) -> list[Block]:
    made = [model for model in lineage.models.values() if model.parent is not None]
    forks = [model for model in lineage.models.values() if len(lineage.children(model.digest)) > 1]
    return [
        Facts(
            {
                "models aggregated": str(len(made)),
                "updates accepted": str(sum(len(model.updates) for model in made)),
                "models with several children": str(len(forks)),
                "models not yet accepted": str(
                    sum(not lineage.accepted(model.digest) for model in made)
                ),
            }
        )
    ]


def _root(lineage: Lineage) -> ModelRecord:
    return next(model for model in lineage.models.values() if model.parent is None)


def _state(lineage: Lineage, model: ModelRecord) -> str:
    if model.digest == lineage.head:
        state = "head"
    else:
        state = "accepted" if lineage.accepted(model.digest) else "candidate"
    return f"{state}, interrupted while it was written" if model.state == "prepared" else state


def _branch(
    lineage: Lineage, model: ModelRecord, matched: Mapping[str, list[tuple[str, Sequence[Value]]]]
) -> Branch:
    handoffs = tuple(
        Branch(
            f"handoff {handoff.id[:_SHORT]}… to {handoff.holder}",
            ", ".join(filter(None, (_copies(handoff), _date(handoff.date)))),
        )
        for handoff in lineage.handoffs.values()
        if handoff.model == model.digest
    )
    evaluations = tuple(
        Branch(f"evaluated: {name}", _forgotten(values))
        for name, values in matched.get(model.digest, ())
    )
    children = tuple(_branch(lineage, child, matched) for child in lineage.children(model.digest))
    about = ", ".join(filter(None, (_state(lineage, model), _date(model.date))))
    return Branch(f"model {model.digest[:_SHORT]}…", about, (*evaluations, *handoffs, *children))


def _copies(handoff: HandoffRecord) -> str:
    return f"{len(handoff.copies)} {'copies' if len(handoff.copies) > 1 else 'copy'}"


def _forgotten(values: Sequence[Value]) -> str:
    return ", ".join(
        f"{value.owner} {number(value.value)}"
        for value in values
        if value.metric == "answer_probability"
    )


def _date(date: str) -> str:
    return f"{date[:16].replace('T', ' ')} UTC" if date else ""


def _models(lineage: Lineage) -> PageTable:
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
                _state(lineage, model),
                str(len(model.updates)),
                _date(model.date) or "–",
            )
            for model in models
        ),
    )


def _handoffs(lineage: Lineage, answered: set[str], *, disclose: bool) -> PageTable:
    columns = ["handoff", "holder", "date", "state", "copies", "of model", "answered", "digest"]
    secret = ["copies of the draw", "κ", "denoising", "offset"] if disclose else []
    rows = []
    for handoff in lineage.handoffs.values():
        row = [
            handoff.id,
            handoff.holder,
            _date(handoff.date) or "–",
            "issued" if handoff.state == "issued" else "interrupted",
            str(len(handoff.copies)),
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


def _updates(lineage: Lineage) -> PageTable:
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


def _exposure(exposed: Ledger) -> PageTable:
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


def _match(
    lineage: Lineage, records: Mapping[str, tuple[Record, Sequence[Value]]]
) -> tuple[dict[str, list[tuple[str, Sequence[Value]]]], list[str]]:
    """Records by the model that they measured: itself, or a copy of it in a handoff."""
    copies = {
        copy.digest: handoff.model
        for handoff in lineage.handoffs.values()
        for copy in handoff.copies
    }
    matched: dict[str, list[tuple[str, Sequence[Value]]]] = {}
    strangers = []
    for name, (record, values) in records.items():
        digest = str(record.model.get("digest"))
        model = digest if digest in lineage.models else copies.get(digest)
        if model is None:
            strangers.append(name)
        else:
            shown = name if model == digest else f"{name} (of a published copy)"
            matched.setdefault(model, []).append((shown, values))
    return matched, strangers


def _evaluations(
    lineage: Lineage,
    matched: Mapping[str, list[tuple[str, Sequence[Value]]]],
    strangers: Sequence[str],
) -> list[Block]:
    blocks: list[Block] = [
        Paragraph(f"{name}: measured a model that is not in this lineage.", "note")
        for name in strangers
    ]
    missing = [digest for digest in lineage.models if digest not in matched]
    if missing:
        names = ", ".join(f"{digest[:_SHORT]}…" for digest in missing)
        blocks.append(
            Paragraph(f"No record was given of: {names} (mpu eval --record, then --records).")
        )
    rows = [
        (digest, name, value)
        for digest in lineage.models
        for name, values in matched.get(digest, ())
        for value in values
    ]
    if rows:
        blocks.append(
            PageTable(
                name="evaluations",
                caption="The numbers of the records beside each model.",
                columns=("model", "record", "number", "better", "value"),
                rows=tuple(
                    (
                        f"{digest[:_SHORT]}…",
                        name,
                        f"{value.owner} {value.metric}",
                        BETTER.get(
                            better := direction(value.owner, value.role, value.metric), better
                        ),
                        number(value.value),
                    )
                    for digest, name, value in rows
                ),
                names=("model", "record", "set", "metric", "value", "low", "high"),
                values=tuple(
                    (digest, name, value.owner, value.metric, value.value, value.low, value.high)
                    for digest, name, value in rows
                ),
            )
        )
    return blocks


def _secrets(lineage: Lineage) -> list[Block]:
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
                    (f"model {model.digest[:_SHORT]}…", f"{model.server_lr:g}", "–", "–")
                    for model in lineage.models.values()
                    if model.parent is not None
                ),
                *(
                    (
                        f"handoff {handoff.id[:_SHORT]}…",
                        "–",
                        handoff.dtype,
                        ", ".join(handoff.transforms) or "none",
                    )
                    for handoff in lineage.handoffs.values()
                ),
            ),
        ),
    ]
