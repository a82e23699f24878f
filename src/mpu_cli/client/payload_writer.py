"""Turn one copy's trained model or PEFT adapter, from any training program, into a payload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.writer import Files
from mpu_cli.client.adapters import copy_adapter, is_adapter, open_trained, write_merged
from mpu_cli.client.delta import DeltaFormat, write_delta
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.client.lora import inexact
from mpu_cli.errors import BadModelError

Warn = Callable[[str], None]
_OF_OTHER_HEADS = ("classifier", "summary", "cls_")
"""Dropout of heads that a causal language model lacks."""


def write_payload(
    opened: OpenHandoff,
    published: Checkpoint,
    trained: Path,
    directory: Path,
    delta_format: DeltaFormat,
    *,
    merge: bool = False,
    warn: Warn = lambda text: None,
) -> Files:
    """Write what `trained` changed of `published`: an adapter as an adapter, a model as a delta.

    Args:
        opened: the handoff that the published copy is from.
        published: the copy.
        trained: a model directory, or an adapter directory that peft or mpu wrote.
        directory: of this copy in the update; empty.
        delta_format: how the change is stored; an adapter takes its dtype only.
        merge: write an adapter as the delta that it makes.
        warn: called with a line on dropout, and on adapters that do not denoise.

    Returns:
        The files with digests and sizes.

    Raises:
        MpuError: see `write_delta` and `open_trained`; or it is both a model and an adapter.
    """
    if not is_adapter(trained):
        model = open_checkpoint(trained)
        on = sorted(_dropout(model.config))
        if on:
            warn(
                f"{trained}/config.json sets {', '.join(on)}: dropout in training makes copies"
                " differ, and that difference does not cancel; if it was on, switch it off and"
                " train again"
            )
        return write_delta(opened, published, model, directory, delta_format)
    models = sorted(item.name for item in trained.glob("model*.safetensors"))
    if models:
        raise BadModelError(
            f"{trained}: holds a model ({models[0]}) and an adapter",
            "keep only the one that was trained",
        )
    adapter = open_trained(trained, opened, published)
    if adapter.dropout:
        warn(
            f"{trained}: was trained with lora_dropout {adapter.dropout:g}: dropout makes copies"
            " differ, and that difference does not cancel"
        )
    if (text := inexact(adapter.targets)) is not None:
        warn(text)
    if merge:
        return write_merged(adapter, directory, delta_format)
    return copy_adapter(adapter, directory, delta_format.dtype)


def _dropout(config: Mapping[str, Any]) -> Iterator[str]:
    """`name value` of every dropout above 0 in a config.json or a part of it."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _dropout(value)
            continue
        is_dropout = any(
            word in name for word in ("dropout", "pdrop", "layerdrop")
        ) and not name.startswith(_OF_OTHER_HEADS)
        if is_dropout and type(value) in {int, float} and value > 0:
            yield f"{name} {value:g}"
