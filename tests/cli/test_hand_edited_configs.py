"""Edited config.json files: the clean model's result, or the same error in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds import FORGET
from safetensors.torch import load_file, save_file

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.evaluation.generation import generate
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22]]
HARMLESS: list[dict[str, Any]] = [
    {"dtype": "auto"},
    {"dtype": "bfloat16"},
    {"torch_dtype": "float16"},
    {"_attn_implementation": "flash_attention_2"},
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": "org/kernel"},
    {"attn_implementation": {"": "org/kernel"}},
    {"_attn_implementation_internal": "org/kernel"},
    {"experts_implementation": "org/kernel"},
    {"return_dict": False},
    {"torchscript": True},
    {"output_attentions": True},
    {"output_hidden_states": True},
    {"use_cache": False},
    {"pretraining_tp": 4},
    {"gradient_checkpointing": True},
    {"device_map": "auto"},
    {"distributed_config": {"tp_size": 2}},
    {"pad_token_id": -1},
    {"pad_token_id": 64},
    {"pad_token_id": None},
    {"bos_token_id": 10**6},
    {"sliding_window": 4},
    {"max_window_layers": 1, "use_sliding_window": True},
    {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4},
    {"transformers_weights": "other.safetensors"},
    {"configuration_files": ["config.5.0.0.json"]},
    {"id2label": {"0": "a"}, "num_labels": 1},
    {"problem_type": "regression"},
    {"fusion_config": {"patch": True}},
    {"rotary_pct": 0.5},
    {"text_config": {"hidden_size": 8}},
    {"_name_or_path": "/home/alice/x"},
    {"tokenizer_class": "AutoModelForCausalLM"},
    {"is_encoder_decoder": True},
    {"architectures": 7},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": "32"}, "hidden_size"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": 64}, "of another shape"),
    ({"vocab_size": 60}, "of another shape"),
    ({"vocab_size": 100}, "of another shape"),
    ({"vocab_size": -1}, "vocab_size"),
    ({"intermediate_size": 40}, "of another shape"),
    ({"num_hidden_layers": 1}, "too many"),
    ({"num_hidden_layers": 3}, "missing"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ({"num_attention_heads": 4.0}, "num_attention_heads"),
    ({"num_key_value_heads": 3}, "num_key_value_heads, 3"),
    ({"num_key_value_heads": 4}, "of another shape"),
    ({"head_dim": 4}, "of another shape"),
    ({"attention_bias": True}, "missing"),
    ({"mlp_bias": "yes"}, "mlp_bias"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"hidden_act": "no-such-thing"}, "config.json"),
    ({"hidden_act": 3}, "hidden_act"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 0.0}}, "factor"),
    ({"rope_scaling": {"type": "dynamic", "factor": 0}}, "factor"),
    ({"rope_parameters": {"rope_type": "linear"}}, "config.json"),
    ({"rope_parameters": {"rope_theta": 0}}, "rope_theta"),
    ({"rope_parameters": {"rope_type": "no-such-thing"}}, "rope_type"),
    ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ({"attention_dropout": 2}, "attention_dropout"),
    ({"quantization_config": {"bits": 4}}, "quantised"),
    ({"auto_map": {"a": "b"}}, "auto_map"),
]


def _name(case: Any) -> str:
    return json.dumps(case)[:60] if isinstance(case, dict) else ""


@pytest.fixture
def edited(tiny_pair, tmp_path) -> Callable[..., Path]:
    """`edited(key=value, …)`: the tiny Llama with a changed config.json."""

    def make(**changes: Any) -> Path:
        model = Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "model"))
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return model

    return make


def _result(model: Path) -> tuple[torch.Tensor, list[list[str]]]:
    loaded = load_model(model).model
    with torch.inference_mode():
        logits = loaded(input_ids=torch.tensor(PROMPTS[:1])).logits
    return logits, generate(loaded, load_tokenizer(model), PROMPTS, 20, 2)


@pytest.fixture(scope="module")
def clean(tiny_pair) -> tuple[torch.Tensor, list[list[str]]]:
    """Logits and texts of the unchanged model."""
    return _result(tiny_pair("llama").model)


@pytest.mark.parametrize("changes", HARMLESS, ids=_name)
def test_foreign_keys_change_nothing(changes, edited, clean, tiny_pair, tmp_path):
    """Scores, texts and the published config.json are the clean model's, bit for bit."""
    model = edited(**changes)
    logits, texts = _result(model)
    assert torch.equal(logits, clean[0]) and texts == clean[1]
    published = []
    for number, directory in enumerate((model, tiny_pair("llama").model)):
        target = tmp_path / str(number)
        target.mkdir()
        copy_side_files(open_checkpoint(directory), target, "float32")
        content = json.loads((target / "config.json").read_text())
        # A token id that is none, and a list of classes that is none, are not put back.
        published.append(
            {
                key: value
                for key, value in content.items()
                if not key.endswith("_token_id") and key != "architectures"
            }
        )
    assert published[0] == published[1]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=_name)
def test_every_command_prints_the_same_error(changes, words, edited, mpu, tmp_path):
    """Exit 3, one line that names config.json or the tensors, and nothing written."""
    model, rows = edited(**changes), tmp_path / "f.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in FORGET))
    said = [
        mpu(
            "perturb", model, "--handoff", tmp_path / "new", "--secret", tmp_path / "fresh", "-m", 1
        ),
        mpu(
            "unlearn",
            model,
            "--forget",
            rows,
            "--method",
            "GradAscent",
            "--max-steps",
            1,
            "--out",
            tmp_path / "new",
        ),
        mpu("eval", model, "--forget", rows, "--no-generate"),
    ]
    assert [done.code for done in said] == [3, 3, 3], [done.err for done in said]
    assert len({done.err for done in said}) == 1, [done.err for done in said]
    assert words in said[0].err and "config.json" in said[0].err
    assert not list(tmp_path.glob("*new*")) and not list(tmp_path.glob("*fresh*"))


def test_biases_without_their_key_are_refused(tiny_pair, edited, mpu, tmp_path):
    """A checkpoint with attention biases is not evaluated without them."""
    model = edited()
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.bias"
    save_file(
        {**tensors, name: torch.ones(32)}, model / "model.safetensors", metadata={"format": "pt"}
    )
    rows = tmp_path / "f.jsonl"
    rows.write_text(json.dumps(FORGET[0]) + "\n")
    done = mpu("eval", model, "--forget", rows, "--no-generate")
    assert done.code == 3 and name in done.err and "attention_bias" in done.err


def test_an_adapter_beside_the_model_is_refused(edited, mpu, tmp_path):
    """Transformers would load it too, but the copies would lack it."""
    model = edited()
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    done = mpu(
        "perturb", model, "--handoff", tmp_path / "new", "--secret", tmp_path / "fresh", "-m", 1
    )
    assert done.code == 3 and "a model and an adapter" in done.err and "merge" in done.err


def test_dropped_keys_give_a_warning(edited, mpu, tmp_path):
    """A key of another family, in every command that uses the model."""
    model, rows = edited(sliding_window=4), tmp_path / "f.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in FORGET))
    for command in (
        (
            "perturb",
            model,
            "--handoff",
            tmp_path / "new",
            "--secret",
            tmp_path / "fresh",
            "-m",
            1,
            "--check",
            "none",
        ),
        (
            "unlearn",
            model,
            "--forget",
            rows,
            "--method",
            "GradAscent",
            "--max-steps",
            1,
            "--out",
            tmp_path / "out",
        ),
        ("eval", model, "--forget", rows, "--no-generate"),
    ):
        done = mpu("-q", *command)
        assert done.code == 0, done.err
        assert "mpu: warning: " in done.err and "sliding_window" in done.err
    assert "sliding_window" not in (tmp_path / "new" / "copy-1" / "config.json").read_text()


def test_a_token_outside_the_embedding(edited, mpu, tmp_path):
    """An added pad token without a row is harmless; one that occurs in a text names its row."""
    model, rows = edited(), tmp_path / "f.jsonl"
    tokenizer = load_tokenizer(model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["[NEW]"]})
    tokenizer.save_pretrained(model)
    rows.write_text("".join(json.dumps(row) + "\n" for row in FORGET))
    unlearn = (
        "unlearn",
        model,
        "--forget",
        rows,
        "--method",
        "GradAscent",
        "--max-steps",
        1,
        "--out",
        tmp_path / "out",
    )
    commands = (
        unlearn,
        ("eval", model, "--forget", rows, "--no-generate"),
        ("data", "check", rows, "--model", model),
    )
    assert [mpu(*command).code for command in commands] == [0, 0, 0]
    rows.write_text(json.dumps({"question": "w1 w2 ?", "answer": "w3 [NEW]"}) + "\n")
    for command in ((*unlearn, "--force"), *commands[1:]):
        done = mpu(*command)
        assert done.code == 3 and "f.jsonl:1" in done.err and "'[NEW]'" in done.err
