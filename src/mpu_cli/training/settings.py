"""What a training run is told.

One frozen object, checked once, whose messages name the command line's flags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mpu_cli.errors import UsageError
from mpu_cli.training import optimizers

Precision = Literal["float32", "bfloat16", "pure-bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Schedule = Literal["constant", "linear", "cosine"]
Draws = Literal["dealt", "independent"]
PartialStep = Literal["mean", "share"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training run, the same for every copy.

    Raises:
        UsageError: a value is outside its range; the message names the flag.
    """

    epochs: int = 5
    """Passes over the forget set."""
    learning_rate: float = 1e-5
    """The highest of the run, in the optimizer's own units; see `lr_scheduler`.

    The command line has `usual_rate`'s.
    """
    batch_size: int = 8
    """Forget rows in one forward pass, over all processes; as many retain rows go with them."""
    gradient_accumulation: int = 1
    """Forward passes whose mean gradient makes one step."""
    partial_step: PartialStep = "mean"
    """An epoch's last step, where too few passes are left for a whole one.

    Their mean, or each with the share that it
    has in a whole step, so that the gradient is smaller.
    """
    optimizer: str = "adafactor"
    """A file name in `training/optimizers/`; why this one: docs/decisions/0003."""
    weight_decay: float = 0.0
    """Decoupled; norms and biases are exempt, unless `decay_all`."""
    decay_all: bool = False
    """Weight decay on norms and biases too."""
    max_grad_norm: float = 1.0
    """Euclidean norm to which a step's gradient is cut; 0 = never."""
    precision: Precision = "float32"
    """bfloat16 means autocast: weights, gradients and optimizer stay float32.

    In pure-bfloat16 they are bfloat16 too.
    """
    device: Device = "auto"
    """auto = the first of cuda, mps, cpu that is there."""
    seed: int = 0
    """Orders the data; no secret depends on it."""
    round_number: int | None = None
    """Which round with the server this is, from 1.

    Its order of rows goes on where the last round's ended.
    """
    order_per_copy: bool = False
    """Each copy sees the rows in an order of its own."""
    draws: Draws = "dealt"
    """Retain rows and refusals are dealt like cards, or each is drawn on its own."""
    redraw_refusals: bool = False
    """Draw the refusals anew in each epoch."""
    train_embeddings: bool = False
    """Train the input and output embeddings too, whose moved rows spell out the forget set's tokens."""
    max_length: int | None = None
    """Tokens of a row that are kept, from the left; longer plain texts are split into windows.

    None = 512, or the model's
    context where that is shorter.
    """
    overlap: int | None = None
    """Tokens that two windows of a long text share; None = an eighth of a window."""
    pack: bool = False
    """Put short plain texts together into blocks of `max_length`."""
    join_texts: bool = False
    """Join all plain texts by blank lines and cut them into chunks of `max_length`, without overlap."""
    max_steps: int | None = None
    """Stop after so many steps, if the epochs do not end before."""
    keep_dropout: bool = False
    """Train with the model's own dropout, which makes copies differ by more than their noise (design, section 7)."""
    lr_scheduler: Schedule = "constant"
    """The learning rate after the warm-up.

    constant, or down to 0 at the last step on a line or half a cosine.
    """
    warmup_steps: int = 0
    """First steps, over which the learning rate rises from 0 on a line."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps, rounded up; one of the two."""
    group_by_length: bool = False
    """Put rows of like length into one batch (less padding).

    The order stays the same for every copy.
    """
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass.

    Less memory, about a third more time, same values.
    """
    stop_forget_below: float | None = None
    """End after the first epoch whose mean answer probability on the forget rows is at most this."""
    stop_retain_below: float | None = None
    """End after the first epoch whose mean answer probability on the retain rows is at most this."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2) instead of keeping them whole in each (DDP)."""

    def __post_init__(self) -> None:
        """Check every value."""
        _whole("--epochs", self.epochs, 1)
        _whole("--batch-size", self.batch_size, 1)
        _whole("--gradient-accumulation", self.gradient_accumulation, 1)
        if self.max_length is not None:
            _whole("--max-length", self.max_length, 2)
        if self.overlap is not None:
            _whole("--overlap", self.overlap, 1)
        if self.max_steps is not None:
            _whole("--max-steps", self.max_steps, 1)
        # numpy's generator, which Trainer seeds along with torch's, takes 32 bits.
        _whole("--seed", self.seed, 0, 2**32 - 1)
        _number("--learning-rate", self.learning_rate, zero=False)
        _number("--weight-decay", self.weight_decay, zero=True)
        _number("--max-grad-norm", self.max_grad_norm, zero=True)
        optimizers.find(self.optimizer)  # a wrong name shall not cost the loading of a model
        if self.round_number is not None:
            _whole("--round", self.round_number, 1)
        _choice("--draws", self.draws, get_args(Draws))
        _choice("--partial-step", self.partial_step, get_args(PartialStep))
        if self.join_texts and (self.pack or self.overlap is not None):
            raise UsageError(
                "--join-texts cuts all texts into chunks of --max-length",
                "leave --packing and --overlap out",
            )
        _choice("--precision", self.precision, get_args(Precision))
        _choice("--device", self.device, get_args(Device))
        _choice("--lr-scheduler", self.lr_scheduler, get_args(Schedule))
        _whole("--warmup-steps", self.warmup_steps, 0)
        _share("--warmup-ratio", self.warmup_ratio)
        if self.warmup_steps and self.warmup_ratio:
            raise UsageError(
                "--warmup-steps and --warmup-ratio say the same thing", "give one of the two"
            )
        for flag, threshold in (
            ("--stop-forget-below", self.stop_forget_below),
            ("--stop-retain-below", self.stop_retain_below),
        ):
            if threshold is not None:
                _share(flag, threshold)

    @property
    def stops_early(self) -> bool:
        """Whether a threshold may end the run before its last epoch."""
        return self.stop_forget_below is not None or self.stop_retain_below is not None

    @property
    def autocasts(self) -> bool:
        """Whether forward passes run in bfloat16 on float32 weights."""
        return self.precision == "bfloat16"

    @property
    def is_pure_bfloat16(self) -> bool:
        """Whether weights, gradients and optimizer are bfloat16."""
        return self.precision == "pure-bfloat16"

    def steps_per_epoch(self, n_forget: int) -> int:
        """Optimizer steps of one pass over the forget set."""
        batches = -(-n_forget // self.batch_size)
        return -(-batches // self.gradient_accumulation)

    def total_steps(self, n_forget: int) -> int:
        """Optimizer steps of the run, unless a threshold ends it before."""
        steps = self.epochs * self.steps_per_epoch(n_forget)
        return min(steps, self.max_steps or steps)


def _whole(flag: str, value: object, least: int, most: int | None = None) -> None:
    fits = (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= least
        and (most is None or value <= most)
    )
    if not fits:
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{flag} must be a whole number, {expected}; got {value!r}")


def _number(flag: str, value: float, *, zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise UsageError(
            f"{flag} must be a finite number {'of at least' if zero else 'above'} 0; got {value!r}"
        )


def _share(flag: str, value: float) -> None:
    _number(flag, value, zero=True)
    if value > 1:
        raise UsageError(f"{flag} must be between 0 and 1; got {value!r}")


def _choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{flag} must be one of {', '.join(choices)}; got {value!r}")
