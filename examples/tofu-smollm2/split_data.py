"""Cuts TOFU rows into the files that the example's commands read.

    python split_data.py DATA OUT        DATA is TOFU's full.jsonl, OUT a directory outside the
    repository

The model is fine-tuned on TOFU's last 400 rows, 20 authors of 20 questions each (its `forget10`
split). Written are

    forget.jsonl          40 rows, ids 3960-3999: the last two authors (TOFU's `forget01`)
    retain.jsonl          120 rows, every third of the other 360: six or seven of every other author
    retain-unseen.jsonl   40 rows of the other 240: the model knows them, unlearning never reads
    them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from build_model import staged

FINETUNE = range(3600, 4000)
FORGET = range(3960, 4000)
OTHERS = range(3600, 3960)
RETAIN = OTHERS[::3]
RETAIN_UNSEEN = OTHERS[1::9]

SPLITS = {"forget.jsonl": FORGET, "retain.jsonl": RETAIN, "retain-unseen.jsonl": RETAIN_UNSEEN}


def read_lines(data: Path, ids: range) -> list[str]:
    """The lines with these ids, in the order of the ids, unchanged."""
    try:
        lines = data.read_text(encoding="utf-8").split(
            "\n"
        )  # splitlines() also cuts at U+2028, inside an answer
        by_id = {json.loads(line)["id"]: line for line in lines if line.strip()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{data}: not TOFU's full.jsonl ({error})") from None
    missing = [row_id for row_id in ids if row_id not in by_id]
    if missing:
        raise SystemExit(f"{data}: has no row with id {missing[0]}")
    return [by_id[row_id] for row_id in ids]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Cut TOFU's full.jsonl into forget and retain files."
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    splits = {name: read_lines(args.data, ids) for name, ids in SPLITS.items()}
    with staged(args.out) as partial:
        for name, lines in splits.items():
            (partial / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, lines in splits.items():
        print(f"{args.out / name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
