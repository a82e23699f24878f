"""Read config.json by allow-list: the keys of the model type, with values of the right type.

The file may come from the other party or from the training machine. Its other keys (attention
kernel, weight locations, logging) would change how the model is loaded here, and some make
transformers download code. mpu drops them when it opens and when it publishes a model. Never
imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint import config_values
from mpu_cli.checkpoint.config_values import BadValueError
from mpu_cli.errors import BadModelError

CONFIG_FILE = "config.json"
MAX_BYTES = 16 << 20
_DTYPES = ("float32", "bfloat16", "float16")
_CLASS_NAME = re.compile(r"[A-Za-z]\w{0,99}")
TOKENIZER_CLASS = re.compile(r"(?!Auto)[A-Z]\w{0,60}(?:Tokenizer|TokenizerFast|Backend)")
"""transformers looks this name up among all its classes, model classes included."""
_NOT_OF_THE_MODEL = re.compile(
    r"_.*|(.*_)?(attn|attention|experts)_implementation|(torch_)?dtype"
    r"|transformers(_version|\.js_config)|unsloth_\w+|use_cache|pretraining_tp|output_\w+"
    r"|(use_)?return_dict(_in_generate)?|torchscript|gradient_checkpointing|device_map"
    r"|distributed_config|id2label|label2id|num_labels|problem_type|finetuning_task"
    r"|task_specific_params|classifier_\w+|summary_\w+|chunk_size_feed_forward"
    r"|is_encoder_decoder|(is_)?decoder(_start_token_id)?|cross_attention_hidden_size"
    r"|add_cross_attention|tie_encoder_decoder|(max|min)(_new)?_(length|tokens)|do_sample"
    r"|early_stopping|num_(beams|beam_groups|return_sequences)|diversity_penalty|temperature"
    r"|top_[kp]|typical_p|repetition_penalty|length_penalty|(encoder_)?no_repeat_ngram_size"
    r"|bad_words_ids|forced_[be]os_token_id|sep_token_id|remove_invalid_values"
    r"|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens|prefix|pruned_heads"
    r"|use_bfloat16|tf_legacy_loss|name_or_path"
)
"""Keys about the training machine, the saving program, generation or other tasks: dropped without
a remark."""
_OF_THE_READER = re.compile(
    r"_.*|(.*_)?(attn|attention|experts)_implementation|device_map|distributed_config|name_or_path"
)
"""Those keys among them that control the loading machine or describe the saving machine."""
_BUILT_IN = ("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm", "auto", True, False)
"""Harmless values of those keys: they name no code and no path."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The kept content of a config.json, and remarks about the rest for the user."""

    content: dict[str, Any]
    remarks: tuple[str, ...]
    unpublished: tuple[str, ...]
    """Dropped keys that no version of mpu publishes, or whose values name code or a path."""


def read_config(path: Path, content: Mapping[str, Any]) -> ConfigFile:
    """Keep the keys of a parsed config.json that its model type knows.

    Args:
        path: the file, for messages.
        content: the parsed file. Without a known `model_type` no other key is kept; the caller
            then refuses the model.

    Raises:
        BadModelError: a known key has an invalid value; the message names the file and the key.
    """
    if not isinstance(content.get("model_type"), str | None):
        raise BadModelError(
            f"{path}: model_type is {_shown(content['model_type'])}, expected a text"
        )
    reader = _ConfigReader(path)
    config = reader.part(content, content.get("model_type"), "")
    config["model_type"] = content.get("model_type")
    names = content.get("architectures")
    if isinstance(names, list) and all(
        isinstance(name, str) and _CLASS_NAME.fullmatch(name) for name in names
    ):
        config["architectures"] = names
    dtype = next(
        (content[key] for key in ("dtype", "torch_dtype") if content.get(key) is not None), None
    )
    if dtype in _DTYPES:  # ignore values such as "auto": the tensors have their own dtype
        config["dtype"] = dtype
    name = content.get("tokenizer_class")
    if isinstance(name, str) and TOKENIZER_CLASS.fullmatch(name):
        config["tokenizer_class"] = name
        reader.left_out.discard("tokenizer_class")
    return ConfigFile(
        config, tuple(reader.remarks()), tuple(sorted(reader.left_out | reader.of_the_reader))
    )


@cache
def known_keys() -> Mapping[str, Mapping[str, Any]]:
    """config_keys.json: by model type, keys by kind, `derived` keys, `parts` and `defaults`."""
    text = resources.files(__package__).joinpath("config_keys.json").read_text(encoding="utf-8")
    keys: dict[str, dict[str, Any]] = json.loads(text)
    return keys


class _ConfigReader:
    """Reads one config.json and collects the keys that it drops."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model_type: Any = None
        self.left_out: set[str] = set()
        self.of_the_reader: set[str] = set()
        self._replaced: list[str] = []

    def part(self, content: Mapping[str, Any], model_type: Any, prefix: str) -> dict[str, Any]:
        """Return the known keys of a configuration or of a part; messages show `prefix` + key."""
        self._model_type = self._model_type or model_type
        keys = known_keys().get(model_type) if isinstance(model_type, str) else None
        if keys is None:
            return {}
        parts: Mapping[str, str] = keys.get("parts", {})
        kinds = {
            name: kind
            for kind, names in keys.items()
            if kind not in ("parts", "derived", "defaults")
            for name in names
        }
        quiet = ("model_type", "architectures", *keys.get("derived", ()))
        config: dict[str, Any] = {}
        for key, value in content.items():
            if key in parts:
                config[key] = self._nested(value, parts[key], prefix + key)
            elif key in kinds:
                try:
                    config[key] = self._value(key, kinds[key], value, prefix + key)
                except BadValueError as error:
                    raise BadModelError(
                        f"{self._path}: {prefix}{key} is {_shown(value)}, expected {error}"
                    ) from error
            elif value is not None and key not in quiet and not _NOT_OF_THE_MODEL.fullmatch(key):
                self.left_out.add(prefix + key)
            elif value is not None and _OF_THE_READER.fullmatch(key) and value not in _BUILT_IN:
                self.of_the_reader.add(prefix + key)
        self._fit_together(config, prefix)
        return config

    def remarks(self) -> Iterator[str]:
        """Yield the remarks for the user, one sentence each."""
        if self.left_out:
            names = sorted(self.left_out)
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            yield (
                f"{self._path}: ignored keys that transformers' {self._model_type} does not have:"
                f" {', '.join(name[:60] for name in names[:8])}{more}"
            )
        for text in self._replaced:
            yield f"{self._path}: {text}"

    def _nested(self, value: Any, default: str, key: str) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadModelError(f"{self._path}: {key} is {_shown(value)}, expected a map")
        own = value.get("model_type")
        model_type = own if isinstance(own, str) and own in known_keys() else default
        return self.part(value, model_type, f"{key}.") | (
            {"model_type": own} if own == model_type else {}
        )

    def _value(self, key: str, kind: str, value: Any, full_key: str) -> Any:
        if key in ("rope_parameters", "rope_scaling") and value is not None:
            config, left_out = config_values.rope(value)
            self.left_out |= {f"{full_key}.{name}" for name in left_out}
            return config
        config_values.check(key, kind, value)
        return value

    def _fit_together(self, config: dict[str, Any], prefix: str) -> None:
        """Check values against each other; remove token ids outside the vocabulary."""
        vocabulary = config.get("vocab_size")
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = config.get(key)
            ids = value if isinstance(value, list) else [value]
            if not all(i is None or type(i) is int for i in ids):
                raise BadModelError(
                    f"{self._path}: {prefix}{key} is {_shown(value)}, expected an integer or a list"
                    " of integers"
                )
            known = [
                i for i in ids if i is not None and (vocabulary is None or 0 <= i < vocabulary)
            ]
            if value is not None and len(known) < len(ids):
                config[key] = known if isinstance(value, list) and known else None
                self._replaced.append(
                    f"ignored {prefix}{key} {_shown(value)}, which is outside the vocabulary of"
                    f" {vocabulary} tokens"
                )
        heads, kv_heads = config.get("num_attention_heads"), config.get("num_key_value_heads")
        if heads and kv_heads and type(heads) is type(kv_heads) is int and heads % kv_heads:
            raise BadModelError(
                f"{self._path}: num_attention_heads is {heads}, which is not a multiple of"
                f" num_key_value_heads, {kv_heads}"
            )
        counts = map(config.get, ("num_local_experts", "num_experts", "n_routed_experts"))
        experts = next(filter(None, counts), None)
        chosen = config.get("num_experts_per_tok")
        if experts is not None and chosen is not None and not 1 <= chosen <= experts:
            raise BadModelError(
                f"{self._path}: {prefix}num_experts_per_tok is {chosen}, expected 1 to {experts},"
                " the number of experts"
            )
        groups, best = config.get("n_group"), config.get("topk_group")
        if groups is not None and (groups < 1 or (best is not None and not 1 <= best <= groups)):
            raise BadModelError(
                f"{self._path}: {prefix}topk_group is {best}, expected 1 to {groups}, the n_group"
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
