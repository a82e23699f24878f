"""config.json by allow-list: the keys of the model type with values of the right type."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpu_cli.architectures.family import families
from mpu_cli.checkpoint.config_file import known_keys, read_config
from mpu_cli.errors import BadModelError

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "pad_token_id": 0,
}
FILE = Path("model/config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_attn_implementation", "org/kernel"),
        ("attn_implementation", {"text_config": "org/kernel"}),
        ("attention_implementation", "x"),
        ("_attn_implementation_internal", "org/kernel"),
        ("experts_implementation", "org/kernel"),
        ("_experts_implementation", "org/kernel"),
        ("device_map", "auto"),
        ("distributed_config", {"fsdp_size": 2}),
        ("torchscript", True),
        ("return_dict", False),
        ("output_attentions", True),
        ("output_hidden_states", True),
        ("use_cache", False),
        ("pretraining_tp", 2),
        ("gradient_checkpointing", True),
        ("dtype", "auto"),
        ("torch_dtype", "float8"),
        ("_name_or_path", "/home/alice"),
        ("id2label", {"0": "x"}),
        ("num_labels", 3),
        ("transformers_version", "4.0"),
        ("sliding_window", None),
    ],
)
def test_machine_settings_are_dropped_silently(key, value):
    """Attention kernel, weight locations and logging belong to the current run."""
    found, plain = read_config(FILE, {**LLAMA, key: value}), read_config(FILE, LLAMA)
    assert (found.content, found.remarks) == (plain.content, plain.remarks)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window", 8),
        ("max_window_layers", 1),
        ("layer_types", ["sliding_attention"] * 2),
        ("transformers_weights", "other.bin"),
        ("configuration_files", ["config.4.0.json"]),
        ("fusion_config", {"x": 1}),
        ("per_layer_config", {"0": {"hidden_size": 8}}),
        ("text_config", {"_attn_implementation": "org/kernel"}),
        ("quant_method", "x"),
        ("rotary_pct", 0.25),
        ("is_llama_config", True),
        ("tp_plan", "auto"),
        ("kernel_config", {}),
    ],
)
def test_unknown_keys_are_dropped_with_a_remark(key, value):
    """A key of another family, or one that names a file, has no effect and is named."""
    clean = read_config(FILE, LLAMA)
    found = read_config(FILE, {**LLAMA, key: value})
    assert found.content == clean.content
    assert (
        key in found.remarks[0]
        and "model/config.json" in found.remarks[0]
        and len(found.remarks) == 1
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_size", "128", "an integer"),
        ("hidden_size", 0, "positive integer"),
        ("hidden_size", 32.0, "an integer"),
        ("num_hidden_layers", -1, "positive integer"),
        ("num_attention_heads", True, "an integer"),
        ("vocab_size", 1 << 40, "an integer"),
        ("max_position_embeddings", 0, "positive integer"),
        ("rms_norm_eps", float("nan"), "a number"),
        ("rms_norm_eps", "1e-6", "a number"),
        ("rms_norm_eps", -1.0, "from 0"),
        ("tie_word_embeddings", "no", "true or false"),
        ("hidden_act", ["silu"], "a short text"),
        ("hidden_act", "x" * 101, "a short text"),
        ("attention_dropout", 1.5, "a number"),
        ("rope_theta", 0, "1 to 1e12"),
        ("rope_theta", float("inf"), "a number"),
        ("rope_scaling", "linear", "a map"),
        ("rope_scaling", {"type": "linear", "factor": 0}, "factor"),
        ("rope_parameters", {"rope_type": "linear", "factor": -2.0}, "factor"),
        ("rope_parameters", {"rope_type": "magic"}, "rope_type"),
        ("rope_parameters", {"rope_type": ["default"]}, "rope_type"),
        ("rope_parameters", {"rope_theta": 0.0}, "rope_theta"),
        ("rope_parameters", {"low_freq_factor": 4.0, "high_freq_factor": 4.0}, "differ"),
        ("rope_parameters", {"rope_type": "longrope", "long_factor": [1.0, 0.0]}, "long_factor"),
        (
            "rope_parameters",
            {"original_max_position_embeddings": "64"},
            "original_max_position_embeddings",
        ),
        ("partial_rotary_factor", 0, "a number"),
        ("partial_rotary_factor", "0.5", "a number"),
        ("eos_token_id", "2", "an integer or a list"),
        ("head_dim", 16.5, "an integer"),
    ],
)
def test_an_invalid_value_names_file_and_key(key, value, words):
    """The message names config.json, the key, the value, and the expected values."""
    with pytest.raises(BadModelError, match=r"^model/config\.json: ") as caught:
        read_config(FILE, {**LLAMA, key: value})
    assert (
        key in caught.value.message
        and words in caught.value.message
        and len(caught.value.message) < 300
    )


@pytest.mark.parametrize(
    ("value", "kept"), [(-1, None), (64, None), (10**6, None), (63, 63), (None, None)]
)
def test_a_token_outside_the_vocabulary_is_ignored(value, kept):
    """Many published configurations have such a pad token; a remark says that it is ignored."""
    found = read_config(FILE, {**LLAMA, "pad_token_id": value})
    assert found.content["pad_token_id"] == kept
    assert bool(found.remarks) == (value not in (None, kept))


def test_end_tokens_that_exist_are_kept():
    """Only the ids outside the vocabulary are removed from a list."""
    found = read_config(FILE, {**LLAMA, "eos_token_id": [1, 64, 2]})
    assert found.content["eos_token_id"] == [1, 2] and "eos_token_id" in found.remarks[0]


def test_nested_configurations_are_checked_too():
    """Each part of a wrapper has its own keys; messages show the full key."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 32,
        "_attn_implementation": "org/kernel",
        "odd": 1,
    }
    found = read_config(
        FILE,
        {
            "model_type": "gemma3",
            "text_config": text,
            "vision_config": {"hidden_size": 8, "odder": 2},
        },
    )
    assert found.content["text_config"] == {"model_type": "gemma3_text", "hidden_size": 32}
    assert "text_config.odd, vision_config.odder" in found.remarks[0]
    with pytest.raises(BadModelError, match=r"text_config\.hidden_size is '32'"):
        read_config(FILE, {"model_type": "gemma3", "text_config": {**text, "hidden_size": "32"}})
    with pytest.raises(BadModelError, match="text_config is 3, expected a map"):
        read_config(FILE, {"model_type": "gemma3", "text_config": 3})


@pytest.mark.parametrize("change", [{"num_experts_per_tok": 0}, {"num_experts_per_tok": 5}])
def test_a_router_cannot_ask_for_more_experts_than_there_are(change):
    """Such a model would fail during training."""
    with pytest.raises(BadModelError, match="num_experts_per_tok"):
        read_config(FILE, {"model_type": "mixtral", "num_local_experts": 4, **change})


@pytest.mark.parametrize("model_type", [None, "nobody"])
def test_an_unknown_model_type_keeps_no_keys(model_type):
    """The caller refuses the model because of its model_type."""
    assert read_config(FILE, {**LLAMA, "architectures": [], "model_type": model_type}).content == {
        "model_type": model_type,
        "architectures": [],
    }


@pytest.mark.parametrize("model_type", [7, ["llama"], {}, True])
def test_a_model_type_that_is_no_text_is_refused(model_type):
    """Tables are asked for it, and a list is no key of a table."""
    with pytest.raises(BadModelError, match=r"model_type is .*, expected a text"):
        read_config(FILE, {**LLAMA, "model_type": model_type})


def test_every_family_is_known():
    """A new family file may need `make config-keys` for its model type."""
    assert set(families()) <= set(known_keys())


@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [["a"], [1.5], [[1]], [True], [{"id": 1}]])
def test_ids_of_tokens_are_integers(key, value):
    """Other items in a list are refused with file and key, not with an internal error."""
    with pytest.raises(BadModelError, match=rf"config.json: {key} is "):
        read_config(Path("config.json"), {"model_type": "llama", "vocab_size": 8, key: value})
