"""What --dry-run counts, against what is really there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import make_model

from mpu_cli.client.estimate import estimate_unlearn, optimizer_state_bytes
from mpu_cli.client.lora import Lora
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.training import optimizers
from mpu_cli.training.settings import TrainingSettings

SETTINGS = TrainingSettings(batch_size=4, max_length=64)
LLAMA_7B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def seven_billion(tmp_path: Path) -> Path:
    """Llama-2-7B's configuration, and nothing else."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_7B))
    return tmp_path


@pytest.mark.parametrize("name", optimizers.names())
def test_optimizer_state_is_what_a_step_leaves(name: str) -> None:
    """Counted without storage, against a real step on real tensors; what is trained only."""
    model = make_model(attention_bias=False)
    shapes = {each: tuple(parameter.shape) for each, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    built = optimizers.get(name).build(
        [{"params": list(model.named_parameters()), "weight_decay": 0.0}], 1e-3, model.config.to_dict()
    )
    built.step()
    held = [value for kept in built.state.values() for value in kept.values() if isinstance(value, torch.Tensor)]
    assert optimizer_state_bytes(name, shapes, model.config.to_dict()) == sum(value.nbytes for value in held)


def test_seven_billion_from_the_configuration_alone(seven_billion: Path) -> None:
    """The published count; AdamW's two moments; the change in bfloat16; adapters of a rank; and the file itself will do."""
    needs = estimate_unlearn(seven_billion, SETTINGS, "bfloat16")
    embeddings = 2 * 32000 * 4096
    assert needs["parameters"] == 6_738_415_616
    assert needs["trained_parameters"] == 6_738_415_616 - embeddings
    assert needs["weights_bytes"] == 4 * needs["parameters"]
    assert needs["gradients_bytes"] == 4 * needs["trained_parameters"]
    assert needs["optimizer_state_bytes"] == pytest.approx(8 * needs["trained_parameters"], rel=1e-6)
    assert needs["sent_bytes"] == 2 * needs["trained_parameters"]
    assert estimate_unlearn(seven_billion / "config.json", SETTINGS, "bfloat16") == needs
    adapted = estimate_unlearn(seven_billion, SETTINGS, "float32", lora=Lora(8))
    assert adapted["trained_parameters"] == 32 * 8 * (3 * 2 * 4096 + 2 * (4096 + 11008))
    assert adapted["sent_bytes"] == 4 * adapted["trained_parameters"]
    assert adapted["memory_bytes"] < needs["memory_bytes"] / 2


def test_what_saves_memory_saves_memory(seven_billion: Path) -> None:
    """Checkpointing, shorter rows, sharding, another optimizer; DDP does not, and costs its buckets."""
    plain = estimate_unlearn(seven_billion, SETTINGS, "float32")
    checkpointed = estimate_unlearn(seven_billion, replace(SETTINGS, gradient_checkpointing=True), "float32")
    assert checkpointed["activations_bytes"] < plain["activations_bytes"] / 4
    assert checkpointed["weights_bytes"] == plain["weights_bytes"]
    shorter = estimate_unlearn(seven_billion, replace(SETTINGS, max_length=32), "float32")
    assert shorter["activations_bytes"] * 2 == plain["activations_bytes"]
    sharded = estimate_unlearn(seven_billion, replace(SETTINGS, fsdp=True), "float32", processes=4)
    assert sharded["weights_bytes"] * 4 == plain["weights_bytes"]
    assert sharded["memory_bytes"] < plain["memory_bytes"] / 3
    joint = estimate_unlearn(seven_billion, SETTINGS, "float32", processes=4)
    assert joint["gradient_buckets_bytes"] == plain["gradients_bytes"]
    assert joint["activations_bytes"] * 4 == plain["activations_bytes"]
    assert estimate_unlearn(seven_billion, replace(SETTINGS, optimizer="sgd"), "float32")["optimizer_state_bytes"] == 0
    assert estimate_unlearn(seven_billion, SETTINGS, "float32", checkpoints=False)["checkpoint_disk_bytes"] == 0


def test_a_directory_with_weights_says_the_same_as_its_configuration(model_directory: Path, tmp_path: Path) -> None:
    """Headers and configuration agree."""
    (tmp_path / "config.json").write_bytes((model_directory / "config.json").read_bytes())
    assert estimate_unlearn(model_directory, SETTINGS, "float32") == estimate_unlearn(tmp_path, SETTINGS, "float32")


def test_bad_input(tmp_path: Path, model_directory: Path) -> None:
    """No configuration, broken JSON, no model, an unknown optimizer."""
    with pytest.raises(BadModelError, match=r"no readable config\.json"):
        estimate_unlearn(tmp_path, SETTINGS, "float32")
    for content in ("{", "[]", "{}", '{"model_type": "no such"}', '{"model_type": 7}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(BadModelError):
            estimate_unlearn(tmp_path, SETTINGS, "float32")
    with pytest.raises(UsageError, match="--optimizer adamv"):
        estimate_unlearn(model_directory, replace(SETTINGS, optimizer="adamv"), "float32")
