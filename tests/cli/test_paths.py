"""Every path of every command, however it is spelled and from wherever it is given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rounds import PLAN, QUICK, Round, every_command

KEYS = Path(__file__).parents[1] / "golden" / "ssh"
Name = Callable[[str], str]
"""From a file's name to a path to it, in the spelling under test."""

SPELLINGS: dict[str, Callable[[Path], tuple[Path, Name]]] = {
    "relative, with spaces": lambda root: (root / "a place", lambda name: name),
    "from another directory, with letters": lambda root: (
        root / "größe" / "work",
        lambda name: f"../../größe/work/{name}",
    ),
    "absolute, through a link": lambda root: (
        root / "there",
        lambda name: str(root / "a link to" / name),
    ),
}


def _lines(p: Name) -> dict[str, list[object]]:
    """A command line for every command, in the order of the protocol.

    Together they use all of its paths.
    """
    rows = ["--forget", p("forget.jsonl"), "--retain", p("retain.jsonl")]
    quick, config = ["--device", "cpu", *QUICK], ["--config", p("empty.yaml")]
    from_base, first = [p("model"), "--base", p("base"), "--check", "none"], p("out/first")
    records = ["--before", first, "--retain-record", first]
    return {
        "perturb": [
            *from_base,
            "--handoff",
            p("out/to-client"),
            "--secret",
            p("out/server"),
            "-m",
            2,
            *("--probe", rows[-1], "--sign", p("signer.key")),
            *config,
        ],
        "perturb a model": [
            *from_base,
            "--handoff",
            p("out/sent"),
            "--new-lineage",
            p("out/server-3"),
            "-m",
            1,
            "--pack",
            p("out/sent.tar"),
        ],
        "perturb again": [
            *from_base,
            "--handoff",
            p("out/other"),
            "--new-lineage",
            p("out/server-2"),
            "-m",
            1,
        ],
        "unlearn": [
            p("out/to-client"),
            *rows,
            *quick,
            "--out",
            p("out/to-server"),
            "--work",
            p("out/work"),
            "--log-dir",
            p("out/log"),
            "--save-steps",
            1,
            "--pack",
            p("out/to-server.tar"),
            *("--sign", p("signer.key"), "--allowed-signers", p("signers")),
            *config,
        ],
        "unlearn again": [
            *(p("out/to-client"), *rows, *quick, "--out", p("out/not-made"), "--dry-run"),
            *("--trust-file", p("trusted"), "--trust-on-first-use"),
        ],
        "unlearn a model": [
            p("model"),
            *rows,
            "--refusals",
            p("refusals.txt"),
            *quick,
            "--method",
            "DPO",
            "--out",
            p("out/plain"),
        ],
        "diff": [
            p("out/to-client"),
            p("out/to-client"),
            "--out",
            p("out/nothing"),
            "--pack",
            p("out/nothing.tar"),
            *("--sign", p("signer.key"), "--allowed-signers", p("signers")),
            *config,
        ],
        "diff again": [
            *(p("out/to-client"), p("out/to-client"), "--out", p("out/nothing-2")),
            *("--trust-file", p("trusted"), "--trust-on-first-use"),
        ],
        "aggregate": [
            p("out/to-server"),
            "--secret",
            p("out/server"),
            "--model",
            p("model"),
            "--out",
            p("out/next"),
            *("--allowed-signers", p("signers"), "--sign-model", p("model.pem")),
            *config,
        ],
        "verify": [p("out/to-server"), "--allowed-signers", p("signers"), *config],
        "inspect": [p("out/server"), *config],
        "eval": [p("model"), *rows[:2], "--no-generate", "--record", first, *config],
        "eval again": [
            p("out/next"),
            *rows[:2],
            "--utility",
            f"more={p('retain.jsonl')}",
            "--no-generate",
            "--reference",
            p("base"),
            *records,
            "--record",
            p("out/second"),
        ],
        "compare": [first, p("out/second"), *records, *config],
        "report": [
            *(first, p("out/second"), *records, "--out", p("out/page.html")),
            *("--csv", p("out/numbers"), *config),
        ],
        "report again": [
            *(p("out/server"), "--records", first, "--records", p("out/second")),
            *("--out", p("out/dossier.html")),
        ],
        "data check": [*rows[1:], "--model", p("out/to-client"), *config],
        "data check again": [rows[1], "--tokenizer", p("model")],
        "mask key": ["--out", p("out/one.key"), *config],
        "mask key again": ["--out", p("out/two.key")],
        "mask group": [
            p("out/one.key.pub"),
            p("out/two.key.pub"),
            *("--key", p("out/one.key"), "--out", p("out/group"), *config),
        ],
        "mask update": [
            p("out/to-server"),
            *("--handoff", p("out/to-client"), "--group", p("out/group")),
            *("--key", p("out/one.key"), "--out", p("out/masked")),
            *("--pack", p("out/masked.tar"), "--sign", p("signer.key"), *config),
        ],
        "audit handoff": [
            p("out/to-client"),
            *("--secret", p("out/server"), "--model", p("model"), "--base", p("base")),
            *("--update", p("out/to-server"), "--probe", rows[1], "--layers", 1, *config),
            *("--report", p("out/handoff.html")),
        ],
        "audit update": [
            p("out/to-server"),
            p("out/to-client"),
            *(*rows[:2], "--decoys", rows[3], "--device", "cpu", *config),
            *("--report", p("out/update.html")),
        ],
        "audit trace": [
            p("out/to-client/copy-1"),
            *("--secret", p("out/server"), "--model", p("model"), "--base", p("base"), *config),
            *("--report", p("out/trace.html")),
        ],
        "run": [p("plan.yaml"), "--out", p("out/tables"), "--work", p("out/steps"), *config],
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_path_of_every_command(spelling, finished_round: Round, tmp_path, monkeypatch, mpu):
    """Exit code 0, and the result is where it was asked for; links in the target's path stay."""
    place, name = SPELLINGS[spelling](tmp_path)
    place.mkdir(parents=True)
    (tmp_path / "a link to").symlink_to("there")
    (tmp_path / "x" / "y").mkdir(parents=True)
    for each in ("model", "base"):
        shutil.copytree(getattr(finished_round, each), place / each)
    for each in (finished_round.forget, finished_round.retain):
        shutil.copy(each, place)
    (place / "empty.yaml").touch()
    (place / "refusals.txt").write_text("w1 w2\nw3\n")
    (place / "plan.yaml").write_text(PLAN)
    _write_keys(place)
    monkeypatch.chdir(place if spelling.startswith("relative") else tmp_path / "x" / "y")
    for command, arguments in _lines(name).items():
        words = [word for word in command.split() if word not in {"again", "a", "model"}]
        done = mpu(*words, *arguments)
        assert done.code == 0, (command, done.err)
        made = [
            Path(name(f"out/{each}"))
            for each in ("to-client", "to-server", "next", "second")
            if f"out/{each}" in str(arguments)
        ]
        assert all(path.is_dir() for path in made)
    assert {path.name for path in (place / "out").iterdir()} == {
        "to-client",
        "server",
        "other",
        "server-2",
        "to-server",
        "log",
        "plain",
        "nothing",
        "nothing-2",
        "next",
        "first",
        "second",
        "sent",
        "server-3",
        "sent.tar",
        "to-server.tar",
        "nothing.tar",
        "one.key",
        "one.key.pub",
        "one.key.used",
        "two.key",
        "two.key.pub",
        "group",
        "masked",
        "masked.tar",
        "page.html",
        "numbers",
        "dossier.html",
        "handoff.html",
        "update.html",
        "trace.html",
        "tables",
        "steps",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"a link to", "x", place.relative_to(tmp_path).parts[0]}
    )


def _write_keys(place: Path) -> None:
    """An SSH key, who may sign with it, and a key for models."""
    shutil.copy(KEYS / "ed25519", place / "signer.key")
    (place / "signers").write_text(f"* {(KEYS / 'ed25519.pub').read_text()}")
    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (place / "model.pem").write_bytes(private.private_bytes(*form, serialization.NoEncryption()))
    for name in ("signer.key", "model.pem"):
        (place / name).chmod(0o600)


def test_no_path_option_is_left_out():
    """The table has every parameter of a command that is a path, so that a new one is tried."""
    lines = _lines(lambda name: f"PATH {name}")
    positional = {"path", "handoff", "handoffs", "trained", "updates", "update", "files"}
    positional |= {"records", "source", "leaked", "paths", "plan"}
    for name, function in every_command().items():
        paths = {
            option.removesuffix("_to")
            for option, hint in get_type_hints(function).items()
            if "Path" in str(hint)
        }
        if name == "demo":  # takes a minute: tests/demo/test_demonstration.py
            assert paths == {"keep", "config"}
            continue
        mine = [arguments for line, arguments in lines.items() if f"{line} ".startswith(f"{name} ")]
        given = {
            str(word).removeprefix("--").replace("-", "_")
            for arguments in mine
            for word in arguments
            if str(word).startswith("--")
        }
        assert paths - positional <= given, name
