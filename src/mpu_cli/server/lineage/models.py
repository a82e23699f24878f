"""The lineage of one model over its rounds: its models, its head, the updates in it.

Models form a tree from the first one perturbed (docs/lineage.md). An aggregated model is a
*candidate* until a command uses it; using it accepts it. All of this follows from the records, and
nothing is stored twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote

from mpu_cli.bundle.canonical import MAX_BYTES
from mpu_cli.bundle.manifest import MANIFEST, decode
from mpu_cli.bundle.schema import HEX_128, HEX_256
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.lock_holder import lock_holder
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.recognise import SECRET, instead_of
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import BadBundleError, BadSecretError, BusyError, GateError, MpuError
from mpu_cli.server.lineage.client_keys import ALLOWED_SIGNERS, PARTIAL_SIGNERS, pinned_clients
from mpu_cli.server.lineage.last_seen import note_newest, require_newest
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord
from mpu_cli.server.secrets.private import close_to_others
from mpu_cli.server.secrets.secret import (
    SECRET_FILE,
    Secret,
    is_partial,
    read_secret,
    read_signed,
    write_signed,
)

HANDOFFS, MODELS = "handoffs", "models"
_RESTORE = "restore the directory from a backup"


class Lineage:
    """The server's directory, read and checked as a whole."""

    def __init__(
        self, path: Path, secret: Secret, handoffs: list[HandoffRecord], models: list[ModelRecord]
    ) -> None:
        self.path = path
        self.secret = secret
        self.handoffs = {
            record.id: record for record in sorted(handoffs, key=lambda item: item.sequence)
        }
        self.models = {
            record.digest: record for record in sorted(models, key=lambda item: item.sequence)
        }

    @classmethod
    def read(cls, path: Path) -> Lineage:
        """Read and verify every file of the directory.

        Raises:
            BadSecretError: a file is absent, altered, misnamed or foreign, belongs to another user
                or cannot be closed to others, or the records contradict each other.
            BadInputError: the file of the clients' keys is malformed.
        """
        close_to_others(path)
        secret = read_secret(path)
        pinned_clients(path).read()
        handoffs, models = [], []
        for file in _records(path / HANDOFFS):
            handoffs.append(HandoffRecord.read(read_signed(file, "handoff-record", secret.master)))
            _check_name(file, handoffs[-1].id)
        for file in _records(path / MODELS):
            models.append(ModelRecord.read(read_signed(file, "model-record", secret.master)))
            _check_name(file, models[-1].digest)
        lineage = cls(path, secret, handoffs, models)
        lineage._check()
        return lineage

    def _check(self) -> None:
        for record in self.models.values():
            if record.parent is not None and record.parent not in self.models:
                raise BadSecretError(
                    f"{self.path}/{MODELS}: the parent of {record.digest} is missing", _RESTORE
                )
        for handoff in self.handoffs.values():
            if handoff.model not in self.models:
                raise BadSecretError(
                    f"{self.path}/{HANDOFFS}: handoff {handoff.id} was made from an unknown model",
                    _RESTORE,
                )
        if sum(record.parent is None for record in self.models.values()) != 1:
            raise BadSecretError(
                f"{self.path}/{MODELS}: there must be exactly one first model", _RESTORE
            )
        below = [record.digest for record in self.models.values() if record.parent is None]
        for digest in below:  # grows while it is read
            below += [record.digest for record in self.children(digest)]
        if len(below) < len(self.models):
            raise BadSecretError(
                f"{self.path}/{MODELS}: the first model is not an ancestor of every other", _RESTORE
            )

    @property
    def next_sequence(self) -> int:
        """The number of the next record."""
        used = {record.sequence for record in self.handoffs.values()}
        used |= {record.sequence for record in self.models.values()}
        return max(used, default=-1) + 1

    def children(self, digest: str) -> list[ModelRecord]:
        """The models aggregated onto a model."""
        return [record for record in self.models.values() if record.parent == digest]

    def accepted(self, digest: str) -> bool:
        """Whether a model has been used: it is the first one, was handed out, or has a child."""
        record = self.models[digest]
        return (
            record.parent is None
            or any(
                handoff.model == digest and handoff.state == "issued"
                for handoff in self.handoffs.values()
            )
            or bool(self.children(digest))
        )

    @property
    def head(self) -> str:
        """The newest accepted model."""
        accepted = [model for model in self.models.values() if self.accepted(model.digest)]
        return max((model.sequence, model.digest) for model in accepted)[1]

    def chain(self, digest: str) -> list[ModelRecord]:
        """A model and its ancestors, newest first."""
        chain = [self.models[digest]]
        while chain[-1].parent is not None:
            chain.append(self.models[chain[-1].parent])
        return chain

    def require_usable(self, digest: str, where: object, *, fork: bool) -> None:
        """Require that a command may use a model.

        Raises:
            GateError: the lineage does not have it, or an accepted model has replaced it and `fork`
                is false.
        """
        if digest not in self.models:
            raise GateError(
                f"{where}: this model (digest {digest[:12]}…) is not in the lineage of {self.path}",
                f"give a model of this lineage (mpu inspect {quote(str(self.path))} lists their"
                " digests, mpu verify MODEL prints a model's), or the --secret of this model's"
                " lineage; mpu perturb begins one with --new-lineage DIR",
            )
        rivals = self.children(digest)
        if not self.accepted(digest):  # a candidate whose sibling was preferred
            rivals += self.children(self.models[digest].parent or "")
        newer = [
            rival.digest
            for rival in rivals
            if rival.digest != digest and self.accepted(rival.digest)
        ]
        if newer and not fork:
            raise GateError(
                f"{where}: another model (digest {newer[-1][:12]}…) was already accepted in its"
                " place",
                "work on the head, or give --fork to branch off here",
            )

    def use(self, digest: str, where: object, *, fork: bool) -> None:
        """Require that a command may use a model, and commit its record.

        Raises:
            GateError: see `require_usable`.
        """
        self.require_usable(digest, where, fork=fork)
        if self.models[digest].state == "prepared":
            self.save_model(replace(self.models[digest], state="committed"))

    def save_handoff(self, record: HandoffRecord) -> None:
        """Write a handoff record, flushed to disk."""
        write_signed(
            self.path / HANDOFFS / f"{record.id}.yaml", record.content(), self.secret.master
        )
        self.handoffs[record.id] = record

    def save_model(self, record: ModelRecord) -> None:
        """Write a model record, flushed to disk."""
        write_signed(
            self.path / MODELS / f"{record.digest}.yaml", record.content(), self.secret.master
        )
        self.models[record.digest] = record

    def recover(self, output: Path | None = None) -> frozenset[str]:
        """Finish the records of an interrupted command.

        A prepared handoff whose directory is in place was issued. Without the directory, somebody
        may have moved it, so the record stays until an update answers it. A prepared model is
        committed if `output` holds it.

        Returns:
            Ids of the handoffs and digests of the models that are in place.
        """
        finished = set()
        for handoff in [record for record in self.handoffs.values() if record.state == "prepared"]:
            if manifest_digest(Path(handoff.target)) == handoff.digest:
                self.save_handoff(replace(handoff, state="issued"))
                finished.add(handoff.id)
        for model in [record for record in self.models.values() if record.state == "prepared"]:
            if output is not None and digest_or_none(output) == model.digest:
                self.save_model(replace(model, state="committed"))
                finished.add(model.digest)
        return frozenset(finished)


def manifest_digest(path: Path) -> str | None:
    """The digest of a bundle's manifest; None if there is none that can be read."""
    try:
        return decode(read_file(path / MANIFEST, MAX_BYTES, BadBundleError), path).digest
    except (OSError, MpuError):
        return None


def digest_or_none(path: Path) -> str | None:
    """The digest of a model directory; None if there is none that can be read."""
    try:
        return model_digest(open_checkpoint(path))
    except MpuError:
        return None


def _check_name(file: Path, name: str) -> None:
    if file.stem != name:
        raise BadSecretError(f"{file}: is the record of {name}", _RESTORE)


def _records(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadSecretError(f"{folder}: the folder is missing", _RESTORE)
    form = HEX_128 if folder.name == HANDOFFS else HEX_256
    # A crash inside write_signed leaves a partial file; the next writing command removes it.
    files = [path for path in sorted(folder.iterdir()) if not is_partial(path)]
    for path in files:
        if path.suffix != ".yaml" or not form.fullmatch(path.stem) or path.is_symlink():
            raise BadSecretError(f"{path}: does not belong here", "move it away")
    return files


def require_nothing_else(path: Path) -> None:
    """Raise BadSecretError if a secret directory holds anything that is not part of a lineage."""
    known = {SECRET_FILE, HANDOFFS, MODELS, f".{SECRET_FILE}.partial"}
    known |= {ALLOWED_SIGNERS, PARTIAL_SIGNERS}
    for item in sorted(path.iterdir()):
        if item.name not in known or item.is_symlink():
            raise BadSecretError(f"{item}: does not belong here", "move it away")


@contextmanager
def open_locked(path: Path) -> Iterator[Lineage]:
    """Read a lineage and lock it for writing.

    Raises:
        BusyError: another process holds the lock.
        BadSecretError: see `Lineage.read`.
        GateError: see `seen`.
        OSError: this user may not read the directory.
    """
    if not path.is_dir():
        raise instead_of(path, SECRET, BadSecretError)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(
                f"{path}: another mpu process is using this secret",
                f"wait for {lock_holder(handle)} to end",
            ) from error
        _remove_partial(path)
        lineage = Lineage.read(path)
        with seen(lineage):
            yield lineage
    finally:
        os.close(handle)


@contextmanager
def seen(lineage: Lineage) -> Iterator[None]:
    """Refuse a lineage that lacks records which this machine has seen; note its newest at the end.

    Lineages of tests are left out: they are made anew with equal ids.

    Raises:
        GateError: the directory was restored from an old backup.
    """
    if lineage.secret.origin == "test":
        yield
        return
    name = lineage.secret.lineage
    require_newest(lineage.path, name, lineage.handoffs, lineage.models)
    try:
        yield
    finally:
        note_newest(name, lineage.handoffs, lineage.models)


def _remove_partial(path: Path) -> None:
    """Remove what killed commands left in a secret directory; the caller holds its lock."""
    with disk_errors(path):
        (path / PARTIAL_SIGNERS).unlink(missing_ok=True)
    for folder in (path, path / HANDOFFS, path / MODELS):
        if folder.is_dir() and not folder.is_symlink():
            for file in filter(is_partial, folder.iterdir()):
                with disk_errors(file):
                    file.unlink()


def create(path: Path, secret: Secret, root: ModelRecord) -> Lineage:
    """Fill an empty directory with a new lineage; the caller renames it into place."""
    for folder in (HANDOFFS, MODELS):
        (path / folder).mkdir(mode=0o700)
        set_mode(path / folder, 0o700)
    write_signed(path / SECRET_FILE, secret.content(), secret.master)
    lineage = Lineage(path, secret, [], [])
    lineage.save_model(root)
    return lineage
