"""A model with NaN or infinity in any tensor is never published and never made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from two_parties import change_all, publish, small_change, take_back, write_update

from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError, GateError, MpuError

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
GATE, LAYER_NORM = "model.layers.1.mlp.gate_proj.weight", "model.layers.0.input_layernorm.weight"


def _with(
    source: Path, target: Path, name: str, value: float, dtype: torch.dtype | None = None
) -> Path:
    """A copy of a model whose last entry of one tensor is `value`."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    if dtype is not None:
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [EMBEDDING, NORM, HEAD, GATE, LAYER_NORM])
def test_perturb_refuses_it_in_any_tensor(tiny_pair, tmp_path, entropy, name, value):
    """Inside the layers and outside, where tensors are copied byte for byte; nothing is written."""
    pair = tiny_pair("llama")
    bad = _with(pair.model, tmp_path / "bad", name, value)
    with pytest.raises(BadModelError, match=rf"tensor {name} holds NaN or infinity"):
        publish(bad, pair.base, tmp_path / "h", tmp_path / "s", entropy(5), copies=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]
)
def test_perturb_refuses_it_in_any_dtype(tiny_pair, tmp_path, entropy, dtype):
    """Whether the tensor is converted on the way or not, and whether a base is given or not."""
    pair = tiny_pair("llama")
    bad = _with(pair.model, tmp_path / "bad", EMBEDDING, float("nan"), dtype)
    with pytest.raises(MpuError, match=r"holds NaN or infinity|has the dtype"):
        publish(bad, None, tmp_path / "h", tmp_path / "s", entropy(5), copies=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_of_the_base_only_what_is_measured_must_be_numbers(tiny_pair, tmp_path, entropy):
    """A base is never published.

    NaN in a row of its embedding that nobody uses is no reason to refuse.
    """
    pair = tiny_pair("llama")
    publish(
        pair.model,
        _with(pair.base, tmp_path / "base", EMBEDDING, float("nan")),
        tmp_path / "h",
        tmp_path / "s",
        entropy(5),
        copies=2,
    )
    inside = _with(pair.base, tmp_path / "other", GATE, float("nan"))
    with pytest.raises(
        BadModelError, match=rf"other/model.safetensors: tensor {GATE} holds NaN or infinity"
    ):
        publish(pair.model, inside, tmp_path / "h2", tmp_path / "s2", entropy(6), copies=2)


def test_large_finite_numbers_are_numbers(tiny_pair, tmp_path, entropy):
    """Their squares are beyond float32, they are not."""
    pair = tiny_pair("llama")
    model = _with(pair.model, tmp_path / "large", EMBEDDING, 3e38)
    assert publish(model, pair.base, tmp_path / "h", tmp_path / "s", entropy(5), copies=2).handoffs
    change_all(
        tmp_path / "s",
        _record(tmp_path),
        model,
        tmp_path / "h",
        tmp_path / "u",
        small_change(model),
    )
    result = take_back(
        tmp_path / "u", tmp_path / "s", model, tmp_path / "next", max_relative_norm=1e30
    )
    assert model_digest(open_checkpoint(tmp_path / "next")) == result.model.digest


def _record(place: Path):
    from mpu_cli.server.lineage.models import Lineage

    return next(iter(Lineage.read(place / "s").handoffs.values()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_aggregate_never_makes_one(tiny_pair, tmp_path, entropy, dtype):
    """A finite update that leads beyond the largest number, with every gate open.

    refused, nothing is written.
    """
    pair = tiny_pair("llama")
    model = _with(pair.model, tmp_path / "large", NORM, 3e38)
    publish(
        model,
        None,
        tmp_path / "h",
        tmp_path / "s",
        entropy(7),
        copies=2,
        kappa=0.0,
        reparam="none",
        dtype="float32",
    )
    delta = {NORM: torch.zeros(load_file(model / "model.safetensors")[NORM].shape)}
    delta[NORM].view(-1)[-1] = 3e38
    write_update(tmp_path / "h", tmp_path / "u", {"copy-1": delta, "copy-2": delta})
    with pytest.raises(
        (BadModelError, GateError), match=rf"tensor {NORM} holds, or would hold, NaN or infinity"
    ):
        take_back(
            tmp_path / "u",
            tmp_path / "s",
            model,
            tmp_path / "next",
            dtype=dtype,
            max_relative_norm=1e30,
            min_agreement=-1,
        )
    assert not (tmp_path / "next").exists()
