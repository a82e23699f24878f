"""Batches of rows of similar length, for less padding, in an order that all copies share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpu_cli.data.batches import PairSampler, RowSampling
from mpu_cli.data.order import shuffled
from mpu_cli.data.templates import TokenizedRow

WINDOW = 50
"""Batches sorted together: enough to find similar lengths, few enough to keep a random order."""

Pair = tuple[int, int | None]


class LengthGroupedSampler(PairSampler):
    """Yield `group_by_length` of the epoch that was set last."""

    def __init__(
        self,
        seed: int,
        forget: Sequence[TokenizedRow],
        retain: Sequence[TokenizedRow] | None,
        batch_size: int,
        sampling: RowSampling | None = None,
    ) -> None:
        """Lengths are in tokens; all copies share the tokenizer, so their orders agree."""
        super().__init__(seed, len(forget), len(retain or ()), sampling)
        self._batch_size = batch_size
        self._forget_lengths = [len(row.input_ids) for row in forget]
        self._retain_lengths = [len(row.input_ids) for row in retain or ()]

    def __iter__(self) -> Iterator[Pair]:
        """The epoch's pairs in order."""
        stream = (
            f"group/{self._sampling.stream(self._seed)}/{self._sampling.first_epoch + self.epoch}"
        )
        return iter(
            group_by_length(
                list(super().__iter__()),
                self._forget_lengths,
                self._retain_lengths,
                self._batch_size,
                stream,
            )
        )


def group_by_length(
    pairs: Sequence[Pair],
    forget_lengths: Sequence[int],
    retain_lengths: Sequence[int],
    batch_size: int,
    stream: str,
) -> list[Pair]:
    """The same rows in another order: similar lengths together inside windows of 50 batches.

    Inside a window the longest forget rows are paired with the longest retain rows. Then the
    window's batches are shuffled, so that lengths do not rise over time.

    Args:
        pairs: of one epoch, from `epoch_pairs`.
        forget_lengths: tokens of each forget row.
        retain_lengths: tokens of each retain row; empty without a retain set.
        batch_size: pairs of one forward pass.
        stream: seeds the shuffling.
    """
    ordered: list[Pair] = []
    for start in range(0, len(pairs), WINDOW * batch_size):
        window = pairs[start : start + WINDOW * batch_size]
        # Sorting is stable, so rows of one length keep their random order.
        forget = sorted((i for i, _ in window), key=lambda i: forget_lengths[i])
        retain = sorted((j for _, j in window if j is not None), key=lambda j: retain_lengths[j])
        together: list[Pair] = (
            list(zip(forget, retain, strict=True)) if retain else [(i, None) for i in forget]
        )
        # Trainer needs the incomplete batch at the end. It is chosen at random; otherwise it would
        # always hold the longest rows.
        rest = len(together) % batch_size
        cut = shuffled(len(together) // batch_size + 1, f"{stream}/{start}/rest")[0] * batch_size
        together, incomplete = together[:cut] + together[cut + rest :], together[cut : cut + rest]
        batches = [
            together[first : first + batch_size] for first in range(0, len(together), batch_size)
        ]
        for place in shuffled(len(batches), f"{stream}/{start}"):
            ordered += batches[place]
        ordered += incomplete
    return ordered
