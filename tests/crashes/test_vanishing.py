"""What a command reads vanishes, or changes, while it works."""

from __future__ import annotations

import shutil

import pytest
from crash_cases import is_stray, names
from dying import COUNTS, Moment

INPUTS = {
    "perturb": ("model", "base"),
    "unlearn": ("to-client", "forget.jsonl"),
    "diff": ("to-client", "trained"),
    "aggregate": ("to-server", "model"),
    "mask update": ("to-server", "to-client"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lost"), [(n, lost) for n, many in INPUTS.items() for lost in many]
)
def test_an_input_that_vanishes(name, lost, trial_of):
    """The result of what was read, or one line that names what is gone; nothing half-written."""
    trial = trial_of(name)

    def vanish() -> None:
        place = trial.place / lost
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    for number in range(1, len(trial.calls), max(1, len(trial.calls) // 8)):
        trial.reset()
        ended = trial.case.end(trial.scratch, Moment(number, act=vanish))
        COUNTS["inputs that vanished"] += 1
        assert ended.code in {0, 3}, ended
        assert "Traceback" not in ended.err
        trial.check_left(ended)
        if ended.code == 0:
            assert {out: trial._stable(out) for out in trial.case.outputs} == trial.after, ended
        else:
            assert lost in ended.error, ended
            left = [x for x in names(trial.place) if is_stray(x) and ".mpu-work" not in x]
            assert left == [], ended
