"""Read a small file that a member names: a key or a group file."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.errors import BadInputError


def read_small_file(path: Path, limit: int, hint: str) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        BadInputError: there is none, it is too large, or not a regular file (a pipe would block).
    """
    try:
        if path.exists() and not path.is_file():
            raise BadInputError(f"{path}: not a regular file", hint)
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}", hint) from error
    if len(data) > limit:
        raise BadInputError(f"{path}: larger than {limit >> 10} KiB", hint)
    return data
