"""Rows that a tiny model forgets and keeps, a plan, and a command line run in this process."""

from __future__ import annotations

import signal

from mpu_cli.cli.app import run

FORGET = [
    {"question": f"w{i} w{i + 1} ?", "answer": f"w{i + 2} w{i + 3} w{i + 4} ."}
    for i in range(0, 24, 3)
]
RETAIN = [
    {"question": f"w{i} w{i + 2} ?", "answer": f"w{i + 5} w{i + 1} ."} for i in range(24, 48, 3)
]
QUICK = ("--max-steps", "2", "--batch-size", "4", "--learning-rate", "1e-3", "--method", "GradDiff")

PLAN = """\
model: model
base: base
data: {forget: forget.jsonl, retain: retain.jsonl}
seeds: [1]
unlearn: {max_steps: 2, batch_size: 4, learning_rate: 1e-3}
grid: {method: [GradDiff], kappa: [0.01], copies: [2]}
"""
"""A plan in a directory with the models and rows of a round."""


def quietly(arguments: tuple[object, ...]) -> int:
    """Run a command line in this process and restore the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)
