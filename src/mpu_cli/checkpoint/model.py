"""A Hugging Face model directory on disk: its tensors and their bytes, one block at a time.

Opening a checkpoint reads only JSON and safetensors headers, and never imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.config_file import (
    CONFIG_FILE,
    MAX_BYTES,
    ConfigFile,
    known_keys,
    read_config,
)
from mpu_cli.checkpoint.config_sizes import check_sizes
from mpu_cli.checkpoint.header import FLOAT_DTYPES, TensorInfo, read_header
from mpu_cli.checkpoint.json_text import BadJsonError, parse_json
from mpu_cli.checkpoint.plain_file import is_lfs_pointer, lfs_pointer, plain_file, refuse_links_out
from mpu_cli.checkpoint.recognise import MODEL, in_place_of_weights, instead_of, require_one_kind
from mpu_cli.errors import BadModelError

SINGLE_FILE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_EMBEDDINGS = (".embed_tokens.weight", ".wte.weight", ".embed_in.weight", ".word_embeddings.weight")
INDEX_FILE = "model.safetensors.index.json"
_SHARD = re.compile(r"(?!\.)[^/\\\x00-\x1f]*\.safetensors[^/\\\x00-\x1f]*")
"""model-00001-of-00002.safetensors, also -of-000002 and model.safetensors-00001-of-00002."""
READ_BLOCK = 4 << 20
"""Bytes per read when a tensor is copied or hashed."""
SPAN = 1 << 20
"""Entries per step when a tensor is processed in parts."""
_MAX_JSON_BYTES = 32 << 20
"""The limit of a safetensors header; an index of 300,000 tensors is smaller."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory: `config` is the kept part of config.json, `tensors` are those on disk."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    remarks: tuple[str, ...] = ()
    """Remarks about config.json for the user: what mpu ignored or replaced, one sentence each."""

    @property
    def dtype(self) -> str:
        """The dtype (safetensors' name) of most bytes."""
        sizes: dict[str, int] = {}
        for info in self.tensors.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
        return max(sizes, key=lambda dtype: (sizes[dtype], dtype))

    @property
    def float_dtypes(self) -> frozenset[str]:
        """The floating-point dtypes (safetensors' names) of the tensors."""
        return frozenset(info.dtype for info in self.tensors.values() if info.dtype in FLOAT_DTYPES)

    @property
    def nbytes(self) -> int:
        """Size of all tensors on disk, in bytes."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def elements(self) -> int:
        """Number of parameters on disk."""
        return sum(info.elements for info in self.tensors.values())


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model directory for reading.

    Raises:
        BadModelError: no config.json, no safetensors files, an index that disagrees with the
            shards, remote code, a quantised checkpoint, an adapter beside the model, an invalid
            value in config.json, a head that config.json ties although it differs, a link to a
            file outside the directory, or a Git LFS pointer.
    """
    if not path.is_dir() or require_one_kind(path) != MODEL:
        raise instead_of(path, MODEL, BadModelError)
    refuse_links_out(path)
    config = open_config(path)
    tensors = _drop_redundant_head(path, config.content, _drop_ignored_buffers(_read_tensors(path)))
    if not tensors:
        raise BadModelError(f"{path}: the checkpoint holds no tensors")
    if (path / ADAPTER_CONFIG).exists():
        # transformers would load the adapter too, but the published copies would lack it.
        raise BadModelError(
            f"{path}: holds a model and an adapter ({ADAPTER_CONFIG})",
            f"merge it (peft: merge_and_unload, save_pretrained), or move {ADAPTER_CONFIG} and its"
            " weights out of the directory",
        )
    check_sizes(path / CONFIG_FILE, config.content, tensors)
    return Checkpoint(path, config.content, tensors, config.remarks)


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object from a file of a model directory, or raise BadModelError naming it."""
    try:
        with plain_file(path).open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BadModelError(f"{path}: {error.strerror}") from error
    if len(data) > _MAX_JSON_BYTES:
        raise BadModelError(f"{path}: larger than {_MAX_JSON_BYTES} bytes, the limit")
    if is_lfs_pointer(data):
        raise lfs_pointer(path)
    try:
        value = parse_json(data)
    except BadJsonError as error:
        raise BadModelError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise BadModelError(f"{path}: expected a JSON object")
    return value


def open_config(path: Path) -> ConfigFile:
    """Read the config.json of a model directory by allow-list.

    Raises:
        BadModelError: there is none, it needs remote code, is quantised, or has an invalid value.
    """
    file = path / CONFIG_FILE
    if path.is_file():
        raise instead_of(path, MODEL, BadModelError)
    if not file.exists():
        raise BadModelError(
            f"{path}: no config.json",
            "give a Hugging Face model directory, with config.json beside the weights",
        )
    if file.stat().st_size > MAX_BYTES:
        raise BadModelError(f"{file}: larger than {MAX_BYTES >> 20} MiB")
    config = read_json(file)
    if config.get("auto_map"):
        raise BadModelError(
            f"{file}: the model needs remote code (auto_map)",
            "if transformers has the architecture built in, delete auto_map from config.json; mpu"
            " never runs code from a checkpoint",
        )
    if config.get("quantization_config"):
        raise BadModelError(
            f"{file}: the checkpoint is quantised",
            "dequantise first: model.dequantize() in transformers, then save_pretrained",
        )
    return read_config(file, config)


def _read_tensors(path: Path) -> dict[str, TensorInfo]:
    single, index = path / SINGLE_FILE, path / INDEX_FILE
    if not index.exists():
        if single.exists():
            return read_header(single)[0]
        raise in_place_of_weights(path, BadModelError)
    weight_map = read_index(index)
    if single.exists() and set(weight_map.values()) != {SINGLE_FILE}:
        raise BadModelError(
            f"{path}: holds both {SINGLE_FILE} and {INDEX_FILE}",
            "remove the one left over from an older save",
        )
    return _read_shards(path, index, weight_map)


def read_index(index: Path) -> dict[str, str]:
    """The shard of each tensor according to an index; shards lie in the directory of the index.

    Raises:
        BadModelError: no valid index, or it names something other than a plain safetensors file.
    """
    weight_map = read_json(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(value, str) for value in weight_map.values())
    ):
        raise BadModelError(f"{index}: weight_map is not a map of tensor names to file names")
    for shard in sorted(set(weight_map.values())):
        if not _SHARD.fullmatch(shard):
            raise BadModelError(
                f"{index}: names the shard {shard!r}, which is not a plain safetensors file name"
            )
    return weight_map


def _read_shards(path: Path, index: Path, weight_map: dict[str, str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        if not (path / shard).exists():
            raise BadModelError(
                f"{index}: names the shard {shard}, which is absent", "copy the missing shard"
            )
        for name, info in read_header(path / shard)[0].items():
            if weight_map.get(name) != shard:
                raise BadModelError(
                    f"{index}: does not list tensor {name} in {shard}, which holds it"
                )
            tensors[name] = info
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise BadModelError(f"{index}: names tensor {missing[0]}, which no shard holds")
    return tensors


def _drop_ignored_buffers(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Drop constants of old checkpoints that transformers ignores: RoPE frequencies and masks."""
    return {
        name: info
        for name, info in tensors.items()
        if not (
            name.endswith(".rotary_emb.inv_freq")
            or (name.endswith((".attn.bias", ".attention.bias")) and len(info.shape) == 4)
            or (
                name.endswith((".attn.masked_bias", ".attention.masked_bias"))
                and info.elements == 1
            )
        )
    }


def _drop_redundant_head(
    path: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    # transformers writes a tied head once; other programs write it twice. As a second tensor it
    # would get other noise than the embedding, and transformers silently unties heads that differ.
    heads = [info for name, info in tensors.items() if is_head(name)]
    text = config.get("text_config")
    flags = [
        part.get("tie_word_embeddings") for part in (config, text if isinstance(text, dict) else {})
    ]
    tied = next((flag for flag in flags if flag is not None), None)
    by_default = (
        known_keys()
        .get(str(config.get("model_type")), {})
        .get("defaults", {})
        .get("tie_word_embeddings", False)
    )
    if len(heads) != 1 or not (by_default if tied is None else tied):
        return tensors
    head = heads[0]
    twins = [
        info
        for name, info in tensors.items()
        if name.endswith(_EMBEDDINGS) and info.shape == head.shape
    ]
    if len(twins) != 1:
        return tensors
    if twins[0].dtype != head.dtype or any(
        a != b for a, b in zip(blocks(head), blocks(twins[0]), strict=True)
    ):
        if tied is None:  # config.json is silent, and the tensors show that they are not tied
            return tensors
        raise BadModelError(
            f"{path}: config.json ties {head.name.removesuffix('.weight')} to {twins[0].name}, but"
            " the two tensors differ on disk",
            f"set tie_word_embeddings to false in config.json, or remove {head.name}",
        )
    return {name: info for name, info in tensors.items() if name != head.name}


def is_head(name: str) -> bool:
    """Whether a tensor's name is that of an output embedding."""
    return name in {"lm_head.weight", "embed_out.weight"} or name.endswith(".lm_head.weight")


def blocks(info: TensorInfo, size: int = READ_BLOCK) -> Iterator[bytes]:
    """Yield a tensor's bytes in blocks of `size` bytes; the last block may be shorter."""
    with info.file.open("rb") as file:
        left = info.nbytes
        offset = info.start
        while left:
            block = os.pread(file.fileno(), min(size, left), offset)
            if not block:
                raise BadModelError(
                    f"{info.file}: ends inside tensor {info.name}", "copy the file again"
                )
            yield block
            left -= len(block)
            offset += len(block)
