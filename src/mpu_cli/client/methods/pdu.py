"""PDU: flatten the logits of forget tokens under a bound on the retain loss, whose weight adapts (primal–dual)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.modeling import processes
from mpu_cli.modeling.logprobs import batch_mean, batch_nll, labelled_predictions


@method(
    name="PDU",
    paper="https://arxiv.org/abs/2506.05314",
    formula=(
        "gamma * token mean of (max z - mean z)^2 + lambda (token-mean NLL(retain) - epsilon); from"
        " the warm-up on, after each forward pass (or epoch), lambda <- max(0, lambda + dual_step"
        " (NLL(retain) - epsilon))"
    ),
    inputs={"retain"},
    bounds={
        "epsilon": ">= 0",
        "lambda_start": ">= 0",
        "dual_step": ">= 0",
        "warmup_epochs": ">= 0",
    },
    sources={
        "epsilon": (
            "no default: the authors choose it above the retain loss of the model before unlearning"
            " (0.3 on TOFU)"
        ),
        "gamma": "the authors' community/methods/PDU/run.sh in open-unlearning",
        "lambda_start": (
            "the authors' community/methods/PDU/run.sh in open-unlearning, TOFU: pref (50 on MUSE)"
        ),
        "dual_step": (
            "the authors' community/methods/PDU/run.sh in open-unlearning, TOFU (1 on MUSE)"
        ),
        "warmup_epochs": (
            "the authors' community/methods/PDU/run.sh in open-unlearning, TOFU (3 on MUSE)"
        ),
        "dual_update": "the authors' community/methods/PDU/run.sh in open-unlearning",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "epochs": 10,
        "batch_size": 32,
        "gradient_accumulation": 4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
    },
    recommended_by="the authors' community/methods/PDU/run.sh in open-unlearning, TOFU, eight GPUs",
)
class Pdu:
    """γ · token mean of (max_v z_v − mean_v z_v)² + λ (L_retain − ε), a scalar.

    Entesari et al. 2506.05314; λ is the dual variable. The forget term counts labelled tokens. `epsilon`, in nats per
    token, is the retain NLL that may not be exceeded. λ moves after every forward pass in training,
    as in the authors' scripts (with gradient accumulation several times a step), or with
    `dual_update=epoch` once an epoch, by L_retain as the epoch's own batches saw it: no second pass
    over the retain set is made, as the authors' code makes one. The forget term is a square of
    logits, of the order of a hundred, which is why λ starts so high. λ is computed in each copy by
    itself, from losses that differ by the copies' noise; several processes share one λ, where the
    authors' each have their own.

    Satisfies `training.stateful.StatefulLoss`.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        gamma: float = 1.0,
        lambda_start: float = 100.0,
        dual_step: float = 5.0,
        warmup_epochs: int = 5,
        dual_update: Literal["step", "epoch"] = "step",
    ) -> None:
        """λ starts at `lambda_start` and first moves when `warmup_epochs` epochs are over (by the epoch: at their end)."""
        self._epsilon, self._gamma, self._dual_step, self._warmup_epochs = (
            epsilon,
            gamma,
            dual_step,
            warmup_epochs,
        )
        self._by_step = dual_update == "step"
        self._dual, self._epochs, self._nll, self._tokens = lambda_start, 0, 0.0, 0

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """The loss of one batch, under λ as it was before.

        In training mode λ or the epoch's sums then follow its retain NLL.
        """
        logits, targets = labelled_predictions(model, batch["forget"])
        margin = logits.amax(dim=-1) - logits.mean(dim=-1)
        nll, tokens = batch_nll(model, batch["retain"])
        retain = batch_mean(nll.sum(), tokens.sum())
        loss = self._gamma * batch_mean((margin * margin).sum(), len(targets)) + self._dual * (
            retain - self._epsilon
        )
        if torch.is_grad_enabled() and model.training:
            self._nll += nll.detach().double().sum().item()
            self._tokens += int(tokens.sum())
            if self._by_step:
                self._ascend()
        return loss

    def end_epoch(self) -> None:
        """Count the epoch; where λ moves by the epoch, move it."""
        self._epochs += 1
        if not self._by_step:
            self._ascend()

    def _ascend(self) -> None:
        """Dual ascent by the retain NLL seen since the last one, over all processes."""
        seen = processes.gather((self._nll, self._tokens))
        nll, tokens = sum(nll for nll, _ in seen), sum(tokens for _, tokens in seen)
        self._nll, self._tokens = 0.0, 0
        if self._epochs >= self._warmup_epochs and tokens:
            self._dual = max(0.0, self._dual + self._dual_step * (nll / tokens - self._epsilon))

    def state_dict(self) -> dict[str, float]:
        """λ, the epochs that are over, and what this process has seen of the current one."""
        return {
            "lambda": self._dual,
            "epochs": self._epochs,
            "nll": self._nll,
            "tokens": self._tokens,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go back to such a state."""
        self._dual, self._epochs = state["lambda"], int(state["epochs"])
        self._nll, self._tokens = state["nll"], int(state["tokens"])
