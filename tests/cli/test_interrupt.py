"""Ctrl-C and SIGTERM in real processes: exit 130, no partial result, and a rerun completes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

ASSETS = Path(str(resources.files("mpu_cli"))) / "demo" / "assets"
COPIES = 24
"""Enough bytes (80 MB) that writing takes about a second."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    """The demo's model and base in the server's directory."""
    root = tmp_path_factory.mktemp("server-side")
    for name in ("model", "base"):
        if not (ASSETS / name / "model.safetensors").exists():
            pytest.skip(f"the demo's {name} is not there")
        shutil.copytree(ASSETS / name, root / name)
    return root


def _command(where: Path, *more: str) -> list[str]:
    paths = ["--handoff", str(where / "to-client"), "--secret", str(where / "server")]
    return [
        "perturb",
        "model",
        "--base",
        "base",
        *paths,
        "--copies",
        str(COPIES),
        "--check",
        "none",
        *more,
    ]


def _start(server: Path, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    # A test runner in the background ignores SIGINT, and children inherit that.
    return subprocess.Popen(
        [sys.executable, "-m", "mpu_cli", *command],
        cwd=server,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _wait_for(process: subprocess.Popen[str], condition) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _leftovers(where: Path) -> list[str]:
    return [
        path.name
        for path in where.rglob("*")
        if path.name.endswith((".mpu-partial", ".mpu-replaced", ".partial"))
    ]


def _check_completes(where: Path, server: Path, mpu, monkeypatch) -> None:
    monkeypatch.chdir(server)
    assert mpu(*_command(where)).code == 0
    assert mpu("verify", where / "to-client").code == 0
    assert mpu("verify", where / "server").code == 0
    assert _leftovers(where) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_copies_are_written_leaves_nothing(
    number, server, tmp_path, environment, mpu, monkeypatch
):
    """The partial directory is removed, exit code 130, one line, and a rerun completes."""
    where = tmp_path / "deep"
    process = _start(server, _command(where), environment)
    _wait_for(
        process,
        lambda: (where / ".to-client.mpu-partial" / "copy-1" / "model.safetensors").exists(),
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.endswith("mpu: error: interrupted; nothing was written\n")
    assert "Traceback" not in err
    assert not where.exists()
    _check_completes(where, server, mpu, monkeypatch)


def test_a_kill_leaves_only_the_partial_and_the_next_run_cleans_up(
    server, tmp_path, environment, mpu, monkeypatch
):
    """SIGKILL cannot be caught. No target appears, and the next run removes the sibling."""
    process = _start(server, _command(tmp_path), environment)
    _wait_for(
        process,
        lambda: (tmp_path / ".to-client.mpu-partial" / "copy-1" / "model.safetensors").exists(),
    )
    process.kill()
    process.communicate(timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".to-client.mpu-partial"]
    _check_completes(tmp_path, server, mpu, monkeypatch)


def test_an_interrupt_with_json_is_json(server, tmp_path, environment):
    """The same object as for every other error."""
    import json

    process = _start(server, _command(tmp_path, "--json"), environment)
    _wait_for(process, lambda: (tmp_path / ".to-client.mpu-partial").exists())
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["error"]["exit_code"] == 130


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_an_interrupt_at_any_moment_leaves_a_consistent_state(
    seed, server, tmp_path, environment, mpu, monkeypatch
):
    """After a random delay: complete, or 130 without a handoff; no sibling, no traceback."""
    rng = random.Random(seed)
    process = _start(server, _command(tmp_path), environment)
    time.sleep(rng.uniform(0.8, 6))
    process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
    _, err = process.communicate(timeout=60)
    # Before Python has set its handlers and after it has taken them back, the signal itself ends
    # the process.
    assert process.returncode in {0, 130, -signal.SIGINT, -signal.SIGTERM}, err
    assert "Traceback" not in err
    assert _leftovers(tmp_path) == []
    if (tmp_path / "to-client").exists():
        monkeypatch.chdir(server)
        assert mpu("verify", tmp_path / "to-client").code == 0
        assert mpu("verify", tmp_path / "server").code == 0
    else:
        assert process.returncode
        _check_completes(tmp_path, server, mpu, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_an_interrupted_training_leaves_nothing(seed, finished_round, tmp_path, environment, mpu):
    """`mpu unlearn` at any moment: no update, and the message says what is saved."""
    r, rng = finished_round, random.Random(seed)
    data = [
        "--forget",
        str(r.forget),
        "--retain",
        str(r.retain),
        "--epochs",
        "40",
        "--batch-size",
        "1",
        "--method",
        "GradDiff",
    ]
    command = ["unlearn", str(r.handoff), *data, "--out", str(tmp_path / "to-server")]
    process = _start(tmp_path, command, environment)
    time.sleep(rng.uniform(0.8, 9))
    process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert _leftovers(tmp_path) == []
    assert (process.returncode == 0) <= (tmp_path / "to-server").exists(), err
    if not (tmp_path / "to-server").exists():
        kept = (tmp_path / ".to-server.mpu-work").exists()
        assert ("resume with: mpu unlearn " in err) == kept, err
        assert (
            mpu(
                *command[:2], *data, "--max-steps", "1", "--out", tmp_path / "to-server", "--force"
            ).code
            == 0
        )
