"""Which keys of config.json a model type has, read from the source of the installed transformers.

`python -m config_keys` prints checkpoint/config_keys.json (`make config-keys`
writes it): for every causal language model of transformers, every model type of a family file, and
their parts, the keys that decide what the model computes. A key counts if transformers'
configuration class declares it, renames it (`attribute_map`) or takes it from older files, or if
the modeling file reads it. It is a file, so that `mpu inspect` needs no transformers and a
published config.json does not depend on the version that is installed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpu_cli.architectures.family import families

_OURS = re.compile(
    r"_.*|output_.*|use_cache|pretraining_tp|return_dict|torchscript|dtype|torch_dtype|transformers_version|gradient_checkpointing"
    r"|chunk_size_feed_forward|id2label|label2id|problem_type|num_labels|classifier_.*|summary_.*|use_mamba_kernels|architectures|is_encoder_decoder"
)
"""What a class declares for the machine, the task or the saving program, not for the model."""
_TIED = "tie_word_embeddings"
_OF_ROPE = (
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_scaling",
    "rope_theta",
)
"""Where a class has `rope_parameters`, transformers takes these too: older files have them."""
_KINDS = {
    int: "int",
    float: "number",
    bool: "bool",
    str: "text",
    list: "list",
    tuple: "list",
    dict: "map",
}


def config_keys(model_types: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Keys by kind, by model type, for these types and the parts that they are made of.

    A kind is `int`, `number`, `bool`, `text`, `list`, `map`, several of them joined by `|`, or
    `any`; `derived` are keys that are saved and that the class works out from the others.
    `defaults` has `tie_word_embeddings` where the class ties a model that says nothing. `parts`
    gives the model type of each nested configuration.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    waiting = [(name, CONFIG_MAPPING[name]) for name in sorted(model_types)]
    while waiting:
        name, config_class = waiting.pop()
        if name not in found:
            parts = _parts(config_class)
            found[name] = _by_kind(config_class, parts)
            if any(
                field.name == _TIED and field.default is True
                for field in dataclasses.fields(config_class)
            ):
                found[name]["defaults"] = {_TIED: True}
            waiting += parts.values()
            found[name] |= (
                {"parts": {key: part for key, (part, _) in sorted(parts.items())}} if parts else {}
            )
    return found


def all_model_types() -> set[str]:
    """Every causal language model of transformers, and what the family files add."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *families()}


def rope_keys() -> set[str]:
    """The keys of `rope_parameters` that a modeling file or common code of transformers reads."""
    import transformers

    root = Path(inspect.getsourcefile(transformers) or "").parent
    files = [root / "modeling_rope_utils.py", *root.glob("models/*/modeling_*.py")]
    form = re.compile(r"""\brope_(?:parameters|scaling)(?:\[|\.get\()\s*["'](\w+)""")
    return {name for file in files for name in form.findall(file.read_text(encoding="utf-8"))}


def text(found: dict[str, dict[str, Any]]) -> str:
    """The data file: a line for each model type."""
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(found[name], sort_keys=True)}" for name in sorted(found)
    )
    return f"{{\n{lines}\n}}\n"


def _parts(config_class: Any) -> dict[str, tuple[str, Any]]:
    found = {}
    for key, spec in config_class.sub_configs_defaults.items():
        # Where a part is any model, its own model_type says which.
        part = (
            spec.get_config_class(spec.model_type)
            if spec.config_class.__name__ == "AutoConfig"
            else spec.config_class
        )
        found[key] = (part.model_type, part)
    return found


def _by_kind(config_class: Any, parts: dict[str, Any]) -> dict[str, Any]:
    kinds = {field.name: _kind(field.type) for field in dataclasses.fields(config_class)}
    for (
        pair
    ) in config_class.attribute_map.items():  # the names are not always declared on the same side
        known = next((kinds[name] for name in pair if name in kinds), "any")
        kinds |= {name: kinds.get(name, known) for name in pair}
    kinds |= {name: "any" for name in _taken_from_older_files(config_class) if name not in kinds}
    if "rope_parameters" in kinds:
        kinds |= {name: "any" for name in _OF_ROPE if name not in kinds}
        kinds |= {"rope_scaling": "map", "rope_theta": "number", "partial_rotary_factor": "number"}
    of_classes = {
        name
        for name in dir(config_class)
        if not isinstance(getattr(config_class, name, None), property)
    }
    kinds |= {
        name: "any"
        for name in _read_by_the_model(config_class)
        if name not in kinds and name not in of_classes
    }
    by_kind: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        if not _OURS.fullmatch(name) and name not in parts:
            by_kind.setdefault(kind, []).append(name)
    derived = (
        _worked_out(config_class)
        - {name for names in by_kind.values() for name in names}
        - set(parts)
    )
    by_kind["derived"] = sorted(name for name in derived if not _OURS.fullmatch(name))
    return {kind: sorted(names) for kind, names in sorted(by_kind.items()) if names}


def _kind(annotation: Any) -> str:
    if isinstance(annotation, str):
        return "any"
    members = typing.get_args(annotation) if typing.get_origin(annotation) not in _KINDS else ()
    if typing.get_origin(annotation) is typing.Literal:
        members = tuple(type(member) for member in members)
    kinds = set()
    for member in members or (annotation,):
        if member is type(None):
            continue
        kinds.add(
            _KINDS.get(
                typing.get_origin(member) or member, "map" if typing.is_typeddict(member) else "any"
            )
        )
    return (
        "any"
        if "any" in kinds
        else "|".join(sorted(kinds - ({"int"} if "number" in kinds else set())))
    )


def _taken_from_older_files(config_class: Any) -> set[str]:
    source = _source(config_class)
    return set(
        re.findall(r"""kwargs(?:\.(?:pop|get|setdefault)\(|\[)\s*["'](\w+)""", source)
    ) | set(re.findall(r"""["'](\w+)["'] (?:not )?in kwargs""", source))


def _worked_out(config_class: Any) -> set[str]:
    return set(re.findall(r"self\.(\w+) = ", _source(config_class)))


def _source(config_class: Any) -> str:
    from transformers import PretrainedConfig

    classes = [
        each
        for each in config_class.__mro__
        if issubclass(each, PretrainedConfig) and each is not PretrainedConfig
    ]
    return "".join(inspect.getsource(each) for each in classes)


def _read_by_the_model(config_class: Any) -> set[str]:
    file = Path(inspect.getsourcefile(config_class) or "")
    model = file.with_name(file.name.replace("configuration_", "modeling_"))
    if not model.is_file() or config_class.sub_configs_defaults:
        return set()  # the modeling file of a whole reads the keys of its parts
    # "head_dim" is declared by some classes only, and read where a file has it.
    read = re.findall(
        r"""getattr\(\s*(?:self\.)?config,\s*["'](\w+)""", model.read_text(encoding="utf-8")
    )
    return {name for name in read if "dropout" not in name}


if __name__ == "__main__":
    sys.stdout.write(text(config_keys(all_model_types())))
