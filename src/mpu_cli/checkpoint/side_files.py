"""Copy the small files beside the weights by allow-list, without information on their origin.

A source directory may hold pickles of the exact weights, optimizer states, or a README that names
the checkpoint. A deny-list would leak them, so mpu copies only the names listed here.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.config_file import CONFIG_FILE
from mpu_cli.checkpoint.model import Checkpoint, open_config, read_json
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.origin import origin_of, origin_of_token
from mpu_cli.checkpoint.plain_file import TEMPLATES, is_lfs_pointer, lfs_pointer, plain_file
from mpu_cli.checkpoint.side_settings import (
    added_tokens,
    generation_settings,
    processor_settings,
    special_tokens,
    tokenizer_settings,
)
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadModelError, MpuWarning

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
MAX_TEMPLATE_BYTES, MAX_TEMPLATES = 1 << 20, 64
"""Size and number of named chat templates (Cohere's `tool_use`, `rag`). Models have one to three,
of a few KiB each."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""The form that a manifest allows."""
_TEMPLATE = re.compile(TEMPLATES + r"/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,120}\.jinja")
_READERS: Mapping[str, Callable[[Path, dict[str, Any]], dict[str, Any]]] = {
    "generation_config.json": generation_settings,
    "tokenizer_config.json": tokenizer_settings,
    "special_tokens_map.json": special_tokens,
    "added_tokens.json": added_tokens,
    "preprocessor_config.json": processor_settings,
    "processor_config.json": processor_settings,
}
_HARMLESS = re.compile(
    r"use_cache|output_\w+|return_\w+|_from_model_config|transformers_version|max_time|low_memory"
    r"|cache_implementation|disable_compile|is_assistant|num_assistant_\w+|assistant_\w+"
    r"|prompt_lookup_num_tokens|max_matching_ngram_size|token_healing|chat_format|max_window_size"
    r"|forced_decoder_ids|force_words_ids|constraints|processor_class|is_local|local_files_only"
    r"|use_fast|from_slow|max_len|verbose|padding|truncation"
)
"""Keys that earlier versions of mpu published; they name no file, code or path."""
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
_MAX_BYTES = 128 << 20
"""The limit of one side file; the largest tokenizers have a quarter of it."""
_NEVER_READ = re.compile(
    r".*\.(py[cdw]?|pyz|bin|pt|pth|ckpt|pkl|pickle|joblib|npy|npz|msgpack|h5|keras"
    r"|so|dll|dylib|gguf|ggml)([.-]\d[\w-]*)?"
    r"|.*\.safetensors(?!\.index\.json\Z).*",
    re.DOTALL,
)
"""Lower-case names of code, pickles and weights, numbered parts included."""
_HIDDEN = re.compile(r"\.(git|cache)")
"""Folders of download programs; no program that opens a model reads them."""
_SIGNED = re.compile(rb"""["']?hmac["']?\s*:\s*["']?[0-9a-fA-F]{64}""")
"""The end of every file in a server's secret directory, of any lineage."""


def is_allowed(name: str) -> bool:
    """Whether a file of this name, relative to the model directory, may be published."""
    form = _TEMPLATE if "/" in name else _NAME
    return form.fullmatch(name) is not None and (
        "/" in name or any(fnmatchcase(name, pattern) for pattern in ALLOWED)
    )


def side_files(directory: Path) -> list[Path]:
    """The files of a model directory that are published beside the weights; named templates last.

    Raises:
        BadModelError: too many named chat templates.
    """
    folder = directory / TEMPLATES
    inside = (
        [path for path in folder.iterdir() if is_allowed(f"{TEMPLATES}/{path.name}")]
        if folder.is_dir()
        else []
    )
    if len(inside) > MAX_TEMPLATES:
        raise BadModelError(
            f"{folder}: {len(inside)} chat templates, expected at most {MAX_TEMPLATES}",
            "remove the templates that nobody uses",
        )
    beside = sorted(
        path for path in directory.iterdir() if is_allowed(path.name) and not path.is_dir()
    )
    return beside + sorted(path for path in inside if not path.is_dir())


def check_side_files(directory: Path) -> None:
    """Check the files that `copy_side_files` would copy, before the long part of a command.

    A warning names the settings that it would leave out because they say where the model came from.

    Raises:
        BadModelError: a link to a file outside the directory, a Git LFS pointer, a file of a secret
            directory, a file that is too large, or not a regular file.
    """
    for path in side_files(directory):
        _read(path)
        if path.name in _READERS and path.parent == directory:
            left: list[str] = []
            _without_origin(path.name, _kept(path, read_json(path)), left)
            if left:
                names = ", ".join(sorted(set(left))[:8])
                warnings.warn(f"{path}: never published: {names}", MpuWarning, stacklevel=2)


def refuse_unpublished(copy: Path) -> None:
    """Refuse a copy with settings that mpu never publishes, because other programs read them too.

    Raises:
        BadModelError: names the first such key and its file.
    """
    for path in side_files(copy):
        if path.name == CONFIG_FILE:
            unknown = list(open_config(copy).unpublished)
        elif path.name in _READERS and path.parent == copy:
            content = read_json(path)
            unknown = list(_dropped(content, _kept(path, content)))
        else:
            continue
        if unknown:
            raise BadModelError(
                f"{path}: holds {unknown[0]:.80}, which mpu never publishes",
                "other programs may act on it: do not open the copies until you know who made this"
                " handoff",
            )


def refuse_unread(model: Checkpoint) -> None:
    """Refuse code, pickles and extra weights, which a check of the model does not cover.

    Other programs may load or run them. A README or a licence is harmless.

    Raises:
        BadModelError: names the first such file, also in a subfolder; a linked folder; or a
            settings file that asks for code.
    """
    read = {info.file for info in model.tensors.values()}
    for folder, folders, names in os.walk(model.path, onerror=_unreadable):
        place = Path(folder)
        folders[:] = sorted(
            name for name in folders if place != model.path or not _HIDDEN.fullmatch(name)
        )
        linked = [name for name in folders if (place / name).is_symlink()]
        unread = [
            name
            for name in names
            if _NEVER_READ.fullmatch(name.lower()) and place / name not in read
        ]
        for name in sorted(linked + unread):
            raise BadModelError(
                f"{place / name}: is not part of the checked model, but other programs may load it",
                "move it out of the directory, then verify again",
            )
    for path in side_files(model.path):
        if path.name in _READERS:
            _kept(path, read_json(path))


def _unreadable(error: OSError) -> None:
    raise BadModelError(
        f"{error.filename}: {error.strerror}", "check the path and its permissions"
    ) from error


def copy_side_files(source: Checkpoint, directory: Path, dtype: str) -> dict[str, tuple[str, int]]:
    """Copy the allowed side files of a checkpoint into `directory`; return digest and size by name.

    config.json will name `dtype` ("float32", …): transformers rounds silently if it differs from
    the stored tensors.

    Raises:
        BadModelError: the tokenizer needs remote code, or see `check_side_files`.
    """
    return write_side_files(source.path, directory, {**source.config, "dtype": dtype})


def write_side_files(
    origin: Path, directory: Path, config: dict[str, Any]
) -> dict[str, tuple[str, int]]:
    """Copy the allowed side files of `origin`, with `config` as config.json.

    Raises the errors of `copy_side_files`.
    """
    written = {}
    for path in side_files(origin):
        name, data = path.relative_to(origin).as_posix(), _read(path)
        if name == CONFIG_FILE or name in _READERS:
            data = _cleaned_json(path, config).encode()
        if path.parent != origin and not (directory / TEMPLATES).exists():
            (directory / TEMPLATES).mkdir()
            set_mode(directory / TEMPLATES, 0o755)
        written[name] = write_new(directory / name, data)
    return written


def _read(path: Path) -> bytes:
    is_template = path.parent.name == TEMPLATES or path.name.startswith("chat_template.")
    limit = MAX_TEMPLATE_BYTES if is_template else _MAX_BYTES
    try:
        with plain_file(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadModelError(
            f"{path}: {error.strerror}", "check the path and its permissions"
        ) from error
    if len(data) > limit:
        raise BadModelError(
            f"{path}: larger than {limit >> 20} MiB, the limit for this file",
            "remove it from the model directory",
        )
    if is_lfs_pointer(data):
        raise lfs_pointer(path)
    if _SIGNED.search(data):
        raise BadModelError(
            f"{path}: is a file of a server's secret directory, which mpu never copies",
            "remove it from the model directory, and find out how it got there",
        )
    return data


def _cleaned_json(path: Path, config: dict[str, Any]) -> str:
    """The published text of a settings file; `config` is the kept part of config.json."""
    content = config if path.name == CONFIG_FILE else _kept(path, read_json(path))
    content = _without_origin(path.name, content, [])
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _kept(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    if _names_code(content):
        raise BadModelError(
            f"{path}: needs remote code (auto_map)",
            "save the model with a tokenizer that is built into transformers",
        )
    return _READERS[path.name](path, content)


def _names_code(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get("auto_map")) or any(map(_names_code, value.values()))
    return isinstance(value, list) and any(map(_names_code, value))


def _dropped(content: Any, kept: Any, prefix: str = "") -> Iterator[str]:
    """Yield the full names of dropped keys, except nulls and harmless ones."""
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(kept.get(key), dict):
            yield from _dropped(value, kept[key], f"{prefix}{key}.")
        elif (
            value is not None
            and key not in kept
            and (isinstance(value, dict) or not _HARMLESS.fullmatch(key))
        ):
            yield prefix + key


def _without_origin(file: str, content: dict[str, Any], left: list[str]) -> dict[str, Any]:
    """A settings file without texts that say where it came from; `left` gets what they were."""
    if file == "added_tokens.json":  # its keys are tokens
        return content
    return {
        key: _clean(value, key, left, tokens=_is_of_tokens(key))
        for key, value in content.items()
        if key not in _ORIGIN_KEYS and not _is_origin(value, key, left, tokens=_is_of_tokens(key))
    }


def _clean(value: Any, name: str, left: list[str], *, tokens: bool) -> Any:
    if isinstance(value, dict):
        return {
            key: _clean(item, f"{name}.{key}", left, tokens=tokens)
            for key, item in value.items()
            if key not in _ORIGIN_KEYS
            and not _is_origin(item, f"{name}.{key}", left, tokens=tokens)
        }
    if isinstance(value, list):
        return [
            _clean(item, name, left, tokens=tokens)
            for item in value
            if not _is_origin(item, name, left, tokens=tokens)
        ]
    return value


def _is_origin(value: Any, name: str, left: list[str], *, tokens: bool) -> bool:
    if not isinstance(value, str):
        return False
    found = origin_of_token(value) if tokens else origin_of(value)
    if found is not None:
        left.append(f"{name} ({found})")
    return found is not None


def _is_of_tokens(key: str) -> bool:
    """Whether a setting holds what a model reads or writes, which may look like anything."""
    return "token" in key or key in {"chat_template", "stop_strings", "special_tokens"}
