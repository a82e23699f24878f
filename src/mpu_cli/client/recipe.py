"""What must be the same for every copy: method, parameters, training settings and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.read_file import open_file
from mpu_cli.client.methods import Value
from mpu_cli.client.settings import Lora
from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.errors import BadDataError
from mpu_cli.option import flags_of
from mpu_cli.training.run_identity import TOKENS
from mpu_cli.training.settings import TrainingSettings

_NAMES = {
    "forget_digest": "the forget file",
    "retain_digest": "the retain file",
    "refusals_digest": "the file of refusals",
    "cover_digest": "the cover file",
    "unanswerable_digest": "the file of unanswerable questions",
    "tokens_digest": TOKENS,
    "method": "--method",
    "mapping": "--map",
    "reference": "--reference",
}
"""The names in messages of the fields that are no settings classes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe for one handoff.

    It stays with the client: neither the recipe nor its fingerprint goes into an update.
    """

    method: str
    parameters: tuple[tuple[str, Value], ...]
    """(name, value), sorted by name; with defaults, since a changed default is another recipe."""
    settings: TrainingSettings
    forget_digest: str
    """SHA-256 of the forget file's bytes, in hex."""
    retain_digest: str | None
    """The same of the retain file, or None without one."""
    refusals_digest: str | None = None
    """The same of the list of refusals, or None without one."""
    mapping: tuple[tuple[str, str], ...] = ()
    """(field, column), sorted: the columns that hold the fields."""
    lora: Lora | None = None
    """Train an adapter of this kind instead of the weights."""
    prompting: Prompting = PLAIN
    """The part of a prompt that is the same for all rows."""
    reference: str | None = None
    """Digest of the given reference; None = the copy itself."""
    cover_digest: str | None = None
    """SHA-256 of the file of cover rows, or None without one."""
    unanswerable_digest: str | None = None
    """The same of the unanswerable questions."""
    tokens_digest: str | None = None
    """Digest of the rows as tokens and labels (`TrainingRows.digest`).

    With another tokenizer or template the same files give other tokens.
    """

    @classmethod
    def of_files(
        cls,
        method: str,
        parameters: Mapping[str, Value],
        settings: TrainingSettings,
        forget: Path,
        retain: Path | None,
        refusals: Path | None = None,
        mapping: Mapping[str, str] | None = None,
        lora: Lora | None = None,
        prompting: Prompting = PLAIN,
        reference: str | None = None,
        cover: Path | None = None,
        unanswerable: Path | None = None,
    ) -> Recipe:
        """The recipe that trains on these files.

        Raises:
            BadDataError: a file cannot be read.
        """
        retain_digest, refusals_digest, cover_digest, unanswerable_digest = (
            None if path is None else _file_digest(path)
            for path in (retain, refusals, cover, unanswerable)
        )
        columns = tuple(sorted((mapping or {}).items()))
        values = tuple(sorted(parameters.items()))
        digests = (_file_digest(forget), retain_digest, refusals_digest)
        return cls(
            method,
            values,
            settings,
            *digests,
            columns,
            lora,
            prompting,
            reference,
            cover_digest,
            unanswerable_digest,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plain values of which the fingerprint is made.

        What was added later (smoothing, cover rows, unanswerable questions) is there if it is used,
        so that other recipes keep their fingerprints.
        """
        values = {**asdict(self), "parameters": dict(self.parameters)}
        if not self.settings.smoothing:
            del values["settings"]["smoothing"]
        for name in ("cover_digest", "unanswerable_digest"):
            if values[name] is None:
                del values[name]
        return values

    def in_words(self) -> dict[str, Any]:
        """The recipe as one flat map, by the names that messages use."""
        words = {name: getattr(self, field) for field, name in _NAMES.items()}
        for settings in filter(None, (self.settings, self.prompting, self.lora)):
            flags = flags_of(type(settings))
            words |= {flag: getattr(settings, field) for field, flag in flags.items()}
        return words | {f"--set {name}": value for name, value in self.parameters}

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON (sorted keys, no white space, ASCII)."""
        canonical = json.dumps(
            self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with open_file(path, BadDataError) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadDataError(
            f"{path}: cannot be read ({error.strerror})", "check the path and permissions"
        ) from None
