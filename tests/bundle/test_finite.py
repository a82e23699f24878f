"""NaN and infinity are found in the same pass as the digests, for every dtype and block size."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mpu_cli.bundle.finite import FileNumbers, all_finite, examine, not_finite
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.header import read_header
from mpu_cli.checkpoint.model import Checkpoint

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BAD = [float("nan"), float("inf"), -float("inf")]


def raw(tensor):
    """The bytes of a tensor."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    size=st.integers(1, 300),
    place=st.integers(0, 299),
    bad=st.lists(st.sampled_from(BAD), max_size=2),
    huge=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_any_nan_or_infinity_is_found(dtype, size, place, bad, huge):
    """Also if two infinities would cancel; finite entries whose sum overflows pass."""
    values = torch.full(
        (size,), float(torch.finfo(DTYPES[dtype]).max) if huge else 1.0, dtype=DTYPES[dtype]
    )
    for number, value in enumerate(bad):
        values[(place + number) % size] = value
    assert all_finite(dtype, raw(values)) == bool(torch.isfinite(values).all())


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [("F64", torch.float64), ("F8_E5M2", torch.float8_e5m2), ("F8_E4M3", torch.float8_e4m3fn)],
)
def test_other_floating_point_dtypes_are_checked(dtype, torch_dtype):
    """Every bit pattern of one byte, or samples of wider dtypes.

    An unchecked dtype would count as finite.
    """
    if dtype == "F64":
        values = [
            torch.tensor([number], dtype=torch_dtype)
            for number in (*BAD, 0.0, -1.0, 1.7e308, 5e-324)
        ]
    else:
        values = [
            torch.tensor([number], dtype=torch.uint8).view(torch_dtype) for number in range(256)
        ]
    for value in values:
        assert all_finite(dtype, raw(value)) == bool(torch.isfinite(value.double()).all()), value


def test_every_dtype_of_a_header_is_known():
    """The unchecked dtypes have no NaN."""
    from mpu_cli.bundle.finite import _EXPONENTS
    from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT

    assert {name for name in BYTES_PER_ELEMENT if name[0] not in "IU" and name != "BOOL"} == set(
        _EXPONENTS
    )


def test_integer_dtypes_are_finite():
    """Bytes that would be NaN as a float are fine in an integer tensor."""
    assert all_finite("U8", memoryview(b"\xff" * 8)) and all_finite("I32", memoryview(b"\xff" * 8))


@pytest.mark.parametrize("bad", [None, "b", "c"])
@pytest.mark.parametrize("block", [8, 64, 1 << 20])
def test_digest_and_numbers_in_one_pass(tmp_path, monkeypatch, bad, block):
    """The digests are those of the plain functions; the first bad tensor by name is returned."""
    monkeypatch.setattr("mpu_cli.checkpoint.buffers.HASH_BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "c": torch.randn(7, 5, generator=generator),
        "b": torch.randn(9, generator=generator).to(torch.bfloat16),
        "a": torch.arange(11, dtype=torch.int64),
        "empty": torch.zeros(0),
    }
    if bad:
        tensors["c"][6, 4] = float("inf")
        tensors[bad].view(-1)[3] = float("nan")
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    numbers = FileNumbers()
    assert numbers.digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert numbers.not_finite([path]) == bad and numbers.not_finite([]) is None
    infos = read_header(path)[0]
    model = Checkpoint(tmp_path, {}, infos)
    assert examine(model) == (model_digest(model), bad)
    assert not_finite(infos) == bad


@pytest.mark.parametrize("content", [b"", b"not a tensor", np.arange(1000).tobytes()])
def test_an_invalid_file_is_only_hashed(tmp_path, content):
    """The caller gets the error when it opens the file after the digest check."""
    for name in ("delta.safetensors", "config.json"):
        path = tmp_path / name
        path.write_bytes(content)
        numbers = FileNumbers()
        assert numbers.digest(path) == hashlib.sha256(content).hexdigest()
        assert numbers.not_finite([path]) is None
