"""Where mpu keeps files of one user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpu_cli.user_directory import user_directory


def test_the_variable_counts_if_it_is_absolute(monkeypatch):
    """By the XDG Base Directory Specification."""
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/one")
    assert user_directory("XDG_CONFIG_HOME", "~/.config") == Path("/etc/one/mpu")
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert user_directory("XDG_CONFIG_HOME", "~/.config") == Path("/home/one/.config/mpu")


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    """A container often runs as a number that is in no list of users."""

    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    found = user_directory("XDG_STATE_HOME", "~/.local/state")
    assert found == Path(os.devnull) / "mpu" and not found.exists()
    with pytest.raises(NotADirectoryError):
        found.mkdir()
