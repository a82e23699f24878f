"""PDU: flatten the logits of forget tokens under a bound on the retain loss, whose weight adapts (primal–dual)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.training import distributed
from mpu_cli.training.logprobs import batch_mean, batch_nll, labelled_predictions


@method(
    name="PDU",
    paper="https://arxiv.org/abs/2506.05314",
    formula="gamma * token mean of (max z - mean z)^2 + lambda (token-mean NLL(retain) - epsilon); after each epoch from "
    "the warm-up on, lambda <- max(0, lambda + dual_step (NLL(retain) - epsilon))",
    needs={"retain"},
    bounds={"epsilon": ">= 0", "lambda_start": ">= 0", "dual_step": ">= 0", "warmup_epochs": ">= 0"},
)
class Pdu:
    """γ · token mean of (max_v z_v − mean_v z_v)² + λ (L_retain − ε), a scalar; λ is the dual variable.

    Entesari et al. 2506.05314. The forget term counts labelled tokens; the authors' code averages over prompt and
    padding too. `epsilon`, in nats per token, is the retain NLL that may not be exceeded and has no default. λ moves
    once an epoch, by L_retain as the epoch's own batches saw it: no second pass over the retain set is made, as the
    authors' code makes one. λ is computed in each copy by itself, from losses that differ by the copies' noise.

    Satisfies `training.stateful.StatefulLoss`.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        gamma: float = 1.0,
        lambda_start: float = 1.0,
        dual_step: float = 1.0,
        warmup_epochs: int = 5,
    ) -> None:
        """λ starts at `lambda_start` and first moves at the end of epoch `warmup_epochs` (of the first, if 0)."""
        self._epsilon, self._gamma, self._dual_step, self._warmup_epochs = epsilon, gamma, dual_step, warmup_epochs
        self._dual, self._epochs, self._nll, self._tokens = lambda_start, 0, 0.0, 0

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """The loss of one batch; in training mode its retain NLL counts into the epoch."""
        logits, targets = labelled_predictions(model, batch["forget"])
        margin = logits.amax(dim=-1) - logits.mean(dim=-1)
        nll, tokens = batch_nll(model, batch["retain"])
        if torch.is_grad_enabled() and model.training:
            self._nll += nll.detach().double().sum().item()
            self._tokens += int(tokens.sum())
        retain = batch_mean(nll.sum(), tokens.sum())
        return self._gamma * batch_mean((margin * margin).sum(), len(targets)) + self._dual * (retain - self._epsilon)

    def end_epoch(self) -> None:
        """Dual ascent by the epoch's retain NLL, over all processes."""
        seen = distributed.gather((self._nll, self._tokens))
        nll, tokens = sum(nll for nll, _ in seen), sum(tokens for _, tokens in seen)
        self._epochs, self._nll, self._tokens = self._epochs + 1, 0.0, 0
        if self._epochs >= self._warmup_epochs and tokens:
            self._dual = max(0.0, self._dual + self._dual_step * (nll / tokens - self._epsilon))

    def state_dict(self) -> dict[str, float]:
        """λ, the epochs that are over, and what this process has seen of the current one."""
        return {"lambda": self._dual, "epochs": self._epochs, "nll": self._nll, "tokens": self._tokens}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go back to such a state."""
        self._dual, self._epochs = state["lambda"], int(state["epochs"])
        self._nll, self._tokens = state["nll"], int(state["tokens"])
