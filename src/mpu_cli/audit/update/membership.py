"""Whether the update tells forgotten rows from decoys: areas under ROC curves, with a control.

The control compares decoys with decoys, or with rows of a file of their own: neither was forgotten,
so its area must be near .5. If it is not, the decoys differ among themselves and the area means
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpu_cli.audit.update.area import Area, area
from mpu_cli.audit.update.attacks import Attack, Machine, gradient_cosine, loss_change
from mpu_cli.audit.update.encoded_rows import EncodedRows
from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.subject import Subject
from mpu_cli.data.order import shuffled
from mpu_cli.errors import CheckFailedError
from mpu_cli.evaluation.statistics import Array

ATTACKS: Mapping[str, tuple[Attack, str]] = {
    "loss_change": (loss_change, "by loss change"),
    "gradient_cosine": (gradient_cosine, "by gradient–update cosine"),
}


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Two groups of rows whose scores are compared, and what the areas mean."""

    key: str
    what: str
    members: tuple[str, ...]
    others: tuple[str, ...]
    told: str
    """The meaning if the rows are told apart."""
    untold: str
    """The meaning if the interval holds .5."""
    gate: str = ""
    """The beginning of the number's name for `--fail-if`; empty = it has none."""


_FORGET = _Comparison(
    "forget_decoys",
    "membership",
    ("forget",),
    ("decoys",),
    "Of a forgotten row and a decoy the server names the forgotten one in {share} of all pairs.",
    "These rows do not show that the server can tell a forgotten row from a decoy.",
    "membership",
)
_COVER = (
    _Comparison(
        "forget_cover",
        "forget against cover",
        ("forget",),
        ("cover",),
        "The cover rows are told from the forget rows: they do not hide them.",
        "The server cannot tell your forget rows from the cover rows: they hide among them.",
        "cover",
    ),
    _Comparison(
        "both_decoys",
        "forget and cover against decoys",
        ("forget", "cover"),
        ("decoys",),
        "The server sees that this row was forgotten or was cover, in {share} of all pairs; cover"
        " does not change that.",
        "These rows do not show that the server can tell them from decoys.",
    ),
)


def membership(
    subject: Subject, rows: EncodedRows, machine: Machine
) -> tuple[list[Finding], dict[str, dict[str, Array]]]:
    """A finding for each attack and comparison, and the scores by attack and set.

    Raises:
        CheckFailedError: the changed copy's loss is not a number.
    """
    findings, scores = [], {}
    comparisons = (_FORGET, *(_COVER if rows.sets["cover"] else ()))
    everything = [row for members in rows.sets.values() for row in members]
    ends = np.cumsum([len(members) for members in rows.sets.values()])[:-1]
    for name, (attack, words) in ATTACKS.items():
        measured = attack(subject.published.path, subject.changed, everything, machine)
        if bad := int(np.isnan(measured).sum()):
            raise CheckFailedError(
                f"{subject.update_path / subject.name}: with this change the model computes no"
                f" number for {bad} of {len(measured)} rows",
                "lower the learning rate and train again",
            )
        scores[name] = dict(zip(rows.sets, np.split(measured, ends), strict=True))
        control = _control(scores[name])
        findings += [_compare(item, name, words, scores[name], control) for item in comparisons]
    return findings, scores


def _control(scores: Mapping[str, Array]) -> Area:
    """Rows that were not forgotten against each other."""
    if len(scores["control"]):
        return area(scores["control"], scores["decoys"])
    order, decoys = shuffled(len(scores["decoys"]), "audit/halves"), scores["decoys"]
    half = len(order) // 2
    return area(decoys[order[:half]], decoys[order[half:]])


def _compare(
    item: _Comparison, name: str, words: str, scores: Mapping[str, Array], control: Area
) -> Finding:
    members, others = (
        np.concatenate([scores[part] for part in parts]) for parts in (item.members, item.others)
    )
    found = area(members, others)
    against = f"{control.value:.3f} ({control.low:.3f} – {control.high:.3f})"
    meaning = item.untold if found.includes_chance else item.told
    if not found.includes_chance and found.value < 0.5:
        meaning = "The rows stand out the other way round, which reveals them as well (1 - AUC)."
    if not control.includes_chance:
        meaning += " But the control is not near .5: the decoys differ among themselves."
    return Finding(
        f"{item.key}:{name}",
        f"{item.what} {words}",
        f"AUC {found.value:.3f}",
        meaning.format(share=f"{found.value:.0%}"),
        found.interval,
        against,
        {
            "auc": found.content(),
            "control_auc": control.content(),
            "rows": [len(members), len(others)],
        },
        {f"{item.gate}_{name}": found.value} if item.gate else {},
    )
