"""Unlearning on a cut handoff (`perturb --upto`): the lower layers of a model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import FORGET, RETAIN, UNANSWERABLE, values_of
from safetensors.torch import load_file
from two_parties import hand_back, publish, take_back

from mpu_cli.client import methods
from mpu_cli.modeling.hooks.loading import auto_class
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets
from tiny_families import TinyModel, tiny_models

LAYERS, LAST = 4, 1
FAMILIES = ("llama", "qwen3", "gemma3", "gpt2", "gpt-neox", "mixtral")
TYPES = ["sliding_attention", "full_attention"] * 2
WITHOUT_ONE_DOWN = {"mixtral"}
"""LUNAR trains one down projection; experts have many."""


def deep(name: str, directory: Path) -> Path:
    """A model of four layers, whose norms and biases are random, with the rows' vocabulary."""
    tiny: TinyModel = next(tiny for tiny in tiny_models((name,)))
    config = tiny.config().to_dict()
    config |= {tiny.family.sizes.get("layers", "num_hidden_layers"): LAYERS, "vocab_size": 320}
    if config.get("layer_types"):
        config["layer_types"] = [*config["layer_types"], *config["layer_types"]]
    from transformers import AutoConfig

    from tiny_families import _randomise

    with quiet_transformers(), torch.random.fork_rng(), torch.no_grad():
        built = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "architectures"})
        torch.manual_seed(0)
        model = auto_class(built).from_config(built, dtype=torch.float32)
        _randomise(model)
        model.save_pretrained(directory)
    return directory


def unlearned(source: Path, out: Path, name: str, **changes: Any) -> Path:
    """What a method makes of a model directory; embeddings and head stay."""
    method, loaded = methods.get(name), load_model(source)
    values = values_of(method, {"layer": LAST, **changes})
    train(
        loaded.model,
        method.bind(values),
        method.inputs_with(values),
        TrainingSets(FORGET, RETAIN, 0, None, UNANSWERABLE),
        TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=2, device="cpu"),
        RunContext("cpu"),
        measures_answers=False,
    )
    loaded.model.config = loaded.source_config
    with quiet_transformers():
        loaded.model.save_pretrained(out)
    return out


@pytest.mark.parametrize("method", ["RMU", "LUNAR"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_is_that_of_the_whole_model(family, method, entropy, tmp_path) -> None:
    """κ = 0: within 1e-6 in the layers that were sent; all others stay byte for byte."""
    if method == "LUNAR" and family in WITHOUT_ONE_DOWN:
        pytest.skip("LUNAR trains one down projection; experts have many")
    theta = deep(family, tmp_path / "theta")
    plain = unlearned(theta, tmp_path / "plain", method)
    publish(
        theta,
        None,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=0.0,
        copies=1,
        upto=LAST,
        reparam="none",
    )
    unlearned(tmp_path / "h" / "copy-1", tmp_path / "trained" / "copy-1", method)
    hand_back(tmp_path / "h", tmp_path / "trained", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", theta, tmp_path / "next", max_relative_norm=10.0)
    before, whole, ours = (
        load_file(path / "model.safetensors") for path in (theta, plain, tmp_path / "next")
    )
    change = {key: float((whole[key] - before[key]).norm()) for key in before}
    error = {key: float((whole[key] - ours[key]).norm()) for key in before}
    assert any(change.values())
    for key in before:
        assert error[key] <= 1e-6 * change[key], (key, error[key], change[key])
    sent, all_of_it = (
        (path / "model.safetensors").stat().st_size for path in (tmp_path / "h" / "copy-1", theta)
    )
    assert sent < all_of_it
