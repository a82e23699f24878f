"""The owner's dossier of one lineage: its models, who got what, what came back, and the exposure.

Without `disclose` the page states no α, node, κ, σ, offset, master secret, seed or id of a draw,
and no denoising. An exposure follows from the noise: its two digits give κ·α_k or the offset to
about 5 % (`tests/report/test_dossier_exposure.py`), so the page is the owner's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpu_cli.report.lineage_evaluations import Matched, by_model, evaluation_blocks
from mpu_cli.report.lineage_tables import (
    SHORT,
    exposure_table,
    handoffs_table,
    models_table,
    secret_blocks,
    short_date,
    state_of,
    updates_table,
)
from mpu_cli.report.numbers import counted, number
from mpu_cli.report.page import Block, Branch, Facts, Page, Paragraph, Section, Tree
from mpu_cli.report.record import Value

if TYPE_CHECKING:
    from mpu_cli.evaluation.records.record import Record
    from mpu_cli.server.lineage.exposure import Ledger
    from mpu_cli.server.lineage.models import Lineage
    from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord

_EXPOSURE = (
    "Of what the noise hides, the share that stays unknown to a holder with everything that was"
    " given out so far, at most: a better attack may be found, and mpu audit handoff measures the"
    " known ones. It follows from the noise: whoever reads it can work out the size of the noise or"
    " of the offset to about 5 %, and which holder of a split got the most noise. It says nothing"
    " of how a copy behaves: a copy behaves about as the model does."
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
            f"{counted(len(models), 'model')}; {counted(len(handoffs), 'handoff')}"
            f" ({len([id_ for id_ in handoffs if id_ in answered])} answered) to"
            f" {counted(len(exposed.by_holder), 'holder')}. The head is model"
            f" {lineage.head[:SHORT]}…"
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
    matched, strangers = by_model(lineage, records)
    sections = [
        Section(
            "The models", [Tree(_chain(lineage, _root(lineage), matched)), models_table(lineage)]
        ),
        Section("Who got which handoff", [handoffs_table(lineage, answered, disclose=disclose)]),
        Section("What came back", [updates_table(lineage)]),
        Section("Exposure so far", [Paragraph(_EXPOSURE), exposure_table(exposed)]),
        Section("Evaluations", evaluation_blocks(lineage, matched, strangers)),
        Section("Gates", [Paragraph(_GATES), *_rules(lineage)]),
    ]
    if disclose:
        sections.append(Section("Secret settings", secret_blocks(lineage)))
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


def _chain(lineage: Lineage, model: ModelRecord, matched: Matched) -> tuple[Branch, ...]:
    """A model and what follows from it: on one level while each has one child, then below."""
    chain = []
    while True:
        children = lineage.children(model.digest)
        below = [_chain(lineage, child, matched) for child in children] if len(children) > 1 else []
        chain.append(_branch(lineage, model, matched, tuple(it for part in below for it in part)))
        if len(children) != 1:
            return tuple(chain)
        [model] = children


def _branch(
    lineage: Lineage, model: ModelRecord, matched: Matched, below: tuple[Branch, ...]
) -> Branch:
    handoffs = tuple(
        Branch(
            f"handoff {handoff.id[:SHORT]}… to {handoff.holder}",
            ", ".join(filter(None, (_copies(handoff), short_date(handoff.date)))),
        )
        for handoff in lineage.handoffs.values()
        if handoff.model == model.digest
    )
    evaluations = tuple(
        Branch(f"evaluated: {name}", _forgotten(values))
        for name, values in matched.get(model.digest, ())
    )
    origin = f"made from {model.parent[:SHORT]}…" if model.parent else "the first model"
    about = ", ".join(filter(None, (origin, state_of(lineage, model), short_date(model.date))))
    return Branch(f"model {model.digest[:SHORT]}…", about, (*evaluations, *handoffs, *below))


def _copies(handoff: HandoffRecord) -> str:
    return f"{len(handoff.copies)} {'copies' if len(handoff.copies) > 1 else 'copy'}"


def _forgotten(values: Sequence[Value]) -> str:
    return ", ".join(
        f"{value.owner} {number(value.value)}"
        for value in values
        if value.metric == "answer_probability"
    )
