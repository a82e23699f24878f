"""Settings that several processes can share, and how Trainer wraps the model for them.

A batch is drawn whole in every process, and each takes its share; means are over the whole batch
(`modeling.logprobs.batch_mean`), so the average of the gradients is the gradient of one process
with all rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from mpu_cli.errors import UsageError
from mpu_cli.modeling.device import choose_device
from mpu_cli.modeling.processes import HOW_TO_LAUNCH, this_process
from mpu_cli.training import optimizers
from mpu_cli.training.loss_inputs import hidden_layer

if TYPE_CHECKING:
    from mpu_cli.training.settings import TrainingSettings


def choose_shared_device(settings: TrainingSettings, n_forget: int, inputs: Collection[str]) -> str:
    """Choose the device of a run, and refuse what cannot be divided among the processes.

    Args:
        settings: of the run.
        n_forget: rows of an epoch.
        inputs: of the loss, words of `training.loss_inputs.LOSS_INPUTS`.

    Returns:
        cpu, cuda or mps.

    Raises:
        UsageError: the message names the flag.
    """
    device = choose_device(settings.device)
    size, batch_size = this_process().size, settings.batch_size
    if settings.fsdp and size == 1:
        raise UsageError(
            "--fsdp shards the model over several processes, there is one", HOW_TO_LAUNCH
        )
    if size == 1:
        return device
    refuse_unsharded(settings)
    if settings.fsdp and hidden_layer(inputs) is not None:
        # Training is right (7e-7 from one process), but the optimizer keeps no state for shards
        # without a gradient, and torch refuses such a state from a checkpoint. DDP waits for their
        # gradient, too, which `hidden.freeze_above` prevents.
        raise UsageError(
            "--fsdp: this method trains some of the layers only",
            "leave --fsdp out: DDP trains it in several processes",
        )
    if device == "mps":
        raise UsageError(
            "--device mps: training runs in one process there", "start mpu without torchrun"
        )
    if batch_size % size:
        below = batch_size // size * size or size
        raise UsageError(
            f"--batch-size {batch_size} counts the rows of all processes, and is not a multiple of"
            f" {size}",
            f"give {below}, or another multiple",
        )
    last = n_forget % batch_size
    if 0 < last < size:
        raise UsageError(
            f"the last batch of an epoch has {last} of {n_forget} forget rows, fewer than the"
            f" {size} processes",
            "choose another --batch-size, or fewer processes",
        )
    return device


def refuse_unsharded(settings: TrainingSettings) -> None:
    """Refuse --fsdp with an optimizer that needs whole tensors.

    Raises:
        UsageError: the message names the flag.
    """
    if settings.fsdp and not optimizers.get(settings.optimizer).sharded:
        fit = ", ".join(optimizers.sharded_names())
        raise UsageError(
            f"--optimizer {settings.optimizer} needs whole tensors, and --fsdp cuts them up",
            f"use {fit}, or leave --fsdp out",
        )


def after_measuring(model: Any) -> None:
    """Shard a model again after a forward pass without gradient; call it before training continues.

    FSDP2 leaves the last modules whole after such a pass, and then silently drops their gradient in
    the next training step (torch 2.13: the final norm did not move, 10 % of the update).
    """
    if this_process().size == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def check_wrapper(model: Any, fsdp: bool) -> None:
    """Make sure that Trainer has wrapped the model, or else each process would train alone.

    Raises:
        RuntimeError: it has not.
    """
    if this_process().size == 1:
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    expected = FSDPModule if fsdp else DistributedDataParallel
    if not isinstance(model, expected):
        raise RuntimeError(f"the model is a {type(model).__name__}, not a {expected.__name__}")
