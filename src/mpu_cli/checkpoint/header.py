"""Read and write the safetensors header without torch.

File layout (safetensors specification): eight little-endian bytes N, N bytes of JSON padded with
spaces to a multiple of eight, then the tensors' bytes without gaps. A file may come from the other
party, so the reader checks every rule of the specification.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mpu_cli.checkpoint.json_text import BadJsonError, parse_json
from mpu_cli.checkpoint.plain_file import is_hollow, is_lfs_pointer, lfs_pointer, plain_file
from mpu_cli.errors import BadModelError

_DTYPES = {
    8: ("U64", "I64", "F64"),
    4: ("F32", "U32", "I32"),
    2: ("BF16", "F16", "U16", "I16"),
    1: ("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
}
"""The dtypes by bytes per element, each list in the order of safetensors' enum `Dtype` (tensor.rs),
descending."""
BYTES_PER_ELEMENT: Mapping[str, int] = {
    name: width for width, names in _DTYPES.items() for name in names
}
STORED_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtypes that mpu computes with: torch's name → safetensors' name."""
NAMES = {stored: name for name, stored in STORED_NAMES.items()}
FLOAT_DTYPES = frozenset(NAMES)

_MAX_HEADER_BYTES = 32 << 20
"""Room for 300,000 tensors; the reference implementation reads up to 100 MB. Parsed, a header takes
up to 25 times its size in memory."""
MAX_TENSORS = 50_000
"""In one file. transformers takes 50 microseconds for each; models with more are in shards."""
_MAX_AXES = 64  # as numpy


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor on disk: dtype (safetensors' name), shape, file, and offset of its first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def elements(self) -> int:
        """Number of entries (1 for a scalar)."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes."""
        return self.elements * BYTES_PER_ELEMENT[self.dtype]


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata.

    Raises:
        BadModelError: the file is absent, truncated, breaks the specification, is a Git LFS
            pointer, or is a link to a file outside its directory.
    """
    try:
        with plain_file(path).open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            if is_hollow(status):
                raise _malformed(path, f"of its {size} bytes only {status.st_blocks * 512} exist")
            if is_lfs_pointer(file.read(64)):
                raise lfs_pointer(path)
            file.seek(0)
            prefix = file.read(8)
            if len(prefix) < 8:
                raise _malformed(path, "it is shorter than a safetensors header")
            (length,) = struct.unpack("<Q", prefix)
            if length > _MAX_HEADER_BYTES or length + 8 > size:
                raise _malformed(path, f"its header claims {length} bytes of a file of {size}")
            raw = file.read(length)
    except OSError as error:
        raise BadModelError(
            f"{path}: {error.strerror}", "check the path and its permissions"
        ) from error
    return _parse(path, raw, size)


def _parse(path: Path, raw: bytes, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise _malformed(path, f"it describes more than {MAX_TENSORS:,} tensors, the limit")
    try:
        header = parse_json(raw, unique=True)
    except BadJsonError as error:
        raise _malformed(path, f"in its header: {error}") from error
    if not isinstance(header, dict):
        raise _malformed(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _malformed(path, "its __metadata__ is not a map of strings")
    data_start = 8 + len(raw)
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorInfo] = {}
    for name, entry in header.items():
        info, begin, end = _entry(path, name, entry, data_start)
        if end - begin != info.nbytes:
            raise _malformed(
                path, f"tensor {name} of shape {list(info.shape)} claims {end - begin} bytes"
            )
        tensors[name] = info
        spans.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            raise _malformed(path, f"there is a gap or an overlap before tensor {name}")
        expected = end
    if data_start + expected != size:
        raise _malformed(
            path, f"it holds {size} bytes where its header needs {data_start + expected}"
        )
    return tensors, metadata


def _entry(path: Path, name: str, entry: object, data_start: int) -> tuple[TensorInfo, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"tensor {name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_PER_ELEMENT:
        raise _malformed(path, f"tensor {name} has the unknown dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _malformed(path, f"tensor {name} has a malformed shape or data_offsets")
    if len(shape) > _MAX_AXES:
        raise _malformed(path, f"tensor {name} has {len(shape)} axes, more than {_MAX_AXES}")
    begin, end = offsets
    return TensorInfo(name, dtype, tuple(shape), path, data_start + begin), begin, end


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 62 for item in value
    )


def _malformed(path: Path, why: str) -> BadModelError:
    return BadModelError(
        f"{path}: not a valid safetensors file: {why}", "copy the file again; it may be truncated"
    )


def file_order(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Sort tensors as safetensors' own writer does: wide dtypes first, then by name."""
    rank = {dtype: number for number, dtype in enumerate(BYTES_PER_ELEMENT)}
    return sorted(tensors, key=lambda info: (rank[info.dtype], info.name))


def encode_header(tensors: list[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return the first bytes of a file that will hold these tensors, in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for info in tensors:
        header[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.nbytes],
        }
        offset += info.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw
