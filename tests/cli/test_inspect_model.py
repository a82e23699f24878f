"""`mpu inspect MODEL` for every family and for a large model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.server.transforms import transforms
from mpu_cli.server.transforms.choice import chosen, statuses
from mpu_cli.server.transforms.draw import draw_layer
from tiny_families import tiny_models

TINY = {tiny.name: tiny for tiny in tiny_models()}
HEAVY = {"torch", "transformers", "accelerate", "huggingface_hub"}
WATCH = """
import sys
from mpu_cli.cli.app import run
code = run(sys.argv[1:])
print("LOADED", *sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def shown(mpu, built_tiny):
    """The lines of the text for a tiny model, with single spaces."""

    def show(name):
        done = mpu("inspect", built_tiny(name))
        assert (done.code, done.err) == (0, "")
        return [" ".join(line.split()) for line in done.out.splitlines()]

    return show


@pytest.mark.parametrize("name", TINY)
def test_json_accounts_for_every_tensor(name, mpu, built_tiny):
    """Each gets noise or is left exact with a reason; entries add up; each slot fits its tensor."""
    directory = built_tiny(name)
    model = open_checkpoint(directory)
    told = mpu("inspect", directory, "--json").json
    noised = [tensor for layer in told["layers"] for tensor in layer["noised"]]
    assert sorted([*noised, *told["left_exact"]]) == sorted(model.tensors)
    assert all(told["left_exact"].values())
    assert told["noised"]["tensors"] == len(noised)
    assert told["noised"]["entries"] == sum(model.tensors[tensor].elements for tensor in noised)
    assert told["noised"]["share"] == told["noised"]["entries"] / told["parameters"]
    for layer in told["layers"]:
        experts = layer["experts"] or {"router": [], "experts": []}
        by_role = [
            *layer["slots"].values(),
            *(slots for ffn in layer["ffns"] for slots in ffn.values()),
        ]
        for slot in (
            slot for slots in (*by_role, experts["router"], experts["experts"]) for slot in slots
        ):
            assert model.tensors[slot["tensor"]].shape[slot["axis"]] == slot["size"]
            assert slot["tensor"] in layer["noised"]


@pytest.mark.parametrize("name", TINY)
def test_transforms_act_on_the_listed_layers(name, mpu, built_tiny):
    """Compared with the maps that the transforms draw, and with what perturb accepts."""
    directory = built_tiny(name)
    model = open_checkpoint(directory)
    layout = read_layout(model.config, shapes(model.tensors), directory)
    told = mpu("inspect", directory, "--json").json
    status = {transform: found.kind for transform, found in statuses(layout).items()}
    assert told["transforms"] == status
    assert told["reparameterizations"]["signed-permutation"] == [
        *chosen("signed-permutation", layout)
    ]
    assert (told["reparameterizations"]["rotation"] is None) == (
        status["plane_rotation"] != "valid"
    )
    for layer, said in zip(layout.layers, told["layers"], strict=True):
        for name, transform in transforms().items():
            drawn = draw_layer((name,), layer, bytes(32), "inspect", 0)
            acts = bool(drawn.maps or drawn.targets)
            assert acts == (transform.ACTS_ON in layer.roles), name
            assert (name in said["transforms"]) == (acts and status[name] == "valid"), name


@pytest.mark.parametrize("name", TINY)
def test_the_text_shows_every_tensor(name, shown, built_tiny):
    """By name, or by the pattern of tensors that are left exact."""
    lines = shown(name)
    for tensor in open_checkpoint(built_tiny(name)).tensors:
        if tensor.startswith(("vision_tower.", "multi_modal_projector.")):
            continue
        stem = tensor.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        assert any(stem in line or "{0.." in line for line in lines), tensor


def test_a_plain_model(shown):
    """Llama: one table for all layers, transforms, and shares of the parameters."""
    lines = shown("llama")
    assert (
        "layers 0–1: 4 query heads on 2 key-value heads of 8, 4 RoPE planes, feed-forward of 48"
        " units" in lines
    )
    assert "query heads self_attn.q_proj.weight 0 all 32 2 × 2 heads × 8" in lines
    assert "down mlp.down_proj.weight 1 all 48 48 units" in lines
    assert "noise only input_layernorm.weight 32" in lines
    assert "qk_quarter_turns keeps the function every layer signed-permutation" in lines
    assert "qk_half_turns keeps the function every layer –" in lines
    assert "expert_permutation has nothing to act on – –" in lines
    assert "gets noise 18 tensors, 15,488 entries: 79 % of the parameters" in lines
    assert "model.norm.weight 32 outside the decoder layers: no noise without --scope all" in lines


def test_fused_and_partial_rope_projections(shown):
    """Phi-3 with RoPE on half of each head, GPT-2 stored [in, out], gpt-oss with sinks."""
    lines = shown("phi3/partial")
    assert "k, with RoPE self_attn.qkv_proj.weight 0 32–35 in every 8 of 64 2 heads × 4" in lines
    assert "k, without RoPE self_attn.qkv_proj.weight 0 36–39 in every 8 of 64 2 heads × 4" in lines
    lines = shown("gpt2")
    assert "layers 0–1: 4 query heads of 8, no RoPE, ungated feed-forward of 48 units" in lines
    assert "v attn.c_attn.weight 1 64–95 of 96 4 heads × 8" in lines
    assert "lm_head.weight – not on disk: tied to the embedding" in lines
    lines = shown("gpt-oss")
    assert "gate mlp.experts.gate_up_proj 2 0 in every 2 of 96 48 units" in lines
    assert "self_attn.sinks 0 all 4 2 × 2 heads" in lines
    assert "router mlp.router.{weight,bias} 0 all 4 4 experts" in lines


def test_different_layers_have_separate_tables(shown):
    """DeepSeek's dense and expert layers; SmolLM3's layer without RoPE."""
    lines = shown("deepseek-v3")
    assert any(
        line.startswith("layer 0: ")
        and line.endswith("one key for all heads, feed-forward of 48 units")
        for line in lines
    )
    assert any(
        line.startswith("layer 1: ")
        and "4 experts of 24 units in 2 groups, shared feed-forward" in line
        for line in lines
    )
    assert "router mlp.gate.{weight,e_score_correction_bias} 0 all 4 2 × 2 experts" in lines
    assert "mlp.experts.{0..3}.down_proj.weight whole 2 × 2 experts" in lines
    assert (
        "expert_permutation keeps the function layer 1 signed-permutation, rotation, paper-rotation"
        in lines
    )
    lines = shown("smollm3")
    assert any(line.startswith("layer 1: ") and "no RoPE" in line for line in lines)
    assert "qk_signed_permutation keeps the function layer 1 signed-permutation" in lines


def test_invalid_transforms_and_exact_tensors_have_reasons(shown):
    """StableLM with norms on q and k; Gemma 3's image encoder with its reason."""
    lines = shown("stablelm/qk-norm")
    assert "plane_rotation would change the function: qk_norm is per_head – –" in lines
    assert "--reparam rotation refused: it would change the function – –" in lines
    assert "self_attn.q_layernorm.norms.{0..3}.weight whole one per head" in lines
    lines = shown("gemma3-multimodal")
    assert any(
        line.startswith("vision_tower.* ") and line.endswith("tensors: the image encoder")
        for line in lines
    )


def test_a_large_model_has_a_short_text_and_complete_json(mpu, tmp_path):
    """61 layers, 256 experts: two tables in the text, 58 × 256 experts in JSON."""
    _sparse_deepseek(tmp_path, layers=61, experts=256)
    lines = mpu("inspect", tmp_path).out.splitlines()
    assert len(lines) < 100
    assert sum(line.startswith("layers ") for line in lines) == 2
    assert any(
        line.startswith("layers 3–60: ") and "256 experts of 4 units in 8 groups" in line
        for line in lines
    )
    assert any("mlp.experts.{0..255}.up_proj.weight" in line for line in lines)
    told = mpu("inspect", tmp_path, "--json").json
    assert [len(layer["ffns"]) for layer in told["layers"]] == [1] * 3 + [257] * 58


def test_long_lists_of_layers_are_shortened(mpu, tmp_path):
    """Every fourth of 36 layers has no RoPE: the list of layers is cut, not the table."""
    turned = [int((index + 1) % 4 != 0) for index in range(36)]
    config = {
        "model_type": "smollm3",
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 36,
        "no_rope_layers": turned,
        "tie_word_embeddings": True,
    }
    tensors = {"model.embed_tokens.weight": [16, 8], "model.norm.weight": [8]}
    linear = {
        "self_attn.q_proj": [8, 8],
        "self_attn.k_proj": [4, 8],
        "self_attn.v_proj": [4, 8],
        "self_attn.o_proj": [8, 8],
    }
    linear |= {"mlp.gate_proj": [6, 8], "mlp.up_proj": [6, 8], "mlp.down_proj": [8, 6]}
    for index in range(36):
        for name, shape in {
            **linear,
            "input_layernorm": [8],
            "post_attention_layernorm": [8],
        }.items():
            tensors[f"model.layers.{index}.{name}.weight"] = shape
    _sparse(tmp_path, config, tensors)
    out = mpu("inspect", tmp_path).out
    assert "\nlayers 0–2, 4–6, 8–10, … 32–34 (27 layers): " in out
    assert "\nlayers 3, 7, 11, … 35 (9 layers): " in out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_torch_is_not_loaded(options, built_tiny):
    """For a family with experts and all transforms, in text and in JSON."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WATCH.format(heavy=HEAVY),
            "inspect",
            built_tiny("deepseek-v3"),
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "LOADED\n")


BROKEN = {
    "unknown model_type": ({"model_type": "not-a-model"}, "unknown model_type 'not-a-model'"),
    "no model_type": ({"model_type": None}, "unknown model_type None"),
    "a variant without a file": ({"model_type": "falcon", "alibi": True}, "is not described"),
    "no number of heads": ({"num_attention_heads": "four"}, "num_attention_heads is 'four'"),
    "a layer too many": (
        {"num_hidden_layers": 3},
        "model.layers.2.self_attn.q_proj.weight is missing",
    ),
    "a layer too few": ({"num_hidden_layers": 1}, "is not part of a llama model of 1 layers"),
    "heads of another size": ({"head_dim": 16}, "expected 64 along axis 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unreadable_model_is_one_line_and_a_hint(name, mpu, built_tiny, tmp_path):
    """Exit code 3 with the file and the reason, also with --json."""
    change, reason = BROKEN[name]
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").hardlink_to(built_tiny("llama") / "model.safetensors")
    config = json.loads((built_tiny("llama") / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **change}))
    done = mpu("inspect", directory)
    first, *rest = done.err.splitlines()
    assert (done.code, done.out) == (3, "")
    assert first.startswith(f"mpu: error: {directory}") and reason in first
    assert len(rest) <= 1 and all(line.startswith("mpu: hint: ") for line in rest)
    assert reason in mpu("inspect", directory, "--json").json["error"]["message"]


def _sparse(directory: Path, config: dict, tensors: dict) -> None:
    """A checkpoint of zeros that takes no disk space."""
    header, end = {}, 0
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * count]}
        end += 2 * count
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(json.dumps(config))


def _sparse_deepseek(directory: Path, layers: int, experts: int) -> None:
    config = {
        "model_type": "deepseek_v3",
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "n_group": 8,
        "tie_word_embeddings": False,
        "q_lora_rank": 4,
        "kv_lora_rank": 4,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2,
        "v_head_dim": 4,
    }
    attention = {
        "q_a_proj": [4, 8],
        "q_a_layernorm": [4],
        "q_b_proj": [12, 4],
        "kv_a_proj_with_mqa": [6, 8],
        "kv_a_layernorm": [4],
        "kv_b_proj": [16, 4],
        "o_proj": [8, 8],
    }
    branches = {"gate_proj": [4, 8], "up_proj": [4, 8], "down_proj": [8, 4]}
    tensors = {
        "model.embed_tokens.weight": [16, 8],
        "model.norm.weight": [8],
        "lm_head.weight": [16, 8],
    }
    for index in range(layers):
        prefix = f"model.layers.{index}."
        tensors |= {f"{prefix}self_attn.{name}.weight": shape for name, shape in attention.items()}
        tensors |= {
            f"{prefix}{name}.weight": [8]
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        places = (
            ["mlp."]
            if index < 3
            else ["mlp.shared_experts.", *(f"mlp.experts.{e}." for e in range(experts))]
        )
        tensors |= {
            f"{prefix}{place}{name}.weight": shape
            for place in places
            for name, shape in branches.items()
        }
        if index >= 3:
            tensors |= {
                f"{prefix}mlp.gate.weight": [experts, 8],
                f"{prefix}mlp.gate.e_score_correction_bias": [experts],
            }
    _sparse(directory, config, tensors)


@pytest.mark.parametrize("depth", [600, 100_000])
def test_a_record_of_lists_in_lists_is_bad_input(mpu, tmp_path, depth):
    """One line that names the file, not an internal error."""
    (tmp_path / "items.jsonl").write_text("")
    (tmp_path / "summary.json").write_text(
        '{"sets": {}, "model": ' + "[" * depth + "]" * depth + "}"
    )
    done = mpu("inspect", tmp_path)
    assert done.code == 3
    assert "summary.json: lists or maps are nested more than 64 levels deep" in done.err
