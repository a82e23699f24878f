"""Decide one draw from settings and weight statistics: σ, offset, coefficients and dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpu_cli.architectures.cut import ModelCut
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.checkpoint.header import NAMES, STORED_NAMES
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadModelError, GateError, UsageError
from mpu_cli.server.denoising import default_coefficients
from mpu_cli.server.lineage.curve import LEVEL
from mpu_cli.server.lineage.exposure import WHOLE, Exposure, Prior, exposure, least, prior
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.part import part_of
from mpu_cli.server.publishing.copy_set import CopySet
from mpu_cli.server.publishing.noise import NoiseDraw, dealt
from mpu_cli.server.publishing.number_grid import grid_curve
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.publishing.task_structure import structure_curve
from mpu_cli.server.publishing.weight_statistics import WeightStatistics
from mpu_cli.server.secrets.secret import Offset, Secret, SystemEntropy
from mpu_cli.server.transforms import load

ROUNDING_SHARE = 0.1
"""`--dtype auto` keeps a dtype only if its rounding is less than this share of the noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One draw, ready to be written."""

    settings: PerturbSettings
    statistics: WeightStatistics
    copies: CopySet
    offset: Offset
    equal_to_base: tuple[str, ...]
    """Groups that equal the base: they get no noise."""
    without_offset: tuple[str, ...]
    """Groups that get noise now and no offset: they equalled the base when it was frozen."""
    prior: Prior
    """What a holder lacks before the first copy, in the unit of κ."""
    cut: ModelCut | None = None
    """None if the copies are whole models."""

    @property
    def offset_everywhere(self) -> float:
        """c, or 0 if a group with noise has no offset."""
        return 0.0 if self.without_offset else self.offset.ratio

    def exposure(self, positions: Sequence[int]) -> Exposure:
        """The exposure of the copies at these positions; `all_copies` is the whole draw's."""
        draw, kappa, offset = self.copies.draw, self.settings.kappa, self.offset_everywhere
        sent = draw.sigma.keys() if self.cut else None
        whole = exposure(draw.denoising, kappa, draw.coefficients, offset, self.prior, sent)
        held = [draw.coefficients[position] for position in positions]
        part = exposure(draw.denoising, kappa, held, offset, self.prior, sent)
        bounds = {**whole.bounds, "one_copy": part.bounds["one_copy"]}
        return replace(whole, one_copy=part.one_copy, bounds=bounds)


def make_plan(
    settings: PerturbSettings,
    model: Checkpoint,
    base: Checkpoint | None,
    layout: ModelLayout,
    transforms: tuple[str, ...],
    statistics: WeightStatistics,
    lineage: Lineage | None,
    entropy: SystemEntropy,
    cut: ModelCut | None = None,
) -> Plan:
    """Decide one draw of `model`; `lineage` is None if this draw begins one.

    `statistics` are of the whole model, also where `cut` says that only lower layers are sent: the
    offset of a new lineage is frozen for all layers.

    Raises:
        MpuError: see `noise_unit`, `reference_sizes` and `frozen_offset`.
    """
    secret = lineage.secret if lineage else None
    unit = noise_unit(settings, secret, has_base=statistics.base_digest is not None)
    every = reference_sizes(statistics, unit)
    offset = frozen_offset(settings, secret, every, unit)
    sent = (cut.layout if cut else layout).groups(settings.scope)
    sizes = {group: size for group, size in every.items() if group in sent}
    master = secret.master if secret else entropy.master()
    draw_id = entropy.new_id()
    draw = NoiseDraw(
        master=master,
        id=draw_id,
        denoising=settings.denoising,
        coefficients=settings.given
        or dealt(master, draw_id, default_coefficients(settings.denoising, settings.copies)),
        sigma={group: settings.kappa * size for group, size in sizes.items()},
        offset_scale=offset.scale,
    )
    dtype: str = settings.dtype
    if dtype == "auto":
        exact = all(load(name).EXACT for name in transforms)
        dtype = _smallest_dtype(model.float_dtypes, statistics, draw, exact=exact)
    return Plan(
        settings,
        statistics,
        CopySet(
            part_of(model, cut),
            cut.layout if cut else layout,
            settings.scope,
            transforms,
            draw,
            dtype,
            settings.max_shard_bytes,
            {name: model.tensors[name] for name in cut.stand_ins} if cut else {},
        ),
        offset,
        equal_to_base=tuple(group for group, size in sizes.items() if size == 0),
        without_offset=tuple(
            group
            for group, size in sizes.items()
            if offset.ratio and size and not offset.scale.get(group)
        ),
        prior=least(
            [
                replace(
                    draw_prior(statistics, unit, by_group=cut is not None),
                    structure=structure_curve(model, base, layout, statistics, sizes)
                    if base
                    else LEVEL,
                    grid=grid_curve(model, base, layout, sizes),
                ),
                prior(lineage.handoffs.values() if lineage else ()),
            ]
        ),
        cut=cut,
    )


def noise_unit(settings: PerturbSettings, secret: Secret | None, *, has_base: bool) -> str:
    """What σ is measured by: task-vector or weights.

    A lineage keeps the unit of its first perturb, because only then can its rounds be pooled.

    Raises:
        UsageError: the task vector is the unit, and there is no base.
        GateError: the user asks for another unit than the lineage's.
    """
    asked: str | None = settings.noise_relative_to
    if secret is not None:
        if asked not in {None, secret.offset.relative_to}:
            raise GateError(
                f"--noise-relative-to {asked}: this lineage measures its noise by the"
                f" {secret.offset.relative_to}",
                "leave --noise-relative-to out",
            )
        asked = secret.offset.relative_to
    if asked == "task-vector" and not has_base:
        raise UsageError(
            "noise relative to the task vector needs --base",
            "give the model that this one was fine-tuned from",
        )
    return asked or ("task-vector" if has_base else "weights")


def reference_sizes(statistics: WeightStatistics, unit: str) -> dict[str, float]:
    """RMS(θ_ℓ − base_ℓ) or RMS(θ_ℓ) by group.

    Raises:
        BadModelError: every group equals the base, so there is nothing to hide.
    """
    sizes = {
        group: size.task_rms if unit == "task-vector" else size.rms
        for group, size in statistics.groups.items()
    }
    known = statistics.base_digest is not None
    if not any(size.task_rms if known else size.rms for size in statistics.groups.values()):
        raise BadModelError(
            "the model equals its base in every layer: there is nothing to hide and no noise to"
            " measure by",
            "give the fine-tuned model as MODEL and the public one as --base",
        )
    return sizes


def frozen_offset(
    settings: PerturbSettings, secret: Secret | None, sizes: Mapping[str, float], unit: str
) -> Offset:
    """The lineage's offset; a new lineage freezes it now, and the scope with it.

    Raises:
        GateError: the user asks for another offset or another scope than the frozen one.
    """
    if secret is None:
        ratio = settings.offset or 0.0
        scale = {group: ratio * size for group, size in sizes.items()} if ratio else {}
        return Offset(ratio, unit, settings.scope, scale)
    if settings.offset is not None and settings.offset != secret.offset.ratio:
        raise GateError(
            f"--offset {settings.offset:g}: this lineage froze its offset at"
            f" {secret.offset.ratio:g}",
            "leave --offset out: two scales of one offset would reveal the model",
        )
    if settings.scope != secret.offset.scope:
        raise GateError(
            f"--scope {settings.scope}: this lineage began with --scope {secret.offset.scope}",
            f"give --scope {secret.offset.scope}: a tensor that gets noise in one round and none"
            " in another is known exactly",
        )
    return secret.offset


def draw_prior(statistics: WeightStatistics, unit: str, *, by_group: bool = False) -> Prior:
    """The task vector in the unit of κ, at most 1 in a group.

    It is 1 for the task vector, and for the weights of a model without a known base; with
    `by_group` the groups are still told apart then, as a cut needs it.
    """
    is_one = unit == "task-vector" or statistics.base_digest is None
    if is_one and not by_group:
        return WHOLE
    sizes = {
        group: size.task_rms if unit == "task-vector" else size.rms
        for group, size in statistics.groups.items()
    }
    squares = {g: statistics.groups[g].elements * size**2 for g, size in sizes.items() if size}
    total = sum(squares.values())
    return Prior(
        {group: square / total for group, square in squares.items()},
        {
            group: 1.0 if is_one else min(1.0, statistics.groups[group].task_rms / sizes[group])
            for group in squares
        },
    )


def _smallest_dtype(
    model_dtypes: frozenset[str], statistics: WeightStatistics, draw: NoiseDraw, *, exact: bool
) -> str:
    """The model's own dtype, or float32 where that would round away too much of the noise."""
    if len(model_dtypes) != 1 or not exact:
        # A copy has one dtype, and none of the model's dtypes holds all of its weights; or T itself
        # would be rounded.
        return "float32"
    own = NAMES[next(iter(model_dtypes))]
    if own != "float32" and rounding_share(statistics, draw, own) >= ROUNDING_SHARE:
        return "float32"
    return own


def rounding_share(statistics: WeightStatistics, draw: NoiseDraw, dtype: str) -> float:
    """RMS of the rounding to `dtype` over the RMS of the noise, in the worst group.

    It is 0 if there is no noise at all.
    """
    smallest = min(abs(value) for value in draw.coefficients)
    worst = 0.0
    for group, size in statistics.groups.items():
        if group not in draw.sigma:
            continue  # it is not sent
        noise = smallest * draw.sigma.get(group, 0.0) or draw.offset_scale.get(group, 0.0)
        if noise:
            worst = max(worst, size.rounding_rms(STORED_NAMES[dtype]) / noise)
    return worst
