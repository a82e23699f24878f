"""At most how much a holder of given copies is left not knowing, as a share of what the noise is measured by.

Before any copy comes, a holder of the base lacks the whole task vector: 1, the *prior*. Noise of
size s then leaves the best linear estimate s/√(1 + s²), never more than the prior: independent
pieces of knowledge add as precisions (1/variance), and the prior is one of them. The copies of a
draw, draws, rounds and holders are combined first; the frozen offset is the same in all of them and
is added to their noise; the prior comes last.

Conditions: the holder undoes T against the public base, finds every scalar of the draw (both were
measured to be possible), and the model stands still over the rounds (a client knows what its own
updates changed). "At most", because a task vector with structure leaves less: few large singular
values, sizes that differ between tensors, a coarse number grid. `benchmarks/exposure.py` measures
it. Where the unit is the weights and there is a base, the prior of every group is another one and
each is combined by itself: what one prior of all of them together would leave is more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, hypot, inf, sqrt

from mpu_cli.server.denoising import error_order
from mpu_cli.server.lineage.records import HandoffRecord

_MOST_COALITIONS = 1000
"""Groups of k holders that are tried; numbers k with more groups than this are left out."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What a holder lacks before it gets a copy, in the unit of the noise.

    By group, with the group's share of that unit's square.
    """

    shares: Mapping[str, float]
    sizes: Mapping[str, float]

    @classmethod
    def of_all(cls, size: float) -> Prior:
        """The same for everything."""
        return cls({"": 1.0}, {"": size})

    @property
    def size(self) -> float:
        """Of all groups together."""
        return self.left(inf)

    def left(self, noise: float) -> float:
        """What the best linear estimate leaves of all groups, each seen through noise of this size."""
        return hypot(
            *(sqrt(share) * left(noise, self.sizes[group]) for group, share in self.shares.items())
        )


WHOLE = Prior.of_all(1.0)
"""All of the unit: the task vector, or the weights where no base is known."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One draw: what is left with no copy (the prior), one copy (the best-known), all.

    `order`: of the update's error.
    """

    no_copy: float
    one_copy: float
    all_copies: float
    order: int

    def content(self) -> dict[str, float]:
        """As stored in a handoff record.

        Records made before 2026-11-29 have no `no_copy`, and larger numbers.
        """
        return {
            "no_copy": self.no_copy,
            "one_copy": self.one_copy,
            "all_copies": self.all_copies,
            "order": float(self.order),
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """What holders are left not knowing, each with everything that it holds of one lineage."""

    by_holder: Mapping[str, float]
    coalitions: tuple[tuple[int, float], ...]
    """(k, what is left to those k holders who know most when they pool).

    Empty for a single holder.
    """
    all_together: float
    """Left to all holders of the lineage together."""
    handoffs: int
    """Handoffs that these holders have, or may have."""
    prepared: int
    """Those of the lineage whose writing was interrupted.

    They may or may not have left, and are counted.
    """

    def content(self) -> dict[str, object]:
        """As printed with --json."""
        return {
            "by_holder": dict(self.by_holder),
            "coalitions": {str(size): left for size, left in self.coalitions},
            "all_together": self.all_together,
            "handoffs": self.handoffs,
            "prepared": self.prepared,
        }


def left(noise: float, prior: float = 1.0) -> float:
    """What the best linear estimate leaves of a `prior` that was seen through noise of size `noise` (inf: not seen)."""
    return prior / hypot(1.0, prior / noise) if noise and prior else 0.0


def exposure(
    denoising: str, kappa: float, coefficients: Sequence[float], offset: float, prior: Prior = WHOLE
) -> Exposure:
    """The exposure of one draw whose copies have these α or nodes."""
    size = len(coefficients)
    best = min(coefficients, key=abs)
    one, everything = (
        hypot(draw_noise(denoising, kappa, held, size), offset) for held in ([best], coefficients)
    )
    return Exposure(
        prior.size,
        prior.left(one),
        prior.left(everything),
        error_order(denoising, size, offset=offset > 0),
    )


def exposure_of(records: Sequence[HandoffRecord]) -> Exposure:
    """The exposure of the draw that these records describe together, from its settings (never the stored number)."""
    first = records[0]
    return exposure(first.denoising, first.kappa, _held(records), first.offset, prior(records))


def draw_noise(denoising: str, kappa: float, held: Sequence[float], size: int) -> float:
    """Noise of the best unbiased combination of some copies of a draw of `size`, given their α or nodes; no offset."""
    least = min(abs(value) for value in held)
    if not kappa or (len(held) > 1 and (denoising == "extrapolation" or len(held) == size)):
        return 0.0  # the noise sums to zero, or two points determine the line
    if len(held) == 1:
        return kappa * least
    # ε_k have correlation −1/(m−1); the inverse of that matrix's corner is (m−1)/m (1 + 11ᵀ/(m −
    # held)).
    shares = [least / value for value in held]
    precision = (
        (size - 1)
        / size
        * (sum(share**2 for share in shares) + sum(shares) ** 2 / (size - len(held)))
    )
    return kappa * least / sqrt(precision)


def noise_of(records: Iterable[HandoffRecord]) -> float:
    """Size of the noise that is left when all copies of these handoffs of one lineage are pooled.

    Inf without any.
    """
    records = list(records)
    if len({record.scope for record in records}) > 1:
        return (
            0.0  # an earlier mpu allowed it: what one round gave noise to, another gave out exactly
        )
    by_draw: dict[str, list[HandoffRecord]] = {}
    for record in records:
        by_draw.setdefault(record.draw, []).append(record)
    draws = [
        draw_noise(mine[0].denoising, mine[0].kappa, _held(mine), mine[0].size)
        for mine in by_draw.values()
    ]
    # A round that has a layer without an offset counts as one without: that layer is then known
    # from it.
    offset = min((mine[0].offset for mine in by_draw.values()), default=0.0)
    return hypot(pooled(draws), offset)


def _held(records: Iterable[HandoffRecord]) -> list[float]:
    return [copy.coefficient for record in records for copy in record.copies]


def pooled(noises: Iterable[float]) -> float:
    """Noise of the best combination of independent estimates: their precisions add."""
    noises = list(noises)
    return 0.0 if 0.0 in noises else 1 / hypot(*(1 / noise for noise in noises)) if noises else inf


def prior(records: Iterable[HandoffRecord]) -> Prior:
    """What a holder lacks before it gets a copy.

    Below 1 only for noise measured by the weights of a model with a known base.
    """
    return least(map(_prior, records))


def least(priors: Iterable[Prior]) -> Prior:
    """The smallest of them; of equal ones the one that knows more groups, which never leaves more."""
    return min(priors, key=lambda one: (float(f"{one.size:.6g}"), -len(one.shares)), default=WHOLE)


def _prior(record: HandoffRecord) -> Prior:
    if record.prior_shares:
        return Prior(record.prior_shares, record.prior_sizes)
    return Prior.of_all(
        record.exposure.get("no_copy", 1.0)
    )  # a record of an earlier mpu does not have the groups


def ledger(records: Collection[HandoffRecord], holders: Collection[str] | None = None) -> Ledger:
    """What holders (default: all) are left not knowing, from all records of a lineage, those that are `prepared` too."""
    start = prior(records)
    held: dict[str, list[HandoffRecord]] = {}
    for record in records:
        held.setdefault(record.holder, []).append(record)
    chosen = {name: held[name] for name in held if holders is None or name in holders}
    return Ledger(
        by_holder={name: start.left(noise_of(mine)) for name, mine in chosen.items()},
        coalitions=_coalitions(list(chosen.values()), start),
        all_together=start.left(noise_of(records)),
        handoffs=sum(map(len, chosen.values())),
        prepared=sum(record.state == "prepared" for record in records),
    )


def _coalitions(
    holdings: Sequence[Sequence[HandoffRecord]], start: Prior
) -> tuple[tuple[int, float], ...]:
    count = len(holdings)
    return tuple(
        (
            size,
            start.left(
                min(
                    noise_of([one for mine in group for one in mine])
                    for group in combinations(holdings, size)
                )
            ),
        )
        for size in range(1, count + 1)
        if count > 1 and comb(count, size) <= _MOST_COALITIONS
    )
