"""Check the tensors in a verified bundle: names, shapes, dtypes. Never imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from mpu_cli.bundle.copy_files import DELTA_STEM as DELTA_STEM
from mpu_cli.bundle.copy_files import check_alike
from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.schema import TENSOR_PATTERN
from mpu_cli.checkpoint.header import STORED_NAMES, TensorInfo, read_header
from mpu_cli.checkpoint.model import (
    INDEX_FILE,
    Checkpoint,
    open_checkpoint,
    read_index,
    read_json,
)
from mpu_cli.errors import BadBundleError, BadModelError, GateError

_DELTA_DTYPES = ("F32", "BF16")
_ASK = "ask for the files again"


def open_copies(path: Path, manifest: HandoffManifest) -> dict[str, Checkpoint]:
    """Open every copy of a verified handoff; all must differ in the tensors' numbers only.

    Raises:
        BadBundleError: a copy is not a readable model, or its dtype, its tensors or another file
            differ.
    """
    stored = STORED_NAMES[manifest.dtype]
    copies: dict[str, Checkpoint] = {}
    for copy in manifest.copies:
        try:
            checkpoint = open_checkpoint(path / copy.name)
            if INDEX_FILE in copy.files:
                read_bundle_index(path / copy.name / INDEX_FILE)
            for name in copy.files:
                if name.endswith(".safetensors"):
                    read_bundle_header(path / copy.name / name)
        except BadModelError as error:
            raise BadBundleError(error.message, error.hint) from error
        if checkpoint.config.get("dtype") != manifest.dtype:
            raise BadBundleError(
                f"{path / copy.name}/config.json: dtype differs from the manifest's"
                f" {manifest.dtype}"
            )
        for info in checkpoint.tensors.values():
            if info.dtype != stored:
                raise BadBundleError(
                    f"{path / copy.name}: tensor {info.name} is {info.dtype}, expected {stored}"
                )
        first = next(iter(copies.values()), checkpoint)
        if shapes(first.tensors) != shapes(checkpoint.tensors):
            raise BadBundleError(
                f"{path / copy.name}: its tensors differ from those of {manifest.copies[0].name}"
            )
        copies[copy.name] = checkpoint
    check_alike(manifest.copies, path)
    return copies


class Shaped(Protocol):
    """Anything with a shape and a stored dtype: a tensor on disk, or a change of one."""

    @property
    def dtype(self) -> str:
        """The dtype (safetensors' name)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        ...


def shapes(tensors: Mapping[str, Shaped]) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name."""
    return {name: info.shape for name, info in tensors.items()}


def is_frozen(name: str, frozen: Collection[str]) -> bool:
    """Whether the manifest's `frozen` list of names and glob patterns matches a tensor."""
    return any(fnmatchcase(name, pattern) for pattern in frozen)


def open_delta(path: Path, stem: str = DELTA_STEM) -> dict[str, TensorInfo]:
    """The tensors of one copy of an update (one file, or shards with an index).

    `stem` is what the files' names begin with.

    Raises:
        BadBundleError: malformed files, or an index that disagrees with its shards.
    """
    try:
        tensors = _read_delta(path, stem)
    except BadModelError as error:
        raise BadBundleError(error.message, error.hint) from error
    for name in tensors:
        if not TENSOR_PATTERN.fullmatch(name):
            raise BadBundleError(f"{path}: tensor {name[:60]!r} has a name that no model has", _ASK)
    return tensors


def _read_delta(path: Path, stem: str) -> dict[str, TensorInfo]:
    if (path / f"{stem}.safetensors").exists():
        return read_bundle_header(path / f"{stem}.safetensors")
    index = path / f"{stem}.safetensors.index.json"
    weight_map = read_bundle_index(index)
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(path.glob(f"{stem}-*.safetensors")):
        for name, info in read_bundle_header(shard).items():
            if weight_map.get(name) != shard.name:
                raise BadBundleError(f"{index}: disagrees with {shard.name} about tensor {name}")
            tensors[name] = info
    if set(tensors) != set(weight_map):
        raise BadBundleError(f"{index}: names a tensor that no shard holds")
    return tensors


def read_bundle_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file of a bundle, whose metadata says nothing but `format: pt`.

    Raises:
        BadBundleError: it has other metadata: no reader uses it.
        BadModelError: see `read_header`.
    """
    tensors, metadata = read_header(file)
    if metadata not in ({}, {"format": "pt"}):
        raise BadBundleError(f"{file}: its metadata has keys that the format does not allow", _ASK)
    return tensors


def read_bundle_index(index: Path) -> dict[str, str]:
    """The shard of each tensor of one copy, from an index in the form that mpu writes.

    Raises:
        BadBundleError: other keys, or other shards than lie beside it.
        BadModelError: no valid index.
    """
    content, weight_map = read_json(index), read_index(index)
    counts = content.get("metadata", {})
    if (
        not content.keys() <= {"metadata", "weight_map"}
        or not isinstance(counts, dict)
        or not counts.keys() <= {"total_parameters", "total_size"}
        or not all(type(count) is int for count in counts.values())
    ):
        raise BadBundleError(f"{index}: is not in the form that mpu writes", _ASK)
    stem = index.name.removesuffix(".safetensors.index.json")
    present = {shard.name for shard in index.parent.glob(f"{stem}*.safetensors")}
    for shard in sorted(present ^ set(weight_map.values())):
        what = "holds no tensor of it" if shard in present else "is absent"
        raise BadBundleError(f"{index}: the shard {shard} {what}", _ASK)
    return weight_map


def check_delta(
    where: Path,
    delta: Mapping[str, Shaped],
    expected: Mapping[str, tuple[int, ...]],
    frozen: Collection[str],
) -> None:
    """Check that the change of one copy fits the published model.

    Raises:
        GateError: an unknown tensor, another shape or dtype, a change of a frozen tensor.
    """
    for name, info in sorted(delta.items()):
        if name not in expected:
            raise GateError(f"{where}: tensor {name} does not exist in the published model")
        if info.shape != expected[name]:
            raise GateError(
                f"{where}: tensor {name} has shape {list(info.shape)}, expected"
                f" {list(expected[name])}"
            )
        if info.dtype not in _DELTA_DTYPES:
            raise GateError(f"{where}: tensor {name} is {info.dtype}, expected float32 or bfloat16")
        if is_frozen(name, frozen):
            raise GateError(
                f"{where}: tensor {name} changed, although the handoff freezes it",
                "freeze these tensors in your trainer, as mpu unlearn does",
            )
