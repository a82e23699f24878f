"""Pipes, devices and sparse terabytes in place of a file: refused before a byte is read."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

TERABYTE = 1 << 40
SECONDS = 30


def make_pipe(path: Path) -> None:
    """A named pipe without a writer: opening it blocks."""
    os.mkfifo(path)


def make_endless(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def make_sparse(path: Path) -> None:
    """A file of a terabyte that takes no room."""
    path.touch()
    os.truncate(path, TERABYTE)


THINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (make_pipe, "not a regular file"),
    "device": (make_endless, "not a regular file"),
    "terabyte": (make_sparse, "larger than"),
}


@pytest.fixture(autouse=True)
def no_hang():
    """Interrupt a test that waits for a pipe or reads a device."""
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("thing", THINGS)
def test_a_config_file(thing, mpu, tiny_pair, tmp_path):
    """--config."""
    make, words = THINGS[thing]
    make(tmp_path / "x.yaml")
    done = mpu("verify", tiny_pair("llama").model, "--config", tmp_path / "x.yaml")
    assert done.code == 2
    assert f"{tmp_path / 'x.yaml'}: {words}" in done.err


@pytest.mark.parametrize("thing", THINGS)
def test_rows(thing, mpu, tiny_pair, tmp_path):
    """--forget, in a command that reads nothing else first."""
    make, words = THINGS[thing]
    make(tmp_path / "x.jsonl")
    done = mpu("eval", tiny_pair("llama").model, "--forget", tmp_path / "x.jsonl")
    assert done.code == 3
    assert str(tmp_path / "x.jsonl") in done.err
    assert words in done.err or "a pipe or a device" in done.err


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("name", ["summary.json", "items.jsonl", "x_EVAL.json"])
def test_records(thing, name, mpu, tmp_path):
    """A record of an evaluation, ours and open-unlearning's."""
    make, words = THINGS[thing]
    for record in ("one", "two"):
        (tmp_path / record).mkdir()
        if name == "items.jsonl":
            (tmp_path / record / "summary.json").write_text(
                '{"kind": "evaluation", "format": 1, "sets": {}, "left_out": {}, "model": {},'
                ' "settings": {}, "values": {}}'
            )
        make(tmp_path / record / name)
    done = mpu("compare", tmp_path / "one", tmp_path / "two")
    assert done.code == 3
    assert f"{name}: {words}" in done.err
    if name == "summary.json":
        (tmp_path / "one" / "items.jsonl").touch()
        done = mpu("inspect", tmp_path / "one")
        assert done.code == 3
        assert f"{name}: {words}" in done.err


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("kind", ["secret", "handoffs", "models"])
def test_files_of_a_server(thing, kind, mpu, own_round):
    """secret.yaml and the records beside it."""
    make, words = THINGS[thing]
    file = own_round.secret / "secret.yaml"
    if kind != "secret":
        file = next((own_round.secret / kind).glob("*.yaml"))
    file.unlink()
    make(file)
    for command in ("verify", "inspect"):
        done = mpu(command, own_round.secret)
        assert done.code == 3
        refused = "does not belong here" if file.is_symlink() and kind != "secret" else words
        assert f"{file.name}: {refused}" in done.err


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("name", ["mpu.yaml", "copy-1/config.json", "copy-1/model.safetensors"])
def test_files_of_a_handoff(thing, name, mpu, own_round):
    """A bundle holds no link either, and no listed file may have another size."""
    (own_round.handoff / name).unlink()
    THINGS[thing][0](own_round.handoff / name)
    for command in ("verify", "inspect") if name == "mpu.yaml" else ("verify",):
        done = mpu(command, own_round.handoff)
        assert done.code == 3
        assert name in done.err


def test_a_link_to_a_regular_file_is_followed(mpu, tiny_pair, tmp_path):
    """Negative control: people keep their settings elsewhere and link to them."""
    (tmp_path / "real.yaml").write_text("json: true\n")
    (tmp_path / "x.yaml").symlink_to(tmp_path / "real.yaml")
    model = shutil.copytree(tiny_pair("llama").model, tmp_path / "model")
    done = mpu("verify", model, "--config", tmp_path / "x.yaml")
    assert done.code == 0
    assert done.json
