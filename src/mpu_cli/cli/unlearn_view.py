"""The output of `mpu unlearn`: the methods, the trained copies, and the preset's advice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.output import facts, size, table
from mpu_cli.cli.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.client.methods import MethodInfo
    from mpu_cli.training.report import TrainingReport


def method_facts(info: MethodInfo) -> dict[str, Any]:
    """A method as JSON has it."""
    parameters = [
        {
            "name": p.name,
            "type": p.type.__name__,
            "default": p.default,
            "choices": list(p.choices),
            "bound": p.bound,
            "source": p.source,
        }
        for p in info.parameters
    ]
    return {
        "name": info.name,
        "formula": info.formula,
        "paper": info.paper,
        "needs": sorted(info.inputs),
        "parameters": parameters,
        "recommended": dict(info.recommended),
        "recommended_by": info.recommended_by or None,
    }


def method_view(info: MethodInfo) -> list[RenderableType]:
    """A method for a reader."""
    lines = {"loss": info.formula}
    if info.parameters:
        lines["--set"] = ", ".join(_parameter(p) for p in info.parameters)
    lines["needs"] = ", ".join(sorted(info.inputs)) or "the forget rows alone"
    if info.recommended:
        lines["trained with"] = f"{trained_with(info)} ({info.recommended_by})"
    lines["source"] = info.paper
    return [info.name, facts(lines), ""]


def trained_with(info: MethodInfo) -> str:
    """The settings that belong to a method's defaults, as options."""
    return " ".join(
        f"--{name.replace('_', '-')} {value:g}"
        if not isinstance(value, str)
        else f"--{name.replace('_', '-')} {value}"
        for name, value in info.recommended
    )


def trained(reports: Mapping[str, TrainingReport]) -> list[RenderableType]:
    """One line for each trained copy, and what the thresholds saw."""
    rows = [
        (name, str(r.steps), f"{r.seconds:.1f}", f"{r.first_loss:.4f}", f"{r.last_loss:.4f}")
        for name, r in reports.items()
    ]
    body: list[RenderableType] = [
        table("trained", "steps", "seconds", "first loss", "last loss", rows=rows)
    ]
    seen = [
        (
            name,
            str(e.epoch),
            "" if e.forget is None else f"{e.forget:.4f}",
            "" if e.retain is None else f"{e.retain:.4f}",
        )
        for name, report in reports.items()
        for e in report.evaluations
    ]
    if seen:
        body.append(table("answer probability", "epoch", "forget", "retain", rows=seen))
    for name, report in reports.items():
        if report.resumed_from is not None:
            body.append(f"{name} resumed from step {report.resumed_from}")
    return body


def dry_run_words(needs: Mapping[str, int], *, has_rows: bool) -> list[str]:
    """The memory, disk and time that a training needs; `has_rows` says whether rows were given."""
    copies = f"{needs['copies']} cop{'y' if needs['copies'] == 1 else 'ies'}"
    where = (
        f"rows of at most {needs['longest_row_tokens']} tokens"
        if has_rows
        else "the longest rows that --max-length allows"
    )
    on_the_way = needs["temporary_disk_bytes"] + needs["checkpoint_disk_bytes"]
    # What is no handoff may be a copy of one, or a model that is to be unlearned by itself.
    whole = (
        ""
        if needs["received_bytes"]
        else f" ({size(4 * needs['parameters'])} for a whole model, in float32)"
    )
    lines = [
        f"memory  about {size(needs['memory_bytes'])} in each process (± 25 %), for {where}",
        (
            f"disk    {size(needs['disk_bytes'])} for the update{whole}, and {size(on_the_way)} of"
            " temporary files"
        ),
    ]
    if has_rows:
        lines.append(
            f"time    about {duration(needs['seconds'])} for {copies} of {needs['steps']} steps (a"
            " third to three times that; estimated from this machine's current speed)"
        )
    else:
        lines.append("time    give --forget, and --retain if the method needs it, for an estimate")
    return [*lines, ""]


def preset_words(
    settings: Mapping[str, Any], given: Collection[str], parameters: Mapping[str, Any]
) -> str:
    """What the preset set, and which of it the user's own options changed, on one line.

    Args:
        settings: the values of the preset's options by flag.
        given: the flags that the user gave.
        parameters: of the method.
    """

    def shown(flag: str) -> str:
        value, name = settings[flag], flag.removeprefix("--")
        if isinstance(value, bool):
            return name if value else f"no {name}"
        return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"

    weights = ", ".join(
        f"{name} {parameters[name]:g}" for name in ("gamma", "alpha") if name in parameters
    )
    text = (
        f"preset paper sets: {', '.join(shown(flag) for flag in settings if flag not in given)},"
        f" {weights}"
    )
    own = ", ".join(shown(flag) for flag in settings if flag in given)
    return f"{text}; yours: {own}" if own else text


def rounds_advice(method: str, rounds: int, epochs: int) -> str:
    """What the preset asks for beyond one command."""
    if rounds == 1:
        return f"preset paper: {method}, one round of {epochs} epochs"
    return (
        f"preset paper: {method}, {rounds} rounds of {epochs} epoch{'s' if epochs > 1 else ''}"
        " each; this is one round, after which the server aggregates and publishes new copies"
    )


def _parameter(parameter: Any) -> str:
    if parameter.default is None:
        return f"{parameter.name} (no default)"
    default = (
        f"{parameter.default:g}" if isinstance(parameter.default, float) else parameter.default
    )
    choices = f" ({', '.join(parameter.choices)})" if parameter.choices else ""
    return f"{parameter.name}={default}{choices}"
