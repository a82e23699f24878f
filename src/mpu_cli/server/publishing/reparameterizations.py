"""What each `--reparam` means for a family.

The table of transforms by name, without their code and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.errors import UsageError

# Alternatives, in order of preference: the first that the family declares valid is taken.
_FEED_FORWARD = ("ffn_signed_permutation", "ffn_unit_permutation")
REPARAMETERIZATIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "signed-permutation": (
        ("head_permutation",),
        ("qk_quarter_turns", "qk_half_turns", "qk_head_signs"),
        ("qk_signed_permutation",),
        ("vo_signed_permutation",),
        _FEED_FORWARD,
        ("expert_permutation",),
    ),
    "rotation": (("plane_rotation",), _FEED_FORWARD, ("expert_permutation",)),
    # As the authors have it: no signs in the feed-forward.
    "paper-rotation": (("plane_rotation",), ("ffn_unit_permutation",), ("expert_permutation",)),
    "none": (),
}
# A transform that is missing here finds its slots in every layer.
_NEEDED_ROLE = {"qk_half_turns": "k", "qk_quarter_turns": "k", "qk_signed_permutation": "k_free"}


def chosen(reparameterization: str, holds: Mapping[str, str], family: str) -> tuple[str, ...]:
    """The transforms that a reparameterization means for a family, whose file says valid, invalid or none of each.

    Raises:
        UsageError: the rotation would change the family's function.
    """
    if is_rotation(reparameterization) and holds["plane_rotation"] != "valid":
        raise UsageError(
            f"--reparam {reparameterization}: plane_rotation changes the function of the {family}"
            " family",
            "use --reparam signed-permutation",
        )
    groups = REPARAMETERIZATIONS[reparameterization]
    found = [next((name for name in group if holds[name] == "valid"), None) for group in groups]
    return tuple(name for name in found if name is not None)


def is_rotation(reparameterization: str) -> bool:
    """Whether it turns planes by any angle, which AdamW does not commute with."""
    return any(group == ("plane_rotation",) for group in REPARAMETERIZATIONS[reparameterization])


def acts_on(name: str, layer: LayerLayout) -> bool:
    """Whether a layer has anything for a transform to move.

    Planes to turn, coordinates that RoPE leaves alone, experts.
    """
    if name == "expert_permutation":
        return layer.experts is not None
    return _NEEDED_ROLE.get(name, "v") in layer.slots
