"""Exposure: how much stays unknown to a holder of copies, at most, in the unit of the noise.

A holder of the base and no copy does not know the task vector: 1, the *prior*. Through noise of
size s, the best linear estimate leaves s/√(1 + s²), never more than the prior. Independent pieces
of knowledge add as precisions (1/variance), and the prior is one of them. So the copies of a draw,
draws, rounds and holders are combined first. The frozen offset is the same in all of them and is
added to their noise. The prior comes last.

Two more attacks leave less, and the smallest number is stated. *Singular values*: a task vector of
low rank, or whose size differs between tensors, lets a holder remove a part of the noise, so that
noise of size s is as good as smaller noise (`publishing.task_structure`). *Number grid*: what is
left is rounded to the numbers that the model's dtype has (`publishing.number_grid`). Both are
measured when a draw is made, on some layers and for every size of the noise, and are kept in its
record; records of an earlier mpu have neither.

Conditions: the holder undoes T with the public base and finds every scalar of the draw (both were
measured to be possible), and the model does not change over the rounds (a client knows what its own
updates changed). The numbers are upper bounds: a better attack may be found.
`benchmarks/exposure.py` compares them with attacks. If the unit is the weights and there is a base,
every group has a prior of its own and is combined by itself; one common prior would leave more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from math import comb, hypot, inf, sqrt

from mpu_cli.server.denoising import error_order
from mpu_cli.server.lineage.curve import LEVEL, Curve, lowest
from mpu_cli.server.lineage.records import HandoffRecord

_MOST_COALITIONS = 1000
"""Largest number of groups of k holders to try; a k with more groups is left out."""
LINEAR, SINGULAR_VALUES, NUMBER_GRID = "linear", "singular values", "number grid"
_DECIDES = 0.95
"""An attack is named where it removes at least 5 % of the noise."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What a holder does not know before the first copy, in the unit of the noise."""

    shares: Mapping[str, float]
    """Each group's share of the unit's square."""
    sizes: Mapping[str, float]
    """What the holder does not know of each group."""
    structure: Curve = LEVEL
    """The noise that is as good after shrinkage of singular values, as a share of the noise."""
    grid: Curve = LEVEL
    """What rounding leaves, as a share of what the linear estimate leaves."""

    @classmethod
    def of_all(cls, size: float) -> Prior:
        """One prior for all groups."""
        return cls({"": 1.0}, {"": size})

    @property
    def size(self) -> float:
        """The prior of all groups together."""
        return self.linear(inf)

    @property
    def is_known(self) -> bool:
        """Whether a base makes it smaller than all of the unit."""
        return (self.shares, self.sizes) != (WHOLE.shares, WHOLE.sizes)

    def of_groups(self, groups: Collection[str]) -> Prior:
        """The prior of some of its groups; their shares stay shares of the whole."""
        return replace(
            self,
            shares={name: share for name, share in self.shares.items() if name in groups},
            sizes={name: size for name, size in self.sizes.items() if name in groups},
        )

    def left(self, noise: float) -> float:
        """What the best known attack through noise of this size leaves of all groups."""
        noise *= self.structure.at(noise)
        return self.linear(noise) * self.grid.at(noise)

    def bound(self, noise: float) -> str:
        """The attack that decides what noise of this size leaves."""
        share = self.structure.at(noise)
        if self.grid.at(noise * share) < _DECIDES:
            return NUMBER_GRID
        return SINGULAR_VALUES if share < _DECIDES else LINEAR

    def linear(self, noise: float) -> float:
        """What the best linear estimate through noise of this size leaves of all groups."""
        return hypot(
            *(sqrt(share) * left(noise, self.sizes[group]) for group, share in self.shares.items())
        )


WHOLE = Prior.of_all(1.0)
"""The holder knows nothing of the task vector, or of the weights of a model without a base."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one draw leaves unknown, at most."""

    no_copy: float
    """The prior."""
    one_copy: float
    """To a holder of the best-known copy."""
    all_copies: float
    order: int
    """The power of the noise with which the update's error grows."""
    bounds: Mapping[str, str]
    """The attack that decides `one_copy` and `all_copies`: linear, singular values, number grid."""

    def content(self) -> dict[str, float]:
        """The exposure as a handoff record stores it.

        Records made before 2026-11-29 have no `no_copy`, and their numbers are larger.
        """
        return {
            "no_copy": self.no_copy,
            "one_copy": self.one_copy,
            "all_copies": self.all_copies,
            "order": float(self.order),
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """What stays unknown to holders, with everything that they hold of one lineage."""

    by_holder: Mapping[str, float]
    coalitions: tuple[tuple[int, float], ...]
    """(k, what stays unknown to the best-informed k holders together); empty for one holder."""
    all_together: float
    """What stays unknown to all holders of the lineage together."""
    handoffs: int
    """Handoffs that these holders have, or may have."""
    prepared: int
    """Interrupted handoffs of the lineage, which are counted: a holder may or may not have them."""
    bounds: Mapping[str, str]
    """The attack that decides a number: of a holder, of `k together` and of `all together`."""

    def content(self) -> dict[str, object]:
        """The ledger as --json prints it."""
        return {
            **asdict(self),
            "coalitions": {str(size): left for size, left in self.coalitions},
            "bounds": dict(self.bounds),
        }


def left(noise: float, prior: float = 1.0) -> float:
    """What the best linear estimate leaves of `prior` through `noise` (inf without a copy)."""
    return prior / hypot(1.0, prior / noise) if noise and prior else 0.0


def exposure(
    denoising: str,
    kappa: float,
    coefficients: Sequence[float],
    offset: float,
    prior: Prior = WHOLE,
    sent: Collection[str] | None = None,
) -> Exposure:
    """The exposure of one draw whose copies have these α or nodes.

    `sent` are the groups of a cut handoff; None if the copies are whole models.
    """
    size = len(coefficients)
    held = prior if sent is None else prior.of_groups(sent)
    withheld = 0.0 if sent is None else prior.of_groups(set(prior.shares) - set(sent)).size
    one_copy, all_copies = (
        hypot(draw_noise(denoising, kappa, copies, size), offset)
        for copies in ([min(coefficients, key=abs)], coefficients)
    )
    return Exposure(
        prior.size,
        hypot(held.left(one_copy), withheld),
        hypot(held.left(all_copies), withheld),
        error_order(denoising, size, offset=offset > 0),
        {"one_copy": held.bound(one_copy), "all_copies": held.bound(all_copies)},
    )


def exposure_of(records: Sequence[HandoffRecord]) -> Exposure:
    """The exposure of the draw of these records, from its settings, not from the stored numbers."""
    first = records[0]
    return exposure(
        first.denoising,
        first.kappa,
        _coefficients(records),
        first.offset,
        prior(records),
        first.sigma.keys() if first.layers else None,
    )


def draw_noise(denoising: str, kappa: float, coefficients: Sequence[float], size: int) -> float:
    """Noise, without the offset, of the best unbiased combination of some copies of one draw.

    Args:
        denoising: harmonic or extrapolation.
        kappa: κ.
        coefficients: α or nodes of the copies that are combined.
        size: m, the number of copies in the draw.
    """
    count, smallest = len(coefficients), min(abs(value) for value in coefficients)
    if not kappa or (count > 1 and (denoising == "extrapolation" or count == size)):
        return 0.0  # the noise sums to zero, or two points determine the line
    if count == 1:
        return kappa * smallest
    # ε_k have correlation −1/(m−1). The inverse of a corner of that matrix with n rows is
    # (m−1)/m (1 + 11ᵀ/(m − n)).
    shares = [smallest / value for value in coefficients]
    squares = sum(share**2 for share in shares) + sum(shares) ** 2 / (size - count)
    return kappa * smallest / sqrt((size - 1) / size * squares)


def noise_of(records: Iterable[HandoffRecord]) -> float:
    """Noise left when all copies of these handoffs of one lineage are pooled; inf without any."""
    records = list(records)
    if len({record.scope for record in records}) > 1:
        # An earlier mpu allowed it. One round published exactly what another gave noise to.
        return 0.0
    draws = list(_by(records, lambda record: record.draw).values())
    noises = [
        draw_noise(draw[0].denoising, draw[0].kappa, _coefficients(draw), draw[0].size)
        for draw in draws
    ]
    # A round with one layer without an offset counts as a round without: it reveals that layer.
    offset = min((draw[0].offset for draw in draws), default=0.0)
    return hypot(pooled(noises), offset)


def unknown(records: Collection[HandoffRecord], before: Prior) -> tuple[float, str]:
    """What stays unknown to who holds all copies of these handoffs, and the attack that decides.

    Each group of tensors is combined from the handoffs that sent it: a lineage may mix whole models
    and cuts of several depths. `before` is what the holder does not know without them.
    """
    if not any(record.layers for record in records):
        noise = noise_of(records)
        return before.left(noise), before.bound(noise)
    senders: dict[tuple[bool, ...], list[str]] = {}
    for group in before.shares:
        sent = tuple(not record.layers or group in record.sigma for record in records)
        senders.setdefault(sent, []).append(group)
    parts, bounds = [], {}
    for sent, groups in senders.items():
        part = before.of_groups(groups)
        noise = noise_of(record for record, has in zip(records, sent, strict=True) if has)
        parts.append(part.left(noise))
        bounds[noise] = part.bound(noise)
    return hypot(*parts), bounds[min(bounds)]


def _by(
    records: Iterable[HandoffRecord], key: Callable[[HandoffRecord], str]
) -> dict[str, list[HandoffRecord]]:
    groups: dict[str, list[HandoffRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _coefficients(records: Iterable[HandoffRecord]) -> list[float]:
    return [copy.coefficient for record in records for copy in record.copies]


def pooled(noises: Iterable[float]) -> float:
    """Noise of the best combination of independent estimates: their precisions add."""
    noises = list(noises)
    return 0.0 if 0.0 in noises else 1 / hypot(*(1 / noise for noise in noises)) if noises else inf


def prior(records: Iterable[HandoffRecord]) -> Prior:
    """What a holder does not know before the first copy.

    It is below 1 only if the noise is measured by the weights of a model with a known base.
    """
    return least(map(_prior, records))


def least(priors: Iterable[Prior]) -> Prior:
    """The smallest prior; of equal ones the one with the most groups, which never leaves more.

    What an attack gains on one round's task vector, it is taken to gain on all of them.
    """
    priors = list(priors)
    smallest = min(
        priors, key=lambda prior: (float(f"{prior.size:.6g}"), -len(prior.shares)), default=WHOLE
    )
    structure = lowest([prior.structure for prior in priors])
    return replace(smallest, structure=structure, grid=lowest([prior.grid for prior in priors]))


def _prior(record: HandoffRecord) -> Prior:
    # Records of an earlier mpu do not have the groups, nor the curves.
    groups = (
        Prior(record.prior_shares, record.prior_sizes)
        if record.prior_shares
        else Prior.of_all(record.exposure.get("no_copy", 1.0))
    )
    curves = (Curve.read(record.structure), Curve.read(record.grid))
    return replace(groups, structure=curves[0], grid=curves[1])


def ledger(records: Collection[HandoffRecord], holders: Collection[str] | None = None) -> Ledger:
    """What stays unknown to holders (default: all), from all records of a lineage."""
    before = prior(records)
    holdings = {
        holder: handoffs
        for holder, handoffs in _by(records, lambda record: record.holder).items()
        if holders is None or holder in holders
    }
    alone = {name: unknown(held, before) for name, held in holdings.items()}
    coalitions = _coalitions(list(holdings.values()), before)
    together = unknown(records, before)
    numbered = {f"{size} together": known for size, known in coalitions}
    return Ledger(
        by_holder={name: left for name, (left, _) in alone.items()},
        coalitions=tuple((size, left) for size, (left, _) in coalitions),
        all_together=together[0],
        handoffs=sum(map(len, holdings.values())),
        prepared=sum(record.state == "prepared" for record in records),
        bounds={
            name: bound
            for name, (_, bound) in {**alone, **numbered, "all together": together}.items()
        },
    )


def _coalitions(
    holdings: Sequence[Sequence[HandoffRecord]], before: Prior
) -> list[tuple[int, tuple[float, str]]]:
    """(k, what stays unknown to the best-informed k holders together); empty for one holder."""
    count = len(holdings)
    return [
        (size, min(unknown(list(chain(*group)), before) for group in combinations(holdings, size)))
        for size in range(1, count + 1)
        if count > 1 and comb(count, size) <= _MOST_COALITIONS
    ]
