"""Learning-rate schedules, early stops, gradient checkpointing and the log of a run."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import FORGET, RETAIN, SETTINGS, distance, run, weights

from mpu_cli.errors import UsageError
from mpu_cli.modeling.logprobs import answer_nll
from mpu_cli.training import optimizers
from mpu_cli.training.event_log import check_available
from tiny_models import make_model


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step, as the optimizer has it when it steps."""
    seen: list[float] = []

    class Noting(torch.optim.SGD):
        """Gradient descent that writes its rate down."""

        def step(self, closure: Any = None) -> Any:
            """One step."""
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    spec = optimizers.OptimizerSpec(
        "sgd", "test", True, lambda groups, rate, config: Noting(groups, lr=rate)
    )
    monkeypatch.setattr(optimizers, "get", lambda name: spec)
    return seen


STEPS = replace(
    SETTINGS, batch_size=4, epochs=5, learning_rate=1.0, max_grad_norm=1e-6
)  # 10 steps that move next to nothing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1.0] * 10),
        ({"warmup_steps": 4}, [0, 0.25, 0.5, 0.75] + [1.0] * 6),
        ({"warmup_ratio": 0.3}, [0, 1 / 3, 2 / 3] + [1.0] * 7),
        ({"lr_scheduler": "linear"}, [1 - i / 10 for i in range(10)]),
        ({"lr_scheduler": "linear", "warmup_steps": 2}, [0, 0.5] + [1 - i / 8 for i in range(8)]),
        ({"lr_scheduler": "cosine"}, [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
        ({"lr_scheduler": "linear", "max_steps": 4}, [1, 0.75, 0.5, 0.25]),
    ],
)
def test_the_rate_of_every_step(
    changes: dict[str, Any], expected: list[float], rates: list[float]
) -> None:
    """Rises over the warm-up from 0, then stays or falls to 0 over the steps that there are."""
    run(settings=replace(STEPS, **changes), inputs=frozenset())
    assert rates == pytest.approx(expected, abs=1e-12)


def probability(model: Any, rows: Any) -> float:
    """Mean answer probability, row by row."""
    return sum(math.exp(-nll / tokens) for nll, tokens in answer_nll(model, rows, 8, 0)) / len(rows)


def ascent(model: Any, batch: Any) -> torch.Tensor:
    """Forget, and nothing else."""
    from mpu_cli.modeling.logprobs import token_mean_nll

    return -token_mean_nll(model, batch["forget"])


def test_stops_after_the_epoch_that_reaches_the_threshold() -> None:
    """The weights are those of the same run cut off there, and the report says what was seen."""
    settings = replace(SETTINGS, epochs=6)
    reached = 3
    model, _ = run(settings=replace(settings, max_steps=2 * reached), loss=ascent)
    limit = probability(model, FORGET)
    stopped, report = run(
        settings=replace(settings, stop_forget_below=limit * (1 + 1e-6)), loss=ascent
    )
    assert report.steps == 2 * reached
    assert distance(stopped, model) == 0
    assert [each.epoch for each in report.evaluations] == [1, 2, 3]
    assert report.evaluations[-1].forget == pytest.approx(limit, rel=1e-5)
    assert report.evaluations[-1].retain is None


def test_stops_where_too_much_is_lost() -> None:
    """The retain threshold works with a loss that reads no retain rows."""
    settings = replace(SETTINGS, epochs=6, stop_retain_below=1.0, stop_forget_below=0.0)
    _, report = run(settings=settings, loss=ascent, inputs=frozenset())
    assert report.steps == 2
    alone, _ = run(settings=replace(SETTINGS, epochs=1), loss=ascent)[:2]
    assert report.evaluations[0].retain == pytest.approx(probability(alone, RETAIN), rel=1e-5)


def test_thresholds_that_are_not_reached_change_nothing() -> None:
    """Measuring does not move a bit."""
    plain, _ = run()
    watched, report = run(settings=replace(SETTINGS, stop_forget_below=0.0))
    assert distance(plain, watched) == 0
    assert len(report.evaluations) == 2


def test_other_copies_end_where_the_first_did() -> None:
    """stop_after wins over thresholds, keeps the whole run's schedule, and measures nothing."""
    settings = replace(SETTINGS, epochs=6, lr_scheduler="linear", stop_forget_below=0.0)
    model, report = run(settings=settings, context={"stop_after": 4})
    assert (report.steps, report.evaluations) == (4, ())
    shorter, _ = run(settings=replace(settings, max_steps=4))
    assert distance(model, shorter) > 0


def test_a_threshold_on_rows_that_are_not_there() -> None:
    """A caller's mistake, found before training."""
    with pytest.raises(ValueError, match="needs retain rows"):
        run(
            settings=replace(SETTINGS, stop_retain_below=0.5),
            loss=ascent,
            inputs=frozenset(),
            retain=None,
        )


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_gradient_checkpointing_changes_no_bit(family: str) -> None:
    """Checkpointing gives the same bits, with frozen embeddings too, and is off afterwards."""

    def frozen() -> Any:
        model = make_model(family)
        model.get_input_embeddings().requires_grad_(False)
        return model

    plain, _ = run(frozen())
    checkpointed, _ = run(frozen(), replace(SETTINGS, gradient_checkpointing=True))
    assert distance(plain, checkpointed) == 0
    assert distance(checkpointed, frozen()) > 1e-4
    assert not checkpointed.is_activation_checkpointing


def test_grouping_reaches_the_batches() -> None:
    """Rows of two lengths never share a batch, whatever the order draws."""
    from test_trainer import rows

    mixed = [row for pair in zip(rows(8, 10), rows(8, 30, 16), strict=True) for row in pair]
    widths: list[set[int]] = []

    def noting(model: Any, batch: Any) -> torch.Tensor:
        widths.append(set(batch["forget"]["attention_mask"].sum(1).tolist()))
        return ascent(model, batch)

    run(
        settings=replace(SETTINGS, group_by_length=True),
        forget=mixed,
        loss=noting,
        inputs=frozenset(),
    )
    assert all(len(each) == 1 for each in widths)
    widths.clear()
    run(forget=mixed, loss=noting, inputs=frozenset())
    assert any(len(each) == 2 for each in widths)


def test_a_log_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--log-dir needs TensorBoard") as caught:
        check_available()
    assert "mpu-cli[tensorboard]" in str(caught.value.hint)


def test_a_log(tmp_path: Path) -> None:
    """Losses, rates and measured thresholds are readable by TensorBoard, and no bit changes."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(SETTINGS, warmup_steps=2, stop_forget_below=0.0)
    model, report = run(settings=settings, context={"log_dir": tmp_path / "log"})
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("loss")[-1].value == pytest.approx(report.last_loss, rel=1e-6)
    assert [event.value for event in events.Scalars("learning_rate")] == pytest.approx(
        [0, 5e-4, 1e-3, 1e-3]
    )
    assert [event.step for event in events.Scalars("forget_probability")] == [2, 4]
    assert weights(model).keys() == weights(run(settings=settings)[0]).keys()
    assert distance(model, run(settings=settings)[0]) == 0
