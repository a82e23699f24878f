"""A group file: the members whose masks cancel, one `NAME PUBLIC-KEY` a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.bundle.mask import MAX_MEMBERS, group_digest
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.client.masks.key import NAME, MaskKey, from_base64, in_base64, is_usable
from mpu_cli.errors import BadInputError

_MAX_BYTES = 1 << 20
_FORM = "each line is NAME PUBLIC-KEY, as mpu mask key writes it; lines with # are comments"


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member: the name that the others call it by, and its public key in hexadecimal."""

    name: str
    public: str


@dataclass(frozen=True, slots=True)
class MaskGroup:
    """A group, in the order of the public keys: the same for all members, whatever the names."""

    path: Path
    members: tuple[GroupMember, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The public keys, ascending."""
        return tuple(member.public for member in self.members)

    @property
    def digest(self) -> str:
        """What the members compare: it covers all keys and no names."""
        return group_digest(self.keys)

    def number_of(self, key: MaskKey) -> int:
        """A member's number, from 1.

        Raises:
            BadInputError: the key is not in the group.
        """
        if key.public not in self.keys:
            raise BadInputError(
                f"{key.path}: its public key {in_base64(key.public)} is not in {self.path}",
                "give the key whose public line the group file holds, or have it added",
            )
        return self.keys.index(key.public) + 1


def read_group(*paths: Path) -> MaskGroup:
    """Read one group file, or put several together.

    Raises:
        BadInputError: a malformed line, a name or a key twice, fewer than two members, or too many.
    """
    members: dict[str, GroupMember] = {}
    keys: dict[str, str] = {}
    for path in paths:
        for where, member in _lines(path):
            if member in members.values():
                raise BadInputError(
                    f"{where}: {member.name} is given twice", "give each member's line once"
                )
            if member.name in members:
                raise BadInputError(
                    f"{where}: a second member named {member.name}",
                    "change one of the two names in the file: names do not count in the digest",
                )
            if member.public in keys:
                raise BadInputError(
                    f"{where}: {member.name} has the same key as {keys[member.public]}",
                    "every member makes its own key with mpu mask key",
                )
            members[member.name], keys[member.public] = member, member.name
    shown = ", ".join(map(str, paths))
    if not 2 <= len(members) <= MAX_MEMBERS:
        raise BadInputError(
            f"{shown}: a group has 2 to {MAX_MEMBERS} members, not {len(members)}",
            "put the public lines of all members into one file",
        )
    return MaskGroup(paths[0], tuple(sorted(members.values(), key=lambda member: member.public)))


def write_group(members: Sequence[GroupMember], path: Path, *, force: bool = False) -> None:
    """Write a group file.

    Raises:
        OutputError: it exists (unless `force`), or cannot be written.
    """
    with staged_file(path, force=force) as file:
        for member in members:
            file.write(f"{member.name} {in_base64(member.public)}\n".encode())


def _lines(path: Path) -> list[tuple[str, GroupMember]]:
    """The members in a file, each with its place (`file:line`) for messages."""
    try:
        # Some editors write a byte order mark.
        text = read_file(path, _MAX_BYTES, BadInputError, _FORM).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not a group file", _FORM) from error
    if "PRIVATE KEY" in text:
        raise BadInputError(
            f"{path}: holds a private key", "give the line that mpu mask key wrote beside it"
        )
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        public = from_base64(words[-1])
        if len(words) != 2 or public is None or not NAME.fullmatch(words[0]):
            raise BadInputError(f"{path}:{number}: not a name and a public key", _FORM)
        if not is_usable(public):
            raise BadInputError(
                f"{path}:{number}: not a usable X25519 key",
                f"ask {words[0]} to make a new one with mpu mask key",
            )
        found.append((f"{path}:{number}", GroupMember(words[0], public)))
    return found
