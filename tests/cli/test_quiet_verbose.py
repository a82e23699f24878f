"""-v and -q before the command, after it, and in a file."""

from __future__ import annotations

import pytest
from rounds import every_command

COMMANDS = sorted(every_command())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both(name, mpu):
    """Also in its help."""
    text = mpu(*name.split(), "--help").out
    assert "-v, --verbose" in text
    assert "-q, --quiet" in text


@pytest.mark.parametrize("place", ["before", "after", "file"])
def test_both_at_once_is_a_usage_error(place, mpu, tmp_path, finished_round):
    """In any position."""
    (tmp_path / "options.yaml").write_text("quiet: true\nverbose: true\n")
    asked = {
        "before": ("-q", "verify", "-v"),
        "after": ("verify", "-q", "-v"),
        "file": ("verify", "--config", tmp_path / "options.yaml"),
    }
    done = mpu(*asked[place], finished_round.handoff)
    assert done.code == 2
    assert (
        done.err
        == "mpu: error: --verbose and --quiet contradict each other\nmpu: hint: give one of them\n"
    )
