"""What a training run is told: one frozen object, checked once, whose messages name the command line's flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mpu_cli.errors import UsageError

Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training run, the same for every copy.

    Raises:
        UsageError: a value is outside its range; the message names the flag.
    """

    epochs: int = 5
    """Passes over the forget set."""
    learning_rate: float = 1e-5
    """Constant over the run, in the optimizer's own units."""
    batch_size: int = 8
    """Forget rows in one forward pass, over all processes; as many retain rows go with them."""
    gradient_accumulation: int = 1
    """Forward passes whose mean gradient makes one step."""
    optimizer: str = "adamw"
    """A file name in `training/optimizers/`."""
    weight_decay: float = 0.0
    """Decoupled; norms and biases are exempt."""
    max_grad_norm: float = 1.0
    """Euclidean norm to which a step's gradient is cut; 0 = never."""
    precision: Precision = "float32"
    """bfloat16 means autocast: weights, gradients and optimizer stay float32."""
    device: Device = "auto"
    """auto = the first of cuda, mps, cpu that is there."""
    seed: int = 0
    """Orders the data; no secret depends on it."""
    max_length: int = 512
    """Tokens of a row that are kept, from the left."""
    max_steps: int | None = None
    """Stop after so many steps, if the epochs do not end before."""
    keep_dropout: bool = False
    """Train with the model's own dropout, which makes copies differ by more than their noise (design, section 7)."""

    def __post_init__(self) -> None:
        """Check every value."""
        _whole("--epochs", self.epochs, 1)
        _whole("--batch-size", self.batch_size, 1)
        _whole("--gradient-accumulation", self.gradient_accumulation, 1)
        _whole("--max-length", self.max_length, 2)
        if self.max_steps is not None:
            _whole("--max-steps", self.max_steps, 1)
        # numpy's generator, which Trainer seeds along with torch's, takes 32 bits.
        _whole("--seed", self.seed, 0, 2**32 - 1)
        _number("--learning-rate", self.learning_rate, zero=False)
        _number("--weight-decay", self.weight_decay, zero=True)
        _number("--max-grad-norm", self.max_grad_norm, zero=True)
        _choice("--precision", self.precision, get_args(Precision))
        _choice("--device", self.device, get_args(Device))


def _whole(flag: str, value: object, least: int, most: int | None = None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most)
    if not fits:
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{flag} must be a whole number, {expected}; got {value!r}")


def _number(flag: str, value: float, *, zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise UsageError(f"{flag} must be a finite number {'of at least' if zero else 'above'} 0; got {value!r}")


def _choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{flag} must be one of {', '.join(choices)}; got {value!r}")
