"""Numbers in config.json that no stored tensor bears out are refused before a model is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mpu_cli
from mpu_cli.checkpoint.config_sizes import check_sizes
from mpu_cli.checkpoint.header import MAX_TENSORS, TensorInfo, _parse, read_header
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError

MODEL = Path(mpu_cli.__file__).parent / "demo" / "assets" / "model"
TOO_LARGE = {
    "vocab_size": 5_000_000,
    "hidden_size": 2**31 - 1,
    "intermediate_size": 2**31 - 1,
    "head_dim": 2**30,
    "num_attention_heads": 2**30,
    "num_key_value_heads": 2**30,
    "max_position_embeddings": 2**31 - 1,
    "num_hidden_layers": 10**9,
    "model_type": ["llama"],
    "hidden_act": "__import__('os').system('true')",
}


@pytest.mark.parametrize("key", TOO_LARGE)
def test_it_is_refused_when_the_model_is_opened(key, tmp_path):
    """Every command opens a model in this way; the message names the file and the key."""
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    file = model / "config.json"
    content = json.loads(file.read_text()) | {key: TOO_LARGE[key]}
    if key == "num_key_value_heads":
        content["num_attention_heads"] = TOO_LARGE[key]
    file.write_text(json.dumps(content))
    with pytest.raises(BadModelError) as caught:
        open_checkpoint(model)
    assert str(file) in caught.value.message
    assert key in caught.value.message or "num_attention_heads" in caught.value.message
    assert "\n" not in caught.value.message


def tensors(number: int, *shape: int) -> dict[str, TensorInfo]:
    """Tensors as a header describes them."""
    names = [f"model.layers.{i}.weight" for i in range(number)]
    return {name: TensorInfo(name, "BF16", shape, Path("x"), 0) for name in names}


@pytest.mark.parametrize(
    ("config", "held", "words"),
    [
        ({"head_dim": 60_000, "num_attention_heads": 60_000}, tensors(1, 1200, 2), "×"),
        ({"text_config": {"hidden_size": 70_000}}, tensors(1, 1200, 2), "text_config.hidden_size"),
        ({"hidden_size": 10**9}, tensors(1, 1 << 30, 0), "hidden_size"),
        ({"num_hidden_layers": 600}, tensors(10_000, 4), "more than 512"),
        ({"intermediate_size": [8, 10**9]}, tensors(1, 1200, 2), "intermediate_size"),
        ({"num_experts": 1e9}, tensors(1, 1200, 2), "num_experts"),
        ({}, tensors(200_001, 1), "200,001 tensors"),
    ],
    ids=["heads × size", "in a part", "an empty tensor", "layers", "a list", "a float", "tensors"],
)
def test_ways_around_it(config, held, words):
    """Products, parts, and tensors that are as long as one likes because they hold nothing."""
    with pytest.raises(BadModelError, match=words):
        check_sizes(Path("m/config.json"), config, held)


def test_real_sizes_pass():
    """Negative control: sizes of large published models."""
    llama = {
        "hidden_size": 16384,
        "head_dim": 128,
        "num_attention_heads": 128,
        "num_hidden_layers": 126,
        "intermediate_size": 53248,
        "vocab_size": 128256,
        "max_position_embeddings": 10_485_760,
        "rope_parameters": {"rope_theta": 5e8, "factor": 1e6},
        "sliding_window": 131072,
        "image_token_id": 10**6,
    }
    check_sizes(Path("m/config.json"), llama, tensors(2000, 128256, 16384))
    open_checkpoint(MODEL)


def test_files_of_holes_are_refused_at_once(tmp_path):
    """A terabyte that was never written: its header is right, and reading it would take hours."""
    file = tmp_path / "model.safetensors"
    header = b'{"a":{"dtype":"I8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}'
    with file.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + (1 << 40))
    with pytest.raises(BadModelError, match=r"only \d+ exist"):
        read_header(file)


def test_too_many_tensors_are_counted_before_they_are_parsed():
    """The header has 50,001 empty tensors."""
    raw = (
        b"{"
        + b",".join(
            b'"%d":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}' % i
            for i in range(MAX_TENSORS + 1)
        )
        + b"}"
    )
    with pytest.raises(BadModelError, match="more than 50,000 tensors"):
        _parse(Path("x"), raw, 8 + len(raw))
