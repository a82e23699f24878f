"""`mpu audit trace`: name the copies that a found model was made from, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import hypot, inf, sqrt
from statistics import NormalDist

from mpu_cli.audit.trace.centre import Centre
from mpu_cli.audit.trace.evidence import Trace
from mpu_cli.audit.trace.leaked_model import LeakedModel, OpenLayout
from mpu_cli.audit.trace.settings import TraceSettings
from mpu_cli.audit.trace.survey import Frame, Survey, groups
from mpu_cli.audit.trace.suspects import Suspect, SuspectDraw

Progress = Callable[[str, int, int], None]
SMALL = 0.1
"""Reading stops when every copy would have been found from this share on, or when the copies that
were found leave no more than it."""
SURE = NormalDist().inv_cdf(0.999)
"""An expected z above the threshold by this much passes it with a probability of .999."""
_AS_FOUND = Frame()


@dataclass(frozen=True, slots=True)
class Named:
    """A copy whose noise is in the found model."""

    suspect: Suspect
    z: float
    share: float
    error: float
    """Standard error of the share."""
    undone: Suspect | None
    """The copy whose reparameterization the found model has; None if it has none."""
    equals: tuple[Suspect, ...]
    """Copies of the draw whose noise is parallel: another share of one of them fits as well."""


@dataclass(frozen=True, slots=True)
class TraceResult:
    """What one found model came from, and how sure that is."""

    named: tuple[Named, ...]
    suspects: int
    hypotheses: int
    """Copies times frames times looks, by which the false-positive rate is divided."""
    threshold: float
    """The z above which a copy is named."""
    largest: float
    """The largest z of any copy in any frame."""
    expected: tuple[tuple[float, Suspect], ...]
    """The z that each copy would have if it were whole and unmodified; the lowest first."""
    least_share: float
    """A copy would have been found from this share on, in these weights (probability .999)."""
    entries: int
    layers: int
    of_layers: int
    whole: bool
    """Whether every entry with noise was read."""
    centre: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """named, none, or undecided: an unmodified copy might have been missed."""
        if self.named:
            return "named"
        return "undecided" if self.undecided else "none"

    @property
    def undecided(self) -> int:
        """Copies that might have been missed even if they were unmodified."""
        return sum(z < self.threshold + SURE for z, _ in self.expected)


@dataclass(frozen=True, slots=True)
class Case:
    """What the found models are compared with."""

    draws: Sequence[SuspectDraw]
    known: OpenLayout
    centre: Centre
    settings: TraceSettings = field(default_factory=TraceSettings)

    @property
    def frames(self) -> list[Frame]:
        """As found, and with T_k of every copy undone."""
        return [_AS_FOUND] + [
            Frame(number, suspect.position)
            for number, draw in enumerate(self.draws)
            if draw.transforms
            for suspect in draw.suspects
        ]


def trace(
    found: Sequence[LeakedModel], case: Case, progress: Progress = lambda *_: None
) -> list[TraceResult]:
    """Trace several found models at once; what is drawn from the secret is drawn once.

    The first pass seeks each draw's noise in the frames of its own copies, and in the frame as
    found. Where it finds a copy, a second pass seeks all other draws in that copy's frame: whoever
    averages copies of several handoffs must line them up first.
    """
    return _Search(found, case, progress).results()


class _Search:
    def __init__(self, found: Sequence[LeakedModel], case: Case, progress: Progress) -> None:
        self._found, self._case, self._progress = found, case, progress
        scope = "all" if any(set(draw.noise.sigma) - _layers(case) for draw in case.draws) else ""
        self._groups = groups(case.known, scope or "layers", case.settings.count)
        copies = sum(len(draw.suspects) for draw in case.draws)
        self._hypotheses = len(case.frames) * copies * len(self._groups)
        self.threshold = -NormalDist().inv_cdf(case.settings.false_positive_rate / self._hypotheses)
        everything = range(len(case.draws))
        self._first = self._survey(
            {frame: everything if frame.draw is None else (frame.draw,) for frame in case.frames}
        )
        self._second: Survey | None = None
        self._layers = 0

    def _survey(self, tests: dict[Frame, Sequence[int]]) -> Survey:
        case = self._case
        return Survey(
            self._found, case.draws, case.known, case.centre, tests, case.settings.entries
        )

    def results(self) -> list[TraceResult]:
        """Read as much as is needed, and decide."""
        for number, group in enumerate(self._groups):
            self._progress("comparing with the copies", number, len(self._groups))
            self._first.add(group)
            self._layers = number + 1
            if all(self._is_decided(model) for model in range(len(self._found))):
                break
        others = self._others()
        if others:
            self._second = self._survey(others)
            for number, group in enumerate(self._groups[: self._layers]):
                self._progress("comparing with other handoffs", number, self._layers)
                self._second.add(group)
        return [self._result(model) for model in range(len(self._found))]

    def _others(self) -> dict[Frame, Sequence[int]]:
        """For each frame in which a copy was found: the draws that were not sought in it."""
        hot = {
            frame
            for model in range(len(self._found))
            for (frame, number), traces in self._traces(self._first, model).items()
            if frame.draw is not None and traces
        }
        rest = {
            frame: [number for number in range(len(self._case.draws)) if number != frame.draw]
            for frame in sorted(hot, key=lambda item: (item.draw or 0, item.position or 0))
        }
        return {frame: numbers for frame, numbers in rest.items() if numbers}

    def _traces(self, survey: Survey, model: int) -> dict[tuple[Frame, int], list[Trace]]:
        return {
            (frame, number): evidence.explain(
                self._case.draws[number].mixture,
                self.threshold,
                frame.position if frame.draw == number else None,
            )
            for (other, frame, number), evidence in survey.evidence.items()
            if other == model
        }

    def _named(self, model: int) -> tuple[Named, ...]:
        """Every copy once, from the frame in which it is clearest; the clearest copy first."""
        best: dict[str, Named] = {}
        for survey in filter(None, (self._first, self._second)):
            for (frame, number), traces in self._traces(survey, model).items():
                for item in traces:
                    named = self._name(frame, number, item)
                    key = f"{named.suspect.handoff} {named.suspect.copy}"
                    if key not in best or best[key].z < named.z:
                        best[key] = named
        return tuple(sorted(best.values(), key=lambda named: -named.z))

    def _name(self, frame: Frame, number: int, item: Trace) -> Named:
        suspects = {suspect.position: suspect for suspect in self._case.draws[number].suspects}
        undone = None
        if frame.draw is not None:
            undone = next(
                suspect
                for suspect in self._case.draws[frame.draw].suspects
                if suspect.position == frame.position
            )
        return Named(
            suspects[item.position],
            item.z,
            item.share,
            item.error,
            undone,
            tuple(suspects[position] for position in item.equals),
        )

    def _is_decided(self, model: int) -> bool:
        named = self._named(model)
        error = hypot(*(item.error for item in named))
        if named and sum(item.share for item in named) >= 1 - SMALL and error <= SMALL / 2:
            return True
        return self._least_share(model) <= SMALL

    def _least_share(self, model: int) -> float:
        """The share from which on every copy would have been found, in every frame."""
        least = min(
            float(evidence.expected(self._case.draws[number].mixture).min())
            for (other, _, number), evidence in self._first.evidence.items()
            if other == model
        )
        return (self.threshold + SURE) / least if least > 0 else inf

    def _expected(self, model: int, number: int, position: int) -> float:
        """The z of a whole copy: if it is unmodified, or in the weights as they are."""
        mixture = self._case.draws[number].mixture
        in_frames = [
            float(evidence.expected(mixture)[position])
            for (other, frame, draw), evidence in self._first.evidence.items()
            if (other, draw) == (model, number)
            if frame in {_AS_FOUND, Frame(number, position)}
        ]
        return max(sqrt(self._first.unmodified[number][model][position]), min(in_frames))

    def _result(self, model: int) -> TraceResult:
        case = self._case
        expected = [
            (self._expected(model, number, suspect.position), suspect)
            for number, draw in enumerate(case.draws)
            for suspect in draw.suspects
        ]
        return TraceResult(
            named=self._named(model),
            suspects=len(expected),
            hypotheses=self._hypotheses,
            threshold=self.threshold,
            largest=max(
                (
                    z
                    for (other, _, number), evidence in self._first.evidence.items()
                    if other == model
                    for z in evidence.scores(case.draws[number].mixture)
                ),
                default=0.0,
            ),
            expected=tuple(sorted(expected, key=lambda item: item[0])),
            least_share=self._least_share(model),
            entries=self._first.read,
            layers=self._layers,
            of_layers=len(self._groups),
            whole=self._first.whole and self._layers == len(self._groups),
            centre=case.centre.names,
        )


def _layers(case: Case) -> set[str]:
    return {layer.group for layer in case.known.layout.layers}
