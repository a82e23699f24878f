"""The attacks on copies. Each file declares one `Attack` (docs/how-to/add-an-attack.md).

An attack sees `AlignedLayer`s and nothing else: no secret, no record, no model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mpu_cli.audit.handoff.attacks._attack import Attack
from mpu_cli.registry import Registry, instances

ATTACKS = Registry("attack", Path(__file__).parent, instances(__name__, Attack))


@cache
def all_attacks() -> dict[str, Attack]:
    """Every attack by name."""
    return ATTACKS.entries()
