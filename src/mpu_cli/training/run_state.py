"""What a checkpoint holds: weights, optimizer, schedule, generators, losses, the loss's own state.

A model that is sharded over processes is gathered, so checkpoints do not depend on the sharding.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpu_cli.modeling import processes
from mpu_cli.training.early_stop import StopCheck
from mpu_cli.training.stateful import StatefulLoss


def capture(
    trainer: Any, loss: Any, progress: Any, seconds: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained weights by name, and the rest of the state.

    Every process calls it; only the first one's result is complete.

    Args:
        trainer: an `UnlearningTrainer` between two steps.
        loss: its loss, whose state is kept if it has one.
        progress: its `Progress`.
        seconds: that the run has taken so far.
    """
    model, optimizer = trainer.model, trainer.optimizer
    if is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        everything, optimizer_state = get_state_dict(model, optimizer.optimizer, options=options)
        weights: dict[str, Any] = {
            name: everything[name] for name, _ in _trained(model) if name in everything
        }
    else:
        is_first = processes.this_process().is_first
        weights = (
            {name: parameter.detach().to("cpu") for name, parameter in _trained(model)}
            if is_first
            else {}
        )
        optimizer_state = optimizer.state_dict()
    return weights, {
        "optimizer": optimizer_state,
        "scheduler": trainer.lr_scheduler.state_dict(),
        "generators": processes.gather(_generators()),
        "losses": list(progress.losses),
        "evaluations": [dataclasses.astuple(check) for check in progress.evaluations],
        "seconds": seconds,
        "loss": loss.state_dict() if isinstance(loss, StatefulLoss) else None,
    }


def restore_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put the trained weights back; the frozen ones are still the source's."""
    parameters = dict(_trained(model))
    if set(parameters) != set(weights):
        raise RuntimeError("the checkpoint's weights are not those that are trained")
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = weights[name].to(parameter.device)
            if hasattr(parameter, "device_mesh"):
                from torch.distributed.tensor import distribute_tensor

                value = distribute_tensor(
                    value, parameter.device_mesh, parameter.placements, src_data_rank=None
                )
            parameter.copy_(value)


def restore(trainer: Any, loss: Any, progress: Any, state: Mapping[str, Any]) -> None:
    """Put everything but weights and generators back."""
    if is_sharded(trainer.model):
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(
            trainer.model, trainer.optimizer.optimizer, state["optimizer"], options=options
        )
    else:
        trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["scheduler"])
    progress.losses = list(state["losses"])
    progress.evaluations = [StopCheck(*check) for check in state["evaluations"]]
    progress.seconds = state["seconds"]
    if isinstance(loss, StatefulLoss):
        loss.load_state_dict(state["loss"])


def restore_generators(by_rank: list[dict[str, Any]]) -> None:
    """Put this process's global generators back, from which dropout draws."""
    saved = by_rank[processes.this_process().rank]
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"])


def trainer_state_json(state: Any) -> str:
    """Trainer's own state (step, epoch and callbacks) as it reads it back."""
    return json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True)


def gathered(model: Any) -> dict[str, Tensor] | None:
    """The whole state of a sharded model, in the first process; None if nothing is sharded."""
    if not is_sharded(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole: dict[str, Any] = get_model_state_dict(model, options=options)
    return whole


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 has divided the model among the processes."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def local(parameter: Any) -> Tensor:
    """The part of a parameter that this process holds; all of it if nothing is sharded."""
    return parameter.to_local() if hasattr(parameter, "device_mesh") else parameter  # type: ignore[no-any-return]


def _trained(model: Any) -> list[tuple[str, Any]]:
    return [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]


def _generators() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "python": (version, list(numbers), gauss),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
