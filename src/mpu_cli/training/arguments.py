"""Training settings as transformers' TrainingArguments."""

from __future__ import annotations

import math
import tempfile

from transformers import TrainingArguments

from mpu_cli.errors import UsageError
from mpu_cli.modeling.hooks.trainer import fix_arguments
from mpu_cli.modeling.processes import this_process
from mpu_cli.training.settings import TrainingSettings


def trainer_arguments(settings: TrainingSettings, device: str, n_forget: int) -> TrainingArguments:
    """The arguments of Trainer.

    Args:
        settings: see `TrainingSettings`.
        device: that the run takes place on.
        n_forget: rows of an epoch.

    Raises:
        UsageError: the precision is not available here.
    """
    steps = settings.total_steps(n_forget)
    half = settings.autocasts
    warms_up = bool(settings.warmup_steps or settings.warmup_ratio)
    try:
        arguments = TrainingArguments(
            # Trainer requires one; nothing is ever written there.
            output_dir=tempfile.gettempdir(),
            max_steps=steps,
            # Batches are drawn whole in every process (see `distributed`), so this only labels
            # them.
            per_device_train_batch_size=max(1, settings.batch_size // this_process().size),
            gradient_accumulation_steps=settings.gradient_accumulation,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=(
                "constant_with_warmup"
                if warms_up and settings.lr_scheduler == "constant"
                else settings.lr_scheduler
            ),
            # Rounded first: 0.1 of 30 steps is 3, not 4.
            warmup_steps=settings.warmup_steps
            or math.ceil(round(settings.warmup_ratio * steps, 6)),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=half,
            use_cpu=device == "cpu",
            seed=settings.seed,
            activation_checkpointing=settings.gradient_checkpointing,
            # The reentrant kind finds no gradient where the embeddings are frozen.
            activation_checkpointing_kwargs=(
                {"use_reentrant": False} if settings.gradient_checkpointing else None
            ),
            # Two forward passes for each backward one: neither may copy buffers or search the
            # graph.
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
    except ValueError as error:
        raise UsageError(
            f"--precision {settings.precision}: {str(error).splitlines()[0]}"
        ) from error
    fix_arguments(arguments, bfloat16=half)
    if arguments.world_size != this_process().size:
        raise UsageError(
            f"{this_process().size} processes were launched, and training would run in"
            f" {arguments.world_size}"
        )
    return arguments
