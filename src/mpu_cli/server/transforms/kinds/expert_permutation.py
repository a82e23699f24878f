"""Permute the experts together with the router's rows.

Where the router first chooses groups of experts, the groups stay together.
"""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation, on_slots
from mpu_cli.server.transforms.kinds._groups import draw_grouped, source
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = dict.fromkeys(("signed-permutation", "rotation", "paper-rotation"), Use(60))
NEEDS = {"routing": {"scores"}}
ACTS_ON = "experts"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """The output is a sum over experts, weighted by the router's rows: their order is arbitrary."""
    experts = layer.experts
    if experts is None:
        return Reparameterization({})
    shape = (experts.groups, experts.count // experts.groups)
    came_from = source(shape, *draw_grouped(stream, *shape))
    maps: dict[str, list[AxisMap]] = {}
    on_slots(experts.slots, lambda slot: SignedPermutation.moving(slot, came_from), maps)
    targets: dict[str, str] = {}
    if experts.tensors:
        for place, old in enumerate(came_from.ravel().tolist()):
            targets.update(zip(experts.tensors[old], experts.tensors[place], strict=True))
    return Reparameterization(maps, targets)
