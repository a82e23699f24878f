"""Architecture families as data files: one YAML per family, read into a closed schema.

Adding a family is adding a file to `families/`; no code knows a family's name
(docs/how-to/add-an-architecture.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from mpu_cli.documentation import page
from mpu_cli.errors import BadModelError

TRANSFORMS = (
    "head_permutation",
    "qk_half_turns",
    "qk_quarter_turns",
    "qk_head_signs",
    "qk_signed_permutation",
    "vo_signed_permutation",
    "plane_rotation",
    "ffn_signed_permutation",
    "ffn_unit_permutation",
    "expert_permutation",
)
# Required keys, then optional ones, by section. A section that is missing here holds names of the
# user's choice.
_KEYS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "": (
        frozenset({"model_types", "layers", "ffn", "norms", "outside", "transforms", "tiny"}),
        frozenset(
            {
                "when",
                "config",
                "sizes",
                "storage",
                "attention",
                "latent_attention",
                "left_alone",
                "check",
                "defaults",
                "sometimes",
            }
        ),
    ),
    "sizes": (frozenset(), frozenset({"layers", "hidden", "heads", "kv_heads", "head_dim"})),
    "attention": (
        frozenset({"o", "rope"}),
        frozenset({"q", "k", "v", "qkv", "layout", "rotary", "no_rope", "no_rope_every", "sinks"})
        | frozenset({"q_norm", "k_norm", "qk_norm", "qk_norm_if"}),
    ),
    "latent_attention": (
        frozenset({"q", "q_a", "q_a_norm", "q_b", "kv_a", "kv_a_norm", "kv_b", "o", "rope"}),
        frozenset(),
    ),
    "ffn": (
        frozenset({"down"}),
        frozenset({"gate", "up", "gate_up", "layout", "storage", "router", "groups"}),
    ),
    "outside": (
        frozenset({"embedding"}),
        frozenset({"final_norm", "head", "positions", "project_in", "project_out"}),
    ),
    "transforms": (frozenset(), frozenset({"valid", "invalid", "none"})),
    "check": (frozenset(), frozenset({"dense", "sparse"})),
}
_CHOICES = {
    ("attention", "rope"): ("half", "interleaved", "none"),
    ("latent_attention", "rope"): ("half", "interleaved"),
    ("attention", "layout"): ("concat", "per_head", "per_group"),
    ("attention", "qk_norm"): ("per_dim", "full", "per_head"),
    ("ffn", "layout"): ("concat", "interleaved"),
    ("ffn", "storage"): ("out_in", "in_out"),
    ("", "storage"): ("out_in", "in_out"),
}
_DECLARATION = re.compile(r"(\w+)(?: unless (\w+))?")


@dataclass(frozen=True, slots=True)
class Family:
    """One data file. Paths are relative to `layers`, without the `.weight` or `.bias` that is found on disk."""

    name: str
    model_types: tuple[str, ...]
    when: Mapping[str, Any]
    config: str | None
    """Key of config.json under which the language model's own configuration is."""
    layers: str
    sizes: Mapping[str, str | int]
    storage: str
    attention: Mapping[str, Any] | None
    latent_attention: Mapping[str, str] | None
    ffn: tuple[Mapping[str, Any], ...]
    norms: tuple[str, ...]
    sometimes: tuple[str, ...]
    """Like `norms`, but only some configurations or layers have them."""
    left_alone: Mapping[str, str]
    """Reasons by glob pattern: tensors that a perturbation must not move."""
    outside: Mapping[str, str]
    defaults: Mapping[str, Any]
    """What transformers takes where the configuration is silent."""
    declared: Mapping[str, tuple[str, str | None]]
    """By transform: valid, invalid or none (nothing for it to act on), and the config key that turns this around."""
    check: Mapping[str, Mapping[str, Any]]
    """What config.json must say for a model of one dense, or of one sparse, layer."""
    tiny: Mapping[str, Mapping[str, Any]]
    """Tiny configurations to test with, by a name."""

    def language(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The language model's part of a config.json, with what transformers takes where that is silent."""
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

    def transforms(self, config: Mapping[str, Any]) -> dict[str, str]:
        """`valid`, `invalid` or `none` by transform, for this config.json.

        `X unless KEY` turns around when the config sets KEY: valid becomes invalid, the others
        valid.
        """
        language = self.language(config)
        return {
            name: (
                ("invalid" if kind == "valid" else "valid")
                if key is not None and language.get(key)
                else kind
            )
            for name, (kind, key) in self.declared.items()
        }


def parse_family(name: str, text: str) -> Family:
    """Read one data file.

    Raises:
        ValueError: a key that the schema does not know (the nearest is named), one that is missing,
            or a bad value.
    """
    data = yaml.safe_load(text)
    _check(name, "", data)
    for section in ("sizes", "attention", "latent_attention", "outside", "transforms", "check"):
        if section in data:
            _check(name, section, data[section])
    for block in data["ffn"]:
        _check(name, "ffn", block)
    if ("attention" in data) == ("latent_attention" in data):
        raise ValueError(f"{name}.yaml: one of attention and latent_attention is needed")
    attention = data.get("attention")
    if attention is not None and ("qkv" in attention) == ({"q", "k", "v"} <= set(attention)):
        raise ValueError(f"{name}.yaml, section attention: either q, k and v, or qkv")
    if attention is not None and ("q_norm" in attention) != ("qk_norm" in attention):
        raise ValueError(f"{name}.yaml, section attention: q_norm needs qk_norm, its kind")
    return Family(
        name=name,
        model_types=tuple(data["model_types"]),
        when=data.get("when", {}),
        config=data.get("config"),
        layers=data["layers"],
        sizes=data.get("sizes", {}),
        storage=data.get("storage", "out_in"),
        attention=attention,
        latent_attention=data.get("latent_attention"),
        ffn=tuple(data["ffn"]),
        norms=tuple(data["norms"]),
        sometimes=tuple(data.get("sometimes", ())),
        left_alone=data.get("left_alone", {}),
        outside=data["outside"],
        defaults=data.get("defaults", {}),
        declared=_declared(name, data["transforms"]),
        check=data.get("check", {}),
        tiny=data["tiny"],
    )


def _declared(name: str, section: Mapping[str, list[str]]) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for kind, entries in section.items():
        for entry in entries:
            match = _DECLARATION.fullmatch(entry)
            if match is None or match[1] not in TRANSFORMS:
                nearest = difflib.get_close_matches(str(entry), TRANSFORMS, n=1)
                hint = f", did you mean {nearest[0]!r}?" if nearest else ""
                raise ValueError(
                    f"{name}.yaml, section transforms: unknown transform {entry!r}{hint}"
                )
            if match[1] in found:
                raise ValueError(f"{name}.yaml, section transforms: {match[1]} is declared twice")
            found[match[1]] = (kind, match[2])
    missing = [transform for transform in TRANSFORMS if transform not in found]
    if missing:
        raise ValueError(
            f"{name}.yaml, section transforms: {missing[0]} is not declared valid, invalid or none"
        )
    return found


def _check(name: str, section: str, data: Any) -> None:
    where = f"{name}.yaml" + (f", section {section}" if section else "")
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a map")
    required, optional = _KEYS[section]
    known = required | optional
    for key, value in data.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), sorted(known), n=1)
            raise ValueError(
                f"{where}: unknown key {key!r}"
                + (f", did you mean {nearest[0]!r}?" if nearest else "")
            )
        choices = _CHOICES.get((section, key))
        if choices is not None and value not in choices:
            raise ValueError(f"{where}: {key} must be {', '.join(choices[:-1])} or {choices[-1]}")
    missing = sorted(required - set(data))
    if missing:
        raise ValueError(f"{where}: key {missing[0]!r} is missing")


@cache
def families() -> Mapping[str, tuple[Family, ...]]:
    """All families by model_type.

    Several share one where their `when` conditions tell them apart.
    """
    found: dict[str, tuple[Family, ...]] = {}
    for item in sorted(
        resources.files(__package__).joinpath("families").iterdir(), key=lambda entry: entry.name
    ):
        if not item.name.endswith(".yaml"):
            continue
        family = parse_family(item.name.removesuffix(".yaml"), item.read_text(encoding="utf-8"))
        for model_type in family.model_types:
            others = found.get(model_type, ())
            if any(not other.when or not family.when for other in others):
                raise ValueError(
                    f"{model_type} is claimed by {others[0].name}.yaml and {family.name}.yaml"
                )
            found[model_type] = (*others, family)
    return found


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a config.json.

    Raises:
        BadModelError: `model_type` is absent or unknown (the message lists the known ones), or the
            config asks for a variant that no file describes.
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
