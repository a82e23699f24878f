"""The air-gap example, by two parties who cannot read each other's directories."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpu_cli.demo.demonstration import assets
from mpu_cli.demo.parties import Party
from mpu_cli.training.checkpoints import MARKER

SCRIPTS = Path(__file__).parents[2] / "examples" / "air-gap"
RECIPE = (
    "--method",
    "GradDiff",
    "--optimizer",
    "adafactor",
    "--learning-rate",
    "2e-4",
    "--max-steps",
    "2",
)


@pytest.fixture
def parties(tmp_path, monkeypatch):
    """A server with a model, two clients with their own rows.

    Mpu on the PATH of all, one temporary directory each.
    """
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    server, first, second = (
        Party(name, tmp_path / name) for name in ("server", "client-a", "client-b")
    )
    for party in (server, first, second):
        party.directory.mkdir(mode=0o700)
    for name in ("base", "model"):
        shutil.copytree(assets() / name, server.directory / name)
    rows = (assets() / "forget.jsonl").read_text().splitlines(keepends=True)
    kept = (assets() / "retain.jsonl").read_text().splitlines(keepends=True)
    for number, party in enumerate((first, second)):
        (party.directory / "forget.jsonl").write_text("".join(rows[20 * number : 20 * number + 8]))
        (party.directory / "retain.jsonl").write_text("".join(kept[:16]))
    return server, first, second


def run(party, other, script, *arguments):
    """Run one script, walled off from the other party; its failure is the test's."""
    done = party.run([str(SCRIPTS / script), *arguments], other)
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout


def test_the_scripts_are_those_of_the_pages():
    """Bash reads each, each can be run, and the two pages call each."""
    pages = "".join(
        (SCRIPTS / name).read_text(encoding="utf-8") for name in ("README.md", "DRILL.md")
    )
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK) and f"{script.name} " in pages


@pytest.mark.skipif(
    not all(map(shutil.which, ("age", "ssh-keygen"))), reason="needs age and ssh-keygen"
)
def test_what_was_altered_on_its_way_leaves_nothing(tmp_path, monkeypatch):
    """A file arrives as it was; after any change of it nothing is left, and one line says so."""
    monkeypatch.chdir(tmp_path)
    for name in ("own", "other"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name]
        subprocess.run(made, check=True)
    content = os.urandom(200_000)  # several of age's chunks of 64 KiB
    Path("bundle.tar").write_bytes(content)
    Path("drop").mkdir()
    subprocess.run([SCRIPTS / "send.sh", "bundle.tar", "own.pub", "drop"], check=True)
    Path("bundle.tar").unlink()
    sealed = Path("drop/bundle.tar.age")
    sent = sealed.read_bytes()
    assert content[:64] not in sent and list(Path("drop").iterdir()) == [sealed]
    damaged = {
        "flipped in the header": sent[:40] + bytes([sent[40] ^ 1]) + sent[41:],
        "flipped in the middle": sent[:90_000] + bytes([sent[90_000] ^ 1]) + sent[90_001:],
        "cut": sent[:-100],
        "cut between chunks": sent[: len(sent) - (len(sent) - 200_000) % 65_552 - 1],
        "longer": sent + b"x",
        "empty": b"",
    }
    for what, data in damaged.items():
        sealed.write_bytes(data)
        done = subprocess.run(
            [SCRIPTS / "receive.sh", sealed, "own"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "damaged on its way" in done.stderr, what
        assert not Path("bundle.tar").exists(), what
    sealed.write_bytes(sent)
    for key, code in (("other", 1), ("own", 0)):
        done = subprocess.run(
            [SCRIPTS / "receive.sh", sealed, key], capture_output=True, check=False
        )
        assert done.returncode == code
    assert Path("bundle.tar").read_bytes() == content


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("age", "ssh-keygen"))), reason="needs age and ssh-keygen"
)
def test_the_drill_prints_what_its_page_says():
    """Three rounds, damage in both directions, a loss, a replay and two forgeries."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "drill.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_clients_one_after_the_other_share_only_tar_files(parties, count):
    """Every client's update ends up in the head, and nobody could read anybody's directory."""
    server, first, second = parties
    model = "model"
    for client, name in ((first, "a"), (second, "b"))[:count]:
        assert client.cannot_read(server, server.directory / "model" / "model.safetensors")
        assert server.cannot_read(client, client.directory / "forget.jsonl")
        run(
            server,
            client,
            "server-handoff.sh",
            model,
            "base",
            "secret",
            name,
            f"handoff-{name}.tar",
        )
        shutil.copy(server.directory / f"handoff-{name}.tar", client.directory)
        run(
            client,
            server,
            "client-unlearn.sh",
            f"handoff-{name}.tar",
            "forget.jsonl",
            "retain.jsonl",
            f"update-{name}.tar",
            *RECIPE,
        )
        shutil.copy(client.directory / f"update-{name}.tar", server.directory)
        run(
            server,
            client,
            "server-aggregate.sh",
            f"update-{name}.tar",
            "secret",
            model,
            f"model-{name}",
        )
        model = f"model-{name}"
    for party in (server, first, second):
        assert not {path.name for path in party.directory.iterdir()} & {
            "handoff-a",
            "update-a",
            ".update-a.mpu-work",
        }
    done = server.run([sys.executable, "-m", "mpu_cli", "inspect", "secret", "--json"], first)
    lineage = json.loads(done.stdout)
    assert [len(record["updates"]) for record in lineage["models"]] == [0, 1, 1][: count + 1]
    assert all(record["answered_in"] for record in lineage["handoffs"])


@pytest.mark.slow
def test_an_interrupted_client_goes_on_with_what_it_was_told(tiny_pair, tmp_path, monkeypatch):
    """Every path that the interrupted run prints exists, and --resume ends with the tar file."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    pair = tiny_pair("llama", num_hidden_layers=1)
    for name in ("forget", "retain"):
        first = 8 if name == "forget" else 30
        rows = [
            {"question": f"w{i} ?", "answer": f"w{i + 1} w{i + 2}"} for i in range(first, first + 8)
        ]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    handed = [
        SCRIPTS / "server-handoff.sh",
        pair.model,
        pair.base,
        "secret",
        "a",
        "handoff.tar",
        "-m",
        "1",
        "--check",
        "none",
    ]
    subprocess.run(handed, check=True, capture_output=True)
    recipe = ("--method", "GradDiff", "--epochs", "120", "--save-steps", "40")
    line = [
        SCRIPTS / "client-unlearn.sh",
        "handoff.tar",
        "forget.jsonl",
        "retain.jsonl",
        "update.tar",
        *recipe,
    ]
    run = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f".update.mpu-work/copy-1/step-*/{MARKER}")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "--resume" in told
    paths = re.findall(r"(/\S+?)[;,]?(?:\s|$)", told)
    assert paths and all(Path(path).exists() for path in paths), told
    assert not list(tmp_path.glob(".handoff.tar*")) and not Path("update.tar").exists()
    done = subprocess.run([*line, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("update.tar").is_file() and "resumed from step" in done.stdout
    assert not Path("update").exists() and "update.tar" in done.stdout
