"""kill -9 in the middle of training, then --resume: the same bytes as without.

And what is not taken up again.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMON = (
    "--epochs",
    "6",
    "--batch-size",
    "2",
    "--gradient-accumulation",
    "2",
    "--learning-rate",
    "1e-3",
    "--method",
    "NPO",
)
MORE = (
    "--lr-scheduler",
    "cosine",
    "--warmup-ratio",
    "0.2",
    "--group-by-length",
    "--weight-decay",
    "0.1",
)
EVERY = ("--save-steps", "1")
# In the child: die by SIGKILL while or after the N-th checkpoint is written, or while a finished
# copy is put aside.
KILLER = """
import os, signal, sys
from mpu_cli.training import checkpoints
from mpu_cli.client import work_directory

where, count = sys.argv.pop(1), int(sys.argv.pop(1))
def dying(function):
    def wrapper(*arguments, **more):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **more)
    return wrapper
owner, name = {
    "flush": (checkpoints, "flush"), "digest": (checkpoints, "file_digest"),
    "begin": (checkpoints.CheckpointStore, "save"), "rename": (checkpoints.Path, "rename"),
    "keep": (work_directory.WorkDirectory, "keep"), "kept": (work_directory.WorkDirectory, "store"),
}[where]
setattr(owner, name, dying(getattr(owner, name)))
from mpu_cli.__main__ import main
main()
"""


def command(r, out: Path, *more: str) -> list[str]:
    """A training of both copies, 2 steps an epoch, 12 steps a copy."""
    return [
        "unlearn",
        str(r.handoff),
        "--forget",
        str(r.forget),
        "--retain",
        str(r.retain),
        *COMMON,
        *MORE,
        "--out",
        str(out),
        *more,
    ]


def bits(out: Path) -> dict[str, bytes]:
    """Every file of an update."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(finished_round, tmp_path_factory) -> dict[str, bytes]:
    """The update that a run makes which nobody disturbs, and which writes no checkpoint."""
    from rounds import quietly

    out = tmp_path_factory.mktemp("whole") / "to-server"
    assert quietly(tuple(command(finished_round, out, "--save-seconds", "0"))) == 0
    return bits(out)


def killed(arguments: list[str], where: str, count: int, environment: dict[str, str]) -> None:
    """Run until the child kills itself."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, where, str(count), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("where", "count"), [("digest", 8), ("keep", 1)], ids=["inside a checkpoint", "after a copy"]
)
def test_a_killed_run_goes_on_with_the_same_bits(
    where, count, finished_round, uninterrupted, tmp_path, environment, mpu
):
    """A run killed while it writes a checkpoint or finishes a copy resumes in another process."""
    out, kept = tmp_path / "to-server", tmp_path / ".to-server.mpu-work"
    killed(command(finished_round, out, *EVERY), where, count, environment)
    assert not out.exists()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    resumed = mpu(*command(finished_round, out, *EVERY, "--resume"), "--json")
    assert resumed.code == 0, resumed.err
    assert bits(out) == uninterrupted
    went_on = [report["resumed_from"] for report in resumed.json["copies"].values()]
    assert went_on[0] == {"digest": 2, "keep": 11}[where]
    assert resumed.json["copies"]["copy-1"]["steps"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-server"]


def test_a_smoothed_run_goes_on_with_the_same_bits(finished_round, tmp_path, environment, mpu):
    """Killed inside a checkpoint between two steps; the perturbed weights are never written."""
    more = ("--smoothing", "0.05", "--max-steps", "4", *EVERY)
    whole = mpu(*command(finished_round, tmp_path / "whole", *more))
    assert whole.code == 0, whole.err
    out = tmp_path / "to-server"
    killed(command(finished_round, out, *more), "digest", 8, environment)
    resumed = mpu(*command(finished_round, out, *more, "--resume"), "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["copies"]["copy-1"]["resumed_from"] == 2
    assert bits(out) == bits(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_anywhere_goes_on_with_the_same_bits(
    seed, finished_round, uninterrupted, tmp_path, environment, mpu
):
    """Ten points drawn at random.

    In training, in each part of writing a checkpoint, between copies; some twice.
    """
    rng = random.Random(seed)
    out = tmp_path / "to-server"
    points = ["flush", "digest", "begin", "rename", "keep", "kept", "time"]
    for attempt in range(rng.choice([1, 1, 2])):
        resume = ["--resume"] if attempt else []
        where = points[(seed + attempt) % len(points)]
        if where == "time":
            process = subprocess.Popen(
                [sys.executable, "-m", "mpu_cli", *command(finished_round, out, *EVERY, *resume)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 60
            while (
                not list(tmp_path.glob(".to-server.mpu-work/*/step-*")) and process.poll() is None
            ):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.7))
            process.kill()
            process.wait()
        else:
            # In a checkpoint there are 6 flushes, 3 digests and 1 rename.
            most = {"flush": 60, "digest": 30, "begin": 11, "rename": 10, "keep": 2, "kept": 2}[
                where
            ]
            killed(
                command(finished_round, out, *EVERY, *resume),
                where,
                rng.randint(1, most),
                environment,
            )
    done = mpu(*command(finished_round, out, *EVERY, "--resume"))
    assert done.code == 0, done.err
    assert bits(out) == uninterrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-server"]


@pytest.fixture(scope="module")
def interrupted(finished_round, tmp_path_factory) -> Path:
    """A directory with what a run leaves that was killed after three checkpoints of copy-1."""
    import os

    where = tmp_path_factory.mktemp("interrupted")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed(command(finished_round, where / "to-server", *EVERY), "begin", 4, environment)
    return where


@pytest.fixture
def left(interrupted, tmp_path) -> Path:
    """The same, to break."""
    return Path(shutil.copytree(interrupted, tmp_path / "left"))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("--learning-rate", "2e-3"), "--learning-rate was 0.001 and is 0.002"),
        (("--seed", "1"), "--seed was 0 and is 1"),
        (("--method", "SimNPO"), "--method was NPO and is SimNPO"),
        (("--delta-dtype", "bfloat16"), "--delta-dtype was float32 and is bfloat16"),
        (("--system-prompt", "w1"), "--system-prompt was not given and is w1"),
        (("--forget", "{other}"), "the forget file changed"),
    ],
)
def test_another_recipe_is_not_gone_on_with(other, told, left, finished_round, tmp_path, mpu):
    """The checkpoint stays, and the message says what differs and what to do."""
    rows = finished_round.forget.read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(reversed(rows)))
    other = tuple(word.format(other=tmp_path / "other.jsonl") for word in other)
    done = mpu(*command(finished_round, left / "to-server", *EVERY, "--resume"), *other)
    assert done.code == 1
    assert f"belongs to another run: {told}" in done.err, done.err
    assert "--force" in done.err
    assert list(left.glob(".to-server.mpu-work/copy-1/step-*/complete.json"))


def test_another_copy_is_not_gone_on_with(left, finished_round, mpu):
    """A checkpoint moved to another copy's place is refused."""
    (left / ".to-server.mpu-work" / "copy-1").rename(left / ".to-server.mpu-work" / "copy-2")
    done = mpu(*command(finished_round, left / "to-server", *EVERY, "--resume"), "--copy", "2")
    assert done.code == 1
    assert "belongs to another run: " in done.err
    assert "the copy was copy-1 and is copy-2" in done.err


def test_work_is_not_thrown_away_unasked(left, finished_round, uninterrupted, mpu):
    """Without --resume an interrupted run's work is in the way.

    --force begins anew and leaves nothing of it.
    """
    arguments = command(finished_round, left / "to-server")
    refused = mpu(*arguments)
    assert refused.code == 3
    assert "--resume" in refused.err
    assert mpu(*arguments, "--force").code == 0
    assert bits(left / "to-server") == uninterrupted
    assert [path.name for path in left.iterdir()] == ["to-server"]


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "state.pt", "trainer_state.json", "complete.json"]
)
def test_an_altered_checkpoint_is_refused(name, left, finished_round, mpu):
    """One byte changed in any of its files."""
    path = next(left.glob(f".to-server.mpu-work/copy-1/step-*/{name}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = mpu(*command(finished_round, left / "to-server", *EVERY, "--resume"))
    assert done.code == 1, done.err
    assert "mpu: error: " in done.err
    assert "Traceback" not in done.err
    assert not (left / "to-server").exists()


def test_a_checkpoint_without_its_marker_does_not_count(left, finished_round, uninterrupted, mpu):
    """Whatever else is there; the run begins anew, and its update is right."""
    next(left.glob(".to-server.mpu-work/copy-1/step-*/complete.json")).unlink()
    done = mpu(*command(finished_round, left / "to-server", *EVERY, "--resume"), "--json")
    assert done.code == 0, done.err
    assert done.json["copies"]["copy-1"]["resumed_from"] is None
    assert bits(left / "to-server") == uninterrupted


def test_a_private_directory_of_ones_own(finished_round, uninterrupted, tmp_path, environment, mpu):
    """--work elsewhere; one copy alone; nothing of it is left in the end."""
    out, work = tmp_path / "to-server", tmp_path / "scratch"
    arguments = command(finished_round, out, *EVERY, "--work", str(work), "--copy", "2")
    killed(arguments, "begin", 3, environment)
    (kept,) = work.iterdir()
    names = sorted(path.name for path in kept.rglob("*") if path.is_file())
    assert names == ["complete.json", "state.pt", "trainer_state.json", "weights.safetensors"]
    assert all(
        stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        for path in [kept / "copy-2", *kept.rglob("step-*/*")]
    )
    done = mpu(*arguments, "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["copies"]["copy-2"]["resumed_from"] == 2
    assert (out / "copy-2" / "delta.safetensors").read_bytes() == uninterrupted[
        "copy-2/delta.safetensors"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-server"]


@pytest.mark.slow
def test_a_model_is_gone_on_with_too(finished_round, tmp_path, environment, mpu):
    """A plain model directory as source."""
    r = finished_round
    data = ["--forget", str(r.forget), "--retain", str(r.retain), *COMMON]
    whole = mpu("unlearn", r.model, *data, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    arguments = ["unlearn", str(r.model), *data, *EVERY, "--out", str(tmp_path / "resumed")]
    killed(arguments, "begin", 5, environment)
    assert mpu(*arguments, "--resume").code == 0
    assert bits(tmp_path / "whole") == bits(tmp_path / "resumed")


def test_the_checkpoint_holds_no_code(left):
    """The state loads with torch's restricted loader, and the marker is plain JSON."""
    import torch

    (step,) = left.glob(".to-server.mpu-work/copy-1/step-*")
    state = torch.load(step / "state.pt", weights_only=True)
    assert {"optimizer", "scheduler", "generators", "losses"} <= set(state)
    assert json.loads((step / "complete.json").read_text())["step"] == 3


def test_what_was_written_is_not_read_again_for_its_digests(
    finished_round, uninterrupted, tmp_path, mpu, monkeypatch
):
    """The writer's own digests go into the manifest and into what is kept.

    The update verifies, and is the same.
    """
    from mpu_cli.client import update

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    out = tmp_path / "to-server"
    with monkeypatch.context() as patch:
        patch.setattr(update, "file_digest", refuse)
        done = mpu(*command(finished_round, out, "--save-seconds", "0"))
        assert done.code == 0, done.err
    assert bits(out) == uninterrupted
    assert mpu("verify", out).code == 0


def test_a_file_that_nobody_wrote_stops_the_manifest(finished_round, tmp_path):
    """A directory with other files than were written is refused."""
    from mpu_cli.bundle.read import read_handoff
    from mpu_cli.client.update import write_manifest

    directory = Path(shutil.copytree(finished_round.update, tmp_path / "update"))
    (directory / "mpu.yaml").unlink()
    handoff = read_handoff(finished_round.handoff)
    written = {
        "copy-1": {
            file.name: ("0" * 64, file.stat().st_size) for file in (directory / "copy-1").iterdir()
        }
    }
    (directory / "copy-1" / "notes.txt").write_text("private")
    with pytest.raises(RuntimeError, match="does not hold what was written"):
        write_manifest(directory, handoff, written)
    assert not (directory / "mpu.yaml").exists()
