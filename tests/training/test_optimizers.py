"""The optimizers: found by name, declared, and doing what their papers say."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from optimizer_cases import (
    CONFIG,
    DECAY,
    FOLDER,
    HEADS,
    NORM,
    PREFIX,
    RATE,
    SIZE,
    Run,
    largest_difference,
    optimizer_case,
    randoms,
)

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import UsageError
from mpu_cli.modeling.load import load_model
from mpu_cli.training import optimizers
from mpu_cli.training.optimizers._blocks import Blocks, is_embedding
from tiny_families import TinyModel, tiny_models


def test_names_need_no_torch() -> None:
    """Listing them imports nothing heavy."""
    code = (
        "import sys; from mpu_cli.training import optimizers; print(optimizers.names());"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(optimizers.names())


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_declared(name: str) -> None:
    """Each file declares one optimizer under its own name, with its source."""
    spec = optimizers.get(name.upper())
    assert spec.name == name
    assert spec.source
    assert isinstance(spec.smooth, bool)
    assert optimizers.get(name.replace("-", "_")) is spec


def test_every_case_is_that_of_an_optimizer() -> None:
    """An optimizer whose file is gone leaves its test file behind."""
    cases = {path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py")}
    assert cases == {name.replace("-", "_") for name in optimizers.names()}


@pytest.mark.parametrize("name", optimizers.names())
def test_three_steps_are_those_of_the_rule(name: str) -> None:
    """Parameters of every kind end where the rule of the paper in numpy puts them."""
    assert largest_difference(name, optimizer_case(name).rule) <= 1e-6


def test_unknown_name() -> None:
    """An unknown name is a usage error that names the nearest."""
    with pytest.raises(UsageError, match="--optimizer adamv") as caught:
        optimizers.get("adamv")
    assert caught.value.hint == "did you mean adamw?"


def test_an_expert_without_tokens_stays() -> None:
    """A zero gradient for one expert moves nothing there, and all else stays finite."""
    experts = f"{PREFIX}mlp.experts.gate_up_proj"
    for name in optimizers.names():
        run = Run(name, decay=0.0)
        before = run.arrays()[experts]
        for number in range(2):
            gradients = randoms(number)
            gradients[experts][1] = 0
            run.step(gradients)
        after = run.arrays()[experts]
        assert (
            np.isfinite(after).all()
            and (after[1] == before[1]).all()
            and (after[::2] != before[::2]).any()
        ), name


@pytest.mark.parametrize("name", optimizers.names())
def test_rounding_noise_of_a_bias_is_not_blown_up(name: str) -> None:
    """The keys' bias without RoPE has a gradient of 1e-10, and hardly moves, with AdamW too."""
    run = Run(name, decay=0.0)
    before = run.arrays()[NORM]
    run.step({key: 1e-10 * value if key == NORM else value for key, value in randoms(1).items()})
    assert np.abs(run.arrays()[NORM] - before).max() < 0.05 * RATE


@pytest.mark.parametrize("name", optimizers.names())
def test_weight_decay_is_decoupled(name: str) -> None:
    """With zero gradients a matrix shrinks by rate · decay, and a vector in its group stays."""
    run = Run(name)
    before = run.arrays()
    run.step({key: torch.zeros_like(value) for key, value in randoms(1).items()})
    for key, value in run.arrays().items():
        shrunk = before[key] * (1 - RATE * DECAY * (value.ndim > 1))
        np.testing.assert_allclose(value, shrunk, rtol=2e-7)


@pytest.mark.parametrize("name", optimizers.names())
def test_a_saved_state_goes_on_with_the_same_bits(name: str) -> None:
    """An optimizer restored after two steps, without pickled code, ends with the same bits."""
    whole, first, second = Run(name), Run(name), Run(name)
    for number in range(5):
        whole.step(randoms(number))
        (first if number < 2 else second).step(randoms(number))
        if number == 1:
            file = io.BytesIO()
            torch.save([first.optimizer.state_dict(), first.parameters], file)
            file.seek(0)
            state, weights = torch.load(file, weights_only=True)
            second.optimizer.load_state_dict(state)
            for key, value in second.parameters.items():
                value.data.copy_(weights[key])
    for key, value in whole.parameters.items():
        assert torch.equal(value, second.parameters[key]), key
    assert (
        whole.optimizer.param_groups[0]["param_names"]
        == second.optimizer.param_groups[0]["param_names"]
    )


@pytest.mark.parametrize("name", optimizers.names())
def test_declared_smoothness_is_true(name: str) -> None:
    """The effect of opposite gradient noises falls with their square under a smooth rule only."""

    def update(noise: float) -> torch.Tensor:
        run = Run(name, rate=1.0, decay=0.0)
        before = torch.cat([value.detach().flatten() for value in run.parameters.values()])
        for number in range(3):
            gradients, noises = randoms(number), randoms(number + 10)
            run.step({key: value + noise * noises[key] for key, value in gradients.items()})
        return torch.cat([value.detach().flatten() for value in run.parameters.values()]) - before

    left = [
        float((update(size) + update(-size) - 2 * update(0.0)).norm() / update(0.0).norm())
        for size in (0.03, 0.003)
    ]
    slope = np.log10(max(left[0], 1e-6) / max(left[1], 1e-6))
    if max(left) < 1e-5:  # a linear rule: nothing is left but rounding
        assert optimizers.get(name).smooth
    else:
        assert slope > 1.9 if optimizers.get(name).smooth else slope < 1


STORED = (
    "llama",
    "gpt2",
    "gpt-neox",
    "falcon",
    "falcon-7b",
    "gpt-bigcode",
    "phi3",
    "deepseek-v2",
    "qwen2-moe",
    "gemma3-multimodal",
)


def tiny(family: str) -> TinyModel:
    """The first tiny model of a family."""
    return next(tiny_models((family,)))


@pytest.mark.parametrize("family", STORED)
def test_blocks_are_the_heads_that_the_server_sees(family: str, tmp_path: Path) -> None:
    """A block is a head of the server's layout, however q, k and v are stored, or one output."""
    directory = tiny(family).build(tmp_path / "model")
    checkpoint = open_checkpoint(directory)
    layer = read_layout(checkpoint.config, shapes(checkpoint.tensors), directory).layers[0]
    loaded = load_model(directory).model
    blocks = Blocks(loaded.config.to_dict(), "here")
    memory = {
        name: value.shape for name, value in loaded.named_parameters() if "vision" not in name
    }
    heads = {
        (slot.tensor, slot.axis, *head.tolist())
        for role in ("q", "k", "v", "q_free", "k_free")
        for slot in layer.slots.get(role, ())
        if len(checkpoint.tensors[slot.tensor].shape) == 2
        for head in slot.index.reshape(-1, slot.index.shape[-1])
    }
    assert heads
    for tensor, axis, *positions in heads:
        name = next(
            name
            for name in memory
            if name.endswith(tensor.partition("layers.0.")[2] or tensor.partition("h.0.")[2])
        )
        shape = memory[name]
        outputs = torch.arange(shape[axis], dtype=torch.float32)
        square = (outputs[:, None] if axis == 0 else outputs[None]).expand(shape)
        found = blocks.mean(name, square).flatten()
        assert len(found) == shape[axis], "the mean is over inputs"
        block = (found == found[positions[0]]).nonzero().flatten().tolist()
        assert set(positions) <= set(block), f"{name}: a head has one second moment"
        mine = {
            place
            for key in heads
            if key[:2] == (tensor, axis) and set(key[2:]) & set(block)
            for place in key[2:]
        }
        assert set(block) == mine, f"{name}: a block is a single head"


def test_embeddings_adapters_and_namesakes_have_their_own_rows() -> None:
    """Embeddings have tokens as rows, in GPT-2 too; an adapter's B has heads, its A has none."""
    gpt2 = Blocks(
        tiny("gpt2").family.tiny["plain"]
        | {
            "model_type": "gpt2",
            "n_layer": 1,
            "n_embd": 8,
            "n_head": 2,
        },
        "here",
    )
    square = torch.rand(24, 8)
    assert gpt2.mean("transformer.wte.weight", square).shape == (24, 1)
    assert gpt2.mean("transformer.h.0.mlp.c_fc.weight", square).shape == (1, 8)
    llama = Blocks(CONFIG, "here")
    lora = f"base_model.model.{PREFIX}self_attn.q_proj"
    square = torch.rand(HEADS * SIZE, HEADS * SIZE)
    by_head, by_row = (llama.mean(f"{lora}.lora_{part}.default.weight", square) for part in "BA")
    assert len(by_head.unique()) == HEADS and len(by_row.unique()) == HEADS * SIZE
    assert (
        len(llama.mean("vision_tower.layers.0.self_attn.q_proj.weight", torch.rand(7, 7)).unique())
        == 7
    )
    assert (
        is_embedding("model.embed_tokens.weight")
        and is_embedding("lm_head.weight")
        and not is_embedding("model.norm.weight")
    )
