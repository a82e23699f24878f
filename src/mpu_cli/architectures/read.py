"""From a checkpoint's config and tensor shapes to its layout, by the family's data file.

The file must describe every tensor, and every description must fit: a tensor that it did not know
would be published without noise, and a wrong head size would rotate the wrong rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mpu_cli.architectures.family import Family, family_of
from mpu_cli.architectures.layer import read_layer
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.sizes import Sizes
from mpu_cli.architectures.tensor_lookup import Shapes, TensorLookup
from mpu_cli.errors import BadModelError

_OPTIONAL_OUTSIDE = {"head", "project_in", "project_out"}


def read_layout(
    config: Mapping[str, Any], shapes: Shapes, where: Path, family: Family | None = None
) -> ModelLayout:
    """Lay out a model.

    Args:
        config: its config.json.
        shapes: of its tensors, by on-disk name.
        where: its directory, for messages.
        family: replaces the one found by model_type.

    Raises:
        BadModelError: the model_type is unknown, or a tensor is missing, not described, or of an
            unexpected shape.
    """
    family = family or family_of(config, where / "config.json")
    language = family.language(config)
    sizes = Sizes.from_config(language, family, where / "config.json")
    outside = _outside(config, family, TensorLookup(family, shapes, where, ""))
    reasons = {
        name: reason
        for pattern, reason in family.left_alone.items()
        for name in shapes
        if fnmatchcase(name, pattern)
    }
    layers = []
    for index in range(sizes.layers):
        lookup = TensorLookup(family, shapes, where, family.layers.format(i=index) + ".")
        layers.append(read_layer(lookup, sizes, language, index, reasons))
    layout = ModelLayout(
        family.name,
        tuple(layers),
        outside,
        family.excluded,
        reasons,
        language,
        family.check,
    )
    _require_described(layout, config, shapes, where)
    return layout


def _outside(
    config: Mapping[str, Any], family: Family, lookup: TensorLookup
) -> dict[str, tuple[str, ...]]:
    outside = {}
    for role, path in family.outside.items():
        names = lookup.find(path)
        if names:
            outside[role] = names
        elif role not in _OPTIONAL_OUTSIDE:
            raise lookup.missing(path)
    if "head" in family.outside and "head" not in outside and not family.tied(config):
        raise BadModelError(
            f"{lookup.where}: tensor {family.outside['head']}.weight is missing and config.json"
            " does not tie it to the embedding",
            "transformers would fill it with random numbers; add the tensor, or set"
            " tie_word_embeddings to true",
        )
    return outside


def _require_described(
    layout: ModelLayout, config: Mapping[str, Any], shapes: Shapes, where: Path
) -> None:
    unknown = set(shapes) - set(layout.left_alone)
    for names in (*layout.outside.values(), *(layer.noised for layer in layout.layers)):
        unknown -= set(names)
    if unknown:
        raise BadModelError(
            f"{where}: tensor {min(unknown)} is not part of a {config.get('model_type')} model of"
            f" {len(layout.layers)} layers",
            f"the family file {layout.family}.yaml does not describe it, and mpu publishes no"
            " tensor that it does not know",
        )
