"""The processes that train or measure one model together: their number, their meeting, what they exchange.

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
    """As torchrun says in the environment; one process without it. Nothing is imported."""
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
    """How this command was started, as far as torchrun tells.

    `mpu`, or torchrun on one machine with that many processes.
    """
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
            "accelerate launch started one process here, however many it was asked for",
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
        else f"{size} is {environment[size]}, and this process works alone; {HOW_TO_LAUNCH}"
    )
    for name in _READ_BY_ACCELERATE:
        environment.pop(name, None)
    return told


def join(device: str) -> None:
    """Form the process group; does nothing in a single process, or the second time.

    Raises:
        UsageError: the environment says that there are several, but not where they meet.
    """
    import torch
    from torch import distributed

    if this_process().size == 1 or distributed.is_initialized():
        return
    absent = next((name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ), None)
    if absent is not None:
        raise UsageError(
            f"WORLD_SIZE is {this_process().size}, and {absent} does not say where the processes meet",
            HOW_TO_LAUNCH,
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    found = distributed.get_world_size()
    if found != this_process().size:
        raise RuntimeError(f"{found} processes met, {this_process().size} were launched")


def leave() -> None:
    """Leave the process group, if there is one."""
    import sys

    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """The part of a batch that this process computes.

    consecutive, as equal as can be, all of it in a single process.
    """
    here = this_process()
    return items[len(items) * here.rank // here.size : len(items) * (here.rank + 1) // here.size]


def mean(value: Any) -> Any:
    """The mean of a tensor over the processes, without gradient.

    The value itself in a single one.
    """
    if this_process().size == 1:
        return value.detach()
    from torch import distributed

    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / this_process().size


def from_first(value: Any) -> Any:
    """What the first process holds, in every process."""
    if this_process().size == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """What every process holds, by rank."""
    if this_process().size == 1:
        return [value]
    from torch import distributed

    held: list[Any] = [None] * this_process().size
    distributed.all_gather_object(held, value)
    return held
