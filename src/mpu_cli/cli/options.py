"""Options that several commands share, and the parsing of values that typer does not know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.output import size
from mpu_cli.errors import BadInputError, UsageError
from mpu_cli.registry import did_you_mean

if TYPE_CHECKING:
    from mpu_cli.data.prompting import Prompting

SECRET = "MPU_SECRET"
"""The environment variable that --secret is read from where it is not given."""
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A YAML file with options by their long names; flags win.", metavar="FILE"
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a target that exists (never a secret directory).")
]
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Show every number, not the dozen that tell most (CSV and JSON have all)."
    ),
]
OutputFormat = Annotated[
    str,
    typer.Option(
        "--output-format", help="How to print the result: text, markdown or csv.", metavar="FORMAT"
    ),
]
ShardSize = Annotated[
    str, typer.Option("--max-shard-size", help="Largest file, for instance 5GB.", metavar="SIZE")
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        help="Tokens of a row that are kept. [default: 512, or the model's context if shorter]",
    ),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option(
        "--system-prompt",
        help="A system turn before every pair, and every chat without one.",
        metavar="TEXT",
    ),
]
TemplateVar = Annotated[
    list[str] | None,
    typer.Option(
        "--template-var",
        help="What the chat template reads, enable_thinking=false.",
        metavar="NAME=VALUE",
    ),
]
TemplateDate = Annotated[
    str | None,
    typer.Option(
        "--template-date",
        help="Today, to a chat template. [default: 2024-07-26]",
        metavar="YYYY-MM-DD",
    ),
]
ContentParts = Annotated[
    bool, typer.Option("--content-parts", help="Give the chat template lists of text parts.")
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        help=(
            "What separates the columns of CSV files: one letter, or tab. [default: seen from the"
            " header]"
        ),
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be written (files, disk, memory) and stop."),
]

AllowOverlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Go on although all rows of one set are in its opposite."),
]


def from_environment(context: typer.Context, name: str) -> bool:
    """Whether an option has its value from an environment variable, so that another option wins over it."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def estimate_facts(needs: Mapping[str, int]) -> dict[str, str]:
    """What --dry-run prints, for a reader."""
    return {
        name.replace("_", " "): size(number) if name.endswith("bytes") else f"{number:,}"
        for name, number in needs.items()
    }


def server_words(needs: Mapping[str, int], result: str) -> list[str]:
    """What perturb or aggregate would take, in sentences."""
    files = f" in {needs['files']:,} file{'s' * (needs['files'] > 1)}" if "files" in needs else ""
    return [
        f"disk    at most {size(needs['disk_bytes'])} for {result}{files}",
        f"memory  about {size(needs['memory_bytes'])} beside the program itself",
        "",
    ]


def prompting_of(options: Mapping[str, Any]) -> Prompting:
    """The options above, by the names of the commands' parameters.

    Raises:
        UsageError: one of them is malformed.
    """
    from mpu_cli.data.prompting import Prompting

    return Prompting.of(
        options["system_prompt"],
        options["template_var"],
        options["template_date"],
        content_parts=options["content_parts"],
    )


def given_path(text: str) -> Path:
    """A path as it is, or the place of the model that a Hub id names.

    Raises:
        BadInputError: neither.
    """
    from mpu_cli.checkpoint.locate import is_hub_id, locate

    if Path(text).exists():
        return Path(text)
    if not is_hub_id(text):
        raise BadInputError(
            f"{text}: no such directory",
            "give a directory, or a model's Hub id as org/name[@revision]",
        )
    return locate(text).path


def use_one_thread() -> None:
    """Keep torch's own threads out of elementwise streaming, where they spin more than they work (measured)."""
    import torch

    torch.set_num_threads(1)


def numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Parse `1,1.5,2`."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} {text}: expected numbers with commas between them, as 1,1.5,2"
        ) from error


def choice(flag: str, value: str, known: tuple[str, ...]) -> str:
    """Check a value against a list, naming the nearest."""
    if value not in known:
        raise UsageError(
            f"{flag} {value}: expected one of {', '.join(known)}", did_you_mean(value, known)
        )
    return value
