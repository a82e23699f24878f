"""The processes that train or measure one model together: rank, size, and communication.

`torchrun --nproc-per-node N -m mpu_cli …` starts N processes that run the same command. Only the
first one writes and prints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from mpu_cli.errors import UsageError

Item = TypeVar("Item")

_PATIENCE = timedelta(hours=12)
"""The others wait this long while the first process writes a checkpoint or an update."""
HOW_TO_LAUNCH = "start several processes with: torchrun --nproc-per-node N -m mpu_cli unlearn …"


@dataclass(frozen=True, slots=True)
class Process:
    """This process among all: `rank` from 0 to `size` − 1."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def this_process() -> Process:
    """Read rank and size from torchrun's environment; without it, this is the only process."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UsageError(
            "RANK or WORLD_SIZE in the environment is not a number", HOW_TO_LAUNCH
        ) from None
    if not 0 <= rank < size:
        raise UsageError(
            f"RANK is {rank} and WORLD_SIZE is {size} in the environment", HOW_TO_LAUNCH
        )
    return Process(rank, size)


def launcher(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The words that start this command again: `mpu`, or torchrun on one machine."""
    if this_process().size == 1:
        return ["mpu"]
    return [
        "torchrun",
        "--nproc-per-node",
        environment.get("LOCAL_WORLD_SIZE", str(this_process().size)),
        "-m",
        "mpu_cli",
    ]


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse launchers that promise several processes and start one, or that shard by themselves.

    `accelerate launch --cpu --num_processes 2` starts one process, and accelerate's FSDP on a CPU
    is silently DDP (both measured with accelerate 1.15).

    Raises:
        UsageError: the environment is accelerate's.
    """
    for plugin in ("FSDP", "DEEPSPEED"):
        if environment.get(f"ACCELERATE_USE_{plugin}", "false").lower() in ("1", "true", "yes"):
            raise UsageError(
                f"accelerate's {plugin} plugin is not supported",
                "start with torchrun and give --fsdp to shard the model",
            )
    # accelerate launch always sets this; ACCELERATE_MIXED_PRECISION may come from a user's profile.
    if "ACCELERATE_USE_CPU" in environment and "WORLD_SIZE" not in environment:
        raise UsageError(
            "accelerate launch started one process only",
            HOW_TO_LAUNCH,
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
    """Hide MPI's and Slurm's variables from accelerate, if torchrun did not start this process.

    accelerate would take them for its own launch and wait for other processes.

    Returns:
        A warning for the user, if the allocation has several tasks.
    """
    if "WORLD_SIZE" in environment:
        return None
    size = next(
        (name for name in _ALLOCATIONS if environment.get(name, "1").strip() not in ("", "0", "1")),
        None,
    )
    warning = (
        None
        if size is None
        else f"{size} is {environment[size]}, but this process works alone; {HOW_TO_LAUNCH}"
    )
    for name in _READ_BY_ACCELERATE:
        environment.pop(name, None)
    return warning


def join(device: str) -> None:
    """Form the process group, unless it exists or there is one process.

    Raises:
        UsageError: the environment does not say where the processes meet.
    """
    import torch
    from torch import distributed

    if this_process().size == 1 or distributed.is_initialized():
        return
    absent = next((name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ), None)
    if absent is not None:
        raise UsageError(
            f"WORLD_SIZE is {this_process().size}, but {absent} is not set, so the processes cannot"
            " meet",
            HOW_TO_LAUNCH,
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    met = distributed.get_world_size()
    if met != this_process().size:
        raise RuntimeError(f"{met} processes met, {this_process().size} were launched")


def leave() -> None:
    """Leave the process group, if there is one."""
    import sys

    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of a batch: consecutive, and as large as the others' if possible."""
    rank, size = this_process().rank, this_process().size
    return items[len(items) * rank // size : len(items) * (rank + 1) // size]


def mean(value: Any) -> Any:
    """The mean of a tensor over the processes, without gradient."""
    if this_process().size == 1:
        return value.detach()
    from torch import distributed

    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / this_process().size


def from_first(value: Any) -> Any:
    """The first process's value, in every process."""
    if this_process().size == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if this_process().size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * this_process().size
    distributed.all_gather_object(values, value)
    return values
