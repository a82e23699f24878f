"""What an attack is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.alignment.products import Tensors


@dataclass(frozen=True, slots=True)
class CopyPool:
    """The copies that are attacked together, as the attacker knows them."""

    handoffs: tuple[int, ...]
    """For each copy, the number of the handoff that it came in."""
    has_base: bool
    rounds: tuple[int, ...] = ()
    """For each copy, the number of the round it came in: the attacker knows when it got it."""

    def of(self, numbers: Sequence[int]) -> CopyPool:
        """The pool of some of the copies."""
        return CopyPool(
            tuple(self.handoffs[number] for number in numbers),
            self.has_base,
            tuple(self.rounds[number] for number in numbers),
        )

    @property
    def size(self) -> int:
        """The number of copies."""
        return len(self.handoffs)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A guess of the newest model's layer, or of what an update did to it."""

    label: str
    """Which of the attack's estimates it is; the same in every layer."""
    tensors: Tensors
    """By name, in the frame of the `AlignedLayer`, float32 or float64."""
    noisy: bool = False
    """Whether noise may be left. With a base the attacker then also moves the guess towards the
    base, by a share that it tries from a short list (`truth.SHARES`): it cannot tell noise of an
    unknown size from a task vector."""
    between: tuple[int, int] | None = None
    """The rounds, older and newer, if this is a guess of the update between them."""


class Attacker(Protocol):
    """One attack on one pool. It sees every layer twice."""

    def observe(self, layer: AlignedLayer) -> None:
        """See a layer, to fit what all layers share."""
        ...

    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """Guess a layer, after all layers were observed."""
        ...


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to estimate the model from copies."""

    name: str
    about: str
    source: str
    start: Callable[[CopyPool], Attacker | None]
    """The attack on a pool; None if it has nothing to do there."""
