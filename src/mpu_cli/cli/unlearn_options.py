"""The options of `mpu unlearn`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpu_cli.checkpoint.settings import StorageSettings, UpdateDtype
from mpu_cli.cli.flags import Job
from mpu_cli.cli.options import Shared
from mpu_cli.cli.signing import HandoffSigners, Signing
from mpu_cli.client import methods
from mpu_cli.client.settings import CheckpointSettings, Lora
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.settings import ColumnSettings
from mpu_cli.option import option, same_option
from mpu_cli.training.settings import TrainingSettings

DEFAULT_METHOD = "NPO"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearnOptions(Job):
    """What `mpu unlearn` was asked to do."""

    source: str | None = option(
        None,
        "Handoff or its tar file (the result is an update), or model directory or Hub id (the"
        " result is a model).",
        panel="Model",
        flag="SOURCE",
    )
    reference: str | None = option(
        None,
        "Model that NPO, DPO, UnDIAL and KL compare with: round 1's handoff, or a model.",
        shown="the copy itself",
        metavar="MODEL",
    )
    signers: HandoffSigners
    forget: str | None = option(
        None,
        "Rows to forget: JSON, JSONL, CSV, Parquet or text, or hf://datasets/….",
        panel="Data",
        metavar="FILE",
    )
    retain: str | None = option(None, "Rows to keep, in the same formats.", metavar="FILE")
    cover: str | None = option(
        None,
        "Rows to forget along with them, so that the server cannot tell which ones you had to"
        " forget.",
        metavar="FILE",
    )
    refusals: str | None = option(
        None, "Answers to give instead of the forgotten ones (DPO), one per line.", metavar="FILE"
    )
    unanswerable: str | None = option(
        None,
        "Questions that the model refuses or cannot answer (LUNAR), in the formats of --forget;"
        " their answers are not read.",
        metavar="FILE",
    )
    allow_overlap: bool = same_option(Shared, "allow_overlap")
    columns: ColumnSettings
    prompting: Prompting
    method: str = option(
        DEFAULT_METHOD,
        "Unlearning method; --list-methods prints all of them.",
        panel="Method",
        metavar="NAME",
        names=methods.names,
    )
    assignments: tuple[str, ...] = option(
        (),
        "Parameter of the method. Repeatable.",
        flag="--set",
        metavar="NAME=VALUE",
        repeated=True,
    )
    list_methods: bool = option(
        False, "Print every method with its formula, parameters and source, and stop."
    )
    preset_name: Literal["paper"] | None = option(
        None,
        "Use the authors' settings for this method. Options that you give win.",
        flag="--preset",
    )
    lora: Lora | None = None
    training: TrainingSettings
    out: Path | None = option(None, "Directory to write.", panel="Output", metavar="DIR")
    copy: int | None = option(None, "Train copy K only, and write OUT/copy-K.", metavar="K")
    finish: bool = option(False, "Check all copies made with --copy, and write the update.")
    delta_dtype: UpdateDtype = same_option(Shared, "delta_dtype")
    storage: StorageSettings
    sign: Path | None = same_option(Signing, "sign")
    pack: Path | None = same_option(Shared, "pack")
    checkpoints: CheckpointSettings
    log_dir: Path | None = option(
        None, "Write TensorBoard event files to this directory.", panel="Output", metavar="DIR"
    )
    dry_run: bool = same_option(Shared, "dry_run")
    processes: int | None = option(
        None,
        "With --dry-run: assume that torchrun started this number of processes.",
        panel="Output",
        least=1,
        metavar="N",
    )
    force: bool = same_option(Shared, "force")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The training settings of `--preset paper` for the chosen method.

        Raises:
            UsageError: the paper does not have the method.
        """
        if given.get("preset") != "paper":
            return {}
        from mpu_cli.client import preset

        return preset.paper(methods.find(given.get("method", DEFAULT_METHOD)), ())[0]
