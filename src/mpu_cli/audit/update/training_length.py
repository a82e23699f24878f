"""How many steps, and so about how many rows, the size of an update implies.

Adafactor and AdamW move each matrix by about the learning rate, root mean square, in every step.
Steps partly repeat each other's direction, so N steps move it by about rate · N^p;
benchmarks/update_leak.py measures p. The server knows neither the rate nor the recipe: it takes the
default rate for the model's size, and a third and three times of it.
"""

from __future__ import annotations

import math

import numpy as np

from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.subject import Subject, rows_in_blocks
from mpu_cli.checkpoint.model import SPAN
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.usual_rate import rate_for

POWER = 0.65
"""About the median of p over three methods, two optimizers and 10 – 60 steps: .41 – .76."""
_UNSURE = 3.0
"""The learning rate may be so many times larger or smaller than the default."""


def training_length(subject: Subject, rows: int, cover: int) -> Finding:
    """Estimate steps and rows as the server would.

    Args:
        subject: the copy and its change.
        rows: the true number of forget rows, to compare with.
        cover: the true number of cover rows.
    """
    rate = rate_for(subject.published.config, subject.published.path)
    size = median_size(subject)
    steps, fewest, most = (
        max(1.0, (size / rate * factor) ** (1 / POWER)) for factor in (1, 1 / _UNSURE, _UNSURE)
    )
    usual = TrainingSettings()
    per_step = usual.batch_size * usual.gradient_accumulation / usual.epochs
    guess, low, high = (max(1, round(number * per_step)) for number in (steps, fewest, most))
    true = f"{rows} rows and {cover} cover rows" if cover else f"{rows} rows"
    return Finding(
        "training_length",
        "steps and rows",
        f"about {_counted(steps, 'step')} ({fewest:.0f} – {most:.0f}), so about"
        f" {_counted(guess, 'row')}"
        f" ({low} – {high})",
        f"The server can guess how much you forgot: in truth {true}. It knows neither your"
        " learning rate nor your epochs, and takes the defaults.",
        numbers={
            "steps": steps,
            "steps_range": [fewest, most],
            "rows": guess,
            "rows_range": [low, high],
            "true_rows": rows,
            "cover_rows": cover,
            "rate": rate,
            "median_rms": size,
        },
        gated={"steps": steps, "rows": float(guess)},
    )


def _counted(number: float, noun: str) -> str:
    shown = f"{number:.0f}"
    return f"{shown} {noun}" if shown == "1" else f"{shown} {noun}s"


def median_size(subject: Subject) -> float:
    """The median over the layers' matrices of the root mean square of their change."""
    layers = set(subject.layout.layer_of())
    sizes = [
        _rms(subject, name)
        for name, change in subject.changes.items()
        if name in layers and len(change.shape) > 1
    ]
    return float(np.median(sizes)) if sizes else 0.0


def _rms(subject: Subject, name: str) -> float:
    change = subject.changes[name]
    total = sum(float(rows.square().sum()) for _, rows in rows_in_blocks(change, SPAN))
    return math.sqrt(total / math.prod(change.shape))
