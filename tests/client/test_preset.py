"""The authors' settings, by method."""

from __future__ import annotations

import pytest

from mpu_cli.client import methods
from mpu_cli.client.preset import ROUNDS_AND_EPOCHS, paper
from mpu_cli.errors import UsageError
from mpu_cli.training.settings import TrainingSettings


@pytest.mark.parametrize("name", sorted(ROUNDS_AND_EPOCHS))
def test_every_method_of_the_paper(name: str) -> None:
    """Ten epochs in all, weights of 1, valid settings, and parameters of the method."""
    settings, assignments, rounds = paper(methods.find(name), [])
    values = methods.find(name).parse(assignments)
    assert rounds * settings["epochs"] == 10
    assert values["gamma"] == 1
    assert values.get("alpha", 1) == 1
    made = TrainingSettings(**settings)
    assert (made.optimizer, made.learning_rate, made.weight_decay, made.max_grad_norm) == (
        "adamw",
        1e-5,
        0.01,
        1.0,
    )
    assert (made.batch_size, made.gradient_accumulation) == (8, 4)


def test_the_users_own_parameters_win() -> None:
    """A weight that is set is not set again."""
    _, assignments, _ = paper(methods.find("NPO"), ["alpha=0.5", "beta=0.2"])
    values = methods.find("NPO").parse(assignments)
    assert (values["alpha"], values["beta"], values["gamma"]) == (0.5, 0.2, 1.0)


def test_a_method_that_the_paper_has_not() -> None:
    """Named, with those that it has."""
    with pytest.raises(UsageError, match="the paper does not use RMU") as caught:
        paper(methods.find("RMU"), [])
    assert "SatImp" in str(caught.value.hint)
