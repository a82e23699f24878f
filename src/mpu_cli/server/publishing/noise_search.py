"""`perturb --kappa auto --offset auto`: the largest noise whose copies lose little enough.

It is a bisection over noise sizes. A trial publishes one copy into a temporary directory, with the
noise of the worst copy of the draw and a secret of its own, and measures what it loses on the
probe. It is assumed that more noise loses more; where that does not hold, the size found fits the
budget all the same, but a larger one might too. Then the real copies are measured before they are
put in place: their noise is another draw, and if one of them loses too much, the next smaller size
is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.scratch import scratch_directory
from mpu_cli.checkpoint.staging import disk_errors, refuse_existing
from mpu_cli.errors import GateError
from mpu_cli.server.denoising import default_coefficients
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.second_lineage import places
from mpu_cli.server.publishing.copy_set import Progress
from mpu_cli.server.publishing.exposure_gate import TooMuchKnownError
from mpu_cli.server.publishing.lineage_gate import require_lineage
from mpu_cli.server.publishing.perturb import Probe, Target, perturb
from mpu_cli.server.publishing.plan import frozen_offset, noise_unit
from mpu_cli.server.publishing.result import PerturbResult
from mpu_cli.server.publishing.settings import LARGEST_TRIED, PerturbSettings
from mpu_cli.server.secrets.secret import SECRET_FILE, SystemEntropy

TRIALS = 8
"""Trials of one search, at most: 2^8 − 1 sizes."""
_SIZES = tuple(LARGEST_TRIED * 10 ** (-4 + 4 * step / 254) for step in range(255))
"""From .001 to 10, each 3.7 % larger than the one before."""
_TRIAL = ".mpu-trial"
_SMALLER = 4
"""How many sizes below the found one are tried on the real copies."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for."""

    kappa: bool
    """Whether κ is to be found; else the settings' one holds."""
    offset: bool
    """Whether c is to be found; with κ it is equal to κ."""
    budget: float
    """The most that a copy may lose, in nats per token."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One size of the noise, and what it lost."""

    kappa: float
    offset: float | None
    """None = the lineage's own."""
    lost: float
    """Loss of the copy that loses most, above the model's, in nats per token."""


class _TooMuchLostError(GateError):
    """A copy of the real draw loses more than the budget."""


def perturb_within_budget(
    model: Located,
    base: Located | None,
    target: Target,
    settings: PerturbSettings,
    search: Search,
    probe: Probe,
    *,
    entropy: SystemEntropy | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[PerturbResult, tuple[Trial, ...]]:
    """Publish one draw with the largest noise that fits the budget.

    Returns:
        The result, and all trials in order.

    Raises:
        GateError: the smallest noise loses more than the budget; nothing is written.
        MpuError: see `perturb`; what it refuses about the lineage is refused before the trials.
    """
    refuse_existing(target.handoff, force=target.force)
    named = (target.secret, target.handoff, model.path, *target.named_secrets)
    near = frozenset() if target.new_lineage else places(*named)
    require_lineage(model, base, target.secret, near, fork=settings.fork)
    settings, search, in_trials = _settled(
        settings, search, target.secret, has_base=base is not None
    )
    trials: list[Trial] = []

    def tried(index: int) -> bool:
        progress("search", len(trials), TRIALS)
        sized = _sized(in_trials, search, index)
        trials.append(_trial(model, base, target.handoff, sized, probe))
        return trials[-1].lost <= search.budget

    found = _largest(tried) if search.kappa or search.offset else 0
    if found is None:
        raise GateError(
            f"--budget {search.budget:g}: the smallest noise that is tried, {_SIZES[0]:g}, already"
            f" loses {trials[-1].lost:.3g} nats per token",
            "give a larger --budget, or --kappa and --offset as numbers",
        )
    lowest = max(0, found - _SMALLER)
    for index in range(found, lowest - 1, -1):
        sized = _sized(settings, search, index)
        lost: list[float] = []
        guarded = _guarded(probe, search.budget, lost)
        try:
            result = perturb(
                model, base, target, sized, probe=guarded, entropy=entropy, progress=progress
            )
        except _TooMuchLostError:
            trials.append(Trial(sized.kappa, sized.offset, lost[-1]))
            if index == lowest or not (search.kappa or search.offset):
                raise
            continue
        except TooMuchKnownError as refused:
            raise GateError(refused.message, _remedy(refused, search)) from None
        return result, tuple(trials)
    raise AssertionError("unreachable")


def _remedy(refused: TooMuchKnownError, search: Search) -> str | None:
    """What lets a client know less: noise that was searched for grows with the budget alone."""
    if not (search.offset or (search.kappa and refused.more_noise_helps)):
        return refused.hint
    flags = [f"--{name} auto" for name in ("kappa", "offset") if getattr(search, name)]
    takes = "take" if len(flags) > 1 else "takes"
    return (
        f"give a larger --budget: {' and '.join(flags)} {takes} the largest noise that fits it;"
        " nothing was written"
    )


def _settled(
    settings: PerturbSettings, search: Search, secret: Path, *, has_base: bool
) -> tuple[PerturbSettings, Search, PerturbSettings]:
    """Where a lineage has frozen its offset and unit, what is left to search for.

    Returns:
        The settings, the search, and the settings of a trial, which has a lineage of its own.
    """
    if not (secret / SECRET_FILE).exists():
        return settings, search, settings
    content = Lineage.read(secret).secret
    if search.offset:
        settings, search = replace(settings, offset=None), replace(search, offset=False)
    unit: Any = noise_unit(settings, content, has_base=has_base)
    frozen = frozen_offset(settings, content, {}, unit)  # refuse now what perturb would refuse
    return settings, search, replace(settings, offset=frozen.ratio, noise_relative_to=unit)


def _sized(settings: PerturbSettings, search: Search, index: int) -> PerturbSettings:
    size = float(f"{_SIZES[index]:.3g}")
    return replace(
        settings,
        kappa=size if search.kappa else settings.kappa,
        offset=size if search.offset else settings.offset,
    )


def _largest(fits: Callable[[int], bool]) -> int | None:
    """The largest index of `_SIZES` that fits, by bisection; None if not even the first does."""
    low, high = -1, len(_SIZES) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return None if low < 0 else low


def _trial(
    model: Located, base: Located | None, handoff: Path, settings: PerturbSettings, probe: Probe
) -> Trial:
    """Publish one copy with the noise of the worst one into a temporary directory; measure it."""
    coefficients = settings.given or default_coefficients(settings.denoising, settings.copies)
    one = replace(
        settings,
        copies=1,
        denoising="harmonic",
        alphas=(max(map(abs, coefficients)),),
        nodes=None,
        split=False,
        check="none",
        max_exposure=None,
    )
    near = next(folder for folder in handoff.absolute().parents if folder.is_dir())
    with (
        disk_errors(handoff),
        scratch_directory(near, handoff.name, _TRIAL) as place,
    ):
        target = Target(place / "handoff", place / "secret", new_lineage=True, is_trial=True)
        losses = perturb(model, base, target, one, probe=probe).probe
    return Trial(settings.kappa, settings.offset, _most_lost(losses))


def _most_lost(losses: Mapping[str, float]) -> float:
    """What the worst copy loses, in nats per token."""
    return max(loss for name, loss in losses.items() if name != "model") - losses["model"]


def _guarded(probe: Probe, budget: float, measured: list[float]) -> Probe:
    """The probe, which refuses copies that lose more than the budget."""

    def check(model: Path, copies: Sequence[Path]) -> Mapping[str, float]:
        losses = probe(model, copies)
        measured.append(_most_lost(losses))
        if not measured[-1] <= budget:
            raise _TooMuchLostError(
                f"--budget {budget:g}: a copy of this draw loses {measured[-1]:.3g} nats per token",
                "give a larger --budget or a smaller --kappa or --offset; nothing was written",
            )
        return losses

    return check
