"""A digest of encoded rows: whether two runs had the same tokens and the same labels."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256

from mpu_cli.data.templates import TokenizedRow


def tokens_digest(rows: Iterable[TokenizedRow]) -> str:
    """SHA-256, in hex, of the ids and labels of all rows, in their file's order."""
    digest = sha256()
    for row in rows:
        length = len(row.input_ids)
        digest.update(struct.pack(f"<q{2 * length}q", length, *row.input_ids, *row.labels))
    return digest.hexdigest()
