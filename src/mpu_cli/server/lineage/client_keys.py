"""Which keys sign for which client: those pinned in the lineage, or those of a file."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners
from mpu_cli.bundle.signatures.pins import FirstUse, PinnedSigners
from mpu_cli.bundle.signatures.trust import ANYBODY, NAMESPACES, BundleSigner, Trust
from mpu_cli.checkpoint.staging import PARTIAL

ALLOWED_SIGNERS = "allowed_signers"
"""The file in the server's directory; a line's principal is the name of `perturb --client`."""
PARTIAL_SIGNERS = f".{ALLOWED_SIGNERS}{PARTIAL}"
"""What a kill while it was written leaves."""


def pinned_clients(secret: Path, *, locked: bool = False) -> PinnedSigners:
    """The pinned keys of a lineage's clients; `locked`: this process has locked the lineage."""
    return PinnedSigners(secret / ALLOWED_SIGNERS, NAMESPACES["update"], locked=locked)


class ClientKeys:
    """Decides whether an update's signer is the client to whom its handoff went."""

    def __init__(
        self,
        secret: Path,
        given: AllowedSigners | None = None,
        first_use: FirstUse = lambda where, client, signer: False,
    ) -> None:
        """Take the pinned keys of a lineage, or in their place a file that the user gave.

        Args:
            secret: the lineage's directory, locked by this process.
            given: the user's file; then nothing is pinned.
            first_use: see `PinnedSigners.accept`.
        """
        self._given, self._first_use = given, first_use
        self._pinned = pinned_clients(secret, locked=True)

    @property
    def trust(self) -> Trust:
        """What can be asked before a manifest is parsed and says whose handoff it answers."""
        return ANYBODY if self._given is None else Trust(self._given)

    def accept(self, update: Path, client: str, signer: BundleSigner | None) -> BundleSigner | None:
        """The signer with its name; None if the update is not signed, and need not be.

        Raises:
            SignatureError: see `PinnedSigners.accept`.
        """
        if self._given is not None:
            return Trust(self._given, client).accept(update, signer)
        return self._pinned.accept(update, client, signer, self._first_use)
