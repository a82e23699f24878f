"""A model directory, opened.

For training, for measuring, and to see before publishing that others can open it.

There is one way in for all commands. transformers is given a configuration and tensors that we have
read; it opens no file of the directory itself, so it follows none of the places where a file can
name another one, an adapter, or code. What `from_pretrained` silently initialises, leaves out or
rounds is refused here.
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
from mpu_cli.modeling.tokenizer import CORRECT_CONFIG, LOADING_ERRORS, load_config, one_line
from mpu_cli.modeling.tokenizer import has_tokenizer as has_tokenizer
from mpu_cli.modeling.tokenizer import load_tokenizer as load_tokenizer
from mpu_cli.modeling.tokenizer import quiet_transformers as quiet_transformers


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to train."""

    model: Any
    """float32 (bfloat16 where asked for), on the CPU, in evaluation mode."""
    frozen: tuple[str, ...]
    """In-memory names of the parameters that will not move, all their tied names included."""
    source_config: Any
    """The configuration as the directory has it, for saving: dropout as it was."""
    remarks: tuple[str, ...]
    """What the user must be told of the directory, a sentence each."""


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
            is frozen under either of its names. None freezes the input and output embeddings, an
            empty list freezes nothing.
        keep_dropout: leave the model's own dropout (and router jitter) on.
        fsdp: shard it over the processes, which have met; it then lies on their devices.
        bfloat16: round the weights to bfloat16 instead of raising them to float32.

    Raises:
        BadModelError: what `open_checkpoint` and `check_fits` refuse; the model cannot be run; or a
            name in `frozen` that no tensor has or that transformers fuses with tensors that are not
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
    """Hold every tensor against what config.json implies, by transformers' own class.

    Returns the configuration.

    Takes no memory: the tensors have shapes and no storage.

    Raises:
        BadModelError: transformers refuses the configuration, tensors are missing, are of another
            shape than it implies, or have no place in it.
    """
    return _fitted(source)[0]


def check_runs(source: Checkpoint) -> None:
    """See that `load_model` would take a model, without the memory or the time that it takes.

    The model computes shapes only; what depends on the numbers (which expert a router chooses) is
    not seen.

    Raises:
        BadModelError: what `check_fits` refuses, a generation_config.json that transformers
            refuses, or a model that cannot be run.
    """
    config, model = _fitted(source, experts_implementation="eager")
    _generation_config(source, config)
    with loading_errors(source.path):
        try:
            _run_once(
                model, use_cache=True
            )  # without a cache, transformers looks for packed rows in the numbers
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                raise


def _fitted(source: Checkpoint, **kind: Any) -> tuple[Any, Any]:
    """The configuration, and the model without storage that every tensor fits into."""
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
    """The model that a configuration describes, its tensors without storage.

    Raises as `load_config`.
    """
    described = load_config(directory, config)
    with loading_errors(directory), torch.device("meta"):
        return auto_class(described).from_config(described)


@contextmanager
def loading_errors(directory: Path) -> Iterator[None]:
    """Turn what transformers raises on a configuration that makes no model into BadModelError, and let it say nothing."""
    try:
        with quiet_transformers():
            yield
    except (OSError, SafetensorError) as error:
        raise BadModelError(f"{directory}: cannot be read: {one_line(error)}") from error
    except LOADING_ERRORS as error:
        raise BadModelError(
            f"{directory / CONFIG_FILE}: transformers cannot make this model: {one_line(error)}",
            CORRECT_CONFIG,
        ) from error


def _on_disk(source: Checkpoint, stack: ExitStack) -> dict[str, Any]:
    """The checkpoint's tensors, read when transformers asks for them.

    The files are open as long as `stack` is.
    """
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
    """Two tokens: what only shows when a model computes (a router that asks for too many experts) shows now."""
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
            "the model would be used without them: set in config.json what they belong to (attention_bias, num_hidden_layers, …)",
        ),
    )
    for problem, names, hint in problems:
        if names:
            # A mismatched entry is (name, shape found, shape expected).
            first = sorted(name if isinstance(name, str) else _misshapen(*name) for name in names)[
                0
            ]
            kind = source.config["model_type"]
            raise BadModelError(
                f"{source.path}: {len(names)} tensor(s) {problem} for the {kind} model of this"
                f" config.json, for example {first}",
                hint,
            )
    if info.get("error_msgs"):
        raise BadModelError(f"{source.path}: {str(info['error_msgs'][0]).splitlines()[0]}")


def _misshapen(name: str, found: Sequence[int], expected: Sequence[int]) -> str:
    return f"{name} {tuple(found)} instead of {tuple(expected)}"


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
    """Turn on-disk names or patterns into the parameters that hold those tensors in memory."""
    sources: dict[str, set[str]] = {}
    for disk_name, memory_name in names_in_memory(model, disk_names).items():
        if memory_name in parameters:
            sources.setdefault(memory_name, set()).add(disk_name)
    # A tied head is often absent from the disk and still a name that a manifest may use.
    for name in parameters:
        sources.setdefault(name, {name})
    chosen, used = set(), set()
    for memory_name, held in sources.items():
        hits = {
            (name, pattern) for name in held for pattern in patterns if fnmatchcase(name, pattern)
        }
        used |= {pattern for _, pattern in hits}
        matched = {name for name, _ in hits}
        if matched and matched != held:
            raise BadModelError(
                f"{sorted(matched)[0]} cannot be frozen alone: transformers trains it as a part of"
                f" {memory_name}",
                f"freeze all of {memory_name}, for example {sorted(held - matched)[0]} too",
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
