"""Architecture families as data files: one YAML per family, read into a closed schema.

Adding a family is adding a file to `families/`; no code knows a family's name (docs/how-to/add-an-architecture.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from mpu_cli.errors import BadModelError

TRANSFORMS = (
    "head_permutation",
    "qk_half_turns",
    "qk_quarter_turns",
    "vo_signed_permutation",
    "plane_rotation",
    "ffn_permutation",
)
_REQUIRED = {
    "": {"model_types", "layers", "attention", "ffn", "norms", "outside", "transforms"},
    "attention": {"q", "k", "v", "o", "rope"},
    "ffn": {"gate", "up", "down"},
    "outside": {"embedding", "final_norm"},
    "transforms": set(TRANSFORMS),
}
_OPTIONAL = {"": {"untouched"}, "attention": {"q_norm", "k_norm"}, "ffn": set(), "outside": {"head"}, "transforms": set()}


@dataclass(frozen=True, slots=True)
class Family:
    """One data file. Paths are relative to `layers`, without the `.weight` or `.bias` that is found on disk."""

    name: str
    model_types: tuple[str, ...]
    layers: str
    attention: Mapping[str, str]
    ffn: Mapping[str, str]
    norms: tuple[str, ...]
    untouched: tuple[str, ...]
    outside: Mapping[str, str]
    transforms: Mapping[str, bool]


def parse_family(name: str, text: str) -> Family:
    """Read one data file.

    Raises:
        ValueError: a key that the schema does not know (the nearest is named), or one that is missing.
    """
    data = yaml.safe_load(text)
    _check_keys(name, "", data)
    for section in ("attention", "ffn", "outside", "transforms"):
        _check_keys(name, section, data[section])
    if data["attention"]["rope"] not in {"half", "interleaved"}:
        raise ValueError(f"{name}: attention.rope must be half or interleaved")
    if not set(data["transforms"].values()) <= {"valid", "invalid"}:
        raise ValueError(f"{name}: every entry of transforms must be valid or invalid")
    return Family(
        name=name,
        model_types=tuple(data["model_types"]),
        layers=data["layers"],
        attention=data["attention"],
        ffn=data["ffn"],
        norms=tuple(data["norms"]),
        untouched=tuple(data.get("untouched", ())),
        outside=data["outside"],
        transforms={key: value == "valid" for key, value in data["transforms"].items()},
    )


def _check_keys(name: str, section: str, data: Any) -> None:
    where = f"{name}.yaml" + (f", section {section}" if section else "")
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a map")
    known = _REQUIRED[section] | _OPTIONAL[section]
    for key in data:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), sorted(known), n=1)
            raise ValueError(f"{where}: unknown key {key!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""))
    missing = sorted(_REQUIRED[section] - set(data))
    if missing:
        raise ValueError(f"{where}: key {missing[0]!r} is missing")


@cache
def families() -> Mapping[str, Family]:
    """All families by model_type."""
    found: dict[str, Family] = {}
    for item in sorted(resources.files(__package__).joinpath("families").iterdir(), key=lambda entry: entry.name):
        if not item.name.endswith(".yaml"):
            continue
        family = parse_family(item.name.removesuffix(".yaml"), item.read_text(encoding="utf-8"))
        for model_type in family.model_types:
            if model_type in found:
                raise ValueError(f"{model_type} is claimed by {found[model_type].name}.yaml and {family.name}.yaml")
            found[model_type] = family
    return found


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a config.json.

    Raises:
        BadModelError: `model_type` is absent or unknown; the message lists the known ones.
    """
    model_type = config.get("model_type")
    known = families()
    if not isinstance(model_type, str) or model_type not in known:
        raise BadModelError(
            f"{where}: unknown model_type {model_type!r}",
            f"known: {', '.join(sorted(known))}; docs/how-to/add-an-architecture.md shows how to add one",
        )
    return known[model_type]
