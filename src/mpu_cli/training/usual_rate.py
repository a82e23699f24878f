"""The default learning rate: smaller in wider and deeper models.

An optimizer that normalises its steps moves every weight by about the learning rate. The effect on
the output grows with the width (Yang et al. 2203.03466 scale rates by 1 / width) and the depth. The
constant and the power of the depth fit two measured models: docs/decisions/0004.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpu_cli.architectures.family import family_of
from mpu_cli.architectures.sizes import width_and_depth
from mpu_cli.errors import BadModelError

SCALE = 0.0416
DEPTH_POWER = 0.85
LARGEST = 1e-3
"""An upper limit, which only the tiny models of tests reach."""
UNKNOWN = 1e-5
"""The rate for an architecture that no family file describes."""


def usual_rate(hidden: int, layers: int) -> float:
    """The rate for a model of this width and depth, rounded to two digits."""
    return min(LARGEST, float(f"{SCALE / (hidden * layers**DEPTH_POWER):.1e}"))


def rate_for(config: Mapping[str, Any], where: object) -> float:
    """The rate for the model of a config.json; `where` names it in messages."""
    try:
        family = family_of(config, where)
        return usual_rate(*width_and_depth(family.language(config), family, where))
    except BadModelError:
        return UNKNOWN
