"""Batches and the order of rows."""

from __future__ import annotations

import random

import pytest
import torch

from mpu_cli.data.batches import PairedRows, collate, epoch_pairs, pad_id
from mpu_cli.data.templates import TokenizedRow
from tiny_models import make_tokenizer


def test_collate_pads_right() -> None:
    """Short rows are filled at the right, neither attended to nor labelled there."""
    batch = collate([TokenizedRow((5, 6, 7), (-100, 6, 7)), TokenizedRow((8,), (8,))], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_pad_id_falls_back() -> None:
    """The pad token, else the end token, else 0."""
    tokenizer = make_tokenizer()
    assert pad_id(tokenizer, len(tokenizer)) == tokenizer.pad_token_id
    tokenizer = make_tokenizer(pad=False)
    assert pad_id(tokenizer, len(tokenizer)) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert pad_id(tokenizer, len(tokenizer)) == 0


def test_pad_id_is_a_row_of_the_embedding() -> None:
    """A pad token that was added without resizing the embedding fills nothing.

    The end token or 0 does.
    """
    tokenizer = make_tokenizer(pad=False)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert pad_id(tokenizer, rows) == tokenizer.eos_token_id
    tokenizer.eos_token = "[PAD]"
    assert pad_id(tokenizer, rows) == 0
    assert pad_id(tokenizer, rows + 1) == rows


@pytest.mark.parametrize(("n_forget", "n_retain"), [(7, 3), (3, 7), (1, 1), (5, 5), (4, 100)])
def test_retain_rows_take_turns(n_forget: int, n_retain: int) -> None:
    """Every epoch has each forget row once.

    Over the epochs no retain row is two turns ahead of another.
    """
    counts = [0] * n_retain
    for epoch in range(8):
        pairs = epoch_pairs(3, epoch, n_forget, n_retain)
        assert sorted(forget for forget, _ in pairs) == list(range(n_forget))
        for _, retain in pairs:
            assert retain is not None
            counts[retain] += 1
            assert max(counts) - min(counts) <= 1


def test_order_depends_on_seed_and_epoch_only() -> None:
    """The arguments alone decide the order, and no global generator is used."""
    random.seed(0)
    torch.manual_seed(0)
    before = random.getstate(), torch.get_rng_state()
    order = epoch_pairs(1, 0, 20, 30)
    assert order == epoch_pairs(1, 0, 20, 30)
    assert order != epoch_pairs(2, 0, 20, 30)
    assert order != epoch_pairs(1, 1, 20, 30)
    assert [f for f, _ in epoch_pairs(1, 0, 20, 0)] == [f for f, _ in order]
    assert all(retain is None for _, retain in epoch_pairs(1, 0, 20, 0))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_order_is_pinned() -> None:
    """The order is a promise.

    Copies may be trained by different versions of Python, so it must never change.
    """
    assert epoch_pairs(42, 1, 5, 3) == [(4, 0), (0, 1), (3, 2), (1, 0), (2, 2)]


def test_order_is_uniform() -> None:
    """Over many seeds each row comes first about equally often."""
    first = [epoch_pairs(seed, 0, 5, 0)[0][0] for seed in range(2000)]
    assert all(abs(first.count(row) - 400) < 90 for row in range(5))


def test_pairs_are_looked_up_together() -> None:
    """Alternates go with the forget index, a reference with the index its name says.

    What was not given is not there.
    """
    rows = [TokenizedRow((10 + i, 20 + i), (-100, 20 + i)) for i in range(3)]
    others = [TokenizedRow((10 + i, 30 + i, 31), (-100, 30 + i, 31)) for i in range(3)]
    seen: list[tuple[str, list[int]]] = []

    def values(name: str):
        return lambda indices: seen.append((name, list(indices))) or torch.tensor(indices)

    closed: list[int] = []
    references = {name: values(name) for name in ("forget_nll", "alternate_nll", "retain_logits")}
    pairs = PairedRows(rows, rows, 0, others, references, lambda: closed.append(1))
    batch = pairs.batch([(2, 0), (1, 2)])
    assert batch["forget"]["input_ids"].tolist() == [[12, 22], [11, 21]]
    assert batch["retain"]["input_ids"].tolist() == [[10, 20], [12, 22]]
    assert batch["alternate"]["input_ids"].tolist() == [[12, 32, 31], [11, 31, 31]]
    assert seen == [("forget_nll", [2, 1]), ("alternate_nll", [2, 1]), ("retain_logits", [0, 2])]
    assert set(PairedRows(rows, None, 0).batch([(0, None)])) == {"forget"}
    pairs.close()
    assert closed == [1]
