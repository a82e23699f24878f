"""Two rounds give the weights of the copies away; somebody else's update does not help."""

import pytest

COUNT, ROUNDS = 40_000, (0, 0, 1, 1)


@pytest.fixture
def errors(scene):
    """The errors of θ of the newer round, with these changes as the client's own."""
    base, task = {"w": scene.noise(COUNT, 1)}, scene.noise(COUNT, 2)
    made = [0.03 * scene.noise(COUNT, 3) + 0.01 * scene.noise(COUNT, 4 + k) for k in range(2)]
    weights = (1.7 / 2.7, 1 / 2.7)  # of α = 1 and 1.7

    def copies(theta, seed):
        noise = 0.1 * scene.noise(COUNT, seed)
        return [{"w": theta + noise}, {"w": theta - 1.7 * noise}]

    older = base["w"] + task
    newer = older + sum(weight * it for weight, it in zip(weights, made, strict=True))

    def found(changes):
        layer = scene.layer(
            [*copies(older, 10), *copies(newer, 11)], base, changes=[*changes, None, None]
        )
        return {
            label: scene.error(guess.tensors, {"w": newer}, {"w": task})
            for label, guess in scene.guesses("two rounds", layer, ROUNDS).items()
        }

    return lambda own: found(
        [{"w": it} for it in made] if own else [{"w": scene.noise(COUNT, 30 + k)} for k in range(2)]
    )


def test_the_clients_own_updates_make_them_exact(errors):
    """Without them the update's size is what blurs them."""
    found = errors(True)
    assert found["with the client's own updates"] < 1e-6
    assert 1e-6 < found["smallest difference"] < 1e-3


def test_updates_of_another_client_do_not(errors):
    """Changes that are not in the difference of the rounds explain nothing of it."""
    found = errors(False)
    assert found["with the client's own updates"] == pytest.approx(
        found["smallest difference"], rel=0.5, abs=1e-5
    )
