"""The authors' algorithm that mpu is compared with does what they describe."""

import pytest
import torch
from authors import AuthorsRound
from synthetic import Size


@pytest.fixture
def made():
    """A round on random weights of the tiny shape, and the model before it."""
    size = Size("tiny")
    generator = torch.Generator().manual_seed(1)
    theta = {name: torch.randn(shape, generator=generator) for name, shape in size.shapes.items()}
    base = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in theta.items()
    }
    before = {name: tensor.clone() for name, tensor in theta.items()}
    return AuthorsRound(theta, base, size.config, copies=3), before


def test_noise_has_its_size_and_sums_to_zero(made):
    """Σ ε_k = 0, and ε_k of a layer has standard deviation κ·RMS(θ − base)."""
    round_, before = made
    sigmas = round_.sigmas(before)
    noises = round_.noise(before, sigmas)
    name = "model.layers.1.mlp.up_proj.weight"
    epsilons = [noise[name] / alpha for noise, alpha in zip(noises, round_.alphas, strict=True)]
    assert float(sum(epsilons).abs().max()) < 1e-6
    for epsilon in epsilons:
        assert (
            float(epsilon.std())
            == pytest.approx(sigmas[1], rel=0.05)
            == pytest.approx(0.01, rel=0.05)
        )
    assert not noises[0]["model.embed_tokens.weight"].any()


def test_the_transform_keeps_the_function(made):
    """A Llama computes the same with T_k's weights, and the inverse takes T_k back."""
    from transformers import AutoConfig, AutoModelForCausalLM

    round_, before = made
    before = {name: 0.1 * tensor for name, tensor in before.items()}
    moved = dict(before)
    round_.transform(moved, 1)
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**Size("tiny").config), dtype=torch.float32
    )
    logits = []
    for state in (before, moved):
        network.load_state_dict(state, strict=False)
        with torch.inference_mode():
            logits.append(network(input_ids=torch.arange(12)[None]).logits)
    assert not torch.equal(
        moved["model.layers.0.self_attn.q_proj.weight"],
        before["model.layers.0.self_attn.q_proj.weight"],
    )
    torch.testing.assert_close(
        logits[0], logits[1], atol=1e-4 * float(logits[0].abs().max()), rtol=0
    )
    round_.transform(moved, 1, inverse=True)
    for name, tensor in before.items():
        torch.testing.assert_close(moved[name], tensor, atol=1e-6, rtol=0)


def test_a_client_s_change_comes_back(made):
    """A client that changes every copy by T_k(d) changes the model by d."""
    round_, before = made
    change = {
        name: 0.01 * torch.ones_like(tensor) + 0.01 * tensor for name, tensor in before.items()
    }

    def client(k, state):
        moved = dict(change)
        round_.transform(moved, k)
        for name, tensor in moved.items():
            state[name] += tensor

    round_.run(client)
    for name, tensor in before.items():
        torch.testing.assert_close(round_.theta[name], tensor + change[name], atol=1e-5, rtol=0)
