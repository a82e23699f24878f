"""How large an offset must be for the worst attack to leave a given share of the task vector.

Shared by structured_offset.py, not a benchmark itself.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from journal import Journal
from offset_attacks import ATTACKS, SIBLING_ATTACKS, Seen
from offset_shape import KINDS, Shape, drawn, level_for
from one_round import say
from torch import Tensor

from mpu_cli.modeling.load import load_model


def weights_of(path: Path) -> dict[str, Tensor]:
    """All parameters of a model directory."""
    return {name: each.detach() for name, each in load_model(path).model.named_parameters()}


def siblings_of(options: argparse.Namespace, shapes: Sequence[Shape]) -> list[Tensor] | None:
    """The sibling's task vector, matrix by matrix, in the eigenbases."""
    if options.sibling is None:
        return None
    taught, base = weights_of(options.sibling), weights_of(options.base)
    return [each.into_basis(taught[each.name] - base[each.name]) for each in shapes]


def layer_of(name: str) -> str:
    """The number of the layer in a parameter's name."""
    return name.split(".layers.")[1].split(".")[0]


def attacked(
    kind: str,
    level: float,
    draw: int,
    shapes: Sequence[Shape],
    siblings: Sequence[Tensor] | None,
) -> dict[str, float]:
    """What every attack leaves, by its name, relative to the task vector of these matrices."""
    known = {**ATTACKS, **(SIBLING_ATTACKS if siblings is not None else {})}
    lost, total = dict.fromkeys(known, 0.0), 0.0
    for number, shape in enumerate(shapes):
        unit = float(shape.task.square().mean().sqrt())  # so that no square underflows
        noise = KINDS[kind](shape, level)
        seen = Seen(
            (shape.task + drawn(shape, noise, draw)) / unit,
            noise / unit**2,
            shape.energy / unit**2,
            None if siblings is None else siblings[number] / unit,
        )
        for name, attack in known.items():
            lost[name] += float((attack(seen) * unit - shape.task).double().square().sum())
        total += float(shape.task.double().square().sum())
    return {name: math.sqrt(value / total) for name, value in lost.items()}


def calibrated(
    kind: str, leak: float, shapes: Sequence[Shape], siblings: Sequence[Tensor] | None
) -> dict[str, Any]:
    """The level at which the worst attack on draw 0 leaves `leak`, within 1 %."""
    asked = leak
    for _ in range(5):
        level = level_for(kind, shapes, asked)
        found = attacked(kind, level, 0, shapes, siblings)
        worst = min(found.values())
        if abs(worst / leak - 1) < 0.01:
            break
        odds = [each**2 / (1 - each**2) for each in (asked, leak, worst)]
        wanted = odds[0] * odds[1] / odds[2]
        asked = math.sqrt(wanted / (1 + wanted))
    return {"level": level, "asked": asked, "attacks": found}


def attack_all(
    options: argparse.Namespace, journal: Journal, shapes: Sequence[Shape]
) -> dict[tuple[str, float], float]:
    """Levels by kind and leak; the draws are attacked at them, on some layers' matrices."""
    part = [each for each in shapes if not int(layer_of(each.name)) % options.every]
    keys = [{"kind": kind, "leak": leak} for leak, kind in product(options.leaks, options.kinds)]
    draws = [{"what": "attack", "draw": draw} for draw in range(options.attack_draws)]
    known = all(
        journal.has({**what, **key}) for key in keys for what in [{"what": "level"}, *draws]
    )
    their = None if known else siblings_of(options, part)
    levels = {}
    for key in keys:
        if time.monotonic() > options.ends:
            sys.exit("--limit: the rest another time")
        kind, leak = str(key["kind"]), float(key["leak"])
        found = journal.get({"what": "level", **key}, partial(calibrated, kind, leak, part, their))
        level = levels[kind, leak] = found["level"]
        for what in draws:
            again = partial(attacked, kind, level, int(what["draw"]), part, their)
            # The level was found on draw 0.
            journal.get({**what, **key}, again if what["draw"] else partial(dict, found["attacks"]))
        say(f"{kind} {leak:g}: level {level:.3g}, worst {min(found['attacks'].values()):.4f}")
    return levels
