"""Keys that were seen once and must not change: a file of allowed signers that mpu keeps.

The server keeps one in each lineage (a client's name → its keys), a client keeps one for itself (a
model owner's name → its keys). It is OpenSSH's format, so the user can read and edit it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from mpu_cli.bundle.signatures.allowed_signers import (
    MAX_BYTES,
    NAME,
    AllowedSigners,
    new_line,
)
from mpu_cli.bundle.signatures.trust import BundleSigner, Trust
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import BadInputError, SignatureError

FirstUse = Callable[[str, str, BundleSigner], bool]
"""Whether to trust a key from now on: (what it signed, its owner's name, the signer)."""


class PinnedSigners:
    """The keys that were pinned, by their owners' names, for one purpose."""

    def __init__(self, path: Path, namespace: str, *, locked: bool = False) -> None:
        """`locked`: the caller has locked the file's directory."""
        self.path, self._namespace, self._locked = path, namespace, locked

    def read(self) -> AllowedSigners:
        """What the file says now; nothing if there is none.

        Raises:
            BadInputError: malformed, a link or no regular file, or another user owns it or may
                write to it.
        """
        if not os.path.lexists(self.path):
            return AllowedSigners(str(self.path))
        status = self.path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(f"{self.path}: not a regular file", "remove it")
        if os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
            raise BadInputError(
                f"{self.path}: belongs to another user (number {status.st_uid}), who chooses whom"
                " you trust",
                "check its lines, then copy it to a file of your own",
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadInputError(
                f"{self.path}: other users can write to it, and so choose whom you trust",
                f"check its lines, then chmod 600 {quote(str(self.path))}",
            )
        return AllowedSigners.read(self.path)

    def accept(
        self, where: object, principal: str, signer: BundleSigner | None, first_use: FirstUse
    ) -> BundleSigner | None:
        """Check a signer against the pinned keys; pin a first key if `first_use` says so.

        Args:
            where: what was signed, for messages.
            principal: who should have signed it.
            signer: who did; the signature itself is verified already.
            first_use: asked only if no key is pinned for `principal`.

        Returns:
            The signer with its name; None if nothing is pinned and nothing was signed.

        Raises:
            SignatureError: unsigned or signed with another key than the pinned one, or a first key
                that is not to be trusted.
        """
        pinned = self.read().about(principal, self._namespace)
        if pinned.lines:
            return Trust(pinned, principal).accept(where, signer)
        if signer is None:
            return None
        if not first_use(str(where), principal, signer):
            raise SignatureError(
                f"{where}: signed with {signer.words}, a key that is not known as {principal}'s",
                "compare the fingerprint with the sender's (ssh-keygen -lf KEY.pub) by another way"
                " than the one that the files took, then run again with --trust-on-first-use",
            )
        self.add(principal, signer)
        return Trust(self.read(), principal).accept(where, signer)

    def add(self, principal: str, signer: BundleSigner) -> None:
        """Pin a key.

        Raises:
            BadInputError: the name cannot stand in the file.
            OutputError: the file cannot be written.
            SignatureError: another key of that name was pinned since the caller looked.
        """
        if not NAME.fullmatch(principal):
            raise BadInputError(
                f"{self.path}: {principal!r} cannot be the name of a signer",
                "write the line by hand, with a pattern that matches the name: ?",
            )
        folder = self.path.parent
        with disk_errors(self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not self._locked:
                fcntl.flock(handle, fcntl.LOCK_EX)
            known = self.read().about(principal, self._namespace).lines
            if any(line.key == signer.key for line in known):
                return
            if known:  # another process was faster
                raise SignatureError(
                    f"{self.path}: another key of {principal} was pinned meanwhile",
                    "run the same command again: it checks against that key",
                )
            exists = os.path.lexists(self.path)
            old = read_file(self.path, MAX_BYTES, BadInputError) if exists else b""
            if old and not old.endswith(b"\n"):
                old += b"\n"
            comment = f"first used {datetime.now(UTC):%Y-%m-%d}"
            line = new_line(principal, self._namespace, signer.key, comment)
            with staged_file(self.path, force=True, mode=0o600) as file:
                file.write(old + line.encode())
        finally:
            os.close(handle)
