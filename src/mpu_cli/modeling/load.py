"""Load a model directory, for all commands: to train, to measure, to check it before publishing.

transformers gets a configuration and tensors that mpu has read. It opens no file of the directory,
so no file can lead it to another file, an adapter, or code. Tensors that `from_pretrained` would
silently initialise, drop or round are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpu_cli.checkpoint.config_file import CONFIG_FILE
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint, read_json
from mpu_cli.checkpoint.side_settings import generation_settings
from mpu_cli.errors import BadModelError
from mpu_cli.modeling.hooks.loading import auto_class, from_tensors, names_in_memory, sharded
from mpu_cli.modeling.tokenizer import (
    CORRECT_CONFIG,
    LOADING_ERRORS,
    load_config,
    one_line,
    quiet_transformers,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to train."""

    model: Any
    """On the CPU, in evaluation mode, float32 unless bfloat16 was asked for."""
    frozen: tuple[str, ...]
    """In-memory names of the frozen parameters, all tied names included."""
    source_config: Any
    """The directory's own configuration, with its dropout, for saving."""
    remarks: tuple[str, ...]
    """Sentences about the directory for the user."""


def load_model(
    directory: Path,
    frozen: Sequence[str] | None = None,
    *,
    keep_dropout: bool = False,
    fsdp: bool = False,
    bfloat16: bool = False,
) -> LoadedModel:
    """Load a causal language model for training or measuring.

    Args:
        directory: a Hugging Face model directory.
        frozen: tensor names or glob patterns as in the directory's safetensors files; a tied tensor
            is frozen under either name. None freezes the input and output embeddings, an empty list
            freezes nothing.
        keep_dropout: leave the model's own dropout (and router jitter) on.
        fsdp: shard the model over the processes, which have met, on their devices.
        bfloat16: round the weights to bfloat16 instead of raising them to float32.

    Raises:
        BadModelError: see `open_checkpoint` and `check_fits`; or the model cannot be run; or no
            tensor has a name in `frozen`, or transformers fuses it with tensors that are not
            frozen.
    """
    source = open_checkpoint(directory)
    source_config = check_fits(source)
    config = copy.deepcopy(source_config)
    if not keep_dropout:
        _switch_off_dropout(config)
    with ExitStack() as stack:
        stack.enter_context(loading_errors(directory))
        model, info = from_tensors(
            config,
            _on_disk(source, stack),
            torch.bfloat16 if bfloat16 else torch.float32,
            # A wrong shape is then reported instead of raised as a table of many lines.
            ignore_mismatched_sizes=True,
            **(sharded() if fsdp else {}),
        )
        model.generation_config = _generation_config(source, source_config)
        if not fsdp:
            _run_once(model)
    _check_complete(source, info)
    return LoadedModel(
        model, _freeze(model, sorted(source.tensors), frozen), source_config, source.remarks
    )


def check_fits(source: Checkpoint) -> Any:
    """Compare every tensor with config.json, by transformers' own class, without storage.

    Returns:
        The configuration.

    Raises:
        BadModelError: transformers refuses the configuration, or tensors are missing, unexpected,
            or of another shape than it implies.
    """
    return _fitted(source)[0]


def check_runs(source: Checkpoint) -> None:
    """Check that `load_model` would accept a model, without its memory and time.

    The model computes shapes only, so nothing that depends on numbers is checked (the expert that a
    router chooses, for example).

    Raises:
        BadModelError: see `check_fits`; or transformers refuses generation_config.json, or the
            model cannot be run.
    """
    config, model = _fitted(source, experts_implementation="eager")
    _generation_config(source, config)
    with loading_errors(source.path):
        try:
            # Without a cache, transformers searches the numbers for packed rows.
            _run_once(model, use_cache=True)
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                raise


def _fitted(source: Checkpoint, **kind: Any) -> tuple[Any, Any]:
    """The configuration, and the model without storage, into which every tensor fits."""
    config = load_config(source.path, source.config)
    shapes = {name: torch.empty(info.shape, device="meta") for name, info in source.tensors.items()}
    with loading_errors(source.path):
        model, info = from_tensors(
            copy.deepcopy(config),
            shapes,
            torch.float32,
            ignore_mismatched_sizes=True,
            device_map={"": "meta"},
            **kind,
        )
    _check_complete(source, info)
    return config, model


def without_weights(config: Mapping[str, Any], directory: Path) -> Any:
    """The model that a configuration describes, without storage; raises as `load_config`."""
    described = load_config(directory, config)
    with loading_errors(directory), torch.device("meta"):
        return auto_class(described).from_config(described)


@contextmanager
def loading_errors(directory: Path) -> Iterator[None]:
    """Silence transformers, and turn its errors into BadModelError."""
    try:
        with quiet_transformers():
            yield
    except (OSError, SafetensorError) as error:
        raise BadModelError(f"{directory}: cannot be read: {one_line(error)}") from error
    except LOADING_ERRORS as error:
        raise BadModelError(
            f"{directory / CONFIG_FILE}: transformers cannot build this model: {one_line(error)}",
            CORRECT_CONFIG,
        ) from error


def _on_disk(source: Checkpoint, stack: ExitStack) -> dict[str, Any]:
    """The checkpoint's tensors, read on demand from files that are open as long as `stack` is."""
    files = {info.file for info in source.tensors.values()}
    handles = {
        file: stack.enter_context(safe_open(file, framework="pt", device="cpu")) for file in files
    }
    return {name: handles[info.file].get_slice(name) for name, info in source.tensors.items()}


def _generation_config(source: Checkpoint, config: Any) -> Any:
    import transformers

    settings_class: Any = transformers.GenerationConfig

    file = source.path / "generation_config.json"
    if not file.is_file():
        return settings_class.from_model_config(config)
    settings = generation_settings(file, read_json(file))
    try:
        return settings_class(**settings)
    except LOADING_ERRORS as error:
        raise BadModelError(f"{file}: transformers refuses it: {one_line(error)}") from error


@torch.inference_mode()
def _run_once(model: Any, *, use_cache: bool = False) -> None:
    """Run two tokens, to find errors that only show then (a router that wants too many experts)."""
    model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=use_cache)


def _switch_off_dropout(config: Any) -> None:
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _switch_off_dropout(value)
        is_random = any(word in name for word in ("dropout", "pdrop", "layerdrop", "jitter_noise"))
        if is_random and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, name, 0.0)


def _check_complete(source: Checkpoint, info: dict[str, Any]) -> None:
    problems = (
        (
            "missing",
            info["missing_keys"],
            "the directory is incomplete, or its config.json belongs to another model",
        ),
        (
            "of another shape",
            info["mismatched_keys"],
            "config.json and the weights belong to different models",
        ),
        (
            "too many",
            info["unexpected_keys"],
            "the model would run without them: set the option in config.json that they belong to"
            " (attention_bias, num_hidden_layers, …)",
        ),
    )
    for problem, names, hint in problems:
        if names:
            # A mismatched entry is (name, shape found, shape expected).
            first = min(name if isinstance(name, str) else _misshapen(*name) for name in names)
            kind = source.config["model_type"]
            raise BadModelError(
                f"{source.path}: {len(names)} tensor(s) {problem} for the {kind} model of this"
                f" config.json, for example {first}",
                hint,
            )
    if info.get("error_msgs"):
        raise BadModelError(f"{source.path}: {str(info['error_msgs'][0]).splitlines()[0]}")


def _misshapen(name: str, actual: Sequence[int], expected: Sequence[int]) -> str:
    return f"{name} {tuple(actual)} instead of {tuple(expected)}"


def _freeze(
    model: Any, disk_names: Sequence[str], patterns: Sequence[str] | None
) -> tuple[str, ...]:
    by_name = dict(model.named_parameters(remove_duplicate=False))
    if patterns is None:
        embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
        chosen = {
            id(parameter)
            for module in embeddings
            if module is not None
            for parameter in module.parameters()
        }
    else:
        chosen = {
            id(by_name[name])
            for name in _frozen_in_memory(model, disk_names, patterns, set(by_name))
        }
    for parameter in by_name.values():
        if id(parameter) in chosen:
            parameter.requires_grad_(False)
    return tuple(name for name, parameter in by_name.items() if id(parameter) in chosen)


def _frozen_in_memory(
    model: Any, disk_names: Sequence[str], patterns: Sequence[str], parameters: set[str]
) -> set[str]:
    """The parameters that hold the on-disk tensors with these names or patterns."""
    sources: dict[str, set[str]] = {}
    for disk_name, memory_name in names_in_memory(model, disk_names).items():
        if memory_name in parameters:
            sources.setdefault(memory_name, set()).add(disk_name)
    # A manifest may name a tied head that is absent from the disk.
    for name in parameters:
        sources.setdefault(name, {name})
    chosen, used = set(), set()
    for memory_name, fused in sources.items():
        hits = {
            (name, pattern) for name in fused for pattern in patterns if fnmatchcase(name, pattern)
        }
        used |= {pattern for _, pattern in hits}
        matched = {name for name, _ in hits}
        if matched and matched != fused:
            raise BadModelError(
                f"{min(matched)} cannot be frozen alone: transformers trains it as a part of"
                f" {memory_name}",
                f"freeze all of {memory_name}, for example {min(fused - matched)} too",
            )
        if matched:
            chosen.add(memory_name)
    unused = [pattern for pattern in patterns if pattern not in used]
    if unused:
        raise BadModelError(
            f"no tensor of the model is called {unused[0]!r}, so it cannot be frozen",
            "names and patterns are those of the tensors on disk, for example"
            " model.embed_tokens.weight",
        )
    return chosen
