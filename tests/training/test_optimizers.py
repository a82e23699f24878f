"""The optimizers: found by name, declared, and doing what their papers say."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.modeling.load import load_model
from mpu_cli.training import optimizers
from mpu_cli.training.optimizers._blocks import Blocks, is_embedding
from mpu_cli.training.optimizers.muon import orthogonalised
from tiny_families import TinyModel, tiny_models


def test_names_need_no_torch() -> None:
    """Listing them imports nothing heavy."""
    code = (
        "import sys; from mpu_cli.training import optimizers; print(optimizers.names());"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(["adafactor", "adam-mini", "adamw", "muon", "sgd"])


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_declared(name: str) -> None:
    """Each file declares one optimizer under its own name, with its source."""
    spec = optimizers.get(name.upper())
    assert spec.name == name
    assert spec.source
    assert isinstance(spec.smooth, bool) and spec.smooth == (name != "adamw")
    assert optimizers.get(name.replace("-", "_")) is spec


def test_unknown_name() -> None:
    """An unknown name is a usage error that names the nearest."""
    with pytest.raises(UsageError, match="--optimizer adamv") as caught:
        optimizers.get("adamv")
    assert caught.value.hint == "did you mean adamw?"


HEADS, KV_HEADS, SIZE, HIDDEN = 4, 2, 3, 5
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": SIZE,
}
PREFIX = "model.layers.0."
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
TENSORS = {
    f"{PREFIX}self_attn.q_proj.weight": (HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.k_proj.weight": (KV_HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.v_proj.weight": (KV_HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.v_proj.bias": (KV_HEADS * SIZE,),
    f"{PREFIX}self_attn.o_proj.weight": (HIDDEN, HEADS * SIZE),
    f"{PREFIX}mlp.experts.gate_up_proj": (3, 8, HIDDEN),
    f"{PREFIX}mlp.down_proj.weight": (HIDDEN, 4),
    NORM: (HIDDEN,),
    EMBEDDING: (7, HIDDEN),
}
"""All kinds of tensors: heads, transposed pairs, stacked experts, a norm, a bias, embeddings."""
RATE, DECAY = 0.01, 0.1
Arrays = dict[str, np.ndarray]


def randoms(number: int) -> dict[str, torch.Tensor]:
    """A random tensor of every kind."""
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(shape, generator=generator) for name, shape in TENSORS.items()}


class Run:
    """Parameters of every kind and an optimizer on them: matrices decay, vectors do not."""

    def __init__(self, name: str, rate: float = RATE, decay: float = DECAY) -> None:
        """Random parameters, always the same."""
        self.parameters = {key: torch.nn.Parameter(value) for key, value in randoms(0).items()}
        groups: list[dict[str, Any]] = [
            {
                "params": [
                    pair for pair in self.parameters.items() if (pair[1].dim() == 1) == flat
                ],
                "weight_decay": decay * (not flat),
            }
            for flat in (False, True)
        ]
        self.optimizer = optimizers.get(name).build(groups, rate, CONFIG)

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        """One step with these gradients."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].clone()
        self.optimizer.step()

    def arrays(self) -> Arrays:
        """The parameters in float64."""
        return {name: value.detach().double().numpy() for name, value in self.parameters.items()}


def largest_difference(name: str, rule: Any, count: int = 3) -> float:
    """The largest difference of three steps from `rule(name, gradients so far)` in numpy."""
    run = Run(name)
    theta, seen = run.arrays(), []
    for number in range(count):
        gradients = randoms(number + 1)
        run.step(gradients)
        seen.append({key: value.double().numpy() for key, value in gradients.items()})
        for key, value in theta.items():
            decay = DECAY if value.ndim > 1 else 0.0
            theta[key] = value - RATE * (
                decay * value + rule(key, [gradient[key] for gradient in seen])
            )
    return max(float(np.abs(theta[key] - value).max()) for key, value in run.arrays().items())


def adam(gradients: list[np.ndarray], mean: Any) -> np.ndarray:
    """Adam's direction after these gradients; `mean` says which squares are averaged."""
    first, second = np.zeros_like(gradients[0]), 0.0
    for gradient in gradients:
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * mean(gradient**2)
    t = len(gradients)
    return first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)


def test_sgd_is_the_gradient() -> None:
    """θ − lr · (g + decay · θ)."""
    assert largest_difference("sgd", lambda name, gradients: gradients[-1]) <= 1e-6


def test_adamw_is_the_papers() -> None:
    """Three steps equal algorithm 2 of the AdamW paper in numpy."""
    assert (
        largest_difference("adamw", lambda name, gradients: adam(gradients, lambda square: square))
        <= 1e-6
    )


def test_adam_mini_is_the_papers() -> None:
    """One second moment a head of q, k and v, a row of other matrices and experts, a vector."""

    def mean(name: str, square: np.ndarray) -> np.ndarray:
        if square.ndim == 1:
            return np.full_like(square, square.mean())
        rows = square.mean(-1, keepdims=True)
        if any(f".{role}_proj." in name for role in "qkv"):
            rows = np.repeat(rows.reshape(-1, SIZE).mean(1), SIZE)[:, None]
        return np.broadcast_to(rows, square.shape)

    assert (
        largest_difference(
            "adam-mini", lambda name, gradients: adam(gradients, lambda square: mean(name, square))
        )
        <= 1e-6
    )


def adafactor(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Algorithm 4 of the paper with algorithm 5's decay and clipping; one v for a vector."""
    rows = columns = one = 0.0
    for t, g in enumerate(gradients, start=1):
        decay, square = 1 - t**-0.8, g * g + 1e-30
        if g.ndim > 1:
            rows = decay * rows + (1 - decay) * square.mean(axis=-1, keepdims=True)
            columns = decay * columns + (1 - decay) * square.mean(axis=-2, keepdims=True)
            step = g / np.sqrt(rows * columns / rows.mean(axis=-2, keepdims=True))
        else:
            one = decay * one + (1 - decay) * square.mean()
            step = g / np.sqrt(one)
    return step / max(1.0, np.sqrt((step * step).mean()))


def test_adafactor_is_the_papers_with_an_absolute_rate() -> None:
    """Three steps equal the paper's in numpy, the rate not scaled by RMS(θ)."""
    assert largest_difference("adafactor", adafactor) <= 1e-6


def test_adafactor_is_transformers_on_matrices() -> None:
    """Matrices and experts as transformers.optimization.Adafactor has them; vectors differ."""
    from transformers.optimization import Adafactor

    ours, theirs = Run("adafactor", decay=0.0), Run("adafactor", decay=0.0)
    groups = [{"params": list(theirs.parameters.values())}]
    theirs.optimizer = Adafactor(groups, lr=RATE, scale_parameter=False, relative_step=False)
    for number in range(3):
        ours.step(randoms(number))
        theirs.step(randoms(number))
    for name, value in ours.arrays().items():
        assert (float(np.abs(value - theirs.arrays()[name]).max()) <= 1e-6) == (value.ndim > 1), (
            name
        )


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """The same polynomial on the singular values."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def test_muon_is_the_blogs() -> None:
    """Matrices and experts get 0.2 √max · orthogonalised Nesterov momentum, the rest Adam."""

    def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
        if gradients[0].ndim == 1 or name == EMBEDDING:
            return adam(gradients, lambda square: square.mean())
        momentum = np.zeros_like(gradients[0])
        for gradient in gradients:
            momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.95 * momentum + 0.05 * gradients[-1]
        slices = ahead if ahead.ndim == 3 else ahead[None]
        scale = 0.2 * np.sqrt(max(ahead.shape[-2:]))
        return scale * np.stack([newton_schulz(one) for one in slices]).reshape(ahead.shape)

    assert largest_difference("muon", rule) <= 1e-6


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (16, 16), (3, 12, 6)])
def test_newton_schulz_orthogonalises(shape: tuple[int, ...]) -> None:
    """Singular values are near 1, vectors stay, and orthogonal maps commute with it."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(shape, generator=generator)
    found = orthogonalised(matrix)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert (
        float(values.min()) > 0.3
        and float(values.max()) < 1.3
        and 0.65 < float(values.median()) < 1.2
    )
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for size in shape[-2:]
    )
    torch.testing.assert_close(
        orthogonalised(left @ matrix @ right), left @ found @ right, atol=3e-6, rtol=0
    )
    torch.testing.assert_close(orthogonalised(1e-6 * matrix), found, atol=3e-6, rtol=0)
    assert not orthogonalised(torch.zeros(shape)).any()


def test_muon_moves_matrices_as_much_as_adamw() -> None:
    """The RMS of a matrix's step is 0.2 of the rate, whatever the shape and gradient."""
    run = Run("muon", decay=0.0)
    before = run.arrays()
    run.step({name: 1e-3 * gradient for name, gradient in randoms(1).items()})
    for name, value in run.arrays().items():
        if value.ndim > 1 and name != EMBEDDING:
            assert np.sqrt(((value - before[name]) ** 2).mean()) == pytest.approx(
                0.2 * RATE, rel=0.25
            ), name


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


def test_a_closure_is_called_once_with_gradients_on() -> None:
    """`step(closure)` as torch's optimizers have it."""
    run = Run("muon")

    def closure() -> torch.Tensor:
        loss = sum((value.square().sum() for value in run.parameters.values()), torch.zeros(()))
        loss.backward()
        return loss

    before = run.arrays()
    assert run.optimizer.step(closure).item() > 0
    assert all((value != before[key]).any() for key, value in run.arrays().items())


def test_adam_mini_refuses_a_model_whose_heads_it_does_not_know() -> None:
    """An unknown model_type is bad input that names the flag."""
    with pytest.raises(BadModelError, match="--optimizer adam-mini: unknown model_type 'nobody'"):
        optimizers.get("adam-mini").build([], RATE, {"model_type": "nobody"})


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
