"""LoRA (Hu et al., arXiv 2106.09685): train small matrices A and B beside chosen weights.

W + (α / r) B A, with A (r, inputs) random and B (outputs, r) zero at first. peft computes the
forward pass. mpu chooses the modules, by default those that read the residual stream
(`architectures/projections.py`), and draws A from the seed and the module's name, so it is the same
for every copy.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.architectures.projections import ROLES, Projection, Projections, projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.adapter import AdapterConfig
from mpu_cli.bundle.tensors import is_frozen, shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.settings import DEFAULT_ROLES, Lora
from mpu_cli.errors import BadModelError, CheckFailedError, UsageError
from mpu_cli.modeling.hooks.experts import ADAPTER, names_of_experts

if TYPE_CHECKING:
    from torch import Tensor


def matrices_of(directory: Path) -> Projections:
    """The projections of a model directory, from its headers."""
    model = open_checkpoint(directory)
    return projections(
        read_layout(model.config, shapes(model.tensors), directory), shapes(model.tensors)
    )


def choose(lora: Lora, matrices: Projections, frozen: Sequence[str] = ()) -> list[Projection]:
    """The weights that get an adapter, sorted by name.

    Raises:
        UsageError: the model has no such target, or none is left.
    """
    chosen: dict[str, Projection] = {}
    for target in lora.targets or DEFAULT_ROLES:
        matching = [
            matrix
            for matrix in matrices.values()
            if target in matrix.roles or f".{matrix.module}".endswith(f".{target}")
        ]
        if not matching and lora.targets:
            ends = sorted({_last(matrix.module) for matrix in matrices.values()})
            raise UsageError(
                f"--lora-targets {target}: the model has no such projection",
                f"choose from {', '.join((*ROLES, *ends))}",
            )
        chosen |= {
            matrix.tensor: matrix for matrix in matching if not is_frozen(matrix.tensor, frozen)
        }
    if not chosen:
        raise UsageError(
            "--lora-rank: the model has no projection that may be trained", "train it without LoRA"
        )
    return [chosen[name] for name in sorted(chosen)]


def inexact(targets: Sequence[Projection]) -> str | None:
    """A warning if the server's reparameterization changes the input of a target."""
    affected = sorted({_last(target.module) for target in targets if target.moves_input})
    if not affected:
        return None
    return (
        f"LoRA on {', '.join(affected)}: the reparameterization changes their input in each copy,"
        " so the same random A acts differently in each, and the aggregated update is off by half"
        " even without noise; leave them out (the default is q, k, v, gate, up)"
    )


def out_of_reach(model: Any, lora: Lora) -> str | None:
    """A warning if experts among the targets get no adapter: transformers stacks them."""
    wanted = lora.targets or DEFAULT_ROLES

    def is_target(last: str) -> bool:
        return any(target == last or target in last.split("_") for target in wanted)

    parameters = dict(model.named_parameters())
    stacked = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.dim() == 3 and parameter.requires_grad and is_target(_last(name))
    }
    if not stacked:
        return None
    experts = next(reversed(stacked.values())).shape[0]
    named = ", ".join(
        f"{last} of {experts} experts in {count} layers"
        for last, count in sorted(Counter(map(_last, stacked)).items())
    )
    of_experts = names_of_experts(model)
    modules = (
        _last(name.removesuffix(".weight")) for name in parameters if name.endswith(".weight")
    )
    dense = Counter(last for last in modules if last in of_experts and is_target(last))
    beside = "".join(
        f", nor does {last} of {count} dense or shared parts, which peft takes for experts"
        for last, count in sorted(dense.items())
    )
    return (
        f"LoRA: {named} get no adapter, because transformers holds all experts of a layer in one"
        f" parameter{beside}; what they know of the forget set stays in them: train without"
        " --lora-rank to change them"
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def within_reach(lora: Lora, targets: Sequence[Projection], model: Any) -> list[Projection]:
    """The targets that transformers holds in memory as they are on disk; experts it fuses.

    Raises:
        UsageError: none is left, or one is missing that was named.
    """
    in_memory = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    of_experts = names_of_experts(model)
    reached = [
        target
        for target in targets
        if in_memory.get(target.tensor) == target.shape and _last(target.module) not in of_experts
    ]
    fused = [target for target in targets if target not in reached]
    if not reached or (fused and lora.targets):
        raise UsageError(
            f"--lora-rank: transformers renames or fuses {fused[0].tensor}, so no adapter fits it",
            "give other --lora-targets, or train without LoRA",
        )
    return reached


def attach(
    model: Any, lora: Lora, matrices: Projections, frozen: Sequence[str], seed: int
) -> list[Projection]:
    """Put an adapter into `model`, in place, and freeze everything else.

    Weights that transformers fuses (experts) get none unless they were named: see `out_of_reach`.

    Raises:
        UsageError: see `choose` and `within_reach`.
        BadModelError: peft trains other weights than were chosen.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    targets = within_reach(lora, choose(lora, matrices, frozen), model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scaling,  # type: ignore[arg-type]  # a float works as well
        target_modules=[target.module for target in targets],
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=targets[0].output_axis == 1,
    )
    inject_adapter_in_model(config, model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        f"{target.module}.lora_{half}.{ADAPTER}.weight" for target in targets for half in "AB"
    }
    if trained != expected:
        difference = (
            f"does not train {min(expected - trained)}"
            if expected - trained
            else f"also trains {min(trained - expected)}"
        )
        raise BadModelError(f"peft {difference}", "train without --lora-rank")
    with torch.no_grad():
        for target in targets:
            a, _ = pair(model, target)
            bound = 1 / math.sqrt(target.inputs)  # peft's own: Kaiming's for a = √5
            a.uniform_(-bound, bound, generator=_generator(seed, target.module))
    # With inputs that have no gradient, reentrant checkpointing silently trains nothing.
    model.enable_input_require_grads()
    return targets


def _generator(seed: int, module: str) -> Any:
    import torch

    digest = hashlib.sha256(f"mpu lora {seed} {module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def pair(model: Any, target: Projection) -> tuple[Tensor, Tensor]:
    """A and B of one target."""
    module = model.get_submodule(target.module)
    return module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight


def moved(model: Any, targets: Sequence[Projection]) -> list[Projection]:
    """The targets whose adapter was trained: their B, zero at first, has changed.

    A loss on the hidden states of one layer (RMU) leaves the layers after it unchanged. A target in
    an earlier layer that did not change got no gradient by mistake.

    Raises:
        CheckFailedError: the gradient did not reach adapters that it should have reached.
    """
    trained = [target for target in targets if bool(pair(model, target)[1].any())]
    deepest = max((target.layer for target in trained), default=None)
    missed = [
        target.module
        for target in targets
        if target not in trained and (deepest is None or target.layer <= deepest)
    ]
    if missed:
        raise CheckFailedError(
            f"{len(missed)} of {len(targets)} adapters did not move in training, for example"
            f" {missed[0]}: no gradient reached them",
            "train without --gradient-checkpointing, or leave them out of --lora-targets",
        )
    return trained


def save(model: Any, targets: Sequence[Projection], lora: Lora, directory: Path) -> None:
    """Write the adapter in float32 as peft would, and make the directory if need be."""
    from mpu_cli.client.adapters import write_adapter

    config = AdapterConfig(
        lora.rank,
        lora.scaling,
        tuple(sorted(target.module for target in targets)),
        fan_in_fan_out=targets[0].output_axis == 1,
    )
    directory.mkdir(parents=True, exist_ok=True)
    halves = {target.module: pair(model, target) for target in targets}
    write_adapter(directory, config, halves, "float32")
