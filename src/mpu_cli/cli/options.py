"""Options that several commands share, and what several commands do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpu_cli.checkpoint.settings import UpdateDtype
from mpu_cli.cli.archives import tar_file
from mpu_cli.cli.output import size
from mpu_cli.errors import BadInputError
from mpu_cli.option import option

SECRET = "MPU_SECRET"
"""The environment variable that --secret is read from if it is not given."""
OutputFormat = Literal["text", "markdown", "csv"]


@dataclass(frozen=True, slots=True)
class Shared:
    """Options that several commands take by `same_option`."""

    pack: Path | None = option(
        None,
        "Also write the result as one tar file, without timestamps and user names.",
        panel="Output",
        metavar="FILE.tar",
        parse=tar_file,
    )
    force: bool = option(
        False,
        "Replace a result that exists. A secret is never replaced.",
    )
    dry_run: bool = option(
        False,
        "Print what the command would need (files, disk, memory), and stop.",
    )
    delta_dtype: UpdateDtype = option("float32", "Data type of the stored change.")
    output_format: OutputFormat = option("text", "Format of the printed result.")
    all: bool = option(
        False,
        "Print every number instead of the dozen most important. CSV and JSON always hold all of"
        " them.",
    )
    allow_overlap: bool = option(
        False,
        "Continue even if all rows of one set are also in the opposite set.",
        panel="Data",
    )
    before: Path | None = option(
        None,
        "Record of the model before unlearning: the margin is a share of what changed since.",
        metavar="RECORD",
    )
    retain_record: Path | None = option(
        None, "Record of a model that never saw the forget set.", metavar="RECORD"
    )


def estimate_facts(needs: Mapping[str, int]) -> dict[str, str]:
    """The lines of `--dry-run`: name and value."""
    return {
        name.replace("_", " "): size(number) if name.endswith("bytes") else f"{number:,}"
        for name, number in needs.items()
    }


def server_words(needs: Mapping[str, int], result: str) -> list[str]:
    """The disk and the memory that perturb or aggregate needs, as lines of text."""
    files = f" in {needs['files']:,} file{'s' * (needs['files'] > 1)}" if "files" in needs else ""
    return [
        f"disk    at most {size(needs['disk_bytes'])} for {result}{files}",
        f"memory  about {size(needs['memory_bytes'])} in addition to the program itself",
        "",
    ]


def given_path(text: str) -> Path:
    """The path of a directory or a file, or of the model that a Hub id names.

    Raises:
        BadInputError: there is neither.
    """
    from mpu_cli.checkpoint.locate import is_hub_id, locate
    from mpu_cli.checkpoint.recognise import near_missing

    if Path(text).exists():
        return Path(text)
    if not is_hub_id(text):
        raise BadInputError(
            f"{text}: no such directory",
            near_missing(Path(text))
            or "give a directory, or a model's Hub id as org/name[@revision]",
        )
    return locate(text).path


def use_one_thread() -> None:
    """Keep torch to one thread: in elementwise streaming its threads wait more than they work."""
    import torch

    torch.set_num_threads(1)
