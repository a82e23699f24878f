"""The small files beside the weights, copied by allow-list and stripped of what they say about their origin.

A source directory may hold pickles of the exact weights, optimizer states, or a README naming the checkpoint; a
deny-list would leak them, so only names listed here are ever copied.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.model import Checkpoint, read_json
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadModelError

ALLOWED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
)
NOT_OF_ROWS = frozenset({"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"})
"""Side files that have no say in how rows become tokens."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_ORIGIN_KEYS = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "_original_object_hash",
        "is_local",
        "local_files_only",
        "name_or_path",
        "tokenizer_file",
        "transformers_version",
    }
)


def is_allowed(name: str) -> bool:
    """Whether a file of this name may stand beside published weights."""
    return any(fnmatch(name, pattern) for pattern in ALLOWED)


def copy_side_files(source: Checkpoint, directory: Path, dtype: str) -> dict[str, tuple[str, int]]:
    """Copy the allowed side files of a checkpoint into `directory`; return digest and size by name.

    `dtype` ("float32", …) is what config.json will say: transformers rounds silently where it disagrees with the
    stored tensors.

    Raises:
        BadModelError: the tokenizer needs remote code, or a side file is not what its name says.
    """
    written = {}
    for path in sorted(source.path.iterdir()):
        if not path.is_file() or not is_allowed(path.name):
            continue
        if path.name in _CONFIGS:
            written[path.name] = write_new(directory / path.name, _cleaned_json(path, dtype).encode())
        else:
            written[path.name] = write_new(directory / path.name, path.read_bytes())
    return written


def _cleaned_json(path: Path, dtype: str) -> str:
    content = read_json(path)
    if content.get("auto_map"):
        raise BadModelError(f"{path}: needs remote code (auto_map)", "save it with a tokenizer that transformers has built in")
    content = _without_origin(content)
    if path.name == "config.json":
        _set_dtype(content, dtype)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origin(item) for key, item in value.items() if key not in _ORIGIN_KEYS and not _is_path(item)}
    if isinstance(value, list):
        return [_without_origin(item) for item in value if not _is_path(item)]
    return value


def _is_path(value: Any) -> bool:
    # Two separators at least: "/think" is a token of some chat models, not a path.
    return isinstance(value, str) and re.match(r"(?:/[^/\s]+){2,}|[A-Za-z]:\\", value) is not None


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    config["dtype"] = dtype
    for value in [config, *(item for item in config.values() if isinstance(item, dict))]:
        for key in ("torch_dtype", "dtype"):
            if key in value:
                value[key] = dtype

