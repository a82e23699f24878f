"""Several processes that train one model together.

Who they are, what each does, and how their losses add up.

`torchrun --nproc-per-node N -m mpu_cli unlearn …` starts N processes that each run the same
command. A batch is drawn whole in every process, and each takes its share; means are over the whole
batch (`training.logprobs.batch_mean`), so that the average of the gradients is the gradient of one
process with all rows. Only the first process writes and prints.

Launchers that promise several processes and start one are refused: `accelerate launch --cpu
--num_processes 2` does, and accelerate's FSDP on a CPU is DDP without a word (both measured with
accelerate 1.15).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mpu_cli.errors import UsageError
from mpu_cli.training import optimizers
from mpu_cli.training.loss_inputs import hidden_layer

if TYPE_CHECKING:
    from mpu_cli.training.settings import TrainingSettings

Item = TypeVar("Item")

_PATIENCE = timedelta(hours=12)
"""Others wait this long while the first process writes a checkpoint or an update."""
_LAUNCH = "start several processes with: torchrun --nproc-per-node N -m mpu_cli unlearn …"


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all: `rank` from 0 to `size` − 1."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def processes() -> Processes:
    """As torchrun says in the environment; one process without it. Nothing is imported."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UsageError("RANK or WORLD_SIZE in the environment is not a number", _LAUNCH) from None
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE is {size} in the environment", _LAUNCH)
    return Processes(rank, size)


def launcher(environment: Mapping[str, str] = os.environ) -> list[str]:
    """How this command was started, as far as torchrun tells.

    `mpu`, or torchrun on one machine with that many processes.
    """
    if processes().size == 1:
        return ["mpu"]
    return [
        "torchrun",
        "--nproc-per-node",
        environment.get("LOCAL_WORLD_SIZE", str(processes().size)),
        "-m",
        "mpu_cli",
    ]


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a launcher that does not do what it was asked for.

    Raises:
        UsageError: accelerate's FSDP or DeepSpeed is asked for, or `accelerate launch` started one
            process.
    """
    for plugin in ("FSDP", "DEEPSPEED"):
        if environment.get(f"ACCELERATE_USE_{plugin}", "false").lower() in ("1", "true", "yes"):
            raise UsageError(
                f"accelerate's {plugin} plugin is not used here",
                "start with torchrun and give --fsdp to shard the model",
            )
    # accelerate launch sets this always; ACCELERATE_MIXED_PRECISION alone may come from a user's
    # profile.
    if "ACCELERATE_USE_CPU" in environment and "WORLD_SIZE" not in environment:
        raise UsageError(
            "accelerate launch started one process here, however many it was asked for", _LAUNCH
        )


_ALLOCATIONS = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS",
)
_READ_BY_ACCELERATE = (*_ALLOCATIONS[:-1], "LOCAL_RANK")


def leave_allocation(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Train alone inside an allocation of MPI or Slurm that torchrun did not start.

    Returns what to tell the user, if anything.

    accelerate takes MPI's variables for a launch of its own and then waits for, or fails to find,
    the other processes: it does not get to see them.
    """
    if "WORLD_SIZE" in environment:
        return None
    size = next(
        (name for name in _ALLOCATIONS if environment.get(name, "1").strip() not in ("", "0", "1")),
        None,
    )
    told = (
        None
        if size is None
        else f"{size} is {environment[size]}, and this process works alone; {_LAUNCH}"
    )
    for name in _READ_BY_ACCELERATE:
        environment.pop(name, None)
    return told


def check_settings(
    settings: TrainingSettings, n_forget: int, device: str, needs: Collection[str]
) -> None:
    """Refuse what cannot be divided among the processes.

    Args:
        settings: of the run.
        n_forget: rows of an epoch.
        device: where it will run.
        needs: words of `training.needs.NEEDS` that the loss asks for.

    Raises:
        UsageError: the message names the flag.
    """
    size, batch_size = processes().size, settings.batch_size
    if settings.fsdp and size == 1:
        raise UsageError("--fsdp shards the model over several processes, there is one", _LAUNCH)
    if size == 1:
        return
    refuse_unsharded(settings)
    if settings.fsdp and hidden_layer(needs) is not None:
        # It trains right (7e-7 from one process), but the optimizer keeps nothing for shards
        # without a gradient, and torch does not take such a state back from a checkpoint. DDP wants
        # no gradient of them either: `hidden.freeze_above`.
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
            f"--batch-size {batch_size} is over all processes, and {size} do not divide it",
            f"give {below}, or another multiple",
        )
    last = n_forget % batch_size
    if 0 < last < size:
        raise UsageError(
            f"the last batch of an epoch has {last} of {n_forget} forget rows, fewer than the"
            f" {size} processes",
            "choose another --batch-size, or fewer processes",
        )


def refuse_unsharded(settings: TrainingSettings) -> None:
    """Refuse an optimizer that cannot work on pieces of tensors, if they are to be cut up.

    Raises:
        UsageError: the message names the flag.
    """
    if settings.fsdp and not optimizers.get(settings.optimizer).sharded:
        fit = ", ".join(name for name in optimizers.names() if optimizers.get(name).sharded)
        raise UsageError(
            f"--optimizer {settings.optimizer} needs whole tensors, and --fsdp cuts them up",
            f"use {fit}, or leave --fsdp out",
        )


def start(device: str) -> None:
    """Form the process group; does nothing in a single process, or the second time.

    Raises:
        UsageError: the environment says that there are several, but not where they meet.
    """
    import torch
    from torch import distributed

    if processes().size == 1 or distributed.is_initialized():
        return
    absent = next((name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ), None)
    if absent is not None:
        raise UsageError(
            f"WORLD_SIZE is {processes().size}, and {absent} does not say where the processes meet",
            _LAUNCH,
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    found = distributed.get_world_size()
    if found != processes().size:
        raise RuntimeError(f"{found} processes met, {processes().size} were launched")


def stop() -> None:
    """Leave the process group, if there is one."""
    import sys

    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def my_share(items: Sequence[Item]) -> Sequence[Item]:
    """The part of a batch that this process computes.

    consecutive, as equal as can be, all of it in a single process.
    """
    here = processes()
    return items[len(items) * here.rank // here.size : len(items) * (here.rank + 1) // here.size]


def mean(value: Any) -> Any:
    """The mean of a tensor over the processes, without gradient.

    The value itself in a single one.
    """
    if processes().size == 1:
        return value.detach()
    from torch import distributed

    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / processes().size


def from_first(value: Any) -> Any:
    """What the first process holds, in every process."""
    if processes().size == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """What every process holds, by rank."""
    if processes().size == 1:
        return [value]
    from torch import distributed

    held: list[Any] = [None] * processes().size
    distributed.all_gather_object(held, value)
    return held


def after_measuring(model: Any) -> None:
    """Put a sharded model back into pieces after a forward pass without gradient.

    Call it before training goes on.

    FSDP2 leaves the last modules whole after such a pass, and in the next training step then drops
    their gradient without a word (torch 2.13: the final norm did not move, 10 % of the update).
    """
    if processes().size == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def check_wrapper(model: Any, fsdp: bool) -> None:
    """Make sure that the model is wrapped as asked for.

    Training alone on a part of the rows would go unnoticed.

    Raises:
        RuntimeError: it is not.
    """
    if processes().size == 1:
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    expected = FSDPModule if fsdp else DistributedDataParallel
    if not isinstance(model, expected):
        raise RuntimeError(f"the model is a {type(model).__name__}, not a {expected.__name__}")
