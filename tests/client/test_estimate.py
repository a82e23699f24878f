"""What --dry-run counts, against what is really there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mpu_cli.client.estimate import estimate_unlearn, optimizer_state_bytes
from mpu_cli.client.settings import Lora
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.training import optimizers
from mpu_cli.training.settings import TrainingSettings
from tiny_models import make_model

SETTINGS = TrainingSettings(optimizer="adamw", batch_size=4, max_length=64)
LLAMA_7B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


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
        [{"params": list(model.named_parameters()), "weight_decay": 0.0}],
        1e-3,
        model.config.to_dict(),
    )
    built.step()
    held = [
        value
        for kept in built.state.values()
        for value in kept.values()
        if isinstance(value, torch.Tensor)
    ]
    assert optimizer_state_bytes(name, shapes, model.config.to_dict()) == sum(
        value.nbytes for value in held
    )


def test_seven_billion_from_the_configuration_alone(seven_billion: Path) -> None:
    """The counts of a published 7B model, whole and with adapters."""
    needs = estimate_unlearn(seven_billion, SETTINGS, "bfloat16")
    embeddings = 2 * 32000 * 4096
    assert needs["parameters"] == 6_738_415_616
    assert needs["trained_parameters"] == 6_738_415_616 - embeddings
    assert needs["weights_bytes"] == 4 * needs["parameters"]
    assert needs["gradients_bytes"] == 4 * needs["trained_parameters"]
    assert needs["optimizer_state_bytes"] == pytest.approx(
        8 * needs["trained_parameters"], rel=1e-6
    )
    assert needs["sent_bytes"] == 2 * needs["trained_parameters"]
    assert estimate_unlearn(seven_billion / "config.json", SETTINGS, "bfloat16") == needs
    adapted = estimate_unlearn(seven_billion, SETTINGS, "float32", lora=Lora(8))
    assert adapted["trained_parameters"] == 32 * 8 * (3 * 2 * 4096 + 2 * (4096 + 11008))
    assert adapted["sent_bytes"] == 4 * adapted["trained_parameters"]
    assert adapted["memory_bytes"] < needs["memory_bytes"] / 2


def test_what_saves_memory_saves_memory(seven_billion: Path) -> None:
    """Checkpointing, shorter rows, sharding, another optimizer save memory; DDP does not."""
    plain = estimate_unlearn(seven_billion, SETTINGS, "float32")
    checkpointed = estimate_unlearn(
        seven_billion, replace(SETTINGS, gradient_checkpointing=True), "float32"
    )
    assert checkpointed["activations_bytes"] < plain["activations_bytes"] / 4
    assert checkpointed["weights_bytes"] == plain["weights_bytes"]
    shorter = estimate_unlearn(seven_billion, replace(SETTINGS, max_length=32), "float32")
    assert shorter["activations_bytes"] * 2 == plain["activations_bytes"]
    sharded = estimate_unlearn(seven_billion, replace(SETTINGS, fsdp=True), "float32", processes=4)
    assert sharded["weights_bytes"] * 4 == plain["weights_bytes"]
    # What shards is a quarter; the trained weights come together again in the first process, for
    # the update.
    assert sharded["optimizer_state_bytes"] * 4 == plain["optimizer_state_bytes"]
    assert plain["gradients_bytes"] < sharded["memory_bytes"] < plain["memory_bytes"] / 2
    smoothed = estimate_unlearn(seven_billion, replace(SETTINGS, smoothing=0.01), "float32")
    assert smoothed["original_weights_bytes"] == plain["gradients_bytes"]
    assert smoothed["memory_bytes"] == plain["memory_bytes"] + plain["gradients_bytes"]
    joint = estimate_unlearn(seven_billion, SETTINGS, "float32", processes=4)
    assert joint["gradient_buckets_bytes"] == plain["gradients_bytes"]
    assert joint["activations_bytes"] * 4 == plain["activations_bytes"]
    assert (
        estimate_unlearn(seven_billion, replace(SETTINGS, optimizer="sgd"), "float32")[
            "optimizer_state_bytes"
        ]
        == 0
    )
    assert (
        estimate_unlearn(seven_billion, SETTINGS, "float32", checkpoints=False)[
            "checkpoint_disk_bytes"
        ]
        == 0
    )


def test_a_directory_with_weights_says_the_same_as_its_configuration(
    model_directory: Path, tmp_path: Path
) -> None:
    """Headers and configuration agree."""
    (tmp_path / "config.json").write_bytes((model_directory / "config.json").read_bytes())
    assert estimate_unlearn(model_directory, SETTINGS, "float32") == estimate_unlearn(
        tmp_path, SETTINGS, "float32"
    )


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


TRAINING = """
import json, resource, sys
from pathlib import Path
import torch
from mpu_cli.client import methods
from mpu_cli.client.lora import attach, matrices_of
from mpu_cli.client.settings import Lora
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.load import load_model
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.training_sets import TrainingSets

torch.set_num_threads(1)
source, name, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = TrainingSettings(**json.loads(sys.argv[4]))
length, count = settings.max_length, 2 * settings.batch_size
ids = [tuple((7 * i + j) % 500 + 5 for j in range(length)) for i in range(count)]
rows, method = [TokenizedRow(row, row) for row in ids], methods.get(name)
values, model = method.parse([]), load_model(source).model
if rank:
    attach(model, Lora(rank), matrices_of(source), (), 0)
sets = TrainingSets(rows, rows)
train(model, method.bind(values), method.inputs_with(values), sets, settings, RunContext("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
DEEP = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
WORDY = {"vocab_size": 32000, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
MEASURED = {
    "all weights": (DEEP, "GradDiff", 0, {}),
    "checkpointing": (DEEP, "GradDiff", 0, {"gradient_checkpointing": True}),
    "one pass": (DEEP, "GradAscent", 0, {}),
    "LoRA": (DEEP, "GradDiff", 8, {}),
    "short rows": (
        DEEP,
        "GradDiff",
        0,
        {"batch_size": 2, "max_length": 64, "optimizer": "adafactor"},
    ),
    "a large vocabulary": (WORDY, "GradDiff", 0, {"max_length": 128}),
    "bfloat16": (DEEP, "GradDiff", 0, {"batch_size": 4, "precision": "bfloat16"}),
}


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="ru_maxrss is in kilobytes on Linux, and the allocator is glibc's",
)
@pytest.mark.parametrize("case", MEASURED)
def test_the_peak_of_a_real_training_is_as_estimated(case: str, tmp_path: Path) -> None:
    """The peak of three steps of a 28M model is within 25 % of the estimate.

    Measured with torch 2.13, estimate over peak: 0.91 (LoRA) to 1.13 (bfloat16).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes, method, rank, changes = MEASURED[case]
    config = AutoConfig.for_model(
        "llama", num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    settings = {
        "device": "cpu",
        "epochs": 2,
        "max_steps": 3,
        "batch_size": 8,
        "max_length": 256,
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path), method, str(rank), json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1]) * 1024
    needs = estimate_unlearn(
        tmp_path,
        TrainingSettings(**settings),
        "float32",
        lora=Lora(rank) if rank else None,
        passes=1 + (method == "GradDiff"),
    )
    assert needs["memory_bytes"] == pytest.approx(peak, rel=0.25)
