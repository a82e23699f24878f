"""Every single-bit flip of a bundle, a secret and its records is refused by `mpu verify`.

The golden files are flipped in place and restored. The fast suite flips a sample.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpu_cli.bundle.finite import FileNumbers
from mpu_cli.bundle.read import read_bundle
from mpu_cli.bundle.sign import sign_finished
from mpu_cli.bundle.signatures.private_key import open_signing_key
from mpu_cli.errors import MpuError
from mpu_cli.server.lineage.models import Lineage

GOLDEN = Path(__file__).parents[1] / "golden"
FAST = 40
"""Bits of each file."""
READERS: dict[str, Callable[[Path], object]] = {
    "signed handoff-v1": lambda path: read_bundle(path, FileNumbers().digest),
    "handoff-v1": lambda path: read_bundle(path, FileNumbers().digest),
    "update-v1": lambda path: read_bundle(path, FileNumbers().digest),
    "secret-v1": Lineage.read,
}
"""What `mpu verify` runs before anything else."""


@pytest.mark.parametrize("sample", [FAST, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("thing", READERS)
def test_a_flipped_bit(thing: str, sample: int | None, tmp_path, record_property):
    """Whichever bit of whichever file: refused, with an error for the user."""
    source = GOLDEN / thing.removeprefix("signed ")
    root, read = Path(shutil.copytree(source, tmp_path / "thing")), READERS[thing]
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if thing.startswith("signed"):
        shutil.copy(GOLDEN / "ssh" / "ed25519", tmp_path / "key")
        (tmp_path / "key").chmod(0o600)
        sign_finished(root, open_signing_key(tmp_path / "key"))
        files = [root / "mpu.yaml", root / "mpu.yaml.sig"]
    read(root)
    accepted, count = [], 0
    for file in files:
        original = file.read_bytes()
        bits: list[int] | range = range(8 * len(original))
        if sample is not None:
            bits = random.Random(file.name).sample(bits, min(sample, len(bits)))
        for bit in bits:
            flipped = bytearray(original)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            count += 1
            try:
                read(root)
            except MpuError:
                continue
            accepted.append(f"{file.relative_to(root)}: bit {bit}")
        file.write_bytes(original)
    record_property("flips", (thing, count))
    read(root)
    assert not accepted
