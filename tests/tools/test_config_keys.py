"""The list of known configuration keys, against the installed transformers."""

from __future__ import annotations

import pytest

from config_keys import config_keys, rope_keys
from mpu_cli.architectures.family import families
from mpu_cli.checkpoint.config_file import known_keys
from mpu_cli.checkpoint.config_values import rope


@pytest.fixture(scope="module")
def found():
    """What the installed transformers says of the families' model types."""
    return config_keys(families())


def test_the_file_is_what_transformers_says(found):
    """`make config-keys` writes it anew.

    A newer transformers may know more keys, and none that it no longer has is kept.
    """
    known = known_keys()
    assert {name: known[name] for name in found} == found


def test_what_decides_a_model_is_in_and_what_decides_a_machine_is_not(found):
    """Old names of keys and those that only the modeling file reads are known.

    Switches of the machine are none.
    """
    for name, keys in found.items():
        everything = {key for kind, names in keys.items() if kind != "parts" for key in names}
        assert not everything & {
            "use_cache",
            "pretraining_tp",
            "dtype",
            "return_dict",
            "output_attentions",
            "id2label",
        }, name
        assert not any("implementation" in key or key.startswith("_") for key in everything), name
    assert {"rope_scaling", "rope_theta", "partial_rotary_factor"} <= {
        *found["llama"]["map"],
        *found["llama"]["number"],
    }
    assert "head_dim" in found["qwen2"]["any"] and {"n_embd", "hidden_size"} <= set(
        found["gpt2"]["int"]
    )
    assert found["gemma3"]["parts"] == {
        "text_config": "gemma3_text",
        "vision_config": "siglip_vision_model",
    }


def test_every_rope_setting_that_a_model_reads_is_kept():
    """Ministral 3 cannot run without llama_4_scaling_beta.

    The names are read from the source of transformers.
    """
    read = rope_keys() - {"full_attention", "sliding_attention"}
    assert {"rope_theta", "llama_4_scaling_beta", "short_factor"} <= read
    kept, left_out = rope(dict.fromkeys(read))
    assert (set(kept), left_out) == (read, [])
