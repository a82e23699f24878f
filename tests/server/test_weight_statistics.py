"""What the first pass over a model and its base accepts and refuses."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from two_parties import (
    publish,
    weights,
)

from mpu_cli.errors import (
    BadModelError,
)


def altered_base(pair, folder, change):
    """A base whose tensors were changed by `change(theta, base)`."""
    shutil.copytree(pair.base, folder)
    tensors = change(weights(pair.model), weights(pair.base))
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def test_a_model_that_equals_its_base_is_bad_input(server):
    """With no task vector in any layer there is nothing to hide and nothing to measure by."""
    with pytest.raises(BadModelError, match="equals its base in every layer"):
        publish(
            server.pair.model, server.pair.model, server.root / "h", server.secret, server.entropy
        )
    assert list(server.root.iterdir()) == []


def test_a_layer_that_equals_the_base_is_left_as_it_is(server):
    """One equal layer is published without noise, named in a warning, and the other is noised."""
    base = altered_base(
        server.pair,
        server.root / "base",
        lambda theta, base: {k: theta[k] if ".layers.1." in k else base[k] for k in theta},
    )
    result = publish(
        server.pair.model, base, server.root / "h", server.secret, server.entropy, reparam="none"
    )
    assert any(
        "equal to the base, so they get no noise: layer 1" in line for line in result.warnings
    )
    assert result.handoffs[0].sigma["layer 1"] == 0 < result.handoffs[0].sigma["layer 0"]
    theta = weights(server.pair.model)
    for name, tensor in weights(server.root / "h" / "copy-1").items():
        assert torch.equal(tensor, theta[name]) == (".layers.0." not in name), name


def test_bases_that_do_not_fit_are_refused(server):
    """A base without one of the tensors, or with another shape, is named with the tensor."""
    name = "model.layers.0.mlp.up_proj.weight"
    for number, (change, message) in enumerate(
        [
            (
                lambda theta, base: {k: v for k, v in base.items() if k != name},
                f"the base has no tensor {name}",
            ),
            (
                lambda theta, base: base | {name: torch.zeros(47, 32)},
                rf"{name} has shape \[47, 32\] in the base",
            ),
        ]
    ):
        base = altered_base(server.pair, server.root / f"base-{number}", change)
        with pytest.raises(BadModelError, match=message):
            publish(server.pair.model, base, server.root / "h", server.secret, server.entropy)
    assert not server.secret.exists() and not (server.root / "h").exists()
