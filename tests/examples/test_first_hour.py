"""docs/first-hour.md is a transcript: its commands are run again, and print the same words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

REPLAY = Path(__file__).parents[2] / "examples" / "first-hour" / "replay.py"


@pytest.mark.slow
def test_the_first_hour_prints_what_the_page_says(tmp_path, monkeypatch):
    """Numbers and digests may differ, words and exit codes may not.

    About a minute on an idle machine.
    """
    spec = importlib.util.spec_from_file_location("replay", REPLAY)
    assert spec is not None
    assert spec.loader is not None
    replay = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, replay)  # where dataclasses look for it
    spec.loader.exec_module(replay)
    _, differing = replay.replay(tmp_path, replay.PAGE.read_text(encoding="utf-8"))
    assert not differing
