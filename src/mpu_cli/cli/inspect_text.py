"""Short texts for `mpu inspect MODEL`: positions, parts of an index, runs of layers, names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mpu_cli.architectures.layout import Experts, Index


def parts(role: str, index: Index) -> str:
    """The parts of an index, from the outside in: 8 × 4 heads × 128."""
    if role in {"gate", "up", "down"}:
        return f"{index.size} units"
    if role in {"router", "experts"}:
        return _grouped_experts(*index.shape)
    heads = [count for count in index.shape[:-1] if count > 1] or [1]
    return f"{' × '.join(map(str, heads))} {'head' if heads == [1] else 'heads'}" + (
        f" × {index.shape[-1]}" if index.shape[-1] > 1 else ""
    )


def expert_parts(experts: Experts) -> str:
    """The number of experts, by group."""
    return _grouped_experts(experts.groups, experts.count // experts.groups)


def _grouped_experts(groups: int, size: int) -> str:
    return f"{groups} × {size} experts" if groups > 1 else f"{size} experts"


def describe_positions(index: Index, size: int) -> str:
    """The positions of an index on an axis of `size` entries."""
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
    """Layer numbers as 0–2, 4, 6–9; a long list is shortened and ends with the count."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    if len(texts) <= most:
        return ", ".join(texts)
    return f"{', '.join(texts[: most - 1])}, … {texts[-1]} ({len(numbers)} layers)"


def braced(endings: Sequence[str]) -> str:
    """The endings of a name: weight, or {weight,bias}."""
    return endings[0] if len(endings) == 1 else f"{{{','.join(endings)}}}"


def span(members: list[int]) -> str:
    """The numbers of a series: {0..255}."""
    if len(members) == 1:
        return str(members[0])
    numbers = sorted(set(members))
    if numbers and len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 head, 2 heads."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
