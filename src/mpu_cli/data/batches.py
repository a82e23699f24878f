"""Batches of encoded rows, and the order in which forget and retain rows meet.

The order is part of the protocol: what differs between copies for other reasons than their noise is
not cancelled when the server aggregates (design, section 1), so every copy must see the same rows
at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mpu_cli.data.order import drawn, shuffled
from mpu_cli.data.templates import IGNORED, TokenizedRow


def pad_id(tokenizer: Any, rows: int) -> int:
    """The id to fill short rows with: the pad token, else end-of-sequence, else 0.

    Always one of the embedding's `rows`.

    Any id does, since padding is neither attended to nor labelled. A pad token that was added to a
    tokenizer often lies outside of the embedding, which nobody has resized.
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
    """What the order of rows depends on beside the seed.

    The default is the order of a first round.
    """

    first_epoch: int = 0
    """Epochs of the rounds before: the order goes on where they ended."""
    retain: str = ""
    """Names the walk through the retain set: another name, another order of retain rows."""
    copy: str = ""
    """Names the copy, where each copy has an order of its own; empty = one order for all copies."""
    independent: bool = False
    """Draw each retain row (and refusal) alone, so that some come twice, instead of walking through the set."""

    def stream(self, seed: int) -> str:
        """What names the streams that this copy draws from."""
        return f"{seed}/{self.copy}" if self.copy else str(seed)


FIRST_ROUND = RowSampling()
"""The order of a first round, the same for all copies."""


def epoch_pairs(
    seed: int, epoch: int, n_forget: int, n_retain: int, drawing: RowSampling | None = None
) -> list[tuple[int, int | None]]:
    """The (forget index, retain index) pairs of one epoch, in order.

    The retain index is None without a retain set.

    An epoch is one pass over the forget set in a fresh order. The retain set is walked through on
    its own, epoch after epoch, reshuffled at each of its passes, so no retain row is seen twice
    before all have been seen once (unless rows are drawn independently). Depends on nothing but the
    arguments: no global generator is read or moved, and the result is the same on every machine.
    """
    drawing = drawing or RowSampling()
    epoch, stream = drawing.first_epoch + epoch, drawing.stream(seed)
    forget = shuffled(n_forget, f"forget/{stream}/{epoch}")
    if not n_retain:
        return [(index, None) for index in forget]
    walk = f"{stream}/{drawing.retain}" if drawing.retain else stream
    if drawing.independent:
        return list(
            zip(forget, drawn(n_forget, n_retain, f"retain/{walk}/epoch {epoch}"), strict=True)
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
"""Row indices → what the model said of these rows before training, one row after the other."""


class PairedRows(Dataset[tuple[int, int | None]]):
    """Forget and retain rows as one dataset.

    Its index is a (forget, retain) pair, and so is an item.

    `batch` looks the rows of a list of pairs up: `{"forget": rows, "retain": rows, "alternate":
    rows, "reference": {name: values}}`, each set of rows padded on its own, the last three only if
    they were given. Alternates stand beside the forget rows, one each, and are looked up by the
    same index; where there are several times as many, the first epoch has the first of them, the
    second the next, and so on round. A reference whose name begins with "retain" is looked up by
    the retain index, one whose name begins with "alternate" as alternates are, any other by the
    forget index.
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
        """`references` gives each reference's values by name.

        `on_close` removes what they are kept in.
        """
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
        """The rows of these pairs, with the alternates of that epoch."""
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
        """Remove what the references are kept in; call it when training is over.

        Calling it twice does no harm.
        """
        if self._on_close is not None:
            self._on_close()


class PairSampler(Sampler[tuple[int, int | None]]):
    """Yields `epoch_pairs` of the epoch that was set last."""

    def __init__(
        self, seed: int, n_forget: int, n_retain: int, drawing: RowSampling | None = None
    ) -> None:
        """Starts at epoch 0."""
        self._seed, self._n_forget, self._n_retain, self.epoch = seed, n_forget, n_retain, 0
        self._drawing = drawing or RowSampling()

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return self._n_forget

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        """The epoch's pairs in order."""
        return iter(
            epoch_pairs(self._seed, self.epoch, self._n_forget, self._n_retain, self._drawing)
        )
