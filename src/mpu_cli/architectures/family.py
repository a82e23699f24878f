"""Architecture families as data: one YAML file each, found by looking into `families/`.

A file states where the tensors of a decoder layer are and what they are. No code knows a family's
name, and no file knows a transform (docs/how-to/add-an-architecture.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from mpu_cli.architectures.sections import (
    Attention,
    FeedForward,
    LatentAttention,
    check_keys,
    parse_section,
)
from mpu_cli.documentation import page
from mpu_cli.errors import BadModelError
from mpu_cli.registry import Registry, warn

FAMILIES = Path(__file__).parent / "families"
PRESETS = FAMILIES / "_presets.yaml"
_OUTSIDE = ("embedding", "final_norm", "head", "positions", "project_in", "project_out")
_MAPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sizes": (("layers", "hidden", "heads", "kv_heads", "head_dim"), ()),
    "outside": (_OUTSIDE, ("embedding",)),
    "check": (("dense", "sparse"), ()),
}
"""Known and required keys of sections that are plain maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One data file. Paths are relative to `layers`, without `.weight` or `.bias`."""

    name: str
    model_types: tuple[str, ...]
    layers: str
    ffn: tuple[FeedForward, ...]
    norms: tuple[str, ...]
    outside: Mapping[str, str]
    tiny: Mapping[str, Mapping[str, Any]]
    """Tiny configurations to test with, by a name."""
    sometimes: tuple[str, ...] = ()
    """Like `norms`, but only some configurations or layers have them."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Reasons by transform, where no fact says that the transform must not be used."""
    attention: Attention | None = None
    latent_attention: LatentAttention | None = None
    config: str | None = None
    """Key of config.json under which the language model's own configuration is."""
    storage: Literal["out_in", "in_out"] = "out_in"
    when: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, str | int] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)
    """Reasons by glob pattern: tensors that a perturbation must not move."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The values that transformers assumes for keys that config.json does not have."""
    per_layer: tuple[str, ...] = ("layer_types", "mlp_layer_types", "no_rope_layers")
    """Keys of config.json that may list one entry for each layer."""
    check: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What config.json must say for a model of one dense, or of one sparse, layer."""

    def __post_init__(self) -> None:
        """Raise ValueError unless there is one section for attention."""
        if (self.attention is None) == (self.latent_attention is None):
            raise ValueError("one of attention and latent_attention is needed")

    def language(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The language model's part of a config.json, with the defaults of transformers."""
        part = config if self.config is None else config.get(self.config)
        return {**self.defaults, **(part if isinstance(part, Mapping) else {})}

    def tied(self, config: Mapping[str, Any]) -> bool:
        """Whether transformers ties the head to the embedding for this config.json."""
        # In a wrapper the outer key decides, whatever the language model's own part says.
        flag = config.get("tie_word_embeddings")
        return bool(self.defaults.get("tie_word_embeddings") if flag is None else flag)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether the file's conditions hold for a config.json; a list means any of its values."""
        language = self.language(config)
        return all(
            language.get(key) in (value if isinstance(value, list) else [value])
            for key, value in self.when.items()
        )


def parse_family(name: str, text: str) -> Family:
    """Read one data file, laid over the presets that it extends.

    Raises:
        ValueError: a key is unknown (the nearest is named) or missing, or a value is bad.
    """
    where, own = f"{name}.yaml", yaml.safe_load(text)
    if not isinstance(own, dict):
        raise ValueError(f"{where}: expected a map")
    data: dict[str, Any] = {}
    for preset in own.pop("extends", ()):
        check_keys({preset: None}, f"{where}, extends", presets())
        data = _laid_over(data, presets()[preset])
    data = _laid_over(data, own)
    for section in data.keys() & _MAPS.keys():
        check_keys(data[section], f"{where}, section {section}", *_MAPS[section])
    for section, cls in (("attention", Attention), ("latent_attention", LatentAttention)):
        if section in data:
            data[section] = parse_section(cls, data[section], f"{where}, section {section}")
    if "ffn" in data:
        data["ffn"] = [
            parse_section(FeedForward, block, f"{where}, section ffn, {block_name}")
            for block_name, block in data["ffn"].items()
        ]
    family: Family = parse_section(Family, {"name": name, **data}, where)
    return family


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Blocks that several families share, by name."""
    loaded: Mapping[str, Mapping[str, Any]] = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))
    return loaded


def _laid_over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own`, map by map; null removes what `base` has."""
    result = dict(base)
    for key, value in own.items():
        if value is None and key in base:
            del result[key]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = _laid_over(base[key], value)
        else:
            result[key] = value
    return result


def _read(path: Path) -> list[Family]:
    return [parse_family(path.stem, path.read_text(encoding="utf-8"))]


@cache
def families() -> Mapping[str, tuple[Family, ...]]:
    """All families by model_type; those that share one differ in their `when` conditions.

    A file that cannot be read is skipped with a warning.
    """
    by_type: dict[str, tuple[Family, ...]] = {}
    for family in Registry("family", FAMILIES, _read, suffix=".yaml").entries().values():
        for model_type in family.model_types:
            others = by_type.get(model_type, ())
            if others and not all(other.when for other in (family, *others)):
                warn(
                    f"{family.name}.yaml and {others[0].name}.yaml both describe {model_type},"
                    f" and one of them has no conditions (`when`); {others[0].name}.yaml is used"
                )
            else:
                by_type[model_type] = (*others, family)
    return by_type


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a config.json.

    Raises:
        BadModelError: `model_type` is absent or unknown (the hint lists the known ones), or no file
            describes this variant of it.
    """
    model_type = config.get("model_type")
    known = families()
    if not isinstance(model_type, str) or model_type not in known:
        raise BadModelError(
            f"{where}: unknown model_type {model_type!r}",
            f"known: {', '.join(sorted(known))}; how to add one:"
            f" {page('how-to/add-an-architecture')}",
        )
    for family in known[model_type]:
        if family.matches(config):
            return family
    asked = {
        key: family.language(config).get(key) for family in known[model_type] for key in family.when
    }
    raise BadModelError(
        f"{where}: a {model_type} model with"
        f" {', '.join(f'{key} = {value}' for key, value in asked.items())} is not described",
        f"how to add a file for it: {page('how-to/add-an-architecture')}",
    )
