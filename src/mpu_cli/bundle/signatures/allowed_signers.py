"""OpenSSH's file of allowed signers: which keys may sign, as whom, for what and when.

The format is that of `ssh-keygen(1)`, ALLOWED SIGNERS. One line each:

    clinic,lab-* namespaces="mpu-update-v1",valid-before="20280101Z" ssh-ed25519 AAAA… comment
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from mpu_cli.bundle.signatures.public_key import SshPublicKey
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.errors import BadInputError, UsageError

MAX_BYTES = 1 << 20
NAME = re.compile(r'[^\s"#,*?!\x00-\x1f\x7f][^\n",*?!\x00-\x1f\x7f]{0,254}')
"""A principal that a line can name by itself: no pattern, no quotes."""
_MAX_LINE = 32 << 10
_PRINCIPALS = re.compile(r'(?:"([^"]*)"|([^\s"]+))[ \t]+')
_OPTION = re.compile(r'([A-Za-z-]+)(?:="([^"]*)")?')
_TIME = re.compile(r"([0-9]{8})(?:([0-9]{4})([0-9]{2})?)?(Z?)")
_FORM = "a line is: NAME ssh-ed25519 AAAA…, the key as in its .pub file"


@dataclass(frozen=True, slots=True)
class AllowedSigner:
    """One line: a key, and as whom it may sign."""

    principals: str
    """Patterns with commas between, `!` before those that are excluded."""
    key: SshPublicKey
    namespaces: str | None = None
    """Patterns likewise; None = for everything."""
    valid_after: datetime | None = None
    valid_before: datetime | None = None

    def is_for(self, namespace: str) -> bool:
        """Whether the key may sign for this purpose."""
        return self.namespaces is None or _in_list(namespace, self.namespaces)

    def names(self, principal: str) -> bool:
        """Whether the line is about this signer."""
        return _in_list(principal, self.principals)

    def is_valid(self, now: datetime) -> bool:
        """Whether the key may be used at this time."""
        early = self.valid_after is not None and now < self.valid_after
        return not early and not (self.valid_before is not None and now > self.valid_before)


@dataclass(frozen=True, slots=True)
class AllowedSigners:
    """All lines of one file."""

    where: str
    """The file, for messages."""
    lines: tuple[AllowedSigner, ...] = ()

    @classmethod
    def read(cls, path: Path) -> AllowedSigners:
        """Read a file.

        Raises:
            BadInputError: no regular file, too large, or a line that mpu cannot follow; it names
                the line.
        """
        data = read_file(path, MAX_BYTES, BadInputError, f"give a file of allowed signers: {_FORM}")
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> AllowedSigners:
        """Read the bytes of a file; `where` names it in errors."""
        return cls(where, tuple(_lines(data, where)))

    def about(self, principal: str, namespace: str) -> AllowedSigners:
        """The lines about one signer and one purpose."""
        lines = (line for line in self.lines if line.names(principal) and line.is_for(namespace))
        return AllowedSigners(self.where, tuple(lines))


def require_name(name: str, flag: str) -> str:
    """Check a principal that the user chose.

    Raises:
        UsageError: it cannot stand in a file of allowed signers.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{flag} {name}: cannot be the name of a signer",
            "give a name without commas, quotes and the signs * ? ! #",
        )
    return name


def new_line(principal: str, namespace: str, key: SshPublicKey, comment: str) -> str:
    """The line that allows a key, with its line break."""
    quoted = f'"{principal}"' if " " in principal else principal
    return f'{quoted} namespaces="{namespace}" {key.line} {comment}\n'


def _lines(data: bytes, where: str) -> Iterator[AllowedSigner]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadInputError(f"{where}: not UTF-8", "write it with a text editor") from error
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        try:
            yield _line(stripped)
        except ValueError as error:
            raise BadInputError(f"{where}:{number}: {error}", _FORM) from error


def _line(text: str) -> AllowedSigner:
    if len(text) > _MAX_LINE:
        raise ValueError("a line of more than 32 kB")
    start = _PRINCIPALS.match(text)
    if start is None:
        raise ValueError("holds no key")
    principals = start[1] if start[1] is not None else start[2]
    rest, options = text[start.end() :], dict[str, str]()
    if not _begins_with_key(rest):
        options, rest = _options(rest)
    times = {name: _time(options[name]) for name in options if name.startswith("valid-")}
    after, before = times.get("valid-after"), times.get("valid-before")
    if after is not None and before is not None and before <= after:
        raise ValueError("valid-before is not after valid-after")
    return AllowedSigner(
        principals, SshPublicKey.parse(rest), options.get("namespaces"), after, before
    )


def _begins_with_key(text: str) -> bool:
    return bool(re.match(r"(?:sk-)?(?:ssh|ecdsa)-\S+[ \t]+AAAA", text))


def _options(text: str) -> tuple[dict[str, str], str]:
    """The options at the start of a text, and what follows them."""
    options: dict[str, str] = {}
    while True:
        found = _OPTION.match(text)
        if found is None:
            raise ValueError(f"{text[:40]!r} is neither an option nor a key")
        name, value = found[1].lower(), found[2]
        if name == "cert-authority":
            raise ValueError("cert-authority: mpu takes the keys themselves, no certificates")
        if name not in {"namespaces", "valid-after", "valid-before"} or name in options:
            raise ValueError(f"{found[1]!r} is an unknown option, or given twice")
        if value is None:
            raise ValueError(f'{found[1]} needs a value in quotes: {found[1]}="…"')
        options[name], text = value, text[found.end() :]
        if not text.startswith(","):
            return options, text.lstrip(" \t")
        text = text[1:]


def _time(text: str) -> datetime:
    """A time as OpenSSH writes it: YYYYMMDD[HHMM[SS]], local unless it ends in Z."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a time: YYYYMMDD[HHMM[SS]][Z]")
    date, hours, seconds, zone = found.groups()
    time = datetime.strptime(f"{date}{hours or '0000'}{seconds or '00'}", "%Y%m%d%H%M%S")
    return time.replace(tzinfo=UTC) if zone else time.astimezone()


def _in_list(name: str, patterns: str) -> bool:
    """OpenSSH's pattern list: one must match, and none with `!` before it."""
    found = False
    for pattern in patterns.split(","):
        wanted = pattern.removeprefix("!").replace("[", "[[]")  # only * and ? are special
        if fnmatchcase(name, wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found
