"""How to read a number: which way is better, and which numbers come first.

For people who decide by a record, not for the maths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import all_metrics
from mpu_cli.evaluation.questions import FORGET, KNOWLEDGE, RETAIN, UTILITY, VERBATIM
from mpu_cli.evaluation.relearned import WORST
from mpu_cli.evaluation.summarise import MODEL

MOST = 12
"""Numbers that are shown unless all are asked for."""
Key = tuple[str, str, str]
"""Set (or "model"), its role (or "model"), and metric or metric@condition."""

_FIRST = (
    (FORGET, "answer_probability"),
    (RETAIN, "answer_probability"),
    (FORGET, f"answer_probability@{WORST}"),
    (FORGET, "rouge_recall"),
    (RETAIN, "rouge_recall"),
    (MODEL, "model_utility"),
    (KNOWLEDGE, "knowledge_memorization"),
    (VERBATIM, "verbatim_memorization"),
    (MODEL, "forget_quality"),
    (MODEL, "privacy_leakage"),
    (MODEL, "membership_min_k"),
    (FORGET, "answer_probability@4-bit"),
    (FORGET, "rouge_recall@leak"),
    (FORGET, "answer_probability@paraphrased"),
    (UTILITY, "answer_probability"),
    (FORGET, "extraction_strength"),
    (FORGET, "exact_memorization"),
    (MODEL, "membership_loss"),
    (FORGET, "truth_ratio"),
    (FORGET, "relearning_steps"),
    (UTILITY, "rouge_recall"),
)
"""By role and metric, the most telling first: forgotten, kept, coming back, written, then by harder attacks."""
_OPPOSITE = {"lower": "higher", "higher": "lower"}
_TRIES = re.compile(r"leak-(\d+)$")


def direction(owner: str, role: str, metric: str) -> str:
    """What a model has that forgot the forget set and kept the rest.

    "lower", "higher", a value such as "0.5", or "" if it depends.

    A set of knowledge questions is about the forget set, unless its name begins with "retain".
    """
    name = metric.partition("@")[0]
    if name == "relearning_steps":
        return "higher"
    known = all_metrics().get(name)
    better = known.better.replace("–", "") if known is not None else ""
    if not isinstance(known, RowMetric) or not (
        role in (RETAIN, UTILITY) or (role == KNOWLEDGE and owner.startswith("retain"))
    ):
        return better
    return known.better_kept or _OPPOSITE.get(better, better)


def first(keys: Sequence[Key], most: int = MOST) -> list[Key]:
    """The most telling of these numbers, in their own order; all, if they are no more than that."""
    if len(keys) <= most:
        return list(keys)
    tries = max(
        (int(found[1]) for _, _, metric in keys if (found := _TRIES.search(metric))), default=0
    )
    ranked: list[tuple[int, int]] = []
    for place, (_, role, metric) in enumerate(keys):
        plain = metric.removesuffix(f"-{tries}") if metric.endswith(f"@leak-{tries}") else metric
        if (role, plain) in _FIRST:
            ranked.append((_FIRST.index((role, plain)), place))
    chosen = {place for _, place in sorted(ranked)[:most]}
    return [key for place, key in enumerate(keys) if place in chosen]
