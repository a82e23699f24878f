"""Blocks in any order give the file of save_file with its digests; a failing disk is reported."""

import errno
import hashlib
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.digest import tensor_digest
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.writer import CheckpointWriter

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


def infos_of(shapes, directory):
    """Descriptions of tensors a, b, … of these shapes, alternately float32 and bfloat16."""
    return [
        TensorInfo(f"layer.{number}.weight", ("F32", "BF16")[number % 2], shape, directory, 0)
        for number, shape in enumerate(shapes)
    ]


def open_files():
    """This process's open files."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def tensors_of(infos, generator):
    """Random tensors for the descriptions."""
    return {
        info.name: torch.from_numpy(generator.standard_normal(info.shape)).to(DTYPES[info.dtype])
        for info in infos
    }


@given(
    shapes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
    shard=st.sampled_from([1, 100, 10**6]),
    digest=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_rows_in_any_order(tmp_path_factory, shapes, seed, shard, digest):
    """Rows of all tensors in random order give the same bytes and digests as in file order."""
    directory, generator = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    infos = infos_of(shapes, directory)
    tensors = tensors_of(infos, generator)
    writer = CheckpointWriter(directory, infos, max_shard_bytes=shard, digest_tensors=digest)
    jobs = []
    for info in infos:
        rows = generator.permutation(info.shape[0])
        cuts = sorted(generator.integers(0, len(rows) + 1, 2))
        jobs += [(info.name, np.sort(part)) for part in np.split(rows, cuts) if len(part)]
    for job in generator.permutation(len(jobs)):
        name, rows = jobs[job]
        block = tensors[name][torch.from_numpy(rows)].contiguous()
        writer.write_rows(name, rows, block.view(-1).view(torch.uint8).numpy().data)
    written = writer.close()
    found = {}
    for file, (digest_, size) in written.files.items():
        data = (directory / file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest_, size)
        if file.endswith(".safetensors"):
            mine = read_header(directory / file)[0]
            found |= mine
            save_file(
                {name: tensors[name] for name in mine}, directory / "expected", {"format": "pt"}
            )
            assert data == (directory / "expected").read_bytes()
    assert found.keys() == tensors.keys()
    assert written.tensors == (
        {name: tensor_digest(info) for name, info in found.items()} if digest else {}
    )


def test_a_row_outside_a_tensor_and_bytes_written_twice_are_refused(tmp_path):
    """A caller's mistake never becomes a file."""
    writer = CheckpointWriter(tmp_path, infos_of([(2, 2)], tmp_path))
    with pytest.raises(ValueError, match="outside"):
        writer.write_rows("layer.0.weight", np.array([2]), memoryview(bytes(8)))
    writer.write_at("layer.0.weight", 0, bytes(16))
    writer.write_at("layer.0.weight", 0, bytes(16))
    with pytest.raises(ValueError, match=r"overlap or lie outside|is already complete"):
        writer.close()
    writer.abort()


def test_a_full_disk_reaches_the_caller_and_nothing_hangs(tmp_path, monkeypatch):
    """A later call raises the writing thread's error.

    Abort ends the thread, whatever its queue holds.
    """
    real = os.pwrite

    def full(handle, block, offset):
        if offset > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, block, offset)

    monkeypatch.setattr(os, "pwrite", full)
    infos = infos_of([(1000, 8)], tmp_path)
    writer = CheckpointWriter(tmp_path, infos)
    with pytest.raises(OSError, match="No space left"):
        for row in range(1000):
            writer.write_rows("layer.0.weight", np.array([row]), memoryview(bytes(32)))
        writer.close()
    writer.abort()
    writer.abort()
    assert not [
        thread for thread in threading.enumerate() if thread.name == f"write {tmp_path.name}"
    ]


def test_abort_leaves_no_thread_and_no_open_file(tmp_path):
    """Also in the middle of a file."""
    before = open_files()
    writer = CheckpointWriter(tmp_path, infos_of([(1000, 8), (10, 8)], tmp_path))
    writer.write(bytes(320))
    writer.abort()
    assert open_files() == before
    assert not [
        thread for thread in threading.enumerate() if thread.name == f"write {tmp_path.name}"
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_every_buffer_is_returned(tmp_path, monkeypatch, fails):
    """Also buffers of blocks that a full disk prevented from being written."""
    real = os.pwrite

    def full(handle, block, offset):
        if fails and offset > 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, block, offset)

    monkeypatch.setattr(os, "pwrite", full)
    pool, taken = Pool(2), 0
    writer = CheckpointWriter(tmp_path, infos_of([(1000, 8)], tmp_path))
    try:
        for row in range(1000):
            buffer = pool.take(32)
            taken += 1
            buffer[:32] = row.to_bytes(4, "little") * 8
            writer.write_rows(
                "layer.0.weight",
                np.array([999 - row]),
                memoryview(buffer)[:32],
                partial(pool.put, buffer),
            )
        writer.close()
    except OSError:
        assert fails
    writer.abort()
    if not fails:
        values = np.frombuffer((tmp_path / "model.safetensors").read_bytes()[-32000:], dtype="<u4")
        assert (values == np.repeat(np.arange(1000)[::-1], 8)).all()
    assert {len(pool.take(1)), len(pool.take(1))} == {32}


def test_a_larger_buffer_is_created_on_demand():
    """A block of one very long row."""
    pool = Pool(1)
    pool.put(pool.take(10))
    assert len(pool.take(5)) == 10
    pool.put(bytearray(5))


def test_only_requested_digests_are_computed(tmp_path):
    """Aggregate needs those of tensors, not those of files."""
    writer = CheckpointWriter(
        tmp_path, infos_of([(3, 2)], tmp_path), digest_files=False, digest_tensors=True
    )
    writer.write(bytes(range(24)))
    written = writer.close()
    assert written.files == {
        "model.safetensors": ("", (tmp_path / "model.safetensors").stat().st_size)
    }
    assert written.tensors == {"layer.0.weight": hashlib.sha256(bytes(range(24))).hexdigest()}
