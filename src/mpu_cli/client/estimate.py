"""Estimate memory, disk and transfer of an unlearning, from headers or from config.json alone.

Weights, gradients and optimizer state are counted exactly: the optimizer makes one step on tensors
without storage, and its state is measured. Activations are estimated for a batch of rows as long as
the longest row that was given, or of `--max-length` tokens without rows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.architectures.projections import projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.read import is_bundle
from mpu_cli.bundle.tensors import is_frozen
from mpu_cli.bundle.tensors import shapes as shapes_of
from mpu_cli.checkpoint.config_file import read_config
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import INDEX_FILE, SINGLE_FILE, Checkpoint, open_checkpoint, read_json
from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.client.lora import choose, within_reach
from mpu_cli.client.settings import Lora
from mpu_cli.data.context import context_length, row_limit
from mpu_cli.errors import BadModelError
from mpu_cli.training.settings import TrainingSettings

Shapes = Mapping[str, tuple[int, ...]]

PROGRAM_BYTES = 400_000_000
"""Python, torch and transformers: 310 MB when imported, the rest at the first step (measured)."""
_WHOLE_LAYERS = 5
"""Layers of activations with checkpointing: one is used, glibc frees the others late (measured)."""
_F32 = 4


@dataclass(frozen=True, slots=True)
class ModelToTrain:
    """What is trained: `copies` models with the same tensors."""

    place: Path
    config: Mapping[str, Any]
    shapes: Shapes
    frozen: tuple[str, ...]
    copies: int = 1
    received: int = 0
    """Bytes of the files that were received."""


def model_to_train(source: Path, *, train_embeddings: bool = False) -> ModelToTrain:
    """Read a handoff, a model directory, a directory with only a config.json, or that file.

    Raises:
        MpuError: it is none of them, or its configuration is not understood.
    """
    if is_bundle(source):
        return of_handoff(source, open_handoff(source, train_embeddings=train_embeddings))
    if source.is_file() or not any((source / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        model = _from_config(source if source.is_file() else source / "config.json")
    else:
        model = of_model(open_checkpoint(source))
    return replace(model, frozen=()) if train_embeddings else model


def of_handoff(place: Path, opened: OpenHandoff) -> ModelToTrain:
    """The copies of a handoff."""
    model = next(iter(opened.copies.values()))
    received = sum(file.bytes for copy in opened.manifest.copies for file in copy.files.values())
    return ModelToTrain(
        place, model.config, shapes_of(model.tensors), opened.frozen, len(opened.copies), received
    )


def of_model(model: Checkpoint) -> ModelToTrain:
    """A model directory."""
    shapes = shapes_of(model.tensors)
    return ModelToTrain(
        model.path, model.config, shapes, _embeddings(model.config, shapes, model.path)
    )


def estimate_unlearn(
    source: Path, settings: TrainingSettings, delta_dtype: str, **more: Any
) -> dict[str, int]:
    """`estimate` for the handoff, model or config.json in `source`."""
    return estimate(
        model_to_train(source, train_embeddings=settings.train_embeddings),
        settings,
        delta_dtype,
        **more,
    )


def estimate(
    model: ModelToTrain,
    settings: TrainingSettings,
    delta_dtype: str,
    *,
    lora: Lora | None = None,
    passes: int = 2,
    processes: int = 1,
    checkpoints: bool = True,
    longest: int | None = None,
) -> dict[str, int]:
    """Bytes and counts by purpose.

    Args:
        model: what is trained.
        settings: batch size, longest row, optimizer, checkpointing, sharding.
        delta_dtype: of the stored change.
        lora: train adapters instead of whole weights.
        passes: forward passes whose graphs coexist: forget, retain, alternate rows.
        processes: that share the work.
        checkpoints: whether any may be written.
        longest: tokens of the longest row; None = the longest that is not cut.
    """
    parameters = _count(model.shapes)
    trained = {
        name: shape for name, shape in model.shapes.items() if not is_frozen(name, model.frozen)
    }
    if lora is not None:
        layout = read_layout(model.config, model.shapes, model.place)
        targets = choose(lora, projections(layout, model.shapes), model.frozen)
        from mpu_cli.modeling.load import without_weights

        targets = within_reach(lora, targets, without_weights(model.config, model.place))
        trained = {
            f"{target.module}.lora_{half}.default.weight": shape
            for target in targets
            for half, shape in (
                ("A", (lora.rank, target.inputs)),
                ("B", (target.outputs, lora.rank)),
            )
        }
    changing = _count(trained)
    own = 2 if settings.is_pure_bfloat16 else _F32
    state = optimizer_state_bytes(
        settings.optimizer, trained, model.config, bfloat16=settings.is_pure_bfloat16
    )
    width = BYTES_PER_ELEMENT[STORED_NAMES[delta_dtype]]
    held = {
        "weights_bytes": own * (parameters + (changing if lora else 0)),
        "gradients_bytes": own * changing,
        "optimizer_state_bytes": state,
    }
    if settings.smoothing:
        held["original_weights_bytes"] = own * changing
    if settings.fsdp:
        held = {name: -(-number // processes) for name, number in held.items()}
    elif processes > 1:
        held["gradient_buckets_bytes"] = own * changing
    rows = -(-settings.batch_size // processes)
    length = min(
        row_limit(settings.max_length, context_length(model.config)).tokens,
        longest or sys.maxsize,
    )
    held["activations_bytes"] = activation_bytes(model.config, rows * length, passes, settings)
    if lora is not None and settings.autocasts and not settings.gradient_checkpointing:
        # Autocast's copies of frozen weights live as long as the graph (measured: 2 bytes each).
        held["cast_weights_bytes"] = 2 * parameters
    # A step works on one tensor at a time, and needs a few others of its size.
    held["optimizer_work_bytes"] = 4 * _F32 * max(map(math.prod, trained.values()))
    held["program_bytes"] = PROGRAM_BYTES
    memory = sum(held.values())
    if settings.fsdp:
        # At the end activations are freed, and the first process gathers the trained weights.
        memory = max(memory, memory - held["activations_bytes"] + own * changing)
    update = model.copies * changing * width
    return {
        "copies": model.copies,
        "parameters": parameters,
        "trained_parameters": changing,
        "processes": processes,
        **held,
        "memory_bytes": memory,
        "disk_bytes": update,
        "temporary_disk_bytes": own * (changing if lora else parameters),
        # The previous checkpoint is removed when the next is complete.
        "checkpoint_disk_bytes": 2 * (own * changing + state) if checkpoints else 0,
        "received_bytes": model.received,
        "sent_bytes": update,
    }


def optimizer_state_bytes(
    name: str, shapes: Shapes, config: Mapping[str, Any], *, bfloat16: bool = False
) -> int:
    """The exact size of the optimizer's state for tensors of these shapes.

    Raises:
        UsageError: there is no such optimizer.
    """
    import torch

    from mpu_cli.training import optimizers

    dtype = torch.bfloat16 if bfloat16 else torch.float32
    parameters = [
        (tensor, torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")))
        for tensor, shape in shapes.items()
    ]
    for _, parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    built = optimizers.get(name).build([{"params": parameters, "weight_decay": 0.0}], 1e-5, config)
    built.step()
    tensors = [
        value
        for state in built.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activation_bytes(
    config: Mapping[str, Any], tokens: int, passes: int, settings: TrainingSettings
) -> int:
    """Estimate the float32 activations that `passes` forward passes over `tokens` tokens each keep.

    For each token a layer keeps about 8 vectors of the hidden size (norms, residual stream, inputs
    of projections), 4 of the size of queries and of keys and values, and 4 of the feed-forward
    size. With checkpointing it keeps one hidden vector, and a few layers are whole at a time. The
    output distribution of a labelled token, here of every token, is kept once a pass, and twice
    more while its gradient is computed. The whole estimate is within 15 % of the peak of real
    trainings (28M parameters, CPU; tests/client/test_estimate.py).
    """
    text = _text_config(config)
    hidden, layers = (
        _size(text, "hidden_size", "n_embd", "d_model"),
        _size(text, "num_hidden_layers", "n_layer", "num_layers"),
    )
    heads = _size(text, "num_attention_heads", "n_head", "num_heads")
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head = int(text.get("head_dim") or hidden // heads)
    experts = int(text.get("num_experts_per_tok") or 1)
    feed_forward = int(
        text.get("moe_intermediate_size")
        or text.get("intermediate_size")
        or text.get("n_inner")
        or 4 * hidden
    )
    layer = 8 * hidden + 4 * (heads + kv_heads) * head + 4 * experts * feed_forward
    entries = passes * layers * (hidden if settings.gradient_checkpointing else layer)
    entries += min(_WHOLE_LAYERS, layers) * layer if settings.gradient_checkpointing else 0
    return _F32 * tokens * (entries + (passes + 2) * int(text["vocab_size"]))


def _from_config(path: Path) -> ModelToTrain:
    """The shapes of the model that a configuration describes."""
    try:
        content = read_json(path)
    except BadModelError as error:
        raise BadModelError(
            f"{path}: no readable config.json",
            "give a handoff, a model directory, or a config.json",
        ) from error
    raw = read_config(path, content).content
    from mpu_cli.modeling.load import without_weights

    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in without_weights(raw, path.parent).named_parameters()
    }
    return ModelToTrain(path.parent, raw, shapes, _embeddings(raw, shapes, path.parent))


def _embeddings(config: Mapping[str, Any], shapes: Shapes, where: Path) -> tuple[str, ...]:
    """A model's embeddings, frozen by default; in unknown families by their usual names."""
    try:
        return tuple(read_layout(config, shapes, where).frozen)
    except BadModelError:
        return tuple(
            name
            for name in shapes
            if any(word in name for word in ("embed", "wte", "wpe", "lm_head"))
        )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _size(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if config.get(name):
            return int(config[name])
    raise BadModelError(f"config.json has no {names[0]}", "--dry-run needs it to estimate memory")


def _count(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))
