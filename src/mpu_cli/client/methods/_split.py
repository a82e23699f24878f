"""The forget and the retain term of a method apart, as smoothing needs them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial

from mpu_cli.client.methods._declare import Method, Value
from mpu_cli.client.methods._retain import retain_term
from mpu_cli.errors import UsageError
from mpu_cli.training.smoothing import SplitLoss


def split(method: Method, parameters: Mapping[str, Value]) -> SplitLoss:
    """The method's terms: alpha weighs its retain loss, and gamma its forget loss.

    Raises:
        UsageError: the method has a state that moves with every forward pass, or a retain loss
            without such a weight.
    """
    if inspect.isclass(method.loss) or ("retain" in method.inputs and "alpha" not in parameters):
        raise UsageError(
            f"--smoothing: the forget and retain losses of {method.name} cannot be taken apart",
            "leave --smoothing out, or choose another --method",
        )
    if not parameters.get("alpha"):
        return SplitLoss(method.bind(parameters), None)
    forget = method.bind({**parameters, "alpha": 0.0})
    if "retain_loss" in parameters:
        return SplitLoss(
            forget,
            partial(
                retain_term,
                alpha=float(parameters["alpha"]),
                retain_loss=str(parameters["retain_loss"]),
            ),
        )
    # Its own retain loss: the forget rows are read once more, without weight.
    return SplitLoss(forget, method.bind({**parameters, "gamma": 0.0}))
