"""How transformers builds a model from tensors: its classes, its names in memory, its laziness."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Reader = Callable[[], torch.Tensor]

_SYNCHRONOUS = "HF_DEACTIVATE_ASYNC_LOAD"


def auto_class(config: Any) -> Any:
    """The Auto class of a configuration's language model, which may also see images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return (
        AutoModelForCausalLM
        if type(config) in AutoModelForCausalLM._model_mapping
        else AutoModelForImageTextToText
    )


def model_class(config: Any) -> Any:
    """The class of a configuration's language model."""
    entry = auto_class(config)._model_mapping[type(config)]
    return entry[0] if isinstance(entry, tuple) else entry


def from_tensors(
    config: Any, tensors: Mapping[str, Any], dtype: torch.dtype, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """The model with these tensors, and which of them are missing, unexpected or misshapen.

    Args:
        config: the model's configuration.
        tensors: by on-disk name; transformers indexes a lazy one with [...] to read it.
        dtype: of the parameters.
        options: of `from_pretrained`.
    """
    loaded: tuple[Any, dict[str, Any]] = model_class(config).from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    return loaded


class LazyTensor:
    """A tensor that is read when transformers indexes it with [...]."""

    def __init__(self, read: Reader) -> None:
        """`read` returns the tensor."""
        self._read = read

    def __getitem__(self, _: Any) -> torch.Tensor:
        """The tensor."""
        return self._read()


@contextmanager
def one_tensor_at_a_time() -> Iterator[None]:
    """Keep transformers' loading threads from holding several tensors at once."""
    before = os.environ.get(_SYNCHRONOUS)
    os.environ[_SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SYNCHRONOUS]
        else:
            os.environ[_SYNCHRONOUS] = before


def sharded() -> dict[str, Any]:
    """The option of `from_tensors` that shards the model over all processes (FSDP2)."""
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(fsdp_size=torch.distributed.get_world_size())}


def names_in_memory(model: Any, disk_names: Sequence[str]) -> dict[str, str]:
    """The parameter that each on-disk tensor is loaded into: experts are fused, others renamed."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    return {
        name: rename_source_key(name, renamings, converters, prefix, state)[0]
        for name in disk_names
    }
