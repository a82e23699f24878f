"""Copies of two rounds give the update in between, offset or not; of one round they do not."""

import pytest

COUNT = 40_000


@pytest.fixture
def two_rounds(scene):
    """Copies of both rounds, three each, and the update; an offset of 1 is in all of them."""
    theta = scene.noise(COUNT, 1) + scene.noise(COUNT, 2)
    update = 0.03 * scene.noise(COUNT, 3)

    def copies(model, seed, zero_sum):
        noises = [scene.noise(COUNT, seed + number) for number in range(3)]
        mean = sum(noises) / 3 if zero_sum else 0
        scales = (1.0, 1.4, 2.1)
        return [
            {"w": model + 0.1 * scale * (noise - mean)}
            for scale, noise in zip(scales, noises, strict=True)
        ]

    def made(*, zero_sum=True, again=True):
        after = theta + update if again else scene.noise(COUNT, 50)
        older, newer = copies(theta, 10, zero_sum), copies(after, 20, zero_sum)
        return scene.layer([*older, *newer], None), {"w": update}

    return made


ROUNDS = (0, 0, 0, 1, 1, 1)


def test_the_update_is_read_off_secret_weights_too(scene, two_rounds):
    """The smallest difference needs neither the base nor α: √(4/N) of the update is left."""
    layer, update = two_rounds()
    found = scene.guesses("between rounds", layer, ROUNDS)["smallest difference"]
    assert found.between == (0, 1)
    assert scene.error(found.tensors, update, update) < 2 * (4 / COUNT) ** 0.5


def test_noise_that_does_not_cancel_hides_it(scene, two_rounds):
    """Unrelated noise in every copy: what is left is larger than the update."""
    layer, update = two_rounds(zero_sum=False)
    for found in scene.guesses("between rounds", layer, ROUNDS).values():
        assert scene.error(found.tensors, update, update) > 1


def test_two_unrelated_models_give_no_update(scene, two_rounds):
    """Their difference is what it is: nothing of the update is in it."""
    layer, update = two_rounds(again=False)
    for found in scene.guesses("between rounds", layer, ROUNDS).values():
        assert scene.error(found.tensors, update, update) > 1


def test_one_round_has_nothing_to_subtract(two_rounds):
    """Nor have three: every two of them are a pool of their own."""
    from mpu_cli.audit.handoff.attacks import all_attacks
    from mpu_cli.audit.handoff.attacks._attack import CopyPool

    for rounds in ((0, 0), (0, 1, 2)):
        pool = CopyPool((0,) * len(rounds), has_base=False, rounds=rounds)
        assert all_attacks()["between rounds"].start(pool) is None
