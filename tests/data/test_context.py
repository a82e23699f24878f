"""The context of a model, from the configurations of families as their users have them."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig, MistralConfig, OPTConfig

from mpu_cli.data.context import Limit, context_length, row_limit
from mpu_cli.errors import UsageError

CONFIGS = {
    "learned positions": ({"model_type": "gpt2", "n_positions": 40}, 40),
    "OPT, whose table has two rows more": (
        {"model_type": "opt", "max_position_embeddings": 2048},
        2048,
    ),
    "RoPE": ({"model_type": "llama", "max_position_embeddings": 4096}, 4096),
    "a sliding window": (
        {"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096},
        32768,
    ),
    "llama3 scaling": (
        {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 32.0,
                "original_max_position_embeddings": 8192,
                "high_freq_factor": 4.0,
            },
        },
        131072,
    ),
    "longrope": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
        },
        131072,
    ),
    "yarn, positions extended": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            },
        },
        131072,
    ),
    "yarn, positions not extended": (
        {"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        131072,
    ),
    "linear": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}},
        16384,
    ),
    "by layer type": (
        {
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_type": "default"},
            },
        },
        65536,
    ),
    "inside": ({"model_type": "mistral3", "text_config": {"max_position_embeddings": 1024}}, 1024),
    "ALiBi": ({"model_type": "mpt"}, None),
    "nonsense": ({"max_position_embeddings": -1, "n_positions": "many", "rope_scaling": [1]}, None),
    "a factor that is none": (
        {"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": None}},
        64,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_context_of(name):
    """The whole context: not the window, the length before scaling, or spare rows of the table."""
    config, expected = CONFIGS[name]
    assert context_length(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(n_positions=40), 40),
        (OPTConfig(max_position_embeddings=30), 30),
        (LlamaConfig(), 2048),
        (MistralConfig(max_position_embeddings=99, sliding_window=10), 99),
    ],
)
def test_the_context_of_transformers_own(config, expected):
    """Defaults of the classes count too: a config.json may leave them out."""
    assert context_length(config.to_dict()) == expected
    assert isinstance(AutoConfig.for_model(config.model_type), type(config))


def test_how_much_of_a_row_is_kept():
    """512 tokens or the shorter context by default.

    What is asked for where it fits, and else an error that says what does.
    """
    assert (
        row_limit(None, None)
        == row_limit(None, 131072)
        == row_limit(None, 512)
        == Limit(512, "--max-length")
    )
    assert row_limit(None, 40) == Limit(40, "the model's context")
    assert row_limit(2048, 131072) == row_limit(2048, None) == Limit(2048)
    with pytest.raises(UsageError, match="--max-length 41: the model's context has 40 tokens"):
        row_limit(41, 40)
