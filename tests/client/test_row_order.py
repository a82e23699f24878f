"""Which order a copy gets: the same in all copies of a handoff, another in the next, one that a baseline can share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mpu_cli.client.row_order import drawing_of, words
from mpu_cli.client.train_copy import alternate_rows
from mpu_cli.data.batches import Drawing
from mpu_cli.data.rows import Row
from mpu_cli.training.settings import TrainingSettings

PLAIN = TrainingSettings(epochs=3)


def handoff(identity: str, copies: int) -> Any:
    """What `drawing_of` looks at of an opened handoff."""
    return SimpleNamespace(manifest=SimpleNamespace(id=identity), copies={f"copy-{k + 1}": None for k in range(copies)})


def test_copies_agree_and_handoffs_do_not() -> None:
    """By default the handoff's id decides, and the copy does not; a model has the order of round 1."""
    first, second = handoff("a" * 32, 2), handoff("b" * 32, 2)
    assert drawing_of(PLAIN, first, "copy-1") == drawing_of(PLAIN, first, "copy-2") == Drawing(retain="a" * 32)
    assert drawing_of(PLAIN, second, "copy-1") == Drawing(retain="b" * 32)
    assert drawing_of(PLAIN) == Drawing()
    assert "another handoff sees other rows" in words(PLAIN, first)


def test_holders_of_a_split_agree() -> None:
    """Their handoffs have one copy and other ids, so ids decide nothing there; that new rows need --round is said."""
    assert drawing_of(PLAIN, handoff("a" * 32, 1), "copy-1") == drawing_of(PLAIN, handoff("b" * 32, 1), "copy-1") == Drawing()
    assert "--round" in words(PLAIN, handoff("a" * 32, 1))


def test_a_round_is_the_same_for_handoff_and_baseline() -> None:
    """With --round N ids mean nothing: handoff and model go on after (N - 1) rounds of these epochs."""
    third = TrainingSettings(epochs=3, round_number=3)
    assert drawing_of(third, handoff("a" * 32, 2), "copy-1") == drawing_of(third) == Drawing(6)
    assert "round 3" in words(third, handoff("a" * 32, 2))


def test_an_order_of_its_own_for_each_copy() -> None:
    """Then copies differ, and so do handoffs unless the round is given."""
    own = TrainingSettings(epochs=3, order_per_copy=True, draws="independent")
    made = {drawing_of(own, handoff(identity * 32, 2), name) for identity in "ab" for name in ("copy-1", "copy-2")}
    assert len(made) == 4 and all(drawing.independent for drawing in made)
    rounds = TrainingSettings(epochs=3, order_per_copy=True, round_number=2)
    assert drawing_of(rounds, handoff("a" * 32, 2), "copy-1") == Drawing(3, "", "copy-1")


def test_refusals_anew_in_each_epoch() -> None:
    """Once for each epoch, going on over rounds; without the setting, or without refusals, the rows as they are."""
    rows = [Row(f"f:{number}", prompt="Q", answer="A", alternate="own") for number in range(4)]
    cards = [f"refusal {number}" for number in range(9)]
    anew = TrainingSettings(epochs=3, redraw_refusals=True)
    dealt = alternate_rows(rows, cards, anew, None)
    assert [row.where for row in dealt] == [row.where for row in rows] * 3
    epochs = [tuple(row.alternate for row in dealt[4 * e : 4 * e + 4]) for e in range(3)]
    assert len(set(epochs)) == 3
    later = alternate_rows(rows, cards, anew, Drawing(1))
    assert [row.alternate for row in later[:8]] == [row.alternate for row in dealt[4:]]
    assert alternate_rows(rows, cards, PLAIN, None) == alternate_rows(rows, (), anew, None) == rows
