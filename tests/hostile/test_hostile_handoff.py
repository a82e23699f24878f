"""A hostile handoff, as its client sees it: nothing runs, little is used, one line says why.

The commands run in a process with an audit hook (`watched.py`). It is shared by all cases of the
fast test, because importing torch takes seconds; the slow one starts the real `mpu` for each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hostile_handoffs import HARMLESS, REFUSED, large, make

from mpu_cli.cli.app import run

WATCHED = Path(__file__).with_name("watched.py")
CASES = {**REFUSED, **HARMLESS}
LONG = (
    *("a template that loops", "a tokenizer that doubles a text 30 times"),
    *(name for name in HARMLESS if name != "attention from the Hub"),
)
"""Their CPU time is a second or more each, until a limit ends it or the training is done."""
SHORT = tuple(name for name in CASES if name not in LONG)
SECONDS, MIB = 30.0, 300.0
"""Of CPU time and of memory beyond the start of a command, for each."""


@pytest.fixture(scope="session")
def client(tiny_pair, tmp_path_factory):
    """An honest handoff of one copy, and rows."""
    root = tmp_path_factory.mktemp("client")
    pair = tiny_pair("llama")
    words = [
        *("perturb", pair.model, "--base", pair.base, "-m", 1, "--check", "none"),
        *("--handoff", root / "to-client", "--secret", root / "server"),
    ]
    assert run([str(word) for word in words]) == 0
    for name, first in (("forget", 0), ("retain", 24)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"w{i} w{i + 1} ?"},
                    {"role": "assistant", "content": f"w{i + 2} ."},
                ]
            }
            for i in range(first, first + 8)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def commands(client: Path, handoff: Path, root: Path) -> dict[str, list[str]]:
    """What a client may do with a handoff."""
    recipe = ["--method", "GradDiff", "--max-steps", "1", "--batch-size", "2"]
    rows = ["--forget", str(client / "forget.jsonl"), "--retain", str(client / "retain.jsonl")]
    return {
        "verify": ["verify", str(handoff)],
        "inspect": ["inspect", str(handoff)],
        "diff": ["diff", str(handoff), str(handoff), "--out", str(root / "difference")],
        "unlearn": ["unlearn", str(handoff), *rows, *recipe, "--out", str(root / "to-server")],
    }


def environment(root: Path) -> dict[str, str]:
    """Online as far as settings go: an attempt would be noted."""
    (root / "tmp").mkdir(exist_ok=True)
    return {
        **os.environ,
        "TMPDIR": str(root / "tmp"),
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": str(root),
        "MPU_DEBUG": "",
    }


def watch(client: Path, root: Path, names: Iterable[str]) -> dict[tuple[str, str], dict]:
    """The result of every command on these cases, in one process."""
    jobs, keys = [], []
    for number, name in enumerate(names):
        place = root / f"{number:02}"
        place.mkdir()
        handoff = make(client / "to-client", place, CASES.get(name, lambda *_: None))
        for command, argv in commands(client, handoff, place).items():
            jobs.append({"argv": argv, "root": str(place)})
            keys.append((name, command))
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, WATCHED, root / "jobs.json", root / "results.json"],
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((root / "results.json").read_text())
    return {
        key: result | {"canary": (Path(job["root"]) / "canary").exists()}
        for key, job, result in zip(keys, jobs, results, strict=True)
    }


@pytest.fixture(scope="session")
def watched(client, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """Every command on the honest handoff and on every case that takes no time."""
    return watch(client, tmp_path_factory.mktemp("hostile"), ("honest", *SHORT))


@pytest.fixture(scope="session")
def watched_for_long(client, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """Every command on the other cases."""
    return watch(client, tmp_path_factory.mktemp("long"), LONG)


def check(found: dict[tuple[str, str], dict], name: str) -> None:
    """No program, no network, no foreign code; a refusal is an error and a hint, never a crash."""
    for command in ("verify", "inspect", "diff", "unlearn"):
        result = found[name, command]
        assert result["noted"] == [] and not result["canary"], (command, result)
        allowed = (1, 3) if command == "unlearn" and name in REFUSED else (0, 1, 3)
        assert result["code"] in allowed, (command, result["code"], result["err"][-1500:])
        assert "Traceback" not in result["err"] and len(result["err"]) < 4000
        if result["code"]:
            errors = [line for line in result["err"].splitlines() if "error:" in line]
            assert len(errors) == 1, result["err"]
        assert result["cpu"] < SECONDS, (command, result["cpu"])


@pytest.mark.parametrize("name", SHORT)
def test_nothing_runs_and_one_line_says_why(watched, name):
    """On every command."""
    check(watched, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_nothing_runs_until_a_limit_ends_it(watched_for_long, name):
    """On every command."""
    check(watched_for_long, name)


def test_the_honest_handoff_is_trained(watched):
    """The control: the same commands on the handoff that nobody changed."""
    assert {watched["honest", command]["code"] for command in ("verify", "inspect", "diff")} == {0}
    assert watched["honest", "unlearn"]["code"] == 0, watched["honest", "unlearn"]["err"]
    assert watched["honest", "unlearn"]["noted"] == []


def test_the_watcher_sees(tmp_path):
    """The other control: a process that does these things is noted for each."""
    (tmp_path / "tmp").mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(WATCHED.parent)!r})\n"
        "import os, pickle, socket, subprocess, watched\n"
        "sys.addaudithook(watched.hook)\n"
        f"watched.watching['root'] = {str(tmp_path / 'own')!r}\n"
        "os.system('true')\n"
        "subprocess.run(['true'])\n"
        "pickle.loads(pickle.dumps(os.getcwd))\n"
        f"open({str(tmp_path / 'outside')!r}, 'w').close()\n"
        f"compile('1', {str(tmp_path / 'own' / 'evil.py')!r}, 'eval')\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9))\nexcept OSError:\n    pass\n"
        "print(*(line.split()[0] for line in watched.noted))\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=environment(tmp_path), capture_output=True, text=True
    )
    seen = set(done.stdout.split())
    assert {
        "os.system",
        "subprocess.Popen",
        "pickle.find_class",
        "open",
        "compile",
        "socket.connect",
    } <= seen, done.stderr


def measured(argv: list[str], root: Path) -> tuple[int, str, float, float]:
    """Exit code, stderr, CPU seconds and peak MiB of one real `mpu`, its children included."""
    with (root / "err").open("w") as err:
        started = subprocess.Popen(
            [sys.executable, "-m", "mpu_cli", *argv],
            env=environment(root),
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
        deadline = time.monotonic() + 240
        while (found := os.wait4(started.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                started.kill()
            time.sleep(0.05)
    _, status, usage = found
    started.returncode = os.waitstatus_to_exitcode(status)
    text = (root / "err").read_text()
    return started.returncode, text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


@pytest.mark.slow
def test_each_command_alone_stays_small(client, tmp_path):
    """Every case and command as a process of its own, against the honest handoff's start-up."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    own = tmp_path / "honest"
    own.mkdir()
    start = {
        command: measured(argv, own)
        for command, argv in commands(client, client / "to-client", own).items()
    }
    worst = {"cpu": 0.0, "mib": 0.0}
    for number, (name, case) in enumerate(CASES.items()):
        root = tmp_path / f"{number:02}"
        root.mkdir()
        handoff = make(client / "to-client", root, case)
        for command, argv in commands(client, handoff, root).items():
            code, err, cpu, mib = measured(argv, root)
            assert code in (0, 1, 3) and "Traceback" not in err, (name, command, code, err)
            extra = cpu - start[command][2], mib - start[command][3]
            worst = {"cpu": max(worst["cpu"], extra[0]), "mib": max(worst["mib"], extra[1])}
            assert extra[0] < SECONDS and extra[1] < MIB, (name, command, extra)
        assert not (root / "canary").exists()
    print(f"{len(CASES)} hostile handoffs, at most beyond start-up: {worst}")  # noqa: T201


@pytest.mark.slow
def test_large_weights_are_refused_before_they_are_loaded(client, tmp_path):
    """A gibibyte of weights under an absurd config: hashed, and never held in memory."""
    handoff = make(client / "to-client", tmp_path, large(1024, num_hidden_layers=10**9))
    own = tmp_path / "honest"
    own.mkdir()
    for command, argv in commands(client, handoff, tmp_path).items():
        honest = measured(commands(client, client / "to-client", own)[command], own)
        code, err, _, mib = measured(argv, tmp_path)
        assert "Traceback" not in err and code in ((3,) if command == "unlearn" else (0, 1, 3))
        assert mib - honest[3] < MIB, (command, mib, honest[3])
