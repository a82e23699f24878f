"""The command lines that read a thing, by command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from testkit.world import MEASURING, TRAINING, World

Line = Callable[[Path, World, Path], tuple[object, ...]]
"""The broken thing, the world, and an empty directory for outputs and copies of secrets."""


def _rows(w: World) -> tuple[object, ...]:
    return "--forget", w.root / "forget.jsonl", "--retain", w.root / "retain.jsonl"


def _secret(w: World, own: Path) -> Path:
    """A copy of the server's secret that a command may write to."""
    return Path(shutil.copytree(w.secret, own / "secret"))


def _mask(w: World, own: Path) -> tuple[object, ...]:
    """With a copy of the key, beside which a command notes what it masked."""
    key = shutil.copy(w.root / "lab.key", own / "lab.key")
    return "--group", w.root / "group.txt", "--key", key, "--out", own / "out"


def _handoff(whole_update: str, trained: str) -> dict[str, Line]:
    return {
        "verify": lambda x, w, own: ("verify", x),
        "inspect": lambda x, w, own: ("inspect", x),
        "unlearn": lambda x, w, own: ("unlearn", x, *_rows(w), *TRAINING, "--out", own / "out"),
        "diff": lambda x, w, own: ("diff", x, w.root / trained, "--out", own / "out"),
        "mask update": lambda x, w, own: (
            *("mask", "update", w.root / whole_update, "--handoff", x),
            *_mask(w, own),
        ),
        "eval": lambda x, w, own: (
            *("eval", w.root / whole_update, "--handoff", x, *_rows(w), *MEASURING),
            *("--record", own / "out"),
        ),
        "audit handoff": lambda x, w, own: (
            *("audit", "handoff", x, "--secret", w.secret, "--model", w.model, "--base", w.base),
            *("--no-behaviour", "--layers", 1),
        ),
        "audit update": lambda x, w, own: (
            *("audit", "update", w.root / whole_update, x, "--device", "cpu"),
            *("--forget", w.root / "forget.jsonl", "--decoys", w.root / "decoys.jsonl"),
        ),
    }


def _read_update(*others: str) -> dict[str, Line]:
    def aggregate(x: Path, w: World, own: Path) -> tuple[object, ...]:
        more = tuple(w.root / other for other in others)
        server = ("--secret", _secret(w, own), "--model", w.model)
        return ("aggregate", x, *more, *server, "--out", own / "out")

    return {
        "verify": lambda x, w, own: ("verify", x),
        "inspect": lambda x, w, own: ("inspect", x),
        "aggregate": aggregate,
    }


def _update(handoff: str) -> dict[str, Line]:
    return {
        **_read_update(),
        "mask update": lambda x, w, own: (
            *("mask", "update", x, "--handoff", w.root / handoff),
            *_mask(w, own),
        ),
        "eval": lambda x, w, own: (
            *("eval", x, "--handoff", w.root / handoff, *_rows(w), *MEASURING),
            *("--record", own / "out"),
        ),
        "audit update": lambda x, w, own: (
            *("audit", "update", x, w.root / handoff, "--device", "cpu"),
            *("--forget", w.root / "forget.jsonl", "--decoys", w.root / "decoys.jsonl"),
        ),
    }


_SECRET: dict[str, Line] = {
    "verify": lambda x, w, own: ("verify", x),
    "inspect": lambda x, w, own: ("inspect", x),
    "perturb": lambda x, w, own: (
        *("perturb", w.model, "--base", w.base, "--secret", x, "--handoff", own / "out"),
        *("-m", 2, "--kappa", 0.01),
    ),
    "aggregate": lambda x, w, own: (
        *("aggregate", w.update, "--secret", x, "--model", w.model, "--out", own / "out"),
    ),
    "audit trace": lambda x, w, own: ("audit", "trace", w.handoff / "copy-1", "--secret", x),
    "audit handoff": lambda x, w, own: (
        *("audit", "handoff", w.handoff, "--secret", x, "--model", w.model, "--base", w.base),
        *("--no-behaviour", "--layers", 1),
    ),
    "report": lambda x, w, own: ("report", x, "--out", own / "out"),
}
_MODEL: dict[str, Line] = {
    "verify": lambda x, w, own: ("verify", x),
    "inspect": lambda x, w, own: ("inspect", x),
    "perturb": lambda x, w, own: (
        *("perturb", x, "--base", w.base, "--new-lineage", own / "new", "--handoff", own / "out"),
        *("-m", 2, "--kappa", 0.01),
    ),
    "perturb --base": lambda x, w, own: (
        *("perturb", w.model, "--base", x, "--new-lineage", own / "new", "--handoff", own / "out"),
        *("-m", 2, "--kappa", 0.01),
    ),
    "unlearn": lambda x, w, own: ("unlearn", x, *_rows(w), *TRAINING, "--out", own / "out"),
    "eval": lambda x, w, own: ("eval", x, *_rows(w), *MEASURING, "--record", own / "out"),
    "aggregate": lambda x, w, own: (
        *("aggregate", w.update, "--secret", _secret(w, own), "--model", x, "--out", own / "out"),
    ),
    "audit trace": lambda x, w, own: ("audit", "trace", x, "--secret", w.secret),
    "data check": lambda x, w, own: ("data", "check", w.root / "forget.jsonl", "--model", x),
}
_RECORD: dict[str, Line] = {
    "inspect": lambda x, w, own: ("inspect", x),
    "compare": lambda x, w, own: ("compare", x, w.other_record, "--resamples", 1000),
    "compare --before": lambda x, w, own: (
        *("compare", w.other_record, w.record, "--before", x, "--resamples", 1000),
    ),
    "report": lambda x, w, own: (
        "report",
        x,
        w.other_record,
        "--out",
        own / "out",
        "--resamples",
        1000,
    ),
}
_PLAN: dict[str, Line] = {
    "run": lambda x, w, own: ("run", x / "plan.yaml", "--out", own / "out", "--dry-run"),
    "run --emit": lambda x, w, own: (
        *("run", x / "plan.yaml", "--out", own / "out", "--work", own / "work", "--emit", "make"),
    ),
}


def _file(x: Path) -> Path:
    """The one file of a directory of rows."""
    return next(x.iterdir()) if x.is_dir() else x


_ROWS: dict[str, Line] = {
    "data check": lambda x, w, own: ("data", "check", _file(x), "--model", w.model),
    "unlearn": lambda x, w, own: (
        *("unlearn", w.handoff, "--forget", _file(x), "--retain", w.root / "retain.jsonl"),
        *(*TRAINING, "--out", own / "out"),
    ),
    "eval": lambda x, w, own: (
        *("eval", w.model, "--forget", _file(x), *MEASURING, "--record", own / "out"),
    ),
    "audit update": lambda x, w, own: (
        *("audit", "update", w.update, w.handoff, "--device", "cpu"),
        *("--forget", _file(x), "--decoys", w.root / "decoys.jsonl"),
    ),
}

COMMANDS: dict[str, dict[str, Line]] = {
    "handoff": _handoff("update", "trained"),
    "handoff in shards": _handoff("update-in-shards", "trained-shards"),
    "update": _update("handoff"),
    "update in shards": _update("handoff-in-shards"),
    "LoRA update": _update("handoff"),
    "masked update": _read_update("other-masked-update"),
    "secret": _SECRET,
    "record": _RECORD,
    "model": _MODEL,
    "model in shards": _MODEL,
    "plan": _PLAN,
    "rows": _ROWS,
}
