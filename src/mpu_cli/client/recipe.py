"""What must be the same for every copy.

The method, its parameters, the training settings and the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpu_cli.client.lora import Lora
from mpu_cli.client.methods import Value
from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.errors import BadDataError
from mpu_cli.training.run_identity import TOKENS
from mpu_cli.training.settings import TrainingSettings

_WORDS = {
    "forget_digest": "the forget file",
    "retain_digest": "the retain file",
    "refusals_digest": "the file of refusals",
    "tokens_digest": TOKENS,
    "mapping": "--map",
    "round_number": "--round",
    "system": "--system-prompt",
    "variables": "--template-var",
    "date": "--template-date",
}
"""What a user calls the fields whose option has another name."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe for one handoff.

    It stays with the client: neither it nor its fingerprint belongs into an update.
    """

    method: str
    parameters: tuple[tuple[str, Value], ...]
    """(name, value), sorted by name, defaults included, so that a changed default changes the fingerprint."""
    settings: TrainingSettings
    forget_digest: str
    """SHA-256 of the forget file's bytes, in hex."""
    retain_digest: str | None
    """The same of the retain file, or None without one."""
    refusals_digest: str | None = None
    """The same of the list of refusals, or None without one."""
    mapping: tuple[tuple[str, str], ...] = ()
    """(field, column), sorted: how the files' columns are read."""
    lora: Lora | None = None
    """Train an adapter of this kind instead of the weights."""
    prompting: Prompting = PLAIN
    """What stands around every pair and chat."""
    reference: str | None = None
    """Digest of the reference that was given; None = the copy itself."""
    tokens_digest: str | None = None
    """Of the rows as tokens and labels (`TrainingRows.digest`).

    The same files are other tokens to another tokenizer or template.
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
    ) -> Recipe:
        """The recipe that trains on these files.

        Raises:
            BadDataError: a file cannot be read.
        """
        retain_digest, refusals_digest = (
            None if path is None else _file_digest(path) for path in (retain, refusals)
        )
        columns = tuple(sorted((mapping or {}).items()))
        values = tuple(sorted(parameters.items()))
        digests = (_file_digest(forget), retain_digest, refusals_digest)
        return cls(method, values, settings, *digests, columns, lora, prompting, reference)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as they go into the fingerprint."""
        return {**asdict(self), "parameters": dict(self.parameters)}

    def in_words(self) -> dict[str, Any]:
        """The same, flat, by what a user calls each thing."""
        content = self.to_dict()
        parameters, lora = content.pop("parameters"), content.pop("lora") or {}
        own = {
            **content.pop("settings"),
            **content.pop("prompting"),
            **{f"lora_{name}": value for name, value in lora.items()},
        }
        words = {
            _WORDS.get(name) or f"--{name.replace('_', '-')}": value
            for name, value in {**content, **own}.items()
        }
        return words | {f"--set {name}": value for name, value in parameters.items()}

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON (sorted keys, no white space, ASCII)."""
        canonical = json.dumps(
            self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadDataError(
            f"{path}: cannot be read ({error.strerror})", "check the path and permissions"
        ) from None
