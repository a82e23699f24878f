"""The secret of one lineage, and the signed files of the server's directory.

Every file there is canonical YAML with an HMAC under the master secret. It has mode 0600, is
written to a temporary sibling and then renamed. No file of it is ever sent to anyone.
"""

from __future__ import annotations

import hmac as hmac_module
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.bundle import canonical
from mpu_cli.bundle.schema import HEX_128, HEX_256, FieldReader
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.recognise import SECRET, instead_of
from mpu_cli.checkpoint.staging import disk_errors, flush
from mpu_cli.errors import BadSecretError

SECRET_FILE = "secret.yaml"
FORMAT = 1
_PARTIAL = ".partial"
MAX_BYTES = 16 << 20
"""The limit of a file of the server's own: a record holds numbers for each tensor."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The frozen offset ξ."""

    ratio: float
    """c."""
    relative_to: str
    """Unit of c, and of κ in every round of the lineage: task-vector or weights."""
    scope: str
    """Tensors that get it: layers or all."""
    scale: Mapping[str, float]
    """Standard deviation of ξ by group, weight units."""


@dataclass(frozen=True, slots=True)
class Secret:
    """`secret.yaml`: the master secret, and what the first perturb of the lineage froze."""

    lineage: str
    origin: str
    """`system` (from the operating system) or `test` (from a test, of which commands warn)."""
    master: bytes
    base: str | None
    """Digest of the base model, if there is one."""
    base_source: str | None
    """Hub id and commit, or absolute path, of the base; None in secrets of an earlier mpu.

    It never goes into a model card.
    """
    offset: Offset

    def content(self) -> dict[str, Any]:
        """The secret as plain data, without its HMAC."""
        return {
            "kind": "secret",
            "format": FORMAT,
            "lineage": self.lineage,
            "origin": self.origin,
            "master": self.master.hex(),
            "base": self.base,
            "base_source": self.base_source,
            "offset": {
                "ratio": self.offset.ratio,
                "relative_to": self.offset.relative_to,
                "scope": self.offset.scope,
                "scale": dict(self.offset.scale),
            },
        }


class SystemEntropy:
    """Draws a new master secret and new ids from the operating system."""

    origin = "system"

    def master(self) -> bytes:
        """256 fresh bits."""
        return secrets.token_bytes(32)

    def new_id(self) -> str:
        """128 fresh bits as the id of a handoff, a draw or a lineage.

        Ids are public and independent of the master.
        """
        return secrets.token_hex(16)


class PreparedEntropy(SystemEntropy):
    """Gives a prepared master and ids derived from it, for tests and benchmarks.

    Every command warns of a test secret.
    """

    origin = "test"

    def __init__(self, master: bytes) -> None:
        if len(master) != 32:
            raise ValueError("a master secret has 32 bytes")
        self._master, self._count = master, 0

    def master(self) -> bytes:
        """The prepared master."""
        return self._master

    def new_id(self) -> str:
        """The next derived id."""
        self._count += 1
        return hmac_module.digest(self._master, f"id {self._count}".encode(), "sha256").hex()[:32]


def read_secret(path: Path) -> Secret:
    """Read `secret.yaml` of a server's directory.

    Raises:
        BadSecretError: the file is absent, unreadable, malformed or altered.
    """
    where = path / SECRET_FILE
    if not where.exists():
        raise instead_of(path, SECRET, BadSecretError)
    content = canonical.parse(_read(where), where, BadSecretError, MAX_BYTES)
    reader = FieldReader(content, where, BadSecretError)
    reader.text("kind", choices=("secret",))
    _check_format(reader, where)
    master = bytes.fromhex(reader.text("master", HEX_256))
    offset = FieldReader(reader.take("offset"), f"{where}: offset", BadSecretError)
    secret = Secret(
        lineage=reader.text("lineage", HEX_128),
        origin=reader.text("origin", choices=("system", "test")),
        master=master,
        base=reader.optional_text("base", HEX_256),
        base_source=reader.optional_text("base_source"),
        offset=Offset(
            offset.number("ratio"),
            offset.text("relative_to", choices=("task-vector", "weights")),
            offset.text("scope", choices=("layers", "all")),
            offset.numbers("scale"),
        ),
    )
    offset.done()
    reader.take("hmac")
    reader.done()
    _verify(content, where, master)
    return secret


def read_signed(where: Path, kind: str, master: bytes) -> FieldReader:
    """Open a record and check its HMAC; the caller reads the fields and calls `done`."""
    content = canonical.parse(_read(where), where, BadSecretError, MAX_BYTES)
    _verify(content, where, master)
    reader = FieldReader(content, where, BadSecretError)
    reader.take("hmac")
    reader.text("kind", choices=(kind,))
    _check_format(reader, where)
    return reader


def write_signed(where: Path, content: dict[str, Any], master: bytes) -> None:
    """Write or replace a signed file: mode 0600, flushed, then renamed into place.

    Raises:
        OutputError: the disk is full, or another error of the operating system.
    """
    data = canonical.dump({**content, "hmac": _hmac(content, master)})
    partial = where.with_name(f".{where.name}{_PARTIAL}")
    with disk_errors(where):
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                set_mode(file.fileno(), 0o600, where)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(where)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        flush(where.parent)


def is_partial(path: Path) -> bool:
    """Whether a path has the name of a signed file that was being written."""
    return path.name.startswith(".") and path.name.endswith(f".yaml{_PARTIAL}")


def _check_format(reader: FieldReader, where: Path) -> None:
    if reader.natural("format") != FORMAT:
        raise BadSecretError(f"{where}: written by another version of mpu", "update mpu")


def _verify(content: dict[str, Any], where: Path, master: bytes) -> None:
    stored = content.get("hmac")
    if not isinstance(stored, str) or not hmac_module.compare_digest(
        stored, _hmac(content, master)
    ):
        raise BadSecretError(
            f"{where}: altered, or from another secret", "restore the directory from a backup"
        )


def _hmac(content: dict[str, Any], master: bytes) -> str:
    key = hmac_module.digest(master, b"mpu 1 records", "sha256")
    return hmac_module.new(key, canonical.without(content, "hmac"), "sha256").hexdigest()


def _read(where: Path) -> bytes:
    hint = "give the server's secret directory with --secret"
    return read_file(where, MAX_BYTES, BadSecretError, hint)
