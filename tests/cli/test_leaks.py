"""No secret passes between the parties, in any byte of any file."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import struct
from pathlib import Path

import pytest
from rounds import QUICK

from mpu_cli.checkpoint.header import read_header
from mpu_cli.server.lineage.models import Lineage

ALPHAS = (1.2345678, 1.0, 1.0)
NODES = (1.3572468, -0.8642135)
CLIENT = "Zebedee-Holdings"
NAMES = ["Quentin Marlowe", "Ottilie Vance"]
"""People in the forget set: the tokenizer knows no such words, the files do."""


def _numbers(value: float) -> set[bytes]:
    """A number as text, and as little- and big-endian floats."""
    return {repr(value).encode(), *(struct.pack(form, value) for form in ("<f", "<d", ">f", ">d"))}


def _spellings(raw: bytes) -> set[bytes]:
    """A key as bytes, hexadecimal in both cases, and base64 in both alphabets (unpadded)."""
    import base64

    encoded = {base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"=")}
    return {raw, raw.hex().encode(), raw.hex().upper().encode(), *encoded}


def _machine() -> set[bytes]:
    """The names of user, host and paths, except very short ones."""
    names = {getpass.getuser(), socket.gethostname(), os.uname().nodename, str(Path.home())}
    return {name.encode() for name in names if len(name) > 4} | {
        b"/home/",
        b"/tmp/",
        b"/root/",
        b"/work/",
        b"site-packages",
    }


def _found(directory: Path, needles: set[bytes]) -> list[tuple[str, bytes]]:
    found = []
    for file in sorted(item for item in directory.rglob("*") if item.is_file()):
        data = file.read_bytes() + b"\n" + str(file.relative_to(directory)).encode()
        found += [
            (str(file.relative_to(directory)), needle) for needle in needles if needle in data
        ]
    return found


@pytest.fixture
def private_model(tiny_pair, tmp_path) -> Path:
    """A model directory after training, with many private files."""
    model = Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "alices-private-model"))
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((model / name).read_text())
        (model / name).write_text(
            json.dumps({**content, "_name_or_path": str(model), "_commit_hash": "c0ffee" * 6})
        )
    for name in (
        "README.md",
        "pytorch_model.bin",
        "optimizer.pt",
        "trainer_state.json",
        "model.safetensors.bak",
        ".env",
    ):
        (model / name).write_text(f"STRAY {name} {model}")
    (model / "checkpoint-10").mkdir()
    (model / "checkpoint-10" / "model.safetensors").write_text("STRAY checkpoint")
    return model


@pytest.mark.parametrize("denoising", ["harmonic", "extrapolation"])
def test_a_handoff_holds_nothing_of_the_secret(denoising, mpu, private_model, tiny_pair, tmp_path):
    """Master, draw, lineage, α, nodes, σ, digests, client, user, host and paths are in no file."""
    given = (
        ("--alphas", ",".join(map(str, ALPHAS)))
        if denoising == "harmonic"
        else ("--nodes", ",".join(map(str, NODES)), "-m", 2)
    )
    options = (
        "--denoising",
        denoising,
        *given,
        "--kappa",
        "0.0314159",
        "--offset",
        "0.0271828",
        "--client",
        CLIENT,
    )

    def found(place):
        """The parts of a fresh lineage's secret that its handoff holds."""
        paths = ("--handoff", place / "to-client", "--secret", place / "server")
        assert (
            mpu("perturb", private_model, "--base", tiny_pair("llama").base, *paths, *options).code
            == 0
        )
        lineage = Lineage.read(place / "server")
        record = next(iter(lineage.handoffs.values()))
        scales = [
            0.0314159,
            0.0271828,
            *record.sigma.values(),
            *lineage.secret.offset.scale.values(),
            *record.realised.values(),
        ]
        coefficients = [copy.coefficient for copy in record.copies]
        assert set(coefficients) == set(ALPHAS if denoising == "harmonic" else NODES)
        # 1.0 and the like would be found in any tensor; what is left has seven digits of its own.
        numbers = {value for value in (*scales, *coefficients) if value != round(value, 3)}
        assert len(numbers) >= 6
        ids = {
            bytes.fromhex(record.draw),
            bytes.fromhex(lineage.secret.lineage),
            bytes.fromhex(record.model),
        }
        needles = {
            *_spellings(lineage.secret.master),
            *(spelling for raw in ids for spelling in _spellings(raw)),
            *(spelling for value in numbers for spelling in _numbers(value)),
            *_machine(),
            CLIENT.encode(),
            str(place).encode(),
            private_model.name.encode(),
            b"STRAY",
            b"c0ffee",
            b"_name_or_path",
        }
        assert _found(place / "server", {record.draw.encode(), CLIENT.encode()})
        return _found(place / "to-client", needles)

    hits = found(tmp_path / "first")
    # Four bytes of a float32 occur in that much noise by chance, once in some hundred draws; what
    # leaks is there in every draw.
    if hits and all(len(needle) == 4 for _, needle in hits):
        hits = found(tmp_path / "second")
    assert hits == []


def test_a_handoff_holds_only_what_a_model_directory_needs(mpu, private_model, tiny_pair, tmp_path):
    """No stray file, and safetensors' metadata holds only the format."""
    paths = ("--handoff", tmp_path / "to-client", "--secret", tmp_path / "server")
    assert (
        mpu(
            "perturb",
            private_model,
            "--base",
            tiny_pair("llama").base,
            *paths,
            "--max-shard-size",
            "40KB",
        ).code
        == 0
    )
    names = {
        file.name for copy in (tmp_path / "to-client").glob("copy-*") for file in copy.iterdir()
    }
    tensors = {name for name in names if name.startswith("model-")}
    assert names - tensors == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    }
    for file in (tmp_path / "to-client").rglob("*.safetensors"):
        assert read_header(file)[1] == {"format": "pt"}
    assert {file.name for file in (tmp_path / "to-client").iterdir()} == {
        "mpu.yaml",
        "copy-1",
        "copy-2",
        "copy-3",
    }


def test_copies_differ_only_in_their_tensors(mpu, private_model, tiny_pair, tmp_path):
    """Nothing beside the weights tells which copy has which α."""
    paths = ("--handoff", tmp_path / "to-client", "--secret", tmp_path / "server")
    assert mpu("perturb", private_model, "--base", tiny_pair("llama").base, *paths).code == 0
    copies = [tmp_path / "to-client" / f"copy-{k}" for k in (1, 2, 3)]
    for file in copies[0].iterdir():
        if file.suffix != ".safetensors":
            assert all((copy / file.name).read_bytes() == file.read_bytes() for copy in copies)
    assert len({(copy / "model.safetensors").read_bytes() for copy in copies}) == 3
    headers = [read_header(copy / "model.safetensors")[0] for copy in copies]
    assert (
        len(
            {
                str([(i.name, i.dtype, i.shape, i.start) for i in header.values()])
                for header in headers
            }
        )
        == 1
    )


@pytest.fixture
def private_data(tmp_path) -> tuple[Path, Path]:
    """A forget and a retain file with texts and names that are easy to find."""
    data = tmp_path / "zebedees-private-data"
    data.mkdir()
    rows = [
        {"question": f"Where was {name} born ?", "answer": f"{name} was born in w{k} w{k + 1} ."}
        for k, name in enumerate(NAMES * 4)
    ]
    (data / "forget-zebedee.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "retain-zebedee.jsonl").write_text(
        "".join(json.dumps({"text": f"w{k} w{k + 7} w{k + 3} ."}) + "\n" for k in range(8))
    )
    return data / "forget-zebedee.jsonl", data / "retain-zebedee.jsonl"


@pytest.mark.parametrize("by_copy", [False, True])
def test_an_update_holds_nothing_of_the_data_or_the_recipe(
    by_copy, mpu, finished_round, private_data, tmp_path
):
    """Texts, file names, method, settings, losses, user, host and paths."""
    forget, retain = private_data
    out = tmp_path / "to-server"
    recipe = (
        "--seed",
        "31415926",
        "--learning-rate",
        "0.00271828",
        "--weight-decay",
        "0.0161803",
        "--set",
        "alpha=1.4142135",
    )
    command = (
        "unlearn",
        finished_round.handoff,
        "--forget",
        forget,
        "--retain",
        retain,
        *QUICK,
        *recipe,
        "--out",
        out,
    )
    if by_copy:
        assert all(mpu(*command, "--copy", k).code == 0 for k in (1, 2))
        notes = list(out.rglob(".recipe.json"))
        assert len(notes) == 2
        assert {note.stat().st_mode & 0o777 for note in notes} == {0o600}
        assert mpu("unlearn", finished_round.handoff, "--finish", "--out", out).code == 0
    else:
        assert mpu(*command).code == 0
    import hashlib

    words = {word for name in NAMES for word in (name, name.lower(), *name.split())}
    texts = {
        b"zebedee",
        b"GradDiff",
        b"graddiff",
        b"adamw",
        b"born",
        b"question",
        b"answer",
        b"recipe",
        b"loss",
        b"w1 w",
        b"31415926",
    }
    hyper = {
        spelling for value in (0.00271828, 0.0161803, 1.4142135) for spelling in _numbers(value)
    }
    files = {
        spelling
        for path in (forget, retain)
        for spelling in _spellings(hashlib.sha256(path.read_bytes()).digest())
    }
    needles = {
        *(word.encode() for word in words),
        *texts,
        *hyper,
        *files,
        *_machine(),
        str(tmp_path).encode(),
        struct.pack("<q", 31415926),
    }
    assert {needle for _, needle in _found(forget.parent, needles)} >= {
        word.encode() for name in NAMES for word in name.split()
    }
    assert _found(out, needles) == []
    assert {file.name for file in out.rglob("*") if file.is_file()} == {
        "mpu.yaml",
        "delta.safetensors",
    }
    assert all(read_header(file)[1] == {"format": "pt"} for file in out.rglob("*.safetensors"))


def test_public_files_are_readable_and_secret_ones_are_not_under_any_umask(
    mpu, finished_round, tmp_path
):
    """0644 and 0755 under umask 077, 0600 and 0700 under umask 000."""
    r = finished_round
    data = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    for umask in (0o077, 0o000):
        root = tmp_path / oct(umask)
        old = os.umask(umask)
        try:
            made = ("--handoff", root / "to-client", "--secret", root / "server", "-m", 2)
            assert mpu("perturb", r.model, "--base", r.base, *made).code == 0
            assert mpu("unlearn", root / "to-client", *data, "--out", root / "to-server").code == 0
            assert all(
                mpu(
                    "unlearn", root / "to-client", *data, "--out", root / "by-copy", "--copy", k
                ).code
                == 0
                for k in (1, 2)
            )
            assert (
                mpu("unlearn", root / "to-client", "--finish", "--out", root / "by-copy").code == 0
            )
            assert (
                mpu("diff", root / "to-client", root / "to-client", "--out", root / "diffed").code
                == 0
            )
            given = ("--secret", root / "server", "--model", r.model)
            assert (
                mpu("aggregate", root / "to-server", *given, "--out", root / "model-next").code == 0
            )
        finally:
            os.umask(old)
        for name in ("to-client", "to-server", "by-copy", "diffed", "model-next"):
            assert _modes(root / name) == {(True, 0o755), (False, 0o644)}, (oct(umask), name)
        assert _modes(root / "server") == {(True, 0o700), (False, 0o600)}


def test_a_handoff_issued_again_is_readable_under_any_umask(mpu, own_round, tmp_path):
    """As at first."""
    r = own_round
    old = os.umask(0o077)
    try:
        reissued = ("--secret", r.secret, "--reissue", next(iter(Lineage.read(r.secret).handoffs)))
        assert mpu("perturb", r.model, "--handoff", tmp_path / "again", *reissued).code == 0
    finally:
        os.umask(old)
    assert _modes(tmp_path / "again") == {(True, 0o755), (False, 0o644)}


def _modes(root: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), path.stat().st_mode & 0o777) for path in (root, *root.rglob("*"))}
