"""Print the result of an audit, then fail if a condition of `--fail-if` holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpu_cli.audit.gates import Gate, check, failure
from mpu_cli.cli.output import Output
from mpu_cli.errors import MpuError

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_gated(
    output: Output,
    data: Mapping[str, Any],
    *body: RenderableType,
    gates: Sequence[Gate],
    numbers: Mapping[str, float | None],
    brief: str | None = None,
    failed: MpuError | None = None,
    write: Callable[[Sequence[str]], None] = lambda failures: None,
) -> None:
    """Print everything, and then one line for each condition that holds.

    Args:
        output: of the command.
        data: what --json prints; `numbers` and `failed_gates` are added to it.
        body: what is printed without --json.
        gates: the conditions.
        numbers: the audit's numbers by name; None where nothing was measured.
        brief: the line that -q prints.
        failed: what the audit itself found wrong; it is raised after everything was printed.
        write: writes the page of `--report`, given one line for each thing that failed.

    Raises:
        MpuError: `failed`, or else CheckFailedError: a condition holds (exit 1).
        UsageError: a condition needs a number that was not measured.
    """
    lines = check(gates, numbers)
    content = {**data, "numbers": dict(numbers), "failed_gates": lines}
    error = failed or (failure(lines) if lines else None)
    write([*([failed.message] if failed else []), *lines])
    if error is not None and output.as_json:
        output.refuse(error, content)
    output.result(content, *body, brief=brief)
    if error is not None:
        for line in lines if len(lines) > 1 or failed else ():
            output.warn(line)
        raise error
