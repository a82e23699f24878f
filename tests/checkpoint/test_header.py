"""The safetensors header, reader and writer, against safetensors' own library and hostile bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.model import blocks
from mpu_cli.checkpoint.writer import CheckpointWriter, plan_shards
from mpu_cli.errors import BadModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


def _tensor(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    width = torch.empty(0, dtype=DTYPES[dtype]).element_size()
    count = torch.Size(shape).numel() * width
    top = 2 if dtype == "BOOL" else 256
    raw = torch.randint(
        0, top, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return raw.view(DTYPES[dtype]).reshape(shape)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _write(
    directory: Path, tensors: dict[str, tuple[str, torch.Tensor]], piece: int = 1 << 20, **options
) -> CheckpointWriter:
    infos = [
        TensorInfo(name, dtype, tuple(tensor.shape), directory, 0)
        for name, (dtype, tensor) in tensors.items()
    ]
    writer = CheckpointWriter(directory, infos, **options)
    for info in writer.order:
        data = _bytes(tensors[info.name][1])
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
    return writer


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def _entry(
    begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8"
) -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 99)), max_size=6
    ),
    st.integers(1, 9),
)
def test_a_written_file_equals_that_of_safetensors(tmp_path_factory, spec, piece):
    """Any dtypes, shapes, names and block sizes give the bytes of save_file."""
    directory = tmp_path_factory.mktemp("same")
    tensors = {
        name: (dtype, _tensor(dtype, shape, seed)) for name, (dtype, shape, seed) in spec.items()
    }
    written = _write(directory, tensors, piece).close()
    save_file(
        {name: tensor for name, (_, tensor) in tensors.items()},
        directory / "theirs",
        metadata={"format": "pt"},
    )
    ours = directory / "model.safetensors"
    assert ours.read_bytes() == (directory / "theirs").read_bytes()
    assert written.files == {"model.safetensors": (file_digest(ours), ours.stat().st_size)}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 99)), max_size=6
    )
)
def test_a_file_of_safetensors_is_read_back_to_the_same_bytes(tmp_path_factory, spec):
    """read_header and blocks return each tensor's dtype, shape and bytes of a file by save_file."""
    path = tmp_path_factory.mktemp("theirs") / "model.safetensors"
    tensors = {name: _tensor(dtype, shape, seed) for name, (dtype, shape, seed) in spec.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    infos, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert {name: (info.dtype, info.shape) for name, info in infos.items()} == {
        name: (dtype, shape) for name, (dtype, shape, _) in spec.items()
    }
    assert all(
        b"".join(blocks(infos[name], 5)) == _bytes(tensor) for name, tensor in tensors.items()
    )


def test_transformers_loads_shards_and_their_index(tmp_path, tiny_pair):
    """A model in many shards loads to the same weights; the index counts bytes and entries."""
    from transformers import AutoModelForCausalLM

    source = tiny_pair("llama").model
    tensors = {
        name: ("F32", tensor) for name, tensor in load_file(source / "model.safetensors").items()
    }
    written = _write(tmp_path, tensors, max_shard_bytes=20_000).close()
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert set(written.files) == {"model.safetensors.index.json", *(shard.name for shard in shards)}
    assert all(
        written.files[file.name] == (file_digest(file), file.stat().st_size)
        for file in tmp_path.glob("model*")
    )
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.numel() * 4 for _, tensor in tensors.values()
    )
    ours = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(source).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_tensor_larger_than_a_shard_gets_its_own_file(tmp_path):
    """The limit splits between tensors, never inside one."""
    sizes = {"a": 100, "b": 10, "c": 10, "d": 100}
    shards = plan_shards(
        [TensorInfo(name, "U8", (size,), tmp_path, 0) for name, size in sizes.items()], 20
    )
    assert [[info.name for info in shard] for shard in shards.values()] == [
        ["a"],
        ["b", "c"],
        ["d"],
    ]


def test_an_incomplete_or_overfull_tensor_raises_value_error(tmp_path):
    """The writer never closes with missing bytes and never crosses into the next tensor."""
    writer = CheckpointWriter(tmp_path, [TensorInfo("a", "F32", (2,), tmp_path, 0)])
    with pytest.raises(ValueError, match="which has 8"):
        writer.write(bytes(9))
    writer.write(bytes(4))
    with pytest.raises(ValueError, match="incomplete"):
        writer.close()
    writer.abort()


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_files_of_the_writer_are_readable_by_all_under_any_umask(tmp_path, umask):
    """Public tensors get mode 0644; safetensors itself writes 0600."""
    import os

    old = os.umask(umask)
    try:
        _write(
            tmp_path,
            {
                "a": ("U8", torch.zeros(50, dtype=torch.uint8)),
                "b": ("U8", torch.zeros(50, dtype=torch.uint8)),
            },
            max_shard_bytes=60,
        ).close()
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


HOSTILE = {
    "empty file": (lambda path: path.write_bytes(b""), "shorter than a safetensors header"),
    "seven bytes": (
        lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0"),
        "shorter than a safetensors header",
    ),
    "header longer than the file": (
        lambda path: path.write_bytes(struct.pack("<Q", 1000) + b"{}"),
        "claims 1000 bytes",
    ),
    "header of 2^63 bytes": (
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 63) + b"{}"),
        "claims",
    ),
    "not UTF-8": (lambda path: _file(path, b'{"\xff":1}'), "not valid JSON"),
    "not JSON": (lambda path: _file(path, b"{"), "not valid JSON"),
    "a list": (lambda path: _file(path, []), "not a JSON object"),
    "nested without end": (
        lambda path: _file(path, b"[" * 100_000),
        "nested more than 64 levels deep",
    ),
    "a number of 5000 digits": (
        lambda path: _file(path, b'{"a":' + b"9" * 5000 + b"}"),
        "not valid JSON",
    ),
    "metadata not strings": (lambda path: _file(path, {"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (lambda path: _file(path, {"__metadata__": []}), "__metadata__"),
    "duplicate name": (
        lambda path: _file(
            path,
            f'{{"a":{json.dumps(_entry(0, 1))},"a":{json.dumps(_entry(0, 1))}}}'.encode(),
            b"x",
        ),
        "occurs twice",
    ),
    "unknown dtype": (
        lambda path: _file(path, {"a": _entry(0, 1, dtype="F4")}, b"x"),
        "unknown dtype 'F4'",
    ),
    "dtype a list": (
        lambda path: _file(path, {"a": {**_entry(0, 1), "dtype": []}}, b"x"),
        "unknown dtype",
    ),
    "entry a string": (lambda path: _file(path, {"a": "b"}), "not described"),
    "entry with another key": (
        lambda path: _file(path, {"a": {**_entry(0, 1), "x": 1}}, b"x"),
        "not described",
    ),
    "negative shape": (
        lambda path: _file(path, {"a": _entry(0, 1, [-1])}, b"x"),
        "malformed shape",
    ),
    "shape of true": (
        lambda path: _file(path, {"a": _entry(0, 1, [True])}, b"x"),
        "malformed shape",
    ),
    "shape of 2^70": (
        lambda path: _file(path, {"a": _entry(0, 1, [1 << 70])}, b"x"),
        "malformed shape",
    ),
    "three offsets": (
        lambda path: _file(path, {"a": {**_entry(0, 1), "data_offsets": [0, 1, 1]}}, b"x"),
        "malformed",
    ),
    "size that does not fit": (
        lambda path: _file(path, {"a": _entry(0, 4, [2], "F32")}, b"xxxx"),
        "claims 4 bytes",
    ),
    "size that overflows": (
        lambda path: _file(path, {"a": _entry(0, 0, [1 << 40, 1 << 40])}),
        "claims 0 bytes",
    ),
    "gap": (
        lambda path: _file(path, {"a": _entry(0, 1), "b": _entry(2, 3)}, b"xxx"),
        "gap or an overlap before tensor b",
    ),
    "gap at the front": (
        lambda path: _file(path, {"a": _entry(1, 2)}, b"xx"),
        "gap or an overlap before tensor a",
    ),
    "overlap": (
        lambda path: _file(path, {"a": _entry(0, 2), "b": _entry(1, 3)}, b"xxx"),
        "gap or an overlap before tensor b",
    ),
    "truncated": (lambda path: _file(path, {"a": _entry(0, 4)}, b"xxx"), "it holds"),
    "bytes at the end": (lambda path: _file(path, {"a": _entry(0, 4)}, b"xxxxx"), "it holds"),
    "absent": (lambda path: None, "No such file"),
    "a directory": (lambda path: path.mkdir(), "Is a directory"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_safetensors_file_is_refused_and_named(tmp_path, name):
    """Each violation of the format raises BadModelError with the file and the reason."""
    make, expected = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(BadModelError) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.hint


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 7), st.binary(max_size=8))
def test_a_header_with_any_damage_is_refused_or_still_well_formed(
    tmp_path_factory, position, bit, inserted
):
    """A damaged file raises BadModelError or still fits the specification."""
    path = tmp_path_factory.mktemp("damage", numbered=True) / "model.safetensors"
    save_file(
        {"a": torch.zeros(3), "b": torch.zeros(2, 2, dtype=torch.bfloat16)},
        path,
        metadata={"format": "pt"},
    )
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position] ^= 1 << bit
    data[position:position] = inserted
    path.write_bytes(data)
    try:
        infos, _ = read_header(path)
    except BadModelError:
        return
    assert sum(info.nbytes for info in infos.values()) <= len(data)
    assert all(info.start + info.nbytes <= len(data) for info in infos.values())


def test_a_header_with_too_many_axes_or_bytes_is_refused_unparsed(tmp_path):
    """The product of 100,000 sizes takes seconds, and 100 MB of JSON take 2 GB."""
    file = tmp_path / "model.safetensors"
    axes = {"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}
    raw = json.dumps(axes).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    with pytest.raises(BadModelError, match="tensor a has 65 axes, more than 64"):
        read_header(file)
    size = (32 << 20) + 1
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", size))
        opened.truncate(size + 8)
    with pytest.raises(BadModelError, match=f"its header claims {size} bytes"):
        read_header(file)
