"""Mutated inputs on every reader; each target either returns or raises an MpuError, in time.

2,000 inputs here and 100,000 in the slow suite (`make fuzz`), the same ones in every run.
"""

from __future__ import annotations

import signal
import time
import warnings

import pytest

from fuzz.mutate import mutated
from fuzz.targets import TARGETS, Target
from mpu_cli.errors import MpuError

SECONDS = 2.0
"""Processor time of one input; the wall clock may show more on a busy machine."""
FAST, SLOW = 2_000, 100_000
_SHARES = sum(target.share for target in TARGETS)


class StuckError(BaseException):
    """A reader did not return; no handler of errors catches it."""


def _stop(*_: object) -> None:
    raise StuckError


def _count(target: Target, total: int) -> int:
    return 1 + int(total * target.share / _SHARES)


@pytest.fixture
def alarm():
    """Stop a reader that hangs."""
    before = signal.signal(signal.SIGALRM, _stop)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _fails(target: Target, data: bytes, place, alarm) -> str | None:
    begin = time.process_time()
    try:
        alarm()
        target.read(data, place)
    except MpuError as error:
        if not str(error.message):
            return "an error without a message"
    except (Exception, StuckError) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return f"a panic: {str(error)[:200]}"
    seconds = time.process_time() - begin
    return f"took {seconds:.1f} s" if seconds > SECONDS else None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_seeds_are_valid(target: Target, tmp_path):
    """Negative control: a target that refuses its seeds would never get past its first check."""
    for seed in target.seeds:
        target.read(seed, tmp_path)


@pytest.mark.parametrize("total", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutated_inputs(target: Target, total: int, tmp_path, alarm, record_property):
    """Whatever comes in: a result, or one error that names the file."""
    failures = {}
    count = _count(target, total)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            data = mutated(target.seeds, number)
            wrong = _fails(target, data, tmp_path, alarm)
            if wrong is not None:
                failures.setdefault(wrong[:60], (number, data[:300], wrong))
    record_property("fuzz", (target.name, count))
    assert not failures, "\n".join(
        f"input {number}: {wrong}\n  {data!r}" for number, data, wrong in failures.values()
    )
