"""The lower layers of a model as a model of its own: what a cut handoff holds (`perturb --upto`).

The cut has the embeddings and the first layers of the model, under the same tensor names, and a
config.json of fewer layers. transformers builds no decoder without a final norm: the cut's own is a
*stand-in*, a constant. A head of its own is left out, and config.json ties it to the embedding. So
the hidden states after the layers are the model's, and its logits mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.architectures.family import Family, family_of
from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.architectures.sizes import layers_key
from mpu_cli.architectures.tensor_lookup import Shapes
from mpu_cli.errors import BadModelError, UsageError

_TIED = "tie_word_embeddings"
_ABOVE = ("final_norm", "project_out", "head")
"""Roles outside the layers that a model computes after its last layer."""


@dataclass(frozen=True, slots=True)
class ModelCut:
    """The first `layers` of a model."""

    layers: int
    of: int
    """Layers of the whole model."""
    config: dict[str, Any]
    """Its config.json."""
    layout: ModelLayout
    """The whole model's, without the other layers and without what comes after them."""
    sent: tuple[str, ...]
    """The model's own tensors in it."""
    stand_ins: tuple[str, ...]
    """Tensors that hold a constant: one in the weights of norms, zero elsewhere."""


def cut_after(
    last: int, config: Mapping[str, Any], shapes: Shapes, layout: ModelLayout, where: Path
) -> ModelCut:
    """Cut a model above layer `last`, counted from 0.

    Args:
        last: the last layer that is sent.
        config: the whole model's config.json.
        shapes: of its tensors.
        layout: its layout.
        where: its directory, for messages.

    Raises:
        UsageError: the model has no such layer, or it is the last one.
        BadModelError: with fewer layers the configuration would describe other layers.
    """
    count = len(layout.layers)
    if not 0 <= last < count - 1:
        most = f"from 0 to {count - 2}" if count > 2 else "0"
        raise UsageError(
            f"--upto {last}: {where} has {count} layer{'s' * (count > 1)}, counted from 0",
            f"give {most}, or leave --upto out to send the whole model"
            if count > 1
            else "leave --upto out: a model of one layer cannot be cut",
        )
    family = family_of(config, where / "config.json")
    dropped = tuple(f"{family.layers.format(i=index)}." for index in range(last + 1, count))
    above = [name for role in _ABOVE for name in layout.outside.get(role, ())]
    heads = [name for name in layout.outside.get("head", ()) if not name.endswith("bias")]
    cut = ModelCut(
        last + 1,
        count,
        _config(config, family, last + 1, count),
        replace(
            layout,
            layers=layout.layers[: last + 1],
            outside={role: names for role, names in layout.outside.items() if role not in _ABOVE},
            left_alone={
                n: why for n, why in layout.left_alone.items() if not n.startswith(dropped)
            },
        ),
        tuple(name for name in shapes if not name.startswith(dropped) and name not in above),
        tuple(name for name in above if name not in heads),
    )
    _require_same_layers(cut, shapes, where)
    return cut


def _config(config: Mapping[str, Any], family: Family, layers: int, of: int) -> dict[str, Any]:
    """The config.json of a model of fewer layers."""
    changed: dict[str, Any] = dict(config)
    part = changed
    if family.config is not None:
        part = changed[family.config] = dict(config.get(family.config) or {})
    part[layers_key(family)] = layers
    for key in family.per_layer:
        listed = part.get(key)
        if isinstance(listed, list) and len(listed) == of:
            part[key] = listed[:layers]
    changed[_TIED] = True
    if _TIED in part:
        part[_TIED] = True
    return changed


def _require_same_layers(cut: ModelCut, shapes: Shapes, where: Path) -> None:
    """Raise BadModelError if a reader of the cut would find other layers than the model has."""
    held = {name: shapes[name] for name in (*cut.sent, *cut.stand_ins)}
    read = read_layout(cut.config, held, where)
    if fingerprint(read) != fingerprint(cut.layout):
        raise BadModelError(
            f"{where / 'config.json'}: describes other layers once it has {cut.layers} of"
            f" {cut.of} layers, so this model cannot be cut",
            "leave --upto out",
        )
