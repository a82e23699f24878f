"""Write a record to disk, in whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from mpu_cli.checkpoint.staging import Staging, disk_errors
from mpu_cli.evaluation.records.open_unlearning import open_unlearning_files
from mpu_cli.evaluation.records.record import ITEMS, SUMMARY, Record


def write_record(
    target: Path, record: Record, layout: str, *, texts: bool, force: bool = False
) -> None:
    """Write a record's files.

    Args:
        target: a directory that does not exist yet.
        record: the results.
        layout: "mpu" or "open-unlearning".
        texts: whether to include what the model wrote.
        force: replace an older record.

    Raises:
        OutputError: the target exists, or the disk is full.
    """
    if layout == "open-unlearning":
        files = {
            name: json.dumps(content, indent=4)
            for name, content in open_unlearning_files(record, texts=texts).items()
        }
    else:
        lines = record.items()
        for line in lines if not texts else ():
            line.pop("written", None)
        files = {
            SUMMARY: json.dumps(record.summary(), indent=2, ensure_ascii=False) + "\n",
            ITEMS: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        }
    with Staging(target, force=force, marked=True) as staging:
        with disk_errors(target):
            for name, content in files.items():
                (staging.path / name).write_text(content, encoding="utf-8")
        staging.commit()
