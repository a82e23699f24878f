"""Layers as attacks see them, of known truth: no files, no transforms."""

import pytest
import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks import all_attacks
from mpu_cli.audit.handoff.attacks._attack import CopyPool


def layer_of(copies, base, directions=None, changes=()):
    """An aligned layer with the right products."""
    moved = [{name: copy[name] - (base[name] if base else 0) for name in copy} for copy in copies]
    vectors = torch.stack(
        [torch.cat([it.double().ravel() for it in row.values()]) for row in moved]
    )
    gram = (vectors @ vectors.T).numpy()
    return AlignedLayer(0, tuple(copies), base, gram, directions or {}, tuple(changes))


def normal(shape, seed):
    """White noise, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guesses(attack, layer, rounds=None):
    """The estimates of an attack on one layer, by label."""
    count = len(layer.copies)
    pool = CopyPool(tuple(range(count)), layer.base is not None, rounds or (0,) * count)
    attacker = all_attacks()[attack].start(pool)
    attacker.observe(layer)
    return {guess.label: guess for guess in attacker.estimates(layer)}


def error(guess, truth, unit):
    """‖guess − truth‖ / ‖unit‖."""
    over = sum(float((guess[name] - truth[name]).square().sum()) for name in truth)
    return (over / sum(float(unit[name].square().sum()) for name in unit)) ** 0.5


@pytest.fixture
def scene():
    """See the functions above."""

    class Scene:
        layer, noise, guesses, error = (
            staticmethod(it) for it in (layer_of, normal, guesses, error)
        )

    return Scene
