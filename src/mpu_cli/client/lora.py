"""LoRA: small matrices A and B beside chosen weights are trained instead of the weights (Hu et al. 2021, arXiv 2106.09685).

W + (α / r) B A, A (r, inputs) random, B (outputs, r) zero at first. peft does the forward pass.
What is ours: which modules (those that read the residual stream, `architectures/projections.py`),
and A drawn from the seed and the module's name, so that it is the same for every copy whatever else
a process has drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.architectures.projections import ROLES, Projection, Projections, projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.adapter import MAX_RANK, AdapterConfig
from mpu_cli.bundle.tensors import is_frozen, shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError, CheckFailedError, UsageError
from mpu_cli.modeling.hooks.experts import ADAPTER, names_of_experts

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_ROLES = ("q", "k", "v", "gate", "up")


@dataclass(frozen=True, slots=True)
class Lora:
    """The options of LoRA.

    Raises:
        UsageError: a value is outside its range.
    """

    rank: int
    alpha: float | None = None
    """None: twice the rank, so that B A is scaled by 2 whatever the rank."""
    targets: tuple[str, ...] = ()
    """Roles (q, k, v, gate, up, o, down) or ends of module names (q_proj).

    empty: `DEFAULT_ROLES`.
    """

    def __post_init__(self) -> None:
        """Check every value."""
        if type(self.rank) is not int or not 1 <= self.rank <= MAX_RANK:
            raise UsageError(f"--lora-rank {self.rank}: a rank lies between 1 and {MAX_RANK}")
        if self.alpha is not None and not 0 < self.alpha <= 1e6:
            raise UsageError(f"--lora-alpha {self.alpha:g}: must lie above 0 and at most at 1e6")

    @property
    def scaling(self) -> float:
        """α."""
        return 2.0 * self.rank if self.alpha is None else float(self.alpha)


def matrices_of(directory: Path) -> Projections:
    """The projections of a model directory, from its headers."""
    model = open_checkpoint(directory)
    return projections(
        read_layout(model.config, shapes(model.tensors), directory), shapes(model.tensors)
    )


def choose(lora: Lora, matrices: Projections, frozen: Sequence[str] = ()) -> list[Projection]:
    """The weights that get an adapter, sorted by name.

    Raises:
        UsageError: a target that the model does not have (its own are named), or none is left.
    """
    wanted = lora.targets or DEFAULT_ROLES
    chosen: dict[str, Projection] = {}
    for target in wanted:
        found = [
            one
            for one in matrices.values()
            if target in one.roles or f".{one.module}".endswith(f".{target}")
        ]
        if not found and lora.targets:
            ends = sorted({one.module.rpartition(".")[2] for one in matrices.values()})
            raise UsageError(
                f"--lora-targets {target}: the model has no such projection",
                f"choose from {', '.join((*ROLES, *ends))}",
            )
        chosen.update((one.tensor, one) for one in found if not is_frozen(one.tensor, frozen))
    if not chosen:
        raise UsageError(
            "--lora-rank: the model has no projection that may be trained", "train it without LoRA"
        )
    return [chosen[name] for name in sorted(chosen)]


def inexact(targets: Sequence[Projection]) -> str | None:
    """What to warn of: targets whose input the server's reparameterization moves."""
    moved = sorted({one.module.rpartition(".")[2] for one in targets if one.moves_input})
    if not moved:
        return None
    return (
        f"LoRA on {', '.join(moved)}: the copies' reparameterization moves what they read, so the"
        " same random A is another one for each copy, and the aggregated update is off by half"
        " even without noise; leave them out (the default is q, k, v, gate, up)"
    )


def out_of_reach(model: Any, lora: Lora) -> str | None:
    """What to warn of, before training.

    Experts among the targets that transformers holds as one stacked parameter.

    Args:
        model: as it was loaded.
        lora: the options.
    """

    def asked(last: str) -> bool:
        return any(
            target == last or target in last.split("_") for target in lora.targets or DEFAULT_ROLES
        )

    parameters = dict(model.named_parameters())
    stacked = {
        name: p
        for name, p in parameters.items()
        if p.dim() == 3 and p.requires_grad and asked(_last(name))
    }
    if not stacked:
        return None
    experts = next(reversed(stacked.values())).shape[0]
    counts = Counter(map(_last, stacked))
    modules = (
        _last(name.removesuffix(".weight")) for name in parameters if name.endswith(".weight")
    )
    taken = names_of_experts(model)
    dense = Counter(last for last in modules if last in taken and asked(last))
    named = ", ".join(
        f"{last} of {experts} experts in {count} layers" for last, count in sorted(counts.items())
    )
    beside = "".join(
        f", nor does {last} of {count} dense or shared parts, which peft takes for theirs"
        for last, count in sorted(dense.items())
    )
    return (
        f"LoRA: {named} get no adapter, because transformers holds all experts of a layer in one"
        f" parameter{beside}; what they know of the forget set can be unlearned only around them."
        " Train without --lora-rank to reach them"
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def within_reach(lora: Lora, targets: Sequence[Projection], model: Any) -> list[Projection]:
    """The targets that transformers holds in memory as they lie on disk.

    experts, for one, it fuses into one parameter.

    Raises:
        UsageError: none is left, or one is not that was asked for by name.
    """
    in_memory = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    taken = names_of_experts(model)
    held = [
        one
        for one in targets
        if in_memory.get(one.tensor) == one.shape and _last(one.module) not in taken
    ]
    fused = [one for one in targets if one not in held]
    if not held or (fused and lora.targets):
        raise UsageError(
            f"--lora-rank: transformers holds {fused[0].tensor} under another name or fused with"
            " others, where no adapter fits",
            "name other --lora-targets, or train without LoRA",
        )
    return held


def attach(
    model: Any, lora: Lora, matrices: Projections, frozen: Sequence[str], seed: int
) -> list[Projection]:
    """Put an adapter into `model`, in place; nothing else is trained afterwards.

    Weights that transformers fuses in memory (experts) get none, unless they were asked for: see
    `out_of_reach`.

    Raises:
        UsageError: see `choose` and `within_reach`.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    held = within_reach(lora, choose(lora, matrices, frozen), model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scaling,  # type: ignore[arg-type]  # a float serves as well
        target_modules=[one.module for one in held],
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=held[0].output_axis == 1,
    )
    inject_adapter_in_model(config, model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {f"{one.module}.lora_{half}.{ADAPTER}.weight" for one in held for half in "AB"}
    if trained != expected:
        said = (
            f"does not train {min(expected - trained)}"
            if expected - trained
            else f"trains {min(trained - expected)}"
        )
        raise BadModelError(
            f"peft {said}, which is not what was asked for", "train without --lora-rank"
        )
    with torch.no_grad():
        for one in held:
            a, _ = pair(model, one)
            bound = 1 / math.sqrt(one.inputs)  # peft's own, Kaiming's for a = √5
            a.uniform_(-bound, bound, generator=_generator(seed, one.module))
    # Where checkpointed layers get inputs without a gradient, reentrant checkpointing silently
    # trains nothing.
    model.enable_input_require_grads()
    return held


def _generator(seed: int, module: str) -> Any:
    import torch

    digest = hashlib.sha256(f"mpu lora {seed} {module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def pair(model: Any, target: Projection) -> tuple[Tensor, Tensor]:
    """A and B of one target."""
    module = model.get_submodule(target.module)
    return module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight


def moved(model: Any, targets: Sequence[Projection]) -> list[Projection]:
    """The targets whose adapter was trained: its B, zero at first, is so no longer.

    A loss on the hidden state of one layer (RMU) leaves the layers after it as they are; a layer
    before it, or a part of one, that did not move has got no gradient by mistake.

    Raises:
        CheckFailedError: the gradient did not reach adapters that it should have reached.
    """
    trained = [one for one in targets if bool(pair(model, one)[1].any())]
    deepest = max((one.layer for one in trained), default=None)
    still = [
        one.module
        for one in targets
        if one not in trained and (deepest is None or one.layer <= deepest)
    ]
    if still:
        raise CheckFailedError(
            f"{len(still)} of {len(targets)} adapters did not move in training, {still[0]} among"
            " them: no gradient reached them",
            "train without --gradient-checkpointing, or leave them out of --lora-targets",
        )
    return trained


def save(model: Any, targets: Sequence[Projection], lora: Lora, directory: Path) -> None:
    """Write the adapter in float32 as peft would, and nothing else.

    The directory is made if need be.
    """
    from mpu_cli.client.adapters import write_adapter

    config = AdapterConfig(
        lora.rank,
        lora.scaling,
        tuple(sorted(one.module for one in targets)),
        fan_in_fan_out=targets[0].output_axis == 1,
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_adapter(directory, config, {one.module: pair(model, one) for one in targets}, "float32")
