"""A really full disk: a file system of one megabyte."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from rounds import QUICK, Round

from mpu_cli.training.checkpoints import STATE, WEIGHTS


def _commands(r: Round, disk: Path, tmp: Path) -> dict[str, tuple[object, ...]]:
    data = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    return {
        "perturb": (
            "perturb",
            r.model,
            "--base",
            r.base,
            "--handoff",
            disk / "deep" / "new",
            "--new-lineage",
            tmp / "fresh",
        ),
        "perturb, secret": (
            "perturb",
            r.model,
            "--base",
            r.base,
            "--handoff",
            tmp / "new",
            "--new-lineage",
            disk / "deep" / "server",
        ),
        "unlearn": ("unlearn", r.handoff, *data, "--out", disk / "deep" / "new"),
        "unlearn one copy": (
            "unlearn",
            r.handoff,
            *data,
            "--copy",
            "1",
            "--out",
            disk / "deep" / "new",
        ),
        "unlearn a model": ("unlearn", r.model, *data, "--out", disk / "deep" / "new"),
        "diff": ("diff", r.handoff, tmp / "trained", "--out", disk / "deep" / "new"),
        "aggregate": (
            "aggregate",
            r.update,
            "--secret",
            r.secret,
            "--model",
            r.model,
            "--out",
            disk / "deep" / "new",
        ),
        "reissue": (
            "perturb",
            r.model,
            "--handoff",
            disk / "deep" / "new",
            "--secret",
            r.secret,
            "--reissue",
            _id(r),
        ),
    }


def _id(r: Round) -> str:
    return next((r.secret / "handoffs").iterdir()).stem


@pytest.fixture
def as_if_free(monkeypatch) -> None:
    """The disk reports free space, as with a quota or when another program fills it meanwhile."""
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40))


COMMANDS = [
    "perturb",
    "perturb, secret",
    "unlearn",
    "unlearn one copy",
    "unlearn a model",
    "diff",
    "aggregate",
    "reissue",
]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "perturb, secret"])
def test_missing_space_is_reported_before_the_work(
    name, mpu, own_round, small_disk, tmp_path, leftovers
):
    """Exit 3 with the needed and the free space; nothing is created, not even a secret."""
    trained = Path(shutil.copytree(own_round.handoff, tmp_path / "trained"))
    assert trained.is_dir()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    done = mpu(*_commands(own_round, small_disk, tmp_path)[name])
    assert done.code == 3, done.err
    message, hint = done.err.splitlines()[-2:]
    free = r"needs [0-9,]+\.\d MB, but only 0\.0 MB are free"
    assert re.fullmatch(
        f"mpu: error: {re.escape(str(small_disk / 'deep' / 'new'))}: (a|an|the) [a-z0-9 ]+ {free}",
        message,
    ), message
    assert hint == "mpu: hint: free some space, or use a larger disk"
    assert leftovers() == []
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_checkpoints_count_on_the_disk_of_work(mpu, own_round, small_disk, tmp_path):
    """--work on the small disk: neither two checkpoints nor finished copies fit there.

    One copy without checkpoints needs no space there.
    """
    data = (
        "--forget",
        own_round.forget,
        "--retain",
        own_round.retain,
        *QUICK,
        "--work",
        small_disk / "work",
    )
    done = mpu("unlearn", own_round.handoff, *data, "--out", tmp_path / "new")
    assert done.code == 3
    assert f"mpu: error: {small_disk / 'work'}/new-" in done.err
    assert ": the work directory with two checkpoints needs 0." in done.err
    without = ("unlearn", own_round.handoff, *data, "--save-seconds", 0, "--out", tmp_path / "new")
    assert ": the work directory needs 0." in mpu(*without).err
    assert mpu(*without, "--copy", 1).code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name, mpu, own_round, small_disk, tmp_path, leftovers, as_if_free
):
    """Exit 3, the target is named, and neither disk keeps a file."""
    trained = Path(shutil.copytree(own_round.handoff, tmp_path / "trained"))
    from safetensors.torch import load_file, save_file

    for copy in ("copy-1", "copy-2"):
        tensors = load_file(trained / copy / "model.safetensors")
        save_file(
            {k: v + 1 if "layers" in k else v for k, v in tensors.items()},
            trained / copy / "model.safetensors",
        )
    if name == "perturb, secret":
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    command = _commands(own_round, small_disk, tmp_path)[name]
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    done = mpu(*command)
    assert done.code == 3, done.err
    (error,) = (line for line in done.err.splitlines() if line.startswith("mpu: error: "))
    assert error.startswith(
        (f"mpu: error: {small_disk / 'deep'}", f"mpu: error: {tmp_path / 'new'}")
    )
    assert "mpu-partial" not in done.err
    assert "the disk is full; nothing of it was kept" in done.err
    assert done.err.endswith("mpu: hint: free some space, then run again\n")
    assert leftovers() == []
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    (small_disk / "filler").unlink()
    assert mpu(*command).code == 0


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
def test_a_disk_that_fills_up_in_a_checkpoint(
    name, mpu, own_round, small_disk, tmp_path, as_if_free
):
    """Libraries with their own errors write weights and state.

    One line, and --resume continues to the same bits.
    """
    data = (
        "--forget",
        own_round.forget,
        "--retain",
        own_round.retain,
        "--epochs",
        "3",
        "--batch-size",
        "4",
    )
    assert mpu("unlearn", own_round.handoff, *data, "--out", tmp_path / "whole").code == 0
    probe = (
        "unlearn",
        own_round.handoff,
        *data,
        "--save-steps",
        "1",
        "--copy",
        "1",
        "--work",
        tmp_path / "probe",
    )
    sizes = _sizes_of_a_checkpoint(lambda: mpu(*probe, "--out", tmp_path / "probed"))
    assert set(sizes) >= {WEIGHTS, STATE}
    # The first checkpoint fits, and of the second (which is written before the first goes) a part.
    room = sum(sizes.values()) + (
        sizes[WEIGHTS] + sizes[STATE] // 2 if name == STATE else sizes[WEIGHTS] // 2
    )
    (small_disk / "filler").write_bytes(bytes((1 << 20) - room))
    command = (
        "unlearn",
        own_round.handoff,
        *data,
        "--save-steps",
        "1",
        "--work",
        small_disk / "work",
        "--out",
        tmp_path / "new",
    )
    done = mpu(*command)
    assert done.code == 3, done.err
    *_, note, message, hint = done.err.splitlines()
    assert message.startswith(f"mpu: error: {small_disk / 'work'}"), done.err
    assert message.endswith("the disk is full, the checkpoint of step 2 was not kept")
    assert "--resume" in hint
    assert "is kept in" in note
    assert [path.name for path in small_disk.glob("work/*/copy-1/step-*")] == ["step-00000001"]
    assert not (tmp_path / "new").exists()
    (small_disk / "filler").unlink()
    resumed = mpu(*command, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["copies"]["copy-1"]["resumed_from"] == 1
    for file in ("copy-1/delta.safetensors", "copy-2/delta.safetensors", "mpu.yaml"):
        assert (tmp_path / "new" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def _sizes_of_a_checkpoint(run) -> dict[str, int]:
    """The size of each file of a checkpoint, in whole pages."""
    from mpu_cli.training.checkpoints import CheckpointStore

    sizes: dict[str, int] = {}
    complete = CheckpointStore._complete

    def noting(store, path, step):
        complete(store, path, step)
        sizes.update({file.name: -(-file.stat().st_size // 4096) * 4096 for file in path.iterdir()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "_complete", noting)
        assert run().code == 0
    return sizes
