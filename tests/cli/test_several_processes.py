"""torchrun with two processes on the CPU.

The same update as one process, one voice, and launchers that are refused.
"""

from __future__ import annotations

import functools
import json
import operator
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# The default optimizer needs whole tensors.
COMMON = (
    "--optimizer",
    "adamw",
    "--batch-size",
    "4",
    "--gradient-accumulation",
    "2",
    "--epochs",
    "8",
    "--learning-rate",
    "1e-3",
    "--save-seconds",
    "0",
)


def row(rng: random.Random) -> dict[str, str]:
    """A row of any length: with equal ones a wrong mean over tokens would go unnoticed."""
    question, answer = (
        " ".join(f"w{rng.randrange(59)}" for _ in range(rng.randrange(2, most))) for most in (6, 14)
    )
    return {"question": f"{question} ?", "answer": f"{answer} ."}


@pytest.fixture(scope="module")
def model(tiny_pair) -> Path:
    """A tiny model."""
    return tiny_pair("llama").model


@pytest.fixture(scope="module")
def deep_model(tiny_pair) -> Path:
    """One of four layers, two of which lie above layer 1."""
    return tiny_pair("llama", num_hidden_layers=4).model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """22 rows to forget, which 4 does not divide, and 17 to keep."""
    root, rng = tmp_path_factory.mktemp("rows"), random.Random(1)
    for name, count in (("forget", 22), ("retain", 17)):
        (root / f"{name}.jsonl").write_text(
            "".join(json.dumps(row(rng)) + "\n" for _ in range(count))
        )
    return ["--forget", str(root / "forget.jsonl"), "--retain", str(root / "retain.jsonl")]


def launch(
    arguments: list[object], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command line in two processes."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mpu_cli",
    ]
    return subprocess.run(
        [*torchrun, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def difference(one: Path, other: Path, before: Path) -> float:
    """‖one − other‖ / ‖one − before‖ over all weights."""
    a, b, start = (load_file(path / "model.safetensors") for path in (one, other, before))
    gap, moved = (
        sum(float((x[name] - y[name]).double().square().sum()) for name in a)
        for x, y in ((a, b), (a, start))
    )
    return (gap / moved) ** 0.5


def test_two_processes_are_one(model, data, tmp_path, environment, mpu):
    """DDP: forget and retain rows of all lengths, an uneven last batch, accumulation.

    One JSON object on stdout.
    """
    arguments = ["unlearn", model, *data, *COMMON, "--max-steps", "5", "--method", "GradDiff"]
    assert mpu(*arguments, "--out", tmp_path / "one").code == 0
    done = launch([*arguments, "--out", tmp_path / "two", "--json"], environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copies"]["model"]["steps"] == 5
    assert "mpu: warning" not in done.stderr and "mpu: error" not in done.stderr
    assert difference(tmp_path / "one", tmp_path / "two", model) <= 5e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [("GradDiff",), ("GradAscent",), ("RMU", "--set", "layer=1"), ("NPO", "--lora-rank", "2")],
)
def test_two_smoothed_processes_are_one(method, deep_model, data, tmp_path, environment, mpu):
    """The direction is that of all processes' rows, with and without a retain loss."""
    smoothed = ("--smoothing", "0.05", "--max-steps", "5", "--method", *method)
    arguments = ["unlearn", deep_model, *data, *COMMON, *smoothed]
    assert mpu(*arguments, "--out", tmp_path / "one").code == 0
    done = launch([*arguments, "--out", tmp_path / "two"], environment)
    assert done.returncode == 0, done.stderr
    assert difference(tmp_path / "one", tmp_path / "two", deep_model) <= 5e-5
    assert mpu(*arguments, "--smoothing", "0", "--out", tmp_path / "plain").code == 0
    assert difference(tmp_path / "one", tmp_path / "plain", deep_model) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--fsdp",), ("--fsdp", "--gradient-checkpointing"), ("--gradient-checkpointing",)]
)
@pytest.mark.parametrize("method", ["NPO", "GradDiff", "UnDIAL", "SimNPO"])
def test_two_processes_are_one_after_twenty_steps(
    more, method, model, data, tmp_path, environment, mpu
):
    """DDP and FSDP2 match one process, with a reference and thresholds on the sharded model."""
    arguments = [
        "unlearn",
        model,
        *data,
        *COMMON,
        "--max-steps",
        "20",
        "--method",
        method,
        "--stop-retain-below",
        "0",
    ]
    assert mpu(*arguments, "--out", tmp_path / "one").code == 0
    done = launch([*arguments, *more, "--out", tmp_path / "two"], environment)
    assert done.returncode == 0, done.stderr
    assert difference(tmp_path / "one", tmp_path / "two", model) <= 5e-5


OWN = {
    "LUNAR": (("--set", "layer=1", "--unanswerable", "{retain}"),),
    "RMU": (("--set", "layer=1"), ("--set", "layer=1", "--set", "alpha=0")),
    # λ moves after each of the seven epochs, from 1 to several times that.
    "PDU": (("--set", "epsilon=0.5", "--set", "warmup_epochs=0"),),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "own", "more"),
    [(method, own, ()) for method, cases in OWN.items() for own in cases]
    + [("PDU", OWN["PDU"][0], ("--fsdp",))],
)
def test_methods_with_something_of_their_own(
    method, own, more, deep_model, data, tmp_path, environment, mpu
):
    """RMU and LUNAR, which train a part of the model, and PDU, whose λ all processes share."""
    arguments = [
        "unlearn",
        deep_model,
        *data,
        *COMMON,
        "--max-steps",
        "20",
        "--method",
        method,
        *(word.format(retain=data[-1]) for word in own),
    ]
    assert mpu(*arguments, "--out", tmp_path / "one").code == 0
    done = launch([*arguments, *more, "--out", tmp_path / "two"], environment)
    assert done.returncode == 0, done.stderr
    assert difference(tmp_path / "one", tmp_path / "two", deep_model) <= 5e-5


@pytest.mark.slow
def test_a_handoff_in_two_processes(finished_round, tmp_path, environment, mpu):
    """Every copy of a handoff.

    The update verifies, and the second process leaves nothing of its own.
    """
    r = finished_round
    data = [
        "--forget",
        str(r.forget),
        "--retain",
        str(r.retain),
        "--batch-size",
        "4",
        "--max-steps",
        "2",
    ]
    done = launch(["unlearn", r.handoff, *data, "--out", tmp_path / "to-server"], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained") == 1
    assert mpu("verify", tmp_path / "to-server").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["to-server"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--fsdp",)])
def test_two_killed_processes_go_on_with_the_same_bits(more, model, data, tmp_path, environment):
    """SIGKILL to both and to torchrun, then --resume.

    The bits of an uninterrupted run of two processes.
    """
    import psutil

    arguments = ["unlearn", str(model), *data, *COMMON, "--epochs", "30", *more]
    assert launch([*arguments, "--out", tmp_path / "whole"], environment).returncode == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mpu_cli",
    ]
    saving = [*arguments, "--save-steps", "2", "--out", str(tmp_path / "resumed")]
    process = subprocess.Popen(
        [*torchrun, *saving], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".resumed.mpu-work/model/step-0000001*/complete.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()
    assert not (tmp_path / "resumed").exists()
    done = launch([*saving, "--resume"], environment)
    assert done.returncode == 0, done.stderr
    assert "resumed from step" in done.stdout
    assert (tmp_path / "resumed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


REFUSED = [
    (("--batch-size", "3"), "--batch-size 3 counts the rows of all processes"),
    (("--batch-size", "7", "--packing"), "--batch-size 7"),
    (("--fsdp", "--optimizer", "adafactor"), "--optimizer adafactor needs whole tensors"),
    (("--fsdp", "--optimizer", "muon"), "--optimizer muon needs whole tensors"),
    (
        ("--fsdp", "--optimizer", "adamw", "--method", "RMU"),
        "--fsdp: this method trains some of the layers only",
    ),
    (
        ("--fsdp", "--optimizer", "adamw", "--method", "RMU", "--set", "alpha=0"),
        "--fsdp: this method trains some of the layers only",
    ),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_what_cannot_be_shared_is_refused(more, message, model, data, tmp_path, mpu, monkeypatch):
    """Before the processes meet: usage errors that name the flag, and say what would do."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    done = mpu("unlearn", model, *data, *COMMON, *more, "--out", tmp_path / "out")
    assert done.code == 2, done.err
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_a_last_batch_too_small_to_share(model, data, tmp_path, mpu, monkeypatch):
    """22 rows in batches of 21 leave one for three processes."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    done = mpu("unlearn", model, *data, "--batch-size", "21", "--out", tmp_path / "out")
    assert done.code == 2
    assert "the last batch of an epoch has 1 of 22 forget rows" in done.err


def test_the_second_process_says_nothing(model, data, tmp_path, mpu, monkeypatch):
    """Not even its errors, which are the first one's too; the exit code stays."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = mpu("unlearn", model, *data, "--batch-size", "3", "--out", tmp_path / "out")
    assert (done.code, done.out, done.err) == (2, "", "")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"},
            "accelerate launch started one process",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2", "RANK": "0"},
            "accelerate's FSDP plugin",
        ),
        ({"WORLD_SIZE": "two"}, "not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2"),
    ],
)
def test_launchers_that_do_something_else_are_refused(
    names, message, model, data, tmp_path, mpu, monkeypatch
):
    """`accelerate launch --cpu --num_processes 2` sets the first and starts one process."""
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    done = mpu("unlearn", model, *data, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


ALLOCATIONS = [
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
    {"PMI_SIZE": "4", "PMI_RANK": "3"},
    {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"},
    {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"},
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "5"},
    {"SLURM_NTASKS": "2", "PMI_SIZE": "2", "LOCAL_RANK": "1"},
    {"LOCAL_RANK": "0"},
    {"SLURM_NTASKS": "1"},
]


@pytest.mark.parametrize("names", ALLOCATIONS, ids=lambda names: "+".join(names))
@pytest.mark.parametrize("command", ["unlearn", "eval"])
def test_an_allocation_without_torchrun_works_alone_and_says_so(
    names, command, model, data, tmp_path, mpu, monkeypatch
):
    """The result is that of a process outside the allocation, and the variable is named.

    An allocation of one is no news.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
    more = (
        ("--max-steps", "1", "--out", tmp_path / "out")
        if command == "unlearn"
        else ("--no-generate", "--robustness", "relearning")
    )
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    done = mpu(command, model, *data, *more, "--device", "cpu")
    assert done.code == 0, done.err
    named = [
        name
        for name, value in names.items()
        if value != "1" and name.endswith(("SIZE", "NRANKS", "NTASKS"))
    ]
    said = [line for line in done.err.splitlines() if "works alone" in line]
    assert len(said) == bool(named)
    assert all(any(name in line for name in named) and "torchrun" in line for line in said)
    assert "--precision" not in done.err


def test_processes_that_do_not_know_where_to_meet(model, data, tmp_path, mpu, monkeypatch):
    """WORLD_SIZE and RANK of somebody's own script, without torchrun's address."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    done = mpu("unlearn", model, *data, *COMMON, "--out", tmp_path / "out")
    assert done.code == 2
    assert "WORLD_SIZE is 2, but MASTER_ADDR is not set" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_accelerate_launch_itself_is_refused(model, data, tmp_path, environment):
    """The real launcher, asked for two processes."""
    command = [
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "mpu_cli",
        "unlearn",
        str(model),
    ]
    done = subprocess.run(
        [sys.executable, *command, *data, "--out", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "accelerate launch started one process" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fsdp_needs_several_processes(model, data, tmp_path, mpu):
    """--fsdp alone."""
    done = mpu("unlearn", model, *data, "--fsdp", "--out", tmp_path / "out")
    assert done.code == 2
    assert "torchrun --nproc-per-node" in done.err


def test_shares_of_a_batch(monkeypatch):
    """Consecutive, all of it, each row once, sizes that differ by one at most."""
    from mpu_cli.modeling import processes

    for size in (1, 2, 3):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        shares = []
        for rank in range(size):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(list(processes.share_of(range(8))))
        assert functools.reduce(operator.iadd, shares, []) == list(range(8))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_wrong_wrapper_is_noticed(monkeypatch):
    """A model that nothing wraps would train on a part of the rows alone."""
    from mpu_cli.training import distributed

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for fsdp, name in ((False, "DistributedDataParallel"), (True, "FSDPModule")):
        with pytest.raises(RuntimeError, match=f"Linear, not a {name}"):
            distributed.check_wrapper(torch.nn.Linear(2, 2), fsdp)
