"""The key numbers of a record, and which direction is better, for people who decide by a record."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import all_metrics
from mpu_cli.evaluation.questions import FORGET, KNOWLEDGE, RETAIN, UTILITY, VERBATIM
from mpu_cli.evaluation.relearned import WORST
from mpu_cli.evaluation.summarise import MODEL

MOST = 12
"""Numbers to show unless the user asks for all of them."""
Key = tuple[str, str, str]
"""Set (or "model"), its role (or "model"), and metric or metric@condition."""

_RANKING = (
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
"""(role, metric), the most important first: forgotten, kept, relearned, written, other attacks."""
_OPPOSITE = {"lower": "higher", "higher": "lower"}
_TRIES = re.compile(r"leak-(\d+)$")


def direction(owner: str, role: str, metric: str) -> str:
    """The direction of a model that forgot the forget set and kept the rest.

    A set of knowledge questions is about the forget set unless its name begins with "retain".

    Returns:
        "lower", "higher", a value such as "0.5", or "" if it depends.
    """
    name = metric.partition("@")[0]
    if name == "relearning_steps":
        return "higher"
    known = all_metrics().get(name)
    better = known.better.replace("–", "") if known is not None else ""
    keeps = role in (RETAIN, UTILITY) or (role == KNOWLEDGE and owner.startswith("retain"))
    if isinstance(known, RowMetric) and keeps:
        return known.better_kept or _OPPOSITE.get(better, better)
    return better


def key_numbers(keys: Sequence[Key], most: int = MOST) -> list[Key]:
    """The most important of these numbers, in the given order; all if there are no more than that.

    Of leak@k, the largest k counts.
    """
    if len(keys) <= most:
        return list(keys)
    matches = (_TRIES.search(metric) for _, _, metric in keys)
    suffix = f"-{max((int(match[1]) for match in matches if match), default=0)}"
    ranked: list[tuple[int, int]] = []
    for place, (_, role, metric) in enumerate(keys):
        name = metric.removesuffix(suffix) if metric.endswith(f"@leak{suffix}") else metric
        if (role, name) in _RANKING:
            ranked.append((_RANKING.index((role, name)), place))
    chosen = {place for _, place in sorted(ranked)[:most]}
    return [key for place, key in enumerate(keys) if place in chosen]
