"""The order of rows: the same in all copies of a handoff, different in the next round."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from one_copy import train_copy
from safetensors.torch import load_file

from mpu_cli.client import methods
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.row_order import row_sampling, words
from mpu_cli.client.settings import CheckpointSettings
from mpu_cli.client.training_rows import alternate_rows
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.data.batches import RowSampling
from mpu_cli.data.rows import Row
from mpu_cli.training.settings import TrainingSettings

PLAIN = TrainingSettings(epochs=3)


def handoff(identity: str, copies: int) -> Any:
    """What `row_sampling` looks at of an opened handoff."""
    return SimpleNamespace(
        manifest=SimpleNamespace(id=identity), copies={f"copy-{k + 1}": None for k in range(copies)}
    )


def test_copies_agree_and_handoffs_do_not() -> None:
    """By default the handoff's id decides the order; a model has the order of round 1."""
    first, second = handoff("a" * 32, 2), handoff("b" * 32, 2)
    assert (
        row_sampling(PLAIN, first, "copy-1")
        == row_sampling(PLAIN, first, "copy-2")
        == RowSampling(retain="a" * 32)
    )
    assert row_sampling(PLAIN, second, "copy-1") == RowSampling(retain="b" * 32)
    assert row_sampling(PLAIN) == RowSampling()
    assert "another handoff sees different rows" in words(PLAIN, first)


def test_holders_of_a_split_agree() -> None:
    """Handoffs of one copy have the same order whatever their ids, and the note names --round."""
    assert (
        row_sampling(PLAIN, handoff("a" * 32, 1), "copy-1")
        == row_sampling(PLAIN, handoff("b" * 32, 1), "copy-1")
        == RowSampling()
    )
    assert "--round" in words(PLAIN, handoff("a" * 32, 1))


def test_a_round_is_the_same_for_handoff_and_baseline() -> None:
    """With --round N, handoff and model continue after N − 1 rounds, whatever the id."""
    third = TrainingSettings(epochs=3, round_number=3)
    assert (
        row_sampling(third, handoff("a" * 32, 2), "copy-1") == row_sampling(third) == RowSampling(6)
    )
    assert "round 3" in words(third, handoff("a" * 32, 2))


def test_an_order_of_its_own_for_each_copy() -> None:
    """Then copies differ, and so do handoffs unless the round is given."""
    own = TrainingSettings(epochs=3, order_per_copy=True, draws="independent")
    made = {
        row_sampling(own, handoff(identity * 32, 2), name)
        for identity in "ab"
        for name in ("copy-1", "copy-2")
    }
    assert len(made) == 4 and all(drawing.independent for drawing in made)
    rounds = TrainingSettings(epochs=3, order_per_copy=True, round_number=2)
    assert row_sampling(rounds, handoff("a" * 32, 2), "copy-1") == RowSampling(3, "", "copy-1")


def test_refusals_anew_in_each_epoch() -> None:
    """Refusals are drawn for each epoch and round; without the setting rows stay unchanged."""
    rows = [Row(f"f:{number}", prompt="Q", answer="A", alternate="own") for number in range(4)]
    cards = [f"refusal {number}" for number in range(9)]
    anew = TrainingSettings(epochs=3, redraw_refusals=True)
    dealt = alternate_rows(rows, cards, anew, RowSampling())
    assert [row.where for row in dealt] == [row.where for row in rows] * 3
    epochs = [tuple(row.alternate for row in dealt[4 * e : 4 * e + 4]) for e in range(3)]
    assert len(set(epochs)) == 3
    later = alternate_rows(rows, cards, anew, RowSampling(1))
    assert [row.alternate for row in later[:8]] == [row.alternate for row in dealt[4:]]
    assert (
        alternate_rows(rows, cards, PLAIN, RowSampling())
        == alternate_rows(rows, (), anew, RowSampling())
        == rows
    )


def test_an_interrupted_run_goes_on_in_its_own_order(tiny_pair: Any, tmp_path: Path) -> None:
    """A resumed run with its own order, redrawn refusals and a reference gives the same bits."""
    pair = tiny_pair("llama")
    forget = [
        Row(f"f:{i}", prompt=f"w{i} ?", answer=f"w{i + 2} w{i + 3} .", alternate="w1 .")
        for i in range(9)
    ]
    retain = [Row(f"r:{i}", prompt=f"w{i} w{i + 2} ?", answer=f"w{i + 5} .") for i in range(20, 45)]
    settings = TrainingSettings(
        epochs=3,
        batch_size=2,
        gradient_accumulation=2,
        learning_rate=1e-3,
        optimizer="adamw",
        device="cpu",
        precision="pure-bfloat16",
        order_per_copy=True,
        draws="independent",
        redraw_refusals=True,
        train_embeddings=True,
        partial_step="share",
        decay_all=True,
    )
    recipe = Recipe(
        "DPO",
        tuple(sorted(methods.get("DPO").parse(()).items())),
        settings,
        "0" * 64,
        "1" * 64,
        "2" * 64,
    )
    given: dict[str, Any] = {
        "sampling": RowSampling(3, "", "copy-2", independent=True),
        "refusals": [f"w{i} w{i + 1} ." for i in range(5)],
        "reference": pair.base,
    }
    kept = WorkDirectory(tmp_path / "out", CheckpointSettings(steps=2))
    seen: list[int] = []

    def stop(step: int, total: int, loss: float) -> None:
        if step == 6:
            raise KeyboardInterrupt

    train_copy(pair.model, tmp_path / "whole", forget, retain, recipe, (), **given)
    with pytest.raises(KeyboardInterrupt):
        train_copy(
            pair.model,
            tmp_path / "a",
            forget,
            retain,
            recipe,
            (),
            context={"on_step": stop, "store": kept.store("m", {"x": 1})},
            **given,
        )
    store = kept.store("m", {"x": 1})
    train_copy(
        pair.model,
        tmp_path / "a",
        forget,
        retain,
        recipe,
        (),
        resume=True,
        context={"on_step": lambda step, *_: seen.append(step), "store": store},
        **given,
    )
    assert seen[0] > 1
    whole, resumed, before = (
        load_file(path / "model.safetensors")
        for path in (tmp_path / "whole", tmp_path / "a", pair.model)
    )
    assert all(
        value.dtype == torch.bfloat16 and torch.equal(value, resumed[name])
        for name, value in whole.items()
    )
    assert not torch.equal(
        whole["model.embed_tokens.weight"], before["model.embed_tokens.weight"].bfloat16()
    )


@pytest.mark.parametrize(
    ("number", "copies", "shared"), [(None, 2, False), (2, 2, False), (2, 1, True)]
)
def test_what_is_said_of_copies_with_an_order_of_their_own(
    number: int | None, copies: int, shared: bool
) -> None:
    """The note never calls a copy's own rows those of a baseline."""
    own = TrainingSettings(epochs=3, order_per_copy=True, round_number=number)
    text = words(own, handoff("a" * 32, copies))
    assert ("no " in text and "noise-free baseline" in text) != shared
    assert "the same --round N" not in text


def test_holders_of_a_split_have_one_order_whatever_is_asked() -> None:
    """`order_per_copy` tells copies of one handoff apart, and a part of a split has one."""
    own = TrainingSettings(epochs=3, order_per_copy=True)
    assert row_sampling(own, handoff("a" * 32, 1), "copy-1") == row_sampling(
        own, handoff("b" * 32, 1), "copy-1"
    )
