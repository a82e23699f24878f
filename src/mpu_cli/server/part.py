"""What is sent of a model: all of it, or its lower layers (`perturb --upto`)."""

from __future__ import annotations

from dataclasses import replace

from mpu_cli.architectures.cut import ModelCut, cut_after
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import Checkpoint


def cut_of(source: Checkpoint, layout: ModelLayout, last: int | None) -> ModelCut | None:
    """The cut of a model above layer `last`; None if there is none.

    Raises:
        MpuError: see `cut_after`.
    """
    if last is None:
        return None
    return cut_after(last, source.config, shapes(source.tensors), layout, source.path)


def part_of(source: Checkpoint, cut: ModelCut | None) -> Checkpoint:
    """The tensors that are sent, with the config.json that is sent with them."""
    if cut is None:
        return source
    tensors = {name: source.tensors[name] for name in cut.sent}
    return replace(source, config=cut.config, tensors=tensors)


def sent(
    source: Checkpoint, layout: ModelLayout, layers: int
) -> tuple[Checkpoint, ModelLayout, ModelCut | None]:
    """What a handoff of so many layers (0: all) holds of a model, its layout, and the cut."""
    cut = cut_of(source, layout, layers - 1 if layers else None)
    return part_of(source, cut), cut.layout if cut else layout, cut
