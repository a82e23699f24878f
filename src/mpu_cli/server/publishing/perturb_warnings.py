"""What `mpu perturb` warns of, and what it advises, once a draw is written."""

from __future__ import annotations

from collections.abc import Mapping

from mpu_cli.documentation import page
from mpu_cli.server.publishing.advice import advice, equal_alphas, sent_layers
from mpu_cli.server.publishing.plan import ROUNDING_SHARE, Plan, rounding_share
from mpu_cli.server.transforms.choice import is_rotation

_KAPPA_WITHOUT_BASE = 0.02
_LARGE_NORMS = 100.0
_RECOVERABLE = 0.5
_RESIDUAL = 5e-4
"""Of the weights. Copies in bfloat16 leave 1.2e-3 (two copies), 9.8e-4 (three) or 7.5e-4 (five).

Copies in float16 leave 1.5e-4, in float32 2e-8.
"""


def plan_warnings(plan: Plan) -> list[str]:
    """What the settings do that the user may not want."""
    settings, copies, groups = plan.settings, plan.copies, plan.statistics.groups
    by_weights = plan.offset.relative_to == "weights"
    lines = []
    if plan.cut is not None:
        lines.append(
            "--upto hides weights, not what the model knows: in most cuts that were measured, the"
            " base's layers in place of those that are not sent already gave back .64 to .98 of"
            " what sets the model apart from its base, and training them gave back more"
            f" ({page('threat-model')})"
        )
    if by_weights and settings.kappa > _KAPPA_WITHOUT_BASE:
        lines.append(
            f"noise of {settings.kappa:g} of the weights ruins a real model (on SmolLM2-135M 0.1"
            " raises the loss from 3.3 to 4.4–11); give --base, or a --kappa of 0.01 or less, and"
            " check the copies with --probe"
        )
    sent = copies.draw.sigma
    large = [
        group
        for group, size in groups.items()
        if group in sent and size.vector_rms > _LARGE_NORMS * size.rms
    ]
    if by_weights and settings.kappa and large:
        lines.append(
            f"norms and biases are more than {_LARGE_NORMS:g} times larger than the matrices in"
            f" {_some(large)}: noise of {settings.kappa:g} of the matrices leaves them nearly"
            " exact; with --base the noise is measured by what fine-tuning changed"
        )
    if plan.equal_to_base:
        lines.append(f"equal to the base, so they get no noise: {', '.join(plan.equal_to_base)}")
    share = (
        rounding_share(plan.statistics, copies.draw, copies.dtype)
        if copies.dtype != "float32"
        else 0.0
    )
    if share >= ROUNDING_SHARE:
        lines.append(
            f"--dtype {copies.dtype} rounds away {share:.0%} of the noise: the noise neither hides"
            " the model nor cancels as asked; --dtype auto would publish float32"
        )
    if plan.without_offset:
        lines.append(
            f"no offset in {', '.join(plan.without_offset)}: the model equalled its base there when"
            " the offset was frozen, so a holder of all copies knows every change made since"
        )
    return lines


def noise_warnings(plan: Plan, report: Mapping[str, float]) -> list[str]:
    """What rounding did to the noise; `report` is `NoiseStatistics.report`'s."""
    lines = []
    if report["recoverable"] > _RECOVERABLE:
        lines.append(
            f"{report['recoverable']:.0%} of the entries with noise can be recovered exactly by"
            " rounding a copy to the model's own number grid: this noise is too small to hide them;"
            " raise --kappa or --offset"
        )
    copies = plan.copies
    # With --dtype auto the dtype was chosen so that the noise cancels.
    asked = plan.settings.dtype != "auto"
    if asked and copies.size > 1 and report["residual"] >= _RESIDUAL:
        lines.append(
            f"stored as {copies.dtype}, the copies' noise cancels only to"
            f" {report['residual']:.1e} of the weights: rounding adds an error of first order to"
            " the update that denoising cannot remove; give --dtype float32"
        )
    return lines


def settings_advice(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Advice to print, and advice for readers who ask for more (-v)."""
    settings, draw, cut = plan.settings, plan.copies.draw, plan.cut
    shown = advice(
        settings.denoising,
        settings.kappa,
        draw.coefficients,
        plan.offset_everywhere,
        split=settings.split,
        sent="the model" if cut is None else f"{sent_layers(cut.layers, cut.of)} of the model",
    )
    alphas = equal_alphas(
        settings.denoising, settings.kappa, draw.coefficients, split=settings.split
    )
    if settings.alphas is not None:
        shown += alphas
    if is_rotation(settings.reparam):
        shown += (
            "under AdamW the rotation changes the aggregated update by 16–30 % of its norm (not"
            " under SGD or Muon); --reparam signed-permutation does not",
        )
    if settings.train_embeddings:
        shown += (
            "this handoff lets the client train the embeddings, if the client asks for it too: the"
            " rows that change will tell you the tokens of the forget set",
        )
    return shown, () if settings.alphas is not None else alphas


def _some(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} in all)"
