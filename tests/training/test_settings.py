"""Settings are checked once, and the messages name the flags."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mpu_cli.errors import UsageError
from mpu_cli.training.settings import TrainingSettings

BAD = [
    ("epochs", 0, "--epochs"),
    ("epochs", 1.5, "--epochs"),
    ("epochs", True, "--epochs"),
    ("batch_size", 0, "--batch-size"),
    ("gradient_accumulation", -1, "--gradient-accumulation"),
    ("learning_rate", 0, "--learning-rate"),
    ("learning_rate", float("nan"), "--learning-rate"),
    ("learning_rate", "fast", "--learning-rate"),
    ("weight_decay", -0.1, "--weight-decay"),
    ("max_grad_norm", float("inf"), "--max-grad-norm"),
    ("smoothing", -0.01, "--smoothing"),
    ("smoothing", float("nan"), "--smoothing"),
    ("precision", "float16", "--precision"),
    ("device", "gpu", "--device"),
    ("seed", -1, "--seed"),
    ("seed", 2**32, "--seed"),
    ("max_length", 1, "--max-length"),
    ("max_steps", 0, "--max-steps"),
    ("lr_scheduler", "polynomial", "--lr-scheduler"),
    ("warmup_steps", -1, "--warmup-steps"),
    ("warmup_ratio", 1.5, "--warmup-ratio"),
    ("stop_forget_below", -0.1, "--stop-forget-below"),
    ("stop_retain_below", 2, "--stop-retain-below"),
]


@pytest.mark.parametrize(("name", "value", "flag"), BAD)
def test_out_of_range(name: str, value: Any, flag: str) -> None:
    """Each value outside its range is a usage error that names the flag and the value."""
    with pytest.raises(UsageError, match=f"^{flag} {re.escape(str(value))}: expected ") as caught:
        TrainingSettings(**{name: value})
    assert caught.value.exit_code == 2


def test_defaults_are_valid() -> None:
    """The defaults pass, and zero switches weight decay and clipping off."""
    settings = TrainingSettings(weight_decay=0, max_grad_norm=0, max_steps=1)
    assert (settings.weight_decay, settings.max_grad_norm, TrainingSettings().max_grad_norm) == (
        0,
        0,
        1.0,
    )


@pytest.mark.parametrize("other", [{"fsdp": True}, {"precision": "pure-bfloat16"}])
def test_what_smoothing_cannot_do(other: dict[str, Any]) -> None:
    """Sharded weights and bfloat16 weights cannot be moved by a short step."""
    with pytest.raises(UsageError, match="--smoothing and --") as caught:
        TrainingSettings(smoothing=0.01, **other)
    assert caught.value.exit_code == 2 and caught.value.hint
    assert TrainingSettings(smoothing=0, **other).smoothing == 0


def test_one_kind_of_warm_up() -> None:
    """A warm-up is given in steps or as a share, not both."""
    with pytest.raises(UsageError, match="--warmup-steps and --warmup-ratio"):
        TrainingSettings(warmup_steps=2, warmup_ratio=0.1)


def test_counts_steps() -> None:
    """10 rows at batch 4 and accumulation 2 make 2 steps an epoch; max_steps never adds steps."""
    settings = TrainingSettings(epochs=3, batch_size=4, gradient_accumulation=2)
    assert (settings.steps_per_epoch(10), settings.total_steps(10)) == (2, 6)
    assert TrainingSettings(epochs=3, batch_size=4, max_steps=5).total_steps(10) == 5
    assert TrainingSettings(epochs=1, batch_size=4, max_steps=50).total_steps(10) == 3
