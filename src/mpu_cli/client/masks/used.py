"""Which updates a key has masked: two different ones under one mask give away their difference.

The list lies beside the key, `lab.key.used`: one line of three digests (handoff, group, update).
It is written before the masked update leaves, so an interrupted run cannot be repeated otherwise.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mpu_cli.bundle.schema import HEX_256
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import BadInputError, CheckFailedError

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class MaskUse:
    """One masked update: the digests of the handoff, of the group and of the plain update."""

    handoff: str
    group: str
    update: str


class UsedMasks:
    """The list of one key."""

    def __init__(self, key: Path) -> None:
        self._key = key
        # One list, by whatever link the key is reached.
        real = key.resolve() if key.is_symlink() else key
        self.path = real.with_name(f"{real.name}.used")

    def check(self, use: MaskUse) -> tuple[str, ...]:
        """Refuse a second update under the same masks.

        Returns:
            The digests of other groups for which updates of this handoff were masked.

        Raises:
            CheckFailedError: the key has masked another update for this handoff and group.
            BadInputError: the list is damaged.
        """
        if not os.path.lexists(self.path):  # an update that is refused later leaves no empty list
            return ()
        with self._opened() as file:
            return self._check(file, use)

    def add(self, use: MaskUse) -> None:
        """Check again, then write the use down and flush it."""
        with self._opened() as file:
            self._check(file, use)
            file.seek(0)
            line = f"{use.handoff} {use.group} {use.update}\n".encode()
            if line not in file.readlines():
                file.seek(0, os.SEEK_END)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def _check(self, file: BinaryIO, use: MaskUse) -> tuple[str, ...]:
        same = [earlier for earlier in self._read(file) if earlier.handoff == use.handoff]
        if any(earlier.group == use.group and earlier.update != use.update for earlier in same):
            raise CheckFailedError(
                f"{self._key}: has already masked another update for this handoff and group: the"
                " server could subtract the two and read the difference",
                "send the first one; for another update ask for a new handoff, or all members make"
                " new keys and mask again",
            )
        return tuple(sorted({earlier.group for earlier in same} - {use.group}))

    def _read(self, file: BinaryIO) -> list[MaskUse]:
        file.seek(0)
        uses = []
        for line in file.read(_MAX_BYTES).decode("ascii", errors="replace").splitlines():
            words = line.split(" ")
            if len(words) != 3 or not all(HEX_256.fullmatch(word) for word in words):
                raise BadInputError(
                    f"{self.path}: not a list of masked updates", "make a new key with mpu mask key"
                )
            uses.append(MaskUse(*words))
        return uses

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with disk_errors(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
