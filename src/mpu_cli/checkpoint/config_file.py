"""config.json as mpu takes it.

The keys that the model type has, with values of the right kind, and nothing else.

The file may come from the other party, or from the machine that trained. Its other keys (which
attention kernel, where weights lie, what is printed) would decide how it is read here, and some
make transformers fetch code; they are left out wherever a model is opened and wherever one is
published. Never imports torch.
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
"""transformers looks the name up among all of its classes, models too."""
_NOT_OF_THE_MODEL = re.compile(
    r"_.*|(.*_)?(attn|attention|experts)_implementation|(torch_)?dtype|transformers(_version|\.js_config)|unsloth_\w+"
    r"|use_cache|pretraining_tp|output_\w+|(use_)?return_dict(_in_generate)?|torchscript|gradient_checkpointing|device_map|distributed_config"
    r"|id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params|classifier_\w+|summary_\w+"
    r"|chunk_size_feed_forward|is_encoder_decoder|(is_)?decoder(_start_token_id)?|cross_attention_hidden_size|add_cross_attention|tie_encoder_decoder"
    r"|(max|min)(_new)?_(length|tokens)|do_sample|early_stopping|num_(beams|beam_groups|return_sequences)|diversity_penalty|temperature"
    r"|top_[kp]|typical_p|repetition_penalty|length_penalty|(encoder_)?no_repeat_ngram_size|bad_words_ids|forced_[be]os_token_id|sep_token_id"
    r"|remove_invalid_values|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens|prefix|pruned_heads|use_bfloat16"
    r"|tf_legacy_loss|name_or_path"
)
"""Keys of the training machine, the saving program, another task or of writing: left out without a word."""
_OF_THE_READER = re.compile(
    r"_.*|(.*_)?(attn|attention|experts)_implementation|device_map|distributed_config|name_or_path"
)
"""Those among them that decide what the reader's machine does, or tell of the saving one."""
_BUILT_IN = ("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm", "auto", True, False)
"""Values of those keys that lead nowhere."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The kept content of a config.json, and what the user must be told about the rest."""

    content: dict[str, Any]
    remarks: tuple[str, ...]
    unpublished: tuple[str, ...]
    """The keys left out of it that no version of mpu publishes, or whose values name code or a place."""


def read_config(path: Path, content: Mapping[str, Any]) -> ConfigFile:
    """Keep what a model type knows of a parsed config.json.

    Args:
        path: the file, for messages.
        content: as parsed. Without a known `model_type` nothing else is kept: whoever opens such a
            model refuses it.

    Raises:
        BadModelError: a known key holds a value that no model can have; the file and the key are
            named.
    """
    reader = _ConfigReader(path)
    kept = reader.part(content, content.get("model_type"), "")
    kept["model_type"] = content.get("model_type")
    names = content.get("architectures")
    if isinstance(names, list) and all(
        isinstance(name, str) and _CLASS_NAME.fullmatch(name) for name in names
    ):
        kept["architectures"] = names
    dtype = next(
        (content[key] for key in ("dtype", "torch_dtype") if content.get(key) is not None), None
    )
    if dtype in _DTYPES:  # "auto" and its like decide nothing: the tensors say what they are
        kept["dtype"] = dtype
    name = content.get("tokenizer_class")
    if isinstance(name, str) and TOKENIZER_CLASS.fullmatch(name):
        kept["tokenizer_class"] = name
        reader.left_out.discard("tokenizer_class")
    return ConfigFile(
        kept, tuple(reader.remarks()), tuple(sorted(reader.left_out | reader.of_the_reader))
    )


def layer_counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """How many layers a configuration and its parts ask for, by key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", count) for inner, count in layer_counts(value))
        elif type(value) is int and re.fullmatch(r"n_layers?|num_(\w+_)?layers", key):
            yield key, value


@cache
def known_keys() -> Mapping[str, Mapping[str, Any]]:
    """config_keys.json: by model type, its keys by kind, those that are `derived` from others, its `parts`, and its `defaults`."""
    text = resources.files(__package__).joinpath("config_keys.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


class _ConfigReader:
    """One config.json; collects what is left out of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model_type: Any = None
        self.left_out: set[str] = set()
        self.of_the_reader: set[str] = set()
        self._replaced: list[str] = []

    def part(self, content: Mapping[str, Any], model_type: Any, prefix: str) -> dict[str, Any]:
        """The kept keys of a configuration, or of a part of one, whose keys begin with `prefix` in messages."""
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
        kept: dict[str, Any] = {}
        for key, value in content.items():
            if key in parts:
                kept[key] = self._nested(value, parts[key], prefix + key)
            elif key in kinds:
                with_key = prefix + key
                try:
                    kept[key] = self._value(key, kinds[key], value, with_key)
                except BadValueError as error:
                    raise BadModelError(
                        f"{self._path}: {with_key} is {_shown(value)}, expected {error}"
                    ) from error
            elif value is not None and key not in quiet and not _NOT_OF_THE_MODEL.fullmatch(key):
                self.left_out.add(prefix + key)
            elif value is not None and _OF_THE_READER.fullmatch(key) and value not in _BUILT_IN:
                self.of_the_reader.add(prefix + key)
        self._fit_together(kept, prefix)
        return kept

    def remarks(self) -> Iterator[str]:
        """What to tell the user, a sentence each."""
        if self.left_out:
            names = sorted(self.left_out)
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            yield (
                f"{self._path}: left out what transformers' {self._model_type} does not have: "
                f"{', '.join(name[:60] for name in names[:8])}{more}"
            )
        for text in self._replaced:
            yield f"{self._path}: {text}"

    def _nested(self, value: Any, default: str, key: str) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadModelError(f"{self._path}: {key} is {_shown(value)}, expected a map")
        own = value.get("model_type")
        model_type = own if own in known_keys() else default
        return self.part(value, model_type, f"{key}.") | (
            {"model_type": own} if own == model_type else {}
        )

    def _value(self, key: str, kind: str, value: Any, with_key: str) -> Any:
        if key in ("rope_parameters", "rope_scaling") and value is not None:
            kept, left_out = config_values.rope(value)
            self.left_out |= {f"{with_key}.{name}" for name in left_out}
            return kept
        config_values.check(key, kind, value)
        return value

    def _fit_together(self, kept: dict[str, Any], prefix: str) -> None:
        """What one value says about another."""
        words = kept.get("vocab_size")
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = kept.get(key)
            ids = value if isinstance(value, list) else [value]
            if not all(i is None or type(i) is int for i in ids):
                raise BadModelError(
                    f"{self._path}: {prefix}{key} is {_shown(value)}, expected an integer or a list"
                    " of integers"
                )
            known = [i for i in ids if i is not None and (words is None or 0 <= i < words)]
            if value is not None and len(known) < len(ids):
                kept[key] = known if isinstance(value, list) and known else None
                self._replaced.append(
                    f"{prefix}{key} is {_shown(value)}, which is no token of {words}: taken as none"
                )
        heads, kv_heads = kept.get("num_attention_heads"), kept.get("num_key_value_heads")
        if heads and kv_heads and type(heads) is type(kv_heads) is int and heads % kv_heads:
            raise BadModelError(
                f"{self._path}: {heads} attention heads do not divide into {kv_heads} key-value"
                " heads"
            )
        experts = next(
            (
                kept[key]
                for key in ("num_local_experts", "num_experts", "n_routed_experts")
                if kept.get(key)
            ),
            None,
        )
        chosen = kept.get("num_experts_per_tok")
        if experts is not None and chosen is not None and not 1 <= chosen <= experts:
            raise BadModelError(
                f"{self._path}: {prefix}num_experts_per_tok is {chosen}, expected 1 to {experts},"
                " the number of experts"
            )
        groups, best = kept.get("n_group"), kept.get("topk_group")
        if groups is not None and (groups < 1 or (best is not None and not 1 <= best <= groups)):
            raise BadModelError(
                f"{self._path}: {prefix}topk_group is {best} of n_group {groups}, expected 1 to"
                " n_group"
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
