"""One NPO epoch against the plain way: both sides train alike, and are measured."""

import json
import subprocess
import sys
from pathlib import Path

import npo_epoch
import pytest
from measuring import Cost

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "npo_epoch.py"


@pytest.mark.slow
def test_both_sides_run_and_train_alike(tmp_path):
    """The demo's model, two steps: seconds, peaks and ratios.

    The script itself refuses changes that differ.
    """
    options = ["--rows", "4", "--batch-size", "2", "--repeats", "1", "--work", tmp_path, "--json"]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())
    found = json.loads(done.stdout)
    assert set(found["ratios"]) == {"epoch", "with loading", "memory"} and set(found["bars"]) < set(
        found["ratios"]
    )
    for side in ("ours", "plain"):
        row = found["medians"][side]
        assert 0 < row["epoch"] < row["with loading"] and row["memory"] > 4  # the weights alone


def test_sides_that_trained_differently_are_refused(monkeypatch):
    """Negative control: runs with another change of a tensor, or other tensors, do not compare."""
    for other in ({"a": 1.0, "b": 2.1}, {"a": 1.0}):
        moved = {"ours": {"a": 1.0, "b": 2.0}, "plain": other}

        def measured(setup, action, job, moved=moved):
            return Cost(
                1,
                1,
                0,
                1,
                1,
                1,
                {"epoch": 1, "moved": moved["plain" if "plain" in action else "ours"]},
            )

        monkeypatch.setattr(npo_epoch, "measured", measured)
        with pytest.raises(SystemExit, match="trained differently"):
            npo_epoch.compare({}, 1)
