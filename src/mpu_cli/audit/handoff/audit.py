"""`mpu audit handoff`: run every attack on every pool of copies, and score it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mpu_cli.audit.handoff.aligned import AlignedLayer, Aligner
from mpu_cli.audit.handoff.attacks import all_attacks
from mpu_cli.audit.handoff.attacks._attack import Attacker, Estimate
from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.audit.handoff.pools import HeldPool, pools_of
from mpu_cli.audit.handoff.stated import LedgerRow, ledger, stated
from mpu_cli.audit.handoff.truth import Score, Truth
from mpu_cli.server.lineage.records import HandoffRecord

WORSE = 0.9
"""A measured error below this share of the stated one is a bug of the statement."""
SMALLEST = 1e-3
"""Stated errors up to this are not compared: they mean that everything is known."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One estimate of one attack on a pool."""

    attack: str
    label: str
    error: float
    """‖estimate − θ‖ in the unit."""
    exact: float
    """Share of bit-exact entries."""
    share: float
    """How much of (estimate − base) the best guess keeps."""

    @property
    def name(self) -> str:
        """The attack and which of its estimates."""
        kept = f", {self.share:g} of the way from the base" if self.share != 1 else ""
        return f"{self.attack}: {self.label}{kept}"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What the holder of a pool can learn."""

    label: str
    holders: tuple[str, ...]
    copies: tuple[str, ...]
    handoffs: tuple[str, ...]
    """Ids."""
    stated: float
    attempts: tuple[Attempt, ...]
    unaligned: tuple[str, ...]
    """Copies whose alignment failed, so that attacks on them may be blind."""

    @property
    def nearest(self) -> Attempt:
        """The attempt with the smallest error."""
        return min(self.attempts, key=lambda attempt: attempt.error)

    @property
    def exact(self) -> float:
        """The largest share of bit-exact entries."""
        return max(attempt.exact for attempt in self.attempts)

    @property
    def worse(self) -> bool:
        """Whether more leaks than stated, by more than 10 %."""
        return self.stated > SMALLEST and self.nearest.error < WORSE * self.stated


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """What the holders of copies of two rounds learn of the update between them."""

    rounds: tuple[int, int]
    """Numbers of the rounds among those given, from 1."""
    label: str
    holders: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    """Their errors are in the unit of the update. Nothing is stated of it by `perturb`."""
    cosine: float
    """Of the best guess and the update."""

    @property
    def nearest(self) -> Attempt:
        """The attempt with the smallest error."""
        return min(self.attempts, key=lambda attempt: attempt.error)


@dataclass(frozen=True, slots=True)
class HandoffAudit:
    """The whole result."""

    rows: tuple[AuditRow, ...]
    updates: tuple[UpdateRow, ...]
    """For each two rounds, the pool that learns most."""
    ledger: tuple[tuple[LedgerRow, Attempt | None], ...]
    """What each holder has been given, and what was measured of it if all of it was attacked."""
    layers: tuple[int, ...]
    all_layers: int
    unit: str
    has_base: bool
    left_out: bool
    """Whether some groups of handoffs were not tried."""
    base_exact: float | None = None
    """Share of entries in which the base itself equals the model; None without a base."""
    clear: Mapping[str, float] = field(default_factory=dict)
    """Share of clearly matched hidden units, by copy."""

    @property
    def worse(self) -> list[AuditRow]:
        """The rows in which more leaks than stated."""
        return [row for row in self.rows if row.worse]


def audit_handoff(
    aligner: Aligner,
    names: Sequence[str],
    truth: Truth,
    records: Sequence[HandoffRecord],
    published: Sequence[HandoffRecord],
    *,
    layers: int = 4,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> HandoffAudit:
    """Attack every pool of the holding's copies.

    Args:
        aligner: of the copies that are attacked.
        names: what to call its handoffs.
        truth: for the scores.
        records: of its handoffs, in their order.
        published: all records of the lineage.
        layers: how many layers to sample; 0 means all.
        seed: of the choice of groups of handoffs.
        progress: is called for every layer of both passes.
    """
    holding = aligner.holding
    pools, left_out = pools_of(holding, names, seed)
    chosen = sampled(holding, records, layers, truth.offset_scale)
    rounds = truth.rounds()
    runs = [
        _Run(pool, name, attacker)
        for pool in pools
        for name, attack in all_attacks().items()
        if (attacker := attack.start(pool.seen(holding, rounds))) is not None
    ]
    for number, index in enumerate(chosen):
        progress("undoing the reparameterization", number, 2 * len(chosen))
        aligned = aligner.layer(index)
        for run in runs:
            run.attacker.observe(run.part(aligned))
    base_alone = Score()
    for number, index in enumerate(chosen, len(chosen)):
        progress("attacking", number, 2 * len(chosen))
        aligned = aligner.layer(index)
        if aligned.base is not None:
            everyone = range(len(records))
            truth.add(base_alone, aligned, Estimate("the base", aligned.base), everyone)
        for run in runs:
            run.score(aligned, truth)
    groups = {holding.layout.layers[index].group for index in chosen}
    failed = aligner.failed()
    by_pool = [_row(pool, runs, holding, records, groups, failed) for pool in pools]
    rows = tuple(_with_parts(pools, by_pool, truth))
    clear = {copy.label: aligner.clear_share(number) for number, copy in enumerate(holding.copies)}
    return HandoffAudit(
        rows,
        tuple(_updates(runs, records)),
        tuple((row, _measured(row, rows)) for row in ledger(published)),
        tuple(chosen),
        len(holding.layout.layers),
        records[0].relative_to,
        holding.has_base,
        left_out,
        base_alone.exact_share if holding.has_base else None,
        clear,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One attack on one pool."""

    pool: HeldPool
    attack: str
    attacker: Attacker
    scores: dict[str, Score] = field(default_factory=dict)
    of_update: dict[str, Score] = field(default_factory=dict)
    """Of the guesses of an update."""
    between: list[int] = field(default_factory=list)
    """The rounds of those."""

    def part(self, aligned: AlignedLayer) -> AlignedLayer:
        return aligned.of(self.pool.copies)

    def score(self, aligned: AlignedLayer, truth: Truth) -> None:
        part = self.part(aligned)
        for estimate in self.attacker.estimates(part):
            if estimate.between is None:
                score = self.scores.setdefault(estimate.label, Score())
                truth.add(score, part, estimate, self.pool.handoffs)
                continue
            self.between[:] = estimate.between
            score = self.of_update.setdefault(estimate.label, Score())
            truth.add_update(score, part, estimate, self.pool.handoffs)

    def attempts(self, scores: Mapping[str, Score]) -> tuple[Attempt, ...]:
        found = []
        for label, score in scores.items():
            error, share = score.best()
            found.append(Attempt(self.attack, label, error, score.exact_share, share))
        return tuple(found)


def sampled(
    holding: Holding,
    records: Sequence[HandoffRecord],
    count: int,
    offset: Mapping[str, float],
) -> list[int]:
    """The layers to attack: evenly spread over those that get noise or the offset; all for 0.

    Any other layer equals the base, so there is nothing to learn of it.
    """
    hidden = {group for record in records for group, sigma in record.sigma.items() if sigma}
    hidden |= {group for group, size in offset.items() if size}
    layers = [layer.index for layer in holding.layout.layers if layer.group in hidden] or [
        layer.index for layer in holding.layout.layers
    ]
    if not count or count >= len(layers):
        return layers
    if count == 1:
        return [layers[len(layers) // 2]]
    return [layers[round(k * (len(layers) - 1) / (count - 1))] for k in range(count)]


def _row(
    pool: HeldPool,
    runs: Sequence[_Run],
    holding: Holding,
    records: Sequence[HandoffRecord],
    groups: set[str],
    failed: Sequence[int],
) -> AuditRow:
    held = [records[number] for number in pool.handoffs]
    names: dict[str, list[str]] = {record.id: [] for record in held}
    for number in pool.copies:
        copy = holding.copies[number]
        names[records[copy.handoff].id].append(copy.name)
    return AuditRow(
        pool.label,
        tuple(dict.fromkeys(record.holder for record in held)),
        tuple(holding.copies[number].label for number in pool.copies),
        tuple(record.id for record in held),
        stated(held, names, groups),
        tuple(attempt for run in runs if run.pool == pool for attempt in run.attempts(run.scores)),
        tuple(holding.copies[number].label for number in pool.copies if number in failed),
    )


def _with_parts(
    pools: Sequence[HeldPool], rows: Sequence[AuditRow], truth: Truth
) -> Iterator[AuditRow]:
    """The rows, each with the best attempt on a part of its copies if none on all is better.

    Who holds more copies may leave some of them aside. A part counts only if it is scored by the
    same model.
    """
    for pool, row in zip(pools, rows, strict=True):
        parts = [
            other
            for held, other in zip(pools, rows, strict=True)
            if set(held.copies) < set(pool.copies)
            and truth.newest(held.handoffs) == truth.newest(pool.handoffs)
        ]
        best = min(parts, key=lambda part: part.nearest.error, default=row)
        if best.nearest.error < row.nearest.error:
            nearest = replace(best.nearest, label=f"{best.nearest.label}, of {best.label} alone")
            row = replace(row, attempts=(*row.attempts, nearest))
        yield row


def _updates(runs: Sequence[_Run], records: Sequence[HandoffRecord]) -> list[UpdateRow]:
    """For each two rounds, the pool whose best guess of the update is nearest."""
    best: dict[tuple[int, int], UpdateRow] = {}
    for run in runs:
        if not run.of_update:
            continue
        older, newer = run.between
        score = min(run.of_update.values(), key=lambda score: score.best())
        held = [records[number] for number in run.pool.handoffs]
        row = UpdateRow(
            (older + 1, newer + 1),
            run.pool.label,
            tuple(dict.fromkeys(record.holder for record in held)),
            run.attempts(run.of_update),
            score.cosine,
        )
        known = best.get(row.rounds)
        if known is None or row.nearest.error < known.nearest.error:
            best[row.rounds] = row
    return [best[rounds] for rounds in sorted(best)]


def _measured(row: LedgerRow, rows: Sequence[AuditRow]) -> Attempt | None:
    """The best attempt on exactly these handoffs, whole."""
    same = [it for it in rows if set(it.handoffs) == set(row.handoffs)]
    return max(same, key=lambda it: len(it.copies)).nearest if same else None
