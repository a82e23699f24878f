"""A handoff, checked for one job before anything is trained."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.lora import choose, inexact
from mpu_cli.client.row_order import words
from mpu_cli.errors import UsageError


def open_to_train(handoff: Path, job: UnlearnJob) -> OpenHandoff:
    """Open a handoff for a job, and tell the user what it means for the job.

    Raises:
        MpuError: a bad handoff; a reference with other tensors;
            embeddings that the handoff freezes and the job trains; LoRA targets that do not exist.
    """
    settings, lora = job.recipe.settings, job.recipe.lora
    opened = open_handoff(
        handoff,
        train_embeddings=settings.train_embeddings,
        progress=lambda _, done, total: job.checking(done, total),
        trust=job.trust,
    )
    frozen = opened.manifest.frozen_for_training
    if settings.train_embeddings and frozen:
        raise UsageError(
            f"--train-embeddings: {handoff} freezes {', '.join(frozen)}",
            "ask the server to perturb with --train-embeddings (--preset paper does), or give"
            " --no-train-embeddings",
        )
    if opened.manifest.cut is not None:
        job.note(
            f"a cut handoff: layers 0 to {opened.manifest.cut.layers - 1} of"
            f" {opened.manifest.cut.of}; answers cannot be measured on it"
        )
    if lora is not None and (text := inexact(choose(lora, opened.matrices, opened.frozen))):
        job.warn(text)
    if job.reference is not None:
        for name, published in opened.copies.items():
            job.reference.of(name, published)
    if job.retain is not None:
        job.note(words(settings, opened))
    if settings.order_per_copy:
        job.warn(
            "--order-per-copy: each copy sees the rows in its own order, and the difference that"
            " this makes between copies does not cancel"
            if len(opened.copies) > 1
            else "--order-per-copy: this handoff has one copy; if it is part of a split, all"
            " holders still use the same order"
        )
    return opened
