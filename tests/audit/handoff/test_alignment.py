"""Alignment finds T from a copy and a base, for every family, and says so when it cannot."""

import pytest
import torch
from safetensors.torch import load_file
from two_parties import layout_of

from mpu_cli.audit.handoff.alignment import FAILED_BELOW, align, applied
from mpu_cli.audit.handoff.alignment.inside import leftover_angles
from mpu_cli.errors import UsageError
from mpu_cli.server.transforms.choice import chosen
from mpu_cli.server.transforms.draw import draw_layer
from tiny_families import tiny_models

TINY = [tiny.name for tiny in tiny_models()]
MASTER = bytes(range(32))


def scenes(directory, reparam, kappa=0.1):
    """By layer: the layout, a base 15 % away, θ plus noise, and T of that."""
    layout, weights = layout_of(directory), load_file(directory / "model.safetensors")
    names, generator = chosen(reparam, layout), torch.Generator().manual_seed(1)
    for layer in layout.layers:
        theta = {name: weights[name].float() for name in layer.noised}
        squares = sum(float(it.square().sum()) for it in theta.values())
        task = 0.15 * (squares / sum(it.numel() for it in theta.values())) ** 0.5
        base, noisy = (
            {
                name: tensor + size * torch.randn(tensor.shape, generator=generator)
                for name, tensor in theta.items()
            }
            for size in (task, kappa * task)
        )
        step = draw_layer(names, layer, MASTER, "audit", 0)
        yield layer, base, noisy, applied(step, layer, noisy)


def relative(first, second):
    """‖first − second‖ / ‖second‖."""
    pairs = [(first[name].double(), second[name].double()) for name in second]
    return (
        sum(float((a - b).square().sum()) for a, b in pairs)
        / sum(float(b.square().sum()) for _, b in pairs)
    ) ** 0.5


@pytest.mark.parametrize("name", TINY)
def test_the_signed_permutation_is_found_exactly(built_tiny, name):
    """Experts, heads, turns, coordinates and units: the copy comes back bit for bit."""
    for reparam in ("signed-permutation", "none"):
        for layer, base, noisy, copy in scenes(built_tiny(name), reparam):
            found = align(layer, base, copy)
            back = found.undo(layer, copy)
            assert all(torch.equal(back[it], noisy[it]) for it in noisy)
            assert found.clear >= 0.9 * found.units and found.cosine > 0.95


@pytest.mark.parametrize("name", TINY)
def test_a_rotation_is_found_up_to_one_that_changes_no_output(built_tiny, name):
    """The angles differ by those of the task vector; without them nothing is left."""
    try:
        layers = list(scenes(built_tiny(name), "rotation"))
    except UsageError:
        pytest.skip("the family does not allow it")
    for layer, base, noisy, copy in layers:
        back = align(layer, base, copy).undo(layer, copy)
        assert relative(back, noisy) < 0.02
        rest = leftover_angles(layer, noisy, back)
        assert relative({it: rest.invert(it, back[it]) for it in back}, noisy) < 1e-5


def test_an_unrelated_base_is_recognised(built_tiny):
    """A fresh random base matches nothing: the alignment says that it failed."""
    for layer, base, _, copy in scenes(built_tiny("llama"), "signed-permutation"):
        generator = torch.Generator().manual_seed(2)
        fresh = {it: torch.randn(base[it].shape, generator=generator) for it in base}
        found = align(layer, fresh, copy)
        assert found.clear < FAILED_BELOW * found.units and found.cosine < 0.5
