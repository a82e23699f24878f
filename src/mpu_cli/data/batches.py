"""Batches of encoded rows, and the order in which forget and retain rows meet.

The order is part of the protocol: the server's aggregation cancels only what differs because of the
noise (docs/design.md, Protocol), so every copy must be trained on the same rows at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mpu_cli.data.order import independent_numbers, shuffled
from mpu_cli.data.templates import IGNORED, TokenizedRow


def pad_id(tokenizer: Any, rows: int) -> int:
    """The token to pad with: the pad token, else end-of-sequence, else 0; below `rows`.

    Padding is neither attended to nor labelled, so any token of the embedding does. A pad token
    that was added to a tokenizer is often outside the embedding.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None and 0 <= candidate < rows:
            return int(candidate)
    return 0


def collate(rows: Sequence[TokenizedRow], pad_id: int) -> dict[str, Tensor]:
    """Pad rows at the right to the longest one.

    Returns:
        `input_ids` (B, T), `attention_mask` (B, T; 1 = a real token) and `labels` (B, T; -100 =
        does not count), int64.
    """
    length = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        end = len(row.input_ids)
        input_ids[i, :end] = torch.tensor(row.input_ids, dtype=torch.long)
        labels[i, :end] = torch.tensor(row.labels, dtype=torch.long)
        attention_mask[i, :end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@dataclass(frozen=True, slots=True)
class RowSampling:
    """What decides the order of rows besides the seed; the default is that of a first round."""

    first_epoch: int = 0
    """Epochs of earlier rounds: the order continues where they ended."""
    retain: str = ""
    """A name for the order of the retain rows; another name gives another order."""
    copy: str = ""
    """The copy's name if each copy has an order of its own; empty = one order for all."""
    independent: bool = False
    """Choose retain rows and refusals independently instead of in turn; some then occur twice."""

    def stream(self, seed: int) -> str:
        """The name of this copy's random streams."""
        return f"{seed}/{self.copy}" if self.copy else str(seed)


FIRST_ROUND = RowSampling()
"""The order of a first round, the same for all copies."""


def epoch_pairs(
    seed: int, epoch: int, n_forget: int, n_retain: int, sampling: RowSampling | None = None
) -> list[tuple[int, int | None]]:
    """The (forget index, retain index) pairs of one epoch; no retain set gives None.

    An epoch is one pass over the forget set in a new order. The passes over the retain set are
    independent of epochs, each in a new order, so every retain row is used once before any is used
    twice (unless rows are chosen independently). The result depends on the arguments alone and is
    equal on every machine; no global generator is used.
    """
    sampling = sampling or RowSampling()
    epoch, stream = sampling.first_epoch + epoch, sampling.stream(seed)
    forget = shuffled(n_forget, f"forget/{stream}/{epoch}")
    if not n_retain:
        return [(index, None) for index in forget]
    walk = f"{stream}/{sampling.retain}" if sampling.retain else stream
    if sampling.independent:
        return list(
            zip(
                forget,
                independent_numbers(n_forget, n_retain, f"retain/{walk}/epoch {epoch}"),
                strict=True,
            )
        )
    pairs: list[tuple[int, int | None]] = []
    current, order = -1, []
    for offset, index in enumerate(forget):
        retain_pass, place = divmod(epoch * n_forget + offset, n_retain)
        if retain_pass != current:
            current, order = retain_pass, shuffled(n_retain, f"retain/{walk}/{retain_pass}")
        pairs.append((index, order[place]))
    return pairs


ReferenceValues = Callable[[Sequence[int]], Tensor]
"""Row indices → values of the reference model on these rows, one row after the other."""


class PairedRows(Dataset[tuple[int, int | None]]):
    """Forget and retain rows as one dataset, whose index and items are (forget, retain) pairs.

    `batch` returns the rows of a list of pairs: `{"forget": rows, "retain": rows, "alternate":
    rows, "reference": {name: values}}`. Each set of rows is padded on its own; the last three are
    there if they were given. There is one alternate for each forget row, with the same index, or
    several times as many: then each epoch uses the next ones, in turn. A reference whose name
    begins with "retain" has the retain index, one whose name begins with "alternate" the
    alternate's, any other the forget index.
    """

    def __init__(
        self,
        forget: Sequence[TokenizedRow],
        retain: Sequence[TokenizedRow] | None,
        pad_id: int,
        alternates: Sequence[TokenizedRow] | None = None,
        references: Mapping[str, ReferenceValues] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """`references` returns values by name; `on_close` removes the files that hold them."""
        self._forget, self._retain, self._alternates, self._pad_id = (
            forget,
            retain,
            alternates,
            pad_id,
        )
        self._references = dict(references or {})
        self._on_close = on_close
        self.n_forget, self.n_retain = len(forget), len(retain or ())

    def __len__(self) -> int:
        """An epoch is one pass over the forget rows."""
        return self.n_forget

    def __getitem__(self, pair: tuple[int, int | None]) -> tuple[int, int | None]:
        """The pair itself."""
        return pair

    def batch(
        self, pairs: Sequence[tuple[int, int | None]], epoch: int = 0
    ) -> dict[str, dict[str, Tensor]]:
        """The rows of these pairs, with the alternates of the epoch."""
        forget = [i for i, _ in pairs]
        retain = [j for _, j in pairs if j is not None]
        first = epoch * self.n_forget % max(len(self._alternates or ()), 1)
        places = {"retain": retain, "alternate": [first + i for i in forget]}
        batch = {"forget": collate([self._forget[i] for i in forget], self._pad_id)}
        if self._retain is not None:
            batch["retain"] = collate([self._retain[j] for j in retain], self._pad_id)
        if self._alternates is not None:
            batch["alternate"] = collate(
                [self._alternates[i] for i in places["alternate"]], self._pad_id
            )
        if self._references:
            batch["reference"] = {
                name: values(places.get(name.partition("_")[0], forget))
                for name, values in self._references.items()
            }
        return batch

    def close(self) -> None:
        """Remove the files that hold the references; call it when training has ended."""
        if self._on_close is not None:
            self._on_close()


class PairSampler(Sampler[tuple[int, int | None]]):
    """Yield `epoch_pairs` of the epoch that was set last."""

    def __init__(
        self, seed: int, n_forget: int, n_retain: int, sampling: RowSampling | None = None
    ) -> None:
        """Start at epoch 0."""
        self._seed, self._n_forget, self._n_retain, self.epoch = seed, n_forget, n_retain, 0
        self._sampling = sampling or RowSampling()

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return self._n_forget

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        """The epoch's pairs in order."""
        return iter(
            epoch_pairs(self._seed, self.epoch, self._n_forget, self._n_retain, self._sampling)
        )
