"""Where new secrets and ids come from: the operating system, or in experiments a known text.

Only a program that imports this module can prepare entropy: no flag and no environment variable of
`mpu` reaches it, and a prepared secret says `origin: test`, of which every command warns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mpu_cli.server.secrets.secret import PreparedEntropy, SystemEntropy

_prepared: ContextVar[SystemEntropy | None] = ContextVar("prepared entropy", default=None)


@contextmanager
def prepared_entropy(draw: str) -> Iterator[None]:
    """Let `perturb` derive its master secret and its ids from a text.

    Args:
        draw: the same text gives the same copies, so that an interrupted experiment can be
            repeated bit for bit. Texts of two rounds of one lineage must differ: otherwise their
            handoffs would have one id.
    """
    master = hashlib.sha256(f"mpu 1 prepared draw\n{draw}".encode()).digest()
    token = _prepared.set(PreparedEntropy(master))
    try:
        yield
    finally:
        _prepared.reset(token)


def current_entropy() -> SystemEntropy:
    """The prepared entropy inside `prepared_entropy`, else the operating system's."""
    return _prepared.get() or SystemEntropy()
