"""The learning rate that a model's size gives."""

from __future__ import annotations

import pytest

from mpu_cli.training.usual_rate import LARGEST, UNKNOWN, rate_for, usual_rate
from tiny_families import tiny_models


@pytest.mark.parametrize(
    ("hidden", "layers", "rate"),
    [(128, 4, 1e-4), (576, 30, 4e-6), (2048, 16, 1.9e-6), (4096, 32, 5.3e-7)],
)
def test_the_rate_falls_with_width_and_depth(hidden, layers, rate):
    """The demo's model, SmolLM2-135M, and the shapes of Llama-3.2-1B and Llama-2-7B."""
    assert usual_rate(hidden, layers) == pytest.approx(rate)
    assert usual_rate(2 * hidden, layers) < usual_rate(hidden, layers) and usual_rate(
        hidden, 4 * layers
    ) < usual_rate(hidden, layers)
    assert usual_rate(8, 2) == LARGEST


CONFIGS = {
    "llama": ({"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30}, 4e-6),
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12}, 6.6e-6),
    "unknown architecture": (
        {"model_type": "something", "hidden_size": 576, "num_hidden_layers": 30},
        UNKNOWN,
    ),
    "no size": ({"model_type": "llama", "num_hidden_layers": 30}, UNKNOWN),
    "a size that is none": (
        {"model_type": "llama", "hidden_size": "large", "num_hidden_layers": 30},
        UNKNOWN,
    ),
    "a negative size": (
        {"model_type": "llama", "hidden_size": -1, "num_hidden_layers": 30},
        UNKNOWN,
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_sizes_are_read_under_the_familys_own_keys(case):
    """GPT-2's keys differ from Llama's; the loader refuses a configuration without them."""
    config, rate = CONFIGS[case]
    assert rate_for(config, "config.json") == pytest.approx(rate)


@pytest.mark.parametrize("tiny", list(tiny_models()), ids=lambda tiny: tiny.name)
def test_every_family_has_a_rate(tiny):
    """Each family's configuration gives a rate, by its hidden size and layers."""
    assert rate_for(tiny.config().to_dict(), tiny.name) == pytest.approx(usual_rate(32, 2), rel=1.0)
