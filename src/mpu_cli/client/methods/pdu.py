"""PDU: flatten forget tokens' logits under a bound on the retain loss, whose weight adapts."""

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
    """γ · token mean of (max_v z_v − mean_v z_v)² + λ (L_retain − ε), a scalar; λ is the dual.

    Entesari et al. 2506.05314. The forget term counts labelled tokens; it is a square of logits, of
    the order of a hundred, so λ starts high. `epsilon` is the largest acceptable retain NLL, in
    nats per token. λ moves after every forward pass in training, as in the authors' scripts
    (several times a step with gradient accumulation), or with `dual_update=epoch` once an epoch, by
    the mean L_retain of the epoch's own batches; the authors' code makes a second pass over the
    retain set. Each copy computes its own λ, from losses that differ by the copies' noise. Several
    processes share one λ; in the authors' code each has its own.

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
        """λ starts at `lambda_start` and stays there for `warmup_epochs` epochs."""
        self._epsilon, self._gamma, self._dual_step, self._warmup_epochs = (
            epsilon,
            gamma,
            dual_step,
            warmup_epochs,
        )
        self._by_step = dual_update == "step"
        self._dual, self._epochs, self._nll, self._tokens = lambda_start, 0, 0.0, 0

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """The loss of one batch; in training, its retain NLL then updates λ or the epoch's sums."""
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
        """Count the epoch, and update λ if that happens once an epoch."""
        self._epochs += 1
        if not self._by_step:
            self._ascend()

    def _ascend(self) -> None:
        """Dual ascent by the retain NLL of all processes since the last ascent."""
        sums = processes.gather((self._nll, self._tokens))
        nll, tokens = sum(nll for nll, _ in sums), sum(tokens for _, tokens in sums)
        self._nll, self._tokens = 0.0, 0
        if self._epochs >= self._warmup_epochs and tokens:
            self._dual = max(0.0, self._dual + self._dual_step * (nll / tokens - self._epsilon))

    def state_dict(self) -> dict[str, float]:
        """λ, the number of finished epochs, and this process's sums over the current one."""
        return {
            "lambda": self._dual,
            "epochs": self._epochs,
            "nll": self._nll,
            "tokens": self._tokens,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore such a state."""
        self._dual, self._epochs = state["lambda"], int(state["epochs"])
        self._nll, self._tokens = state["nll"], int(state["tokens"])
