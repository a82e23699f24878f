"""Who masked an update: the field `mask` of its manifest (docs/bundle-format.md).

The members of a group mask their updates of one handoff so that the masks cancel in the sum. The
field lists the public keys of the whole group, so the server can tell who is missing, and no names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mpu_cli.bundle import canonical
from mpu_cli.bundle.schema import HEX_256, FieldReader

MASKED = "masked"
"""The payload of every copy of a masked update, and the stem of its files."""
FRACTION_BITS = 28
"""An entry of a masked update counts steps of 2⁻²⁸ of the weights' unit, modulo 2³²."""
MAX_MEMBERS = 256


@dataclass(frozen=True, slots=True)
class Mask:
    """The group whose masks lie on an update, and which member made it."""

    group: tuple[str, ...]
    """The members' public keys: X25519, 64 hexadecimal digits each, in ascending order."""
    member: int
    """The number in that order of the member that made the update, from 1."""

    @property
    def digest(self) -> str:
        """See `group_digest`."""
        return group_digest(self.group)

    def content(self) -> dict[str, Any]:
        """The field as plain data."""
        return {"group": list(self.group), "member": self.member}

    @classmethod
    def read(cls, reader: FieldReader) -> Mask:
        """Read and check the field."""
        mask = cls(reader.texts("group", HEX_256), reader.natural("member"))
        reader.done()
        if not 2 <= len(mask.group) <= MAX_MEMBERS or mask.group != tuple(sorted(set(mask.group))):
            raise reader.wrong("group", f"is not a sorted list of 2 to {MAX_MEMBERS} keys")
        if not 1 <= mask.member <= len(mask.group):
            raise reader.wrong("member", "is not the number of a member of the group")
        return mask


def group_digest(keys: Iterable[str]) -> str:
    """SHA-256 over a group's public keys (hexadecimal), in any order."""
    return canonical.digest({"kind": "mask-group", "format": 1, "keys": sorted(keys)})


def readable(digest: str) -> str:
    """The first 128 bits of a digest in groups of four digits, to be read out on the telephone."""
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


def largest_share(members: int) -> int:
    """The largest entry, in steps, of one member's update: n of them cannot leave the range."""
    return int((2**31 - 1) // members)
