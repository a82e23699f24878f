"""How a model or an update is stored: the options of every command that writes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpu_cli.errors import UsageError
from mpu_cli.option import Settings, option

StoredDtype = Literal["auto", "float32", "bfloat16", "float16"]
UpdateDtype = Literal["float32", "bfloat16"]
DEFAULT_SHARD_BYTES = 50 * 10**9
"""The default of transformers 5, so that most models stay in one file."""


def parse_size(text: str) -> int:
    """Read `5GB`, `200MB` or plain bytes as huggingface_hub does (decimal units)."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    cleaned = text.strip().upper()
    factor = units.get(cleaned[-2:], 1)
    number = cleaned[:-2] if factor > 1 else cleaned
    try:
        size = int(float(number) * factor)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"--max-shard-size {text}: not a size", "write for instance 5GB or 200MB")
    return size


@dataclass(frozen=True, slots=True)
class StorageSettings(Settings):
    """How a model is stored."""

    max_shard_bytes: int = option(
        DEFAULT_SHARD_BYTES,
        "Largest size of one file, for instance 5GB.",
        panel="Output",
        flag="--max-shard-size",
        shown="50GB",
        metavar="SIZE",
        parse=parse_size,
    )
    dtype: StoredDtype = option(
        "auto",
        "Data type of the written model; auto keeps the input's, or takes float32 if rounding would"
        " lose too much.",
    )
