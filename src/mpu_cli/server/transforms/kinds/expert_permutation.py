"""Permute the experts together with the router's rows.

Where the router first chooses groups of experts, the groups stay together.
"""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.build import grouped_source, move_experts
from mpu_cli.server.transforms.kinds._groups import draw_grouped
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
    return move_experts(layer, grouped_source(shape, *draw_grouped(stream, *shape)))
