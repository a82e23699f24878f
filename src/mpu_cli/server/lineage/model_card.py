"""The model card (README.md) of an aggregated model.

It says what the Hub expects, and only discloses what the owner asked to disclose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli import __version__
from mpu_cli.checkpoint.plain_file import plain_file
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadModelError
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord

_READ = 64 << 10
"""Bytes of a model card that are read."""
_TAG = re.compile(
    r"""^\s*-\s+["']?mpu["']?\s*$|^tags:.*[\[,\s]["']?mpu["']?\s*(?:[\],]|$)""", re.MULTILINE
)
_DIGEST = re.compile(r"^- digest: `([0-9a-f]{64})`\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Card:
    """What the model card of an aggregated model says."""

    digest: str | None
    """The model's; None if somebody removed that line."""


def read_model_card(directory: Path) -> Card | None:
    """The card that `write_model_card` wrote; None without a README.md that has the tag `mpu`."""
    try:
        with plain_file(directory / "README.md").open("rb") as file:
            text = file.read(_READ).decode(errors="replace")
    except (OSError, BadModelError):
        return None
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip() or _TAG.search(parts[1]) is None:
        return None
    digest = _DIGEST.search(parts[2])
    return Card(digest[1] if digest else None)


def write_model_card(
    directory: Path, lineage: Lineage, model: ModelRecord, disclosed: Sequence[HandoffRecord]
) -> None:
    """Write the card; it tells m, κ and the denoising of the handoffs in `disclosed`."""
    sources = [
        record.source for record in lineage.chain(model.parent or model.digest) if record.source
    ]
    front = ["---", "library_name: transformers", "tags:", "- unlearning", "- mpu"]
    if sources:
        front.append(f"base_model: {sources[-1].partition('@')[0]}")
    lines = [
        *front,
        "---",
        "",
        "# Model after unlearning",
        "",
        f"Made with mpu {__version__} (Multiple Perturbed Copies Unlearning, arXiv 2602.23798).",
        "",
        f"- digest: `{model.digest}`",
        f"- made from: `{model.parent or model.digest}`",
        *(f"- update: `{digest}`" for digest in model.updates),
    ]
    lines += [
        f"- {record.size} copies, {record.denoising} denoising, noise {record.kappa:g} of the"
        f" {record.relative_to}, offset {record.offset:g}, server learning rate"
        f" {model.server_lr:g}"
        for record in disclosed
    ]
    write_new(directory / "README.md", ("\n".join(lines) + "\n").encode())
