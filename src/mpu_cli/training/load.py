"""A model directory, loaded for training: float32, dropout off, some tensors frozen, nothing made up.

`from_pretrained` silently initialises what a directory lacks and takes the dtype that config.json claims; both are
caught here. Only safetensors are read, and no code from the directory is ever run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError

_LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to train."""

    model: Any
    """float32 (bfloat16 where asked for), on the CPU, in evaluation mode."""
    frozen: tuple[str, ...]
    """In-memory names of the parameters that will not move, all their tied names included."""
    source_config: Any
    """The configuration as the directory has it, for saving: dropout as it was."""


def load_model(
    directory: Path,
    frozen: Sequence[str] | None = None,
    *,
    keep_dropout: bool = False,
    fsdp: bool = False,
    bfloat16: bool = False,
) -> LoadedModel:
    """Load a causal language model for training.

    Args:
        directory: a Hugging Face model directory.
        frozen: tensor names or glob patterns as in the directory's safetensors files; a tied tensor is frozen under
            either of its names. None freezes the input and output embeddings, an empty list freezes nothing.
        keep_dropout: leave the model's own dropout (and router jitter) on.
        fsdp: shard it over the processes, which have met; it then lies on their devices.
        bfloat16: round the weights to bfloat16 instead of raising them to float32.

    Raises:
        BadModelError: not a model directory, quantised, tensors missing or of another shape than config.json says, or a
            name in `frozen` that no tensor has or that transformers fuses with tensors that are not frozen. What
            `open_checkpoint` refuses is refused too.
    """
    from transformers import AutoConfig

    disk_names = sorted(open_checkpoint(directory).tensors)
    with quiet_transformers(), loading_errors(directory):
        source_config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        config = copy.deepcopy(source_config)
        if not keep_dropout:
            _switch_off_dropout(config)
        loading: Any = auto_class(source_config).from_pretrained(
            directory,
            config=config,
            dtype=torch.bfloat16 if bfloat16 else torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            # Only so that a wrong shape is reported below instead of raised as a table of many lines.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_sharding(fsdp),
        )
        model, info = loading
    _check_complete(directory, info)
    return LoadedModel(model, _freeze(model, disk_names, frozen), source_config)


def auto_class(config: Any) -> Any:
    """The Auto class that builds a configuration's language model: a causal one, or one that also sees images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModelForImageTextToText


def load_config(directory: Path) -> Any:
    """The configuration of a model directory, its class's defaults filled in.

    Raises:
        BadModelError: there is none, or it cannot be read.
    """
    from transformers import AutoConfig

    with quiet_transformers(), loading_errors(directory):
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def load_tokenizer(directory: Path) -> Any:
    """Load the tokenizer of a model directory.

    Raises:
        BadModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # The tokenizers library raises bare Exception for a broken tokenizer.json.
            hint = "expected tokenizer.json and tokenizer_config.json beside the weights"
            raise BadModelError(f"{directory}: no usable tokenizer: {_one_line(error)}", hint) from error


@contextmanager
def loading_errors(directory: Path) -> Iterator[None]:
    """Turn what transformers raises on a bad model directory into BadModelError."""
    try:
        yield
    except _LOADING_ERRORS as error:
        raise BadModelError(
            f"{directory}: transformers cannot load it: {_one_line(error)}",
            "expected a Hugging Face model directory with config.json and model.safetensors",
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own log lines and progress bars off the terminal, and put its settings back afterwards."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _sharding(fsdp: bool) -> dict[str, Any]:
    if not fsdp:
        return {}
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(fsdp_size=torch.distributed.get_world_size())}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _switch_off_dropout(config: Any) -> None:
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _switch_off_dropout(value)
        is_random = any(word in name for word in ("dropout", "pdrop", "layerdrop", "jitter_noise"))
        if is_random and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, name, 0.0)


def _check_complete(directory: Path, info: dict[str, Any]) -> None:
    for problem, names in (("missing", info["missing_keys"]), ("of another shape", info["mismatched_keys"])):
        if names:
            # A mismatched entry is (name, shape found, shape expected).
            first = sorted(name if isinstance(name, str) else f"{name[0]} {tuple(name[1])}" for name in names)[0]
            raise BadModelError(
                f"{directory}: {len(names)} tensor(s) {problem} for this config.json, for example {first}",
                "the directory is incomplete, or its config.json belongs to another model",
            )
    if info.get("error_msgs"):
        raise BadModelError(f"{directory}: {str(info['error_msgs'][0]).splitlines()[0]}")


def _freeze(model: Any, disk_names: Sequence[str], patterns: Sequence[str] | None) -> tuple[str, ...]:
    by_name = dict(model.named_parameters(remove_duplicate=False))
    if patterns is None:
        embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
        chosen = {id(parameter) for module in embeddings if module is not None for parameter in module.parameters()}
    else:
        chosen = {id(by_name[name]) for name in _frozen_in_memory(model, disk_names, patterns, set(by_name))}
    for parameter in by_name.values():
        if id(parameter) in chosen:
            parameter.requires_grad_(False)
    return tuple(name for name, parameter in by_name.items() if id(parameter) in chosen)


def _frozen_in_memory(model: Any, disk_names: Sequence[str], patterns: Sequence[str], parameters: set[str]) -> set[str]:
    """Turn on-disk names or patterns into the parameters that hold those tensors in memory."""
    sources: dict[str, set[str]] = {}
    for disk_name, memory_name in _disk_to_memory(model, disk_names).items():
        if memory_name in parameters:
            sources.setdefault(memory_name, set()).add(disk_name)
    # A tied head is often absent from the disk and still a name that a manifest may use.
    for name in parameters:
        sources.setdefault(name, {name})
    chosen, used = set(), set()
    for memory_name, held in sources.items():
        hits = {(name, pattern) for name in held for pattern in patterns if fnmatchcase(name, pattern)}
        used |= {pattern for _, pattern in hits}
        matched = {name for name, _ in hits}
        if matched and matched != held:
            raise BadModelError(
                f"{sorted(matched)[0]} cannot be frozen alone: transformers trains it as a part of {memory_name}",
                f"freeze all of {memory_name}, for example {sorted(held - matched)[0]} too",
            )
        if matched:
            chosen.add(memory_name)
    unused = [pattern for pattern in patterns if pattern not in used]
    if unused:
        raise BadModelError(
            f"no tensor of the model is called {unused[0]!r}, so it cannot be frozen",
            "names and patterns are those of the tensors on disk, for example model.embed_tokens.weight",
        )
    return chosen


def _disk_to_memory(model: Any, disk_names: Sequence[str]) -> dict[str, str]:
    """On-disk tensor names by the parameter they are loaded into (transformers 5 fuses experts, renames others)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    return {name: rename_source_key(name, renamings, converters, prefix, state)[0] for name in disk_names}
