"""What a method needs on a cut handoff, whose copies hold the lower layers of a model alone."""

from __future__ import annotations

from collections.abc import Mapping

from mpu_cli.bundle.manifest import Cut
from mpu_cli.client.methods import MethodInfo, Value, describe
from mpu_cli.errors import UsageError
from mpu_cli.training.settings import TrainingSettings


def parameters_for(
    method: MethodInfo, parameters: Mapping[str, Value], cut: Cut
) -> dict[str, Value]:
    """The method's parameters; its layer is counted in the whole model, as -1 and -2 mean.

    Raises:
        UsageError: the method reads logits, or the layer was not sent.
    """
    sent = f"this handoff holds layers 0 to {cut.layers - 1} of {cut.of}"
    if not method.reads_hidden_only:
        known = [info.name for info in describe() if info.reads_hidden_only]
        raise UsageError(
            f"{method.name} reads what the model says, and {sent}, without what follows",
            f"choose --method {' or '.join(known)}, which read hidden states alone, or ask for a"
            " handoff of the whole model",
        )
    from mpu_cli.modeling.hidden import resolve_layer

    layer = resolve_layer(int(parameters["layer"]), cut.of)
    if layer >= cut.layers:
        raise UsageError(
            f"{method.name} reads the states after layer {layer}, and {sent}",
            f"give --set layer={cut.layers - 1} or less, or ask for a handoff of the layers up to"
            f" {layer}",
        )
    return {**parameters, "layer": layer}


def check_settings(settings: TrainingSettings) -> None:
    """Refuse what only a whole model can measure.

    Raises:
        UsageError: a threshold on the probability of answers.
    """
    if settings.stops_early:
        raise UsageError(
            "this handoff is cut, and without its upper layers no probability of an answer can be"
            " measured, so no threshold can end the training",
            "give --max-steps or --epochs instead of --stop-forget-below and --stop-retain-below",
        )
