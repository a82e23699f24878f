"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.errors import UsageError

RELEARN_RATES = (1e-5, 1e-4, 3e-4, 1e-3)
"""From what brings hardly anything back to what a small model learns fastest at: the worst of them counts."""
MOST_RATES = 8


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Checked settings of one evaluation."""

    metrics: tuple[str, ...] = ()
    """Names; empty = all that the given files allow."""
    robustness: tuple[str, ...] = ()
    """Names of checks to run after the metrics."""
    generate: bool = True
    batch_size: int = 32
    max_length: int | None = None
    """Tokens of a text at most; None = the model's context."""
    max_new_tokens: int | None = None
    """Tokens that the model may write; None = by what a set was given for, see `prompt_format.py`."""
    tokens_by_set: tuple[tuple[str, int], ...] = ()
    """The same for single sets, (name, tokens)."""
    stop: tuple[str, ...] = ()
    """Texts at which what is written on questions ends.

    Empty = MUSE's for its questions, none for others.
    """
    samples: int = 8
    """Texts drawn for each question where texts are drawn."""
    temperature: float = 1.0
    relearn_rows: int = 10
    relearn_steps: int = 20
    relearn_rates: tuple[float, ...] = RELEARN_RATES
    resamples: int = 10_000
    """Random weightings of the rows that the intervals are made of."""
    seed: int = 0
    device: str = "auto"
    prompting: Prompting = PLAIN
    """What stands around every pair and chat."""

    def __post_init__(self) -> None:
        """Refuse what no evaluation can mean.

        Raises:
            UsageError: the message names the flag.
        """
        for flag, value, least in (
            ("--batch-size", self.batch_size, 1),
            ("--samples", self.samples, 1),
            ("--max-new-tokens", 1 if self.max_new_tokens is None else self.max_new_tokens, 1),
            *((f"--max-new-tokens {name}", tokens, 1) for name, tokens in self.tokens_by_set),
            ("--relearn-rows", self.relearn_rows, 1),
            ("--relearn-steps", self.relearn_steps, 1),
            ("--resamples", self.resamples, 1000),
            ("--max-length", 2 if self.max_length is None else self.max_length, 2),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise UsageError(f"{flag} {value}: expected {least} or more")
        if not all(self.stop):
            raise UsageError(
                "--stop: an empty text ends everything before its first word",
                'give a text, for instance --stop "\\n\\n"',
            )
        if not 0 < self.temperature <= 100:
            raise UsageError(
                f"--temperature {self.temperature:g}: expected a number above 0 and at most 100"
            )
        _check_rates(self.relearn_rates)


def _check_rates(rates: tuple[float, ...]) -> None:
    for rate in rates:
        if not 0 < rate < 1:
            raise UsageError(f"--relearn-rate {rate:g}: expected a number between 0 and 1")
    if not 0 < len(rates) == len(set(rates)) <= MOST_RATES:
        raise UsageError(
            f"--relearn-rate: expected 1 to {MOST_RATES} different rates",
            "each rate costs --relearn-steps steps",
        )
