"""From a checkpoint's config and tensor shapes to its layout, by the family's data file.

Every tensor must be claimed and every claim must fit: a tensor silently left behind would leave the
server's hands unperturbed, and a wrong head size would rotate the wrong rows.
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
from mpu_cli.architectures.tensor_lookup import Claims, Shapes
from mpu_cli.errors import BadModelError

_OPTIONAL_OUTSIDE = {"head", "project_in", "project_out"}


def read_layout(
    config: Mapping[str, Any], shapes: Shapes, where: Path, family: Family | None = None
) -> ModelLayout:
    """Lay out a model. `where` is its directory, for messages.

    `family` replaces the one found by model_type.

    Raises:
        BadModelError: unknown model_type, a tensor that is missing, unclaimed, or of an unexpected
            shape.
    """
    family = family or family_of(config, where / "config.json")
    language = family.language(config)
    sizes = Sizes.from_config(language, family, where / "config.json")
    outside = _outside(config, family, Claims(family, shapes, where, ""))
    reasons = {
        name: reason
        for pattern, reason in family.left_alone.items()
        for name in shapes
        if fnmatchcase(name, pattern)
    }
    layers = []
    for index in range(sizes.layers):
        claims = Claims(family, shapes, where, family.layers.format(i=index) + ".")
        layers.append(read_layer(claims, sizes, language, index, reasons))
    layout = ModelLayout(
        family.name,
        tuple(layers),
        outside,
        family.transforms(config),
        reasons,
        language,
        family.check,
    )
    _require_claimed(layout, config, shapes, where)
    return layout


def _outside(
    config: Mapping[str, Any], family: Family, claims: Claims
) -> dict[str, tuple[str, ...]]:
    found = {}
    for role, path in family.outside.items():
        names = claims.find(path)
        if names:
            found[role] = names
        elif role not in _OPTIONAL_OUTSIDE:
            raise claims.missing(path)
    if "head" in family.outside and "head" not in found and not family.tied(config):
        raise BadModelError(
            f"{claims.where}: tensor {family.outside['head']}.weight is missing and config.json"
            " does not tie it to the embedding",
            "transformers would fill it with random numbers; add the tensor, or set"
            " tie_word_embeddings to true",
        )
    return found


def _require_claimed(
    layout: ModelLayout, config: Mapping[str, Any], shapes: Shapes, where: Path
) -> None:
    unclaimed = set(shapes) - set(layout.left_alone)
    for names in (*layout.outside.values(), *(layer.noised for layer in layout.layers)):
        unclaimed -= set(names)
    if unclaimed:
        raise BadModelError(
            f"{where}: tensor {min(unclaimed)} is not part of a {config.get('model_type')} model of"
            f" {len(layout.layers)} layers",
            f"see src/mpu_cli/architectures/families/{layout.family}.yaml: a tensor that nothing"
            " claims is never published",
        )
