"""The words for what a layout holds.

Positions along an axis, parts of an index, runs of layers, series of names.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mpu_cli.architectures.layout import Experts, Index


def parts(role: str, index: Index) -> str:
    """What an index divides its positions into, by its shape."""
    if role in {"gate", "up", "down"}:
        return f"{index.size} units"
    if role in {"router", "experts"}:
        return _grouped_experts(*index.shape)
    heads = [count for count in index.shape[:-1] if count > 1] or [1]
    return f"{' × '.join(map(str, heads))} {'head' if heads == [1] else 'heads'}" + (
        f" × {index.shape[-1]}" if index.shape[-1] > 1 else ""
    )


def expert_parts(experts: Experts) -> str:
    """How many experts there are, by groups."""
    return _grouped_experts(experts.groups, experts.count // experts.groups)


def _grouped_experts(groups: int, size: int) -> str:
    return f"{groups} × {size} experts" if groups > 1 else f"{size} experts"


def describe_positions(index: Index, size: int) -> str:
    """Positions along an axis of `size`, in words."""
    positions = np.sort(index.ravel())
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    first, last = int(runs[0][0]), int(runs[0][-1])
    stretch = str(first) if first == last else f"{first}–{last}"
    if len(runs) == 1:
        return f"all {size}" if len(positions) == size else f"{stretch} of {size}"
    steps = {int(after[0] - before[0]) for before, after in pairwise(runs)}
    if len(steps) > 1 or len({len(run) for run in runs}) > 1:
        return f"{index.size} of {size}"
    return f"{stretch} in every {steps.pop()} of {size}"


def ranges(numbers: Sequence[int], most: int = 4) -> str:
    """0–2, 4, 6–9; long lists end in how many there are."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    if len(told) <= most:
        return ", ".join(told)
    return f"{', '.join(told[: most - 1])}, … {told[-1]} ({len(numbers)} layers)"


def braced(endings: Sequence[str]) -> str:
    """Endings of a name that are told apart: weight, or {weight,bias}."""
    return endings[0] if len(endings) == 1 else f"{{{','.join(endings)}}}"


def span(members: list[int]) -> str:
    """The numbers of a series: {0..255}."""
    if not members:
        return "{}"
    if len(members) == 1:
        return str(members[0])
    first, last = min(members), max(members)
    return (
        f"{{{first}..{last}}}"
        if len(set(members)) == last - first + 1
        else f"{{{','.join(map(str, sorted(set(members))))}}}"
    )


def count(number: int, noun: str) -> str:
    """1 head, 2 heads."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
