"""The README.md of an aggregated model: what the Hub expects, and nothing that the owner did not ask to disclose."""

from __future__ import annotations

from pathlib import Path

from mpu_cli import __version__
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.server.incoming import Incoming
from mpu_cli.server.lineage import Lineage
from mpu_cli.server.records import ModelRecord


def write_model_card(directory: Path, lineage: Lineage, model: ModelRecord, disclosed: Incoming | None) -> None:
    """Write the card; `disclosed` adds how the updates were made (m, κ, denoising)."""
    sources = [record.source for record in lineage.chain(model.parent or model.digest) if record.source]
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
    for draw in disclosed.draws if disclosed else ():
        record = draw.record
        lines.append(
            f"- {record.size} copies, {record.denoising} denoising, noise {record.kappa:g} of the {record.relative_to}, "
            f"offset {record.offset:g}, server learning rate {model.server_lr:g}"
        )
    write_new(directory / "README.md", ("\n".join(lines) + "\n").encode())
