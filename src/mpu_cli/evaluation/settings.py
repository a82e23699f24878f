"""The settings of an evaluation and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.errors import UsageError
from mpu_cli.modeling.device import Device
from mpu_cli.option import Settings, check, option

# The lowest brings hardly anything back; at the highest a small model learns fastest.
RELEARN_RATES = (1e-5, 1e-4, 3e-4, 1e-3)
MOST_RATES = 8


def parse_stops(texts: Sequence[str]) -> tuple[str, ...]:
    r"""Texts in which `\n` and `\t` stand for a line break and a tab."""
    return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in texts)


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Settings of one evaluation.

    Raises:
        UsageError: a value is out of range.
    """

    metrics: tuple[str, ...] = option(
        (),
        "Measure this metric only; --list-metrics prints all of them. Repeatable.",
        panel="Method",
        flag="--metric",
        shown="all that the rows allow",
        metavar="NAME",
        repeated=True,
    )
    robustness: tuple[str, ...] = option(
        (),
        "Check whether the rows stay forgotten: quantization, relearning, paraphrase, leak, or all."
        " Repeatable.",
        metavar="NAME",
        repeated=True,
    )
    generate: bool = option(
        True,
        "Let the model write texts, which ROUGE and fluency need.",
        flag="--generate/--no-generate",
    )
    max_new_tokens: int | None = None
    """Number of tokens that the model may write; None: see `prompt_format.py`."""
    tokens_by_set: tuple[tuple[str, int], ...] = ()
    """The same for single sets, (name, tokens)."""
    stop: tuple[str, ...] = option(
        (),
        r"Text that ends an answer; \n is a line break. Repeatable.",
        shown="MUSE's for knowledge sets, else none",
        metavar="TEXT",
        parse=parse_stops,
        repeated=True,
    )
    samples: int = option(8, "Number of answers to draw for each question (leak).", least=1)
    temperature: float = option(1.0, "Temperature of the drawn answers (leak).", above=0, most=100)
    relearn_rows: int = option(10, "Number of forget rows to train on again (relearning).", least=1)
    relearn_steps: int = option(20, "Number of training steps (relearning).", least=1)
    relearn_rates: tuple[float, ...] = option(
        RELEARN_RATES,
        "Learning rate of AdamW (relearning). If you give several, the worst result counts."
        " Repeatable.",
        flag="--relearn-rate",
        metavar="RATE",
        repeated=True,
    )
    batch_size: int = option(32, "Number of texts in a batch.", panel="Optimisation", least=1)
    max_length: int | None = option(
        None,
        "Largest number of tokens of a text.",
        panel="Data",
        shown="the model's context",
        least=2,
        metavar="TOKENS",
    )
    resamples: int = option(
        10_000,
        "Number of random weightings of the rows, from which the intervals come.",
        panel="Method",
        least=1000,
    )
    seed: int = option(0, "Seed of all random choices.", least=0)
    device: Device = option(
        "auto",
        "Device to run on. With auto, the first available of cuda, mps and cpu.",
        panel="Optimisation",
    )
    prompting: Prompting = PLAIN

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        tokens = [("--max-new-tokens", self.max_new_tokens)]
        tokens += [(f"--max-new-tokens {name}", number) for name, number in self.tokens_by_set]
        for flag, number in tokens:
            if number is not None and number < 1:
                raise UsageError(f"{flag} {number}: expected 1 or more")
        if not all(self.stop):
            raise UsageError(
                "--stop: an empty text ends every answer before its first word",
                'give a text, for instance --stop "\\n\\n"',
            )
        for rate in self.relearn_rates:
            if not 0 < rate < 1:
                raise UsageError(f"--relearn-rate {rate:g}: expected a number between 0 and 1")
        if not 0 < len(self.relearn_rates) == len(set(self.relearn_rates)) <= MOST_RATES:
            raise UsageError(
                f"--relearn-rate: expected 1 to {MOST_RATES} different rates",
                "each rate costs --relearn-steps steps",
            )


@dataclass(frozen=True, slots=True)
class CompareSettings(Settings):
    """Settings of one comparison.

    Raises:
        UsageError: a value is out of range.
    """

    share: float = option(
        0.01,
        "Margin as a share of the first record's change since --before.",
        panel="Method",
        above=0,
        most=1,
    )
    margin: float | None = option(
        None, "Absolute margin, the same for every metric.", shown="--share of the change", above=0
    )
    resamples: int = option(
        10_000,
        "Number of random weightings of the rows, from which the intervals come.",
        least=1000,
    )
    seed: int = option(0, "Seed of the random weightings.", least=0)
