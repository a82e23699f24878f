"""A full disk, really: a file system of one megabyte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rounds import QUICK, Round


def _commands(r: Round, disk: Path, tmp: Path) -> dict[str, tuple[object, ...]]:
    data = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    return {
        "perturb": ("perturb", r.model, "--base", r.base, "--handoff", disk / "deep" / "new", "--secret", tmp / "fresh"),
        "perturb, secret": ("perturb", r.model, "--base", r.base, "--handoff", tmp / "new", "--secret", disk / "deep" / "server"),
        "unlearn": ("unlearn", r.handoff, *data, "--out", disk / "deep" / "new"),
        "unlearn one copy": ("unlearn", r.handoff, *data, "--copy", "1", "--out", disk / "deep" / "new"),
        "unlearn a model": ("unlearn", r.model, *data, "--out", disk / "deep" / "new"),
        "diff": ("diff", r.handoff, tmp / "trained", "--out", disk / "deep" / "new"),
        "aggregate": ("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out", disk / "deep" / "new"),
        "reissue": ("perturb", r.model, "--handoff", disk / "deep" / "new", "--secret", r.secret, "--reissue", _id(r)),
    }


def _id(r: Round) -> str:
    return next((r.secret / "handoffs").iterdir()).stem


COMMANDS = ["perturb", "perturb, secret", "unlearn", "unlearn one copy", "unlearn a model", "diff", "aggregate", "reissue"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(name, mpu, own_round, small_disk, tmp_path, leftovers):
    """Exit 3, the target is named, and neither the full disk nor the other one keeps anything."""
    trained = Path(shutil.copytree(own_round.handoff, tmp_path / "trained"))
    from safetensors.torch import load_file, save_file

    for copy in ("copy-1", "copy-2"):
        tensors = load_file(trained / copy / "model.safetensors")
        save_file({k: v + 1 if "layers" in k else v for k, v in tensors.items()}, trained / copy / "model.safetensors")
    if name == "perturb, secret":
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    command = _commands(own_round, small_disk, tmp_path)[name]
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    done = mpu(*command)
    assert done.code == 3, done.err
    assert done.err.startswith((f"mpu: {small_disk / 'deep'}", f"mpu: {tmp_path / 'new'}"))
    assert "mpu-partial" not in done.err
    assert "the disk is full; nothing was kept" in done.err
    assert done.err.endswith("mpu: free some space, run again\n")
    assert leftovers() == []
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    (small_disk / "filler").unlink()
    assert mpu(*command).code == 0
