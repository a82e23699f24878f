"""The settings of a training run: one frozen object, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpu_cli.data.settings import WindowSettings
from mpu_cli.errors import UsageError
from mpu_cli.modeling.device import Device
from mpu_cli.option import check, option
from mpu_cli.training import optimizers

Precision = Literal["float32", "bfloat16", "pure-bfloat16"]
Schedule = Literal["constant", "linear", "cosine"]
Draws = Literal["dealt", "independent"]
PartialStep = Literal["mean", "share"]


@dataclass(frozen=True, slots=True)
class TrainingSettings(WindowSettings):
    """Settings of one training run, the same for every copy.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """

    join_texts: bool = option(
        False,
        "Join all texts with blank lines and cut the result into chunks of --max-length, without"
        " overlap.",
        panel="Data",
        flag="--join-texts/--no-join-texts",
    )
    draws: Draws = option(
        "dealt",
        "How retain rows and refusals are drawn: each once before any repeats (dealt), or"
        " independently.",
    )
    redraw_refusals: bool = option(
        False, "Draw new refusals in each epoch.", flag="--redraw-refusals/--one-refusal"
    )
    order_per_copy: bool = option(
        False,
        "Train each copy of a handoff on its own order of the rows.",
        flag="--order-per-copy/--one-order",
    )
    round_number: int | None = option(
        None,
        "Number of this round, from 1. The order of rows continues where the last round ended.",
        flag="--round",
        shown="the order depends on the handoff",
        least=1,
    )
    group_by_length: bool = option(
        False, "Batch rows of similar length together, which saves padding."
    )
    # numpy's generator, which Trainer seeds along with torch's, takes 32 bits.
    seed: int = option(
        0,
        "Seed of the order of rows and of an adapter's matrix A, the same for every copy.",
        least=0,
        most=2**32 - 1,
    )
    train_embeddings: bool = option(
        False,
        "Train the embeddings too. The rows that change reveal which tokens your data has.",
        panel="Method",
        flag="--train-embeddings/--no-train-embeddings",
    )
    keep_dropout: bool = option(
        False, "Keep the model's dropout. It makes the copies differ by more than their noise."
    )
    # Why Adafactor: docs/decisions/0003.
    optimizer: str = option(
        "adafactor",
        "Optimizer. The paper uses adamw.",
        panel="Optimisation",
        metavar="|".join(optimizers.names()),
        names=optimizers.names,
    )
    epochs: int = option(5, "Number of passes over the forget set.", least=1)
    max_steps: int | None = option(None, "Stop after this number of steps.", least=1)
    learning_rate: float = option(
        1e-5,
        "Peak learning rate.",
        shown="chosen from the model's size, and printed",
        above=0,
    )
    lr_scheduler: Schedule = option(
        "constant", "Learning rate after the warm-up. The schedules linear and cosine end at 0."
    )
    warmup_steps: int = option(
        0,
        "Number of steps at the start during which the learning rate rises linearly from 0.",
        least=0,
    )
    warmup_ratio: float = option(
        0.0, "Length of the warm-up as a share of all steps.", least=0, most=1
    )
    batch_size: int = option(
        8,
        "Number of forget rows in one forward pass, over all processes. It takes as many retain"
        " rows.",
        least=1,
    )
    gradient_accumulation: int = option(1, "Number of forward passes per step.", least=1)
    partial_step: PartialStep = option(
        "mean",
        "Gradient of an epoch's last step if it has fewer forward passes: their mean, or their"
        " share of a whole step.",
    )
    weight_decay: float = option(0.0, "Decoupled weight decay, without norms and biases.", least=0)
    decay_all: bool = option(
        False, "Apply weight decay to norms and biases too.", flag="--decay-all/--no-decay-all"
    )
    max_grad_norm: float = option(
        1.0, "Largest norm of a step's gradient; 0 disables clipping.", least=0
    )
    smoothing: float = option(
        0.0,
        "Radius in which the forget loss must stay flat, so that relearning is harder (SAM); twice"
        " the work on forget rows. 0 disables it.",
        least=0,
    )
    stop_forget_below: float | None = option(
        None,
        "Stop after the first epoch in which the mean answer probability on the forget rows is at"
        " most this.",
        least=0,
        most=1,
    )
    stop_retain_below: float | None = option(
        None,
        "Stop after the first epoch in which the mean answer probability on the retain rows is at"
        " most this.",
        least=0,
        most=1,
    )
    precision: Precision = option(
        "float32",
        "Precision of training. With bfloat16 only the forward passes use it; weights, gradients"
        " and optimizer stay float32.",
    )
    device: Device = option(
        "auto",
        "Device to train on. With auto, the first available of cuda, mps and cpu.",
    )
    gradient_checkpointing: bool = option(
        False,
        "Recompute activations in the backward pass: less memory, about a third more time, the same"
        " values.",
    )
    fsdp: bool = option(False, "Shard the model over the processes of torchrun (FSDP2).")

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        optimizers.find(self.optimizer)  # before a model is loaded
        if self.join_texts and (self.pack or self.overlap is not None):
            raise UsageError(
                "--join-texts cuts all texts into chunks of --max-length",
                "leave --packing and --overlap out",
            )
        if self.warmup_steps and self.warmup_ratio:
            raise UsageError(
                "--warmup-steps and --warmup-ratio say the same thing", "give one of the two"
            )
        if self.smoothing and self.fsdp:
            raise UsageError(
                "--smoothing and --fsdp: smoothing moves whole weights, and a process has pieces",
                "leave --fsdp out: DDP smooths in several processes",
            )
        if self.smoothing and self.is_pure_bfloat16:
            raise UsageError(
                "--smoothing and --precision pure-bfloat16: bfloat16 rounds so short a step away",
                "give --precision bfloat16 or float32",
            )

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
