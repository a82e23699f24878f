"""Read PEFT adapter directories from any program, and write them as an update may hold them.

peft's adapter_config.json has some forty switches. Those that keep Δ W = scale · B A are read;
every other one must be off, known or not. The written form is that of `bundle/adapter.py`: no path,
no version, full module names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpu_cli.architectures.projections import Projection
from mpu_cli.bundle.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MERGE_INSTEAD,
    PEFT_PREFIX,
    AdapterConfig,
    LowRankChange,
    adapter_names,
    changes_of,
    encode_config,
    pair_up,
)
from mpu_cli.bundle.schema import MAX_RANK
from mpu_cli.bundle.tensors import is_frozen
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_tensor, to_bytes
from mpu_cli.checkpoint.header import FLOAT_DTYPES, STORED_NAMES, TensorInfo, read_header
from mpu_cli.checkpoint.model import SPAN, Checkpoint, is_head, read_json
from mpu_cli.checkpoint.writer import CheckpointWriter, Files, write_new
from mpu_cli.client.delta import DeltaFormat, is_unchanged
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.errors import BadModelError, CheckFailedError

_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights", "lora_dropout"}
)
_MEANINGLESS_AFTERWARDS = frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "task_type",
        "auto_mapping",
        "peft_version",
        "inference_mode",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    }
)
"""Keys that choose modules, which the tensors show as well, or that do not affect Δ W."""
_KEEPS_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base weights unchanged; PiSSA, OLoRA and others change them."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """An adapter that some program trained on a published copy."""

    config: AdapterConfig
    changes: Mapping[str, LowRankChange]
    """By on-disk tensor."""
    targets: tuple[Projection, ...]
    dropout: float


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter rather than a full model."""
    return (directory / ADAPTER_CONFIG).exists()


def open_trained(directory: Path, opened: OpenHandoff, published: Checkpoint) -> TrainedAdapter:
    """Read a PEFT adapter directory that was trained on this copy of a handoff.

    Raises:
        BadModelError: it is not LoRA, or more than B A, or not an adapter of this model.
        CheckFailedError: a frozen tensor was trained.
    """
    file = directory / ADAPTER_CONFIG
    rank, alpha, dropout = _read_config(file, read_json(file))
    weights = directory / ADAPTER_WEIGHTS
    if not weights.exists():
        raise BadModelError(
            f"{directory}: no {ADAPTER_WEIGHTS}",
            "save the adapter as safetensors; pickles are never read",
        )
    tensors = _without_saved_embeddings(read_header(weights)[0], published, opened.frozen, weights)
    for tensor in tensors:
        module = (
            tensor.removeprefix(PEFT_PREFIX)
            .partition(".lora_")[0]
            .removesuffix(".weight")
            .removesuffix(".base_layer")
        )
        if is_frozen(f"{module}.weight", opened.frozen):
            raise CheckFailedError(
                f"{weights}: {module} was trained ({tensor}), but it is frozen",
                "train without this module",
            )
    pairs = pair_up(tensors, weights, BadModelError)
    targets = []
    for module, (a, b) in sorted(pairs.items()):
        name = f"{module}.weight"
        target = opened.matrices.get(name)
        if target is None:
            raise BadModelError(
                f"{weights}: {module} is not an attention or feed-forward projection of the"
                " published copy",
                MERGE_INSTEAD,
            )
        if (b.shape[0], a.shape[1]) != (target.outputs, target.inputs):
            raise BadModelError(
                f"{weights}: the adapter of {module} does not fit {name}, {list(target.shape)}",
                "give the adapter that was trained on this copy",
            )
        if a.shape[0] != rank:
            raise BadModelError(
                f"{weights}: the adapter of {module} has rank {a.shape[0]}, {ADAPTER_CONFIG} says"
                f" {rank}",
                MERGE_INSTEAD,
            )
        if a.dtype not in FLOAT_DTYPES or b.dtype not in FLOAT_DTYPES:
            raise BadModelError(
                f"{weights}: the adapter of {module} is {a.dtype}",
                "save it as float32, bfloat16 or float16",
            )
        targets.append(target)
    transposed = targets[0].output_axis == 1
    config = AdapterConfig(rank, alpha, tuple(target.module for target in targets), transposed)
    return TrainedAdapter(
        config, changes_of(pairs, config.scale, transposed=transposed), tuple(targets), dropout
    )


def _without_saved_embeddings(
    tensors: Mapping[str, TensorInfo], published: Checkpoint, frozen: Collection[str], where: Path
) -> dict[str, TensorInfo]:
    """Drop the embedding and the head that peft also writes (`save_embedding_layers`).

    Raises:
        CheckFailedError: they differ from the published copy's: they were trained, or tokens added.
    """
    fixed = {name: info for name, info in published.tensors.items() if is_frozen(name, frozen)}
    adapters = {}
    for name, info in tensors.items():
        own = name.removeprefix(PEFT_PREFIX)
        # A tied head is not on disk: it equals one of the others.
        same = [fixed[own]] if own in fixed else list(fixed.values()) if is_head(own) else []
        if not same:
            adapters[name] = info
        elif not any(is_unchanged(before, info) for before in same):
            raise CheckFailedError(
                f"{where}: tensor {name} differs from the published copy's, which is frozen",
                "train without it, and without adding tokens: rows of it that move tell the server"
                " which tokens the forget set holds",
            )
    return adapters


def _read_config(file: Path, content: Mapping[str, Any]) -> tuple[int, float, float]:
    """Rank, α and dropout."""
    if content.get("peft_type") != "LORA":
        raise BadModelError(
            f"{file}: peft_type is {content.get('peft_type')!r}, and an update holds LORA only",
            MERGE_INSTEAD,
        )
    for key, value in sorted(content.items()):
        if key not in _READ | _MEANINGLESS_AFTERWARDS and value not in (None, False, [], {}, ""):
            raise BadModelError(
                f"{file}: {key} is set, so the adapter is more than B A with one scale",
                MERGE_INSTEAD,
            )
    if content.get("bias", "none") != "none":
        raise BadModelError(
            f"{file}: bias is {content['bias']!r}, but an update holds no trained biases of an"
            " adapter",
            MERGE_INSTEAD,
        )
    if content.get("init_lora_weights") not in _KEEPS_THE_BASE:
        kind = content["init_lora_weights"]
        raise BadModelError(
            f"{file}: init_lora_weights is {kind!r}, which also changes the base weights",
            MERGE_INSTEAD,
        )
    rank, alpha, dropout = (
        content.get("r"),
        content.get("lora_alpha"),
        content.get("lora_dropout") or 0.0,
    )
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise BadModelError(
            f"{file}: r is {rank!r}; a rank must lie between 1 and {MAX_RANK}", MERGE_INSTEAD
        )
    if (
        not isinstance(alpha, int | float)
        or not 0 < alpha <= 1e6
        or not isinstance(dropout, int | float)
    ):
        raise BadModelError(
            f"{file}: lora_alpha is {alpha!r}, lora_dropout is {dropout!r}", MERGE_INSTEAD
        )
    return (
        rank,
        float(alpha) * (math.sqrt(rank) if content.get("use_rslora") else 1.0),
        float(dropout),
    )


def write_adapter(
    directory: Path,
    config: AdapterConfig,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    dtype: str,
) -> Files:
    """Write A and B by module as an update may hold them; return the files with digests and sizes.

    Raises:
        CheckFailedError: NaN or infinity.
    """
    tensors = {
        name: half
        for module, pair in pairs.items()
        for name, half in zip(adapter_names(module), pair, strict=True)
    }
    placeholder = directory / ADAPTER_WEIGHTS
    infos = [
        TensorInfo(name, STORED_NAMES[dtype], tuple(half.shape), placeholder, 0)
        for name, half in tensors.items()
    ]
    stem = ADAPTER_WEIGHTS.removesuffix(".safetensors")
    # peft reads one file only.
    writer = CheckpointWriter(directory, infos, max_shard_bytes=1 << 62, stem=stem)
    try:
        for info in writer.order:
            half = tensors[info.name].detach()
            stored = half.to(device="cpu", dtype=TORCH_DTYPES[info.dtype])
            if not bool(torch.isfinite(stored).all()):
                raise CheckFailedError(
                    f"tensor {info.name} holds NaN or infinity",
                    "train again with a lower learning rate",
                )
            writer.write(to_bytes(stored))
        files = writer.close().files
    finally:
        writer.abort()
    return {**files, ADAPTER_CONFIG: write_new(directory / ADAPTER_CONFIG, encode_config(config))}


def copy_adapter(trained: TrainedAdapter, directory: Path, dtype: str) -> Files:
    """Write a trained adapter as one copy's payload; return the files with digests and sizes."""
    pairs = {
        change.name.removesuffix(".weight"): (read_tensor(change.a), read_tensor(change.b))
        for change in trained.changes.values()
    }
    return write_adapter(directory, trained.config, pairs, dtype)


def write_merged(trained: TrainedAdapter, directory: Path, delta_format: DeltaFormat) -> Files:
    """Write an adapter's change of the weights as a dense delta, in blocks; return the files.

    Raises:
        CheckFailedError: a change is not a finite number.
    """
    infos = [
        TensorInfo(name, "F32", change.shape, directory, 0)
        for name, change in trained.changes.items()
    ]
    writer = delta_format.writer(directory, infos)
    try:
        for info in writer.order:
            for _, _, rows in row_spans(trained.changes[info.name]):
                if not bool(torch.isfinite(rows).all()):
                    raise CheckFailedError(
                        f"the adapter of {info.name} holds NaN or infinity",
                        "train again with a lower learning rate",
                    )
                writer.write(to_bytes(rows.to(TORCH_DTYPES[info.dtype])))
        return writer.close().files
    finally:
        writer.abort()


def row_spans(change: LowRankChange) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Consecutive pieces (start, stop, flat float32 change) of about SPAN entries each."""
    rows, columns = change.shape
    step = max(1, SPAN // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield (
            start * columns,
            stop * columns,
            change.rows(np.arange(start, stop)).reshape(-1),
        )
