"""What comes after a command: lines that run as they stand, with the paths of this run, quoted where a shell needs it.

Each command stands on a line of its own, indented, so that it can be copied whole. What is not known yet gets the name that
this documentation uses (forget.jsonl, to-server, model-next), with a number where something of that name is there already.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from os.path import lexists
from pathlib import Path
from typing import Any

ROWS = {"forget": "forget.jsonl", "retain": "retain.jsonl"}


def command(*words: object) -> str:
    """A command line for a POSIX shell; a path that begins with a hyphen is no option."""
    return shlex.join(["mpu", *map(str, words)])


def path(place: Path | str) -> str:
    """A path as an argument."""
    text = str(place)
    return f"./{text}" if text.startswith("-") else text


def free(name: str) -> str:
    """This name, or the first of NAME-2, NAME-3 … that nothing in the working directory has."""
    number, found = 1, name
    while lexists(found):
        number += 1
        found = f"{name}-{number}"
    return found


def after_perturb(handoffs: Sequence[Path], secret: Path, model: str) -> list[str]:
    """The rest of the round: what each client does, then the server."""
    updates = [free("to-server" if len(handoffs) == 1 else f"to-server-{number}") for number in range(1, len(handoffs) + 1)]
    taken_back = ("aggregate", *updates, "--secret", path(secret), "--model", path(model), "--out", free("model-next"))
    return [
        *(line for pair in zip(handoffs, updates, strict=True) for line in on_handoff(*pair)),
        "then  on the server's side, once the change is back:" if len(updates) == 1 else "then  on the server's side, once all are back:",
        *_indented(*(command("verify", update, "--expect", "update") for update in updates), command(*taken_back)),
    ]


def on_handoff(handoff: Path, update: str | None = None) -> list[str]:
    """What a client does with a handoff. The default method needs rows to keep."""
    rows = (word for role, file in ROWS.items() for word in (f"--{role}", file))
    return [
        f"next  on the client's side, beside its {' and '.join(ROWS.values())}:",
        *_indented(
            command("verify", path(handoff), "--expect", "handoff"),
            command("unlearn", path(handoff), *rows, "--out", update or free("to-server")),
        ),
    ]


def after_update(update: Path) -> list[str]:
    """What to send, and what the server does first with it; the rest is in the server's own notes."""
    return [
        "",
        f"send  {update}  back to the server (it holds no text; what it still tells is in docs/threat-model.md)",
        *on_update(update),
    ]


def on_update(update: Path) -> list[str]:
    """What the server does with an update; where its secret and its model lie it alone knows."""
    return [
        "next  on the server's side, then the mpu aggregate line that its mpu perturb printed:",
        *_indented(command("verify", path(update), "--expect", "update")),
    ]


def after_copy(handoff: Path, out: Path, copies: Sequence[str]) -> list[str]:
    """What is left to do once one of a handoff's `copies` has been trained by itself."""
    left = [name for name in copies if not (out / name).is_dir()]
    if left:
        return ["", f"next  the same command with --copy {left[0].rpartition('-')[2]} ({len(left)} of {len(copies)} copies are left)"]
    return ["", "next  all copies are trained:", *_indented(command("unlearn", path(handoff), "--finish", "--out", path(out)))]


def after_model(model: Path, rows: Mapping[str, Any]) -> list[str]:
    """How a model is measured on the rows that were given; `rows` is the command's options by their parameters' names."""
    words: list[str] = []
    for name in ("forget", "retain", "system_prompt", "template_date"):
        if rows.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(rows[name])]
    for name, flag in (("map_", "--map"), ("template_var", "--template-var")):
        for value in rows.get(name) or ():
            words += [flag, value]
    if rows.get("content_parts"):
        words.append("--content-parts")
    return ["", f"model {model}", "next", *_indented(command("eval", path(model), *words))]


def after_aggregate(model: Path, secret: Path, base: str | None, *, has_base: bool) -> list[str]:
    """Measure the new model; then another round, or the Hub. `base` is where the lineage's base is, if that is known."""
    again = ["perturb", path(model), *(["--base", path(_short(base))] if base else []), "--secret", path(secret)]
    known = base is not None or not has_base
    rows = (word for role, file in ROWS.items() for word in (f"--{role}", file))
    name = re.sub(r"[^\w.-]+", "-", model.resolve().name)
    return [
        "next  whoever has rows to measure it on:",
        *_indented(command("eval", path(model), *rows, "--record", free(f"{name}-record"))),
        "then  another round:" if known else "then  another round, with the --base of the first one:",
        *_indented(command(*again, "--handoff", free("to-client"))),
        "or    publish it (after hf auth login):",
        *_indented(shlex.join(["hf", "upload", name, path(model), "--private"])),
    ]


def after_eval(record: Path | None, before: Path | None) -> list[str]:
    """What can be done with the record that was kept."""
    if record is None:
        return []
    words = ("inspect", path(record)) if before is None else ("compare", path(before), path(record))
    return ["next", *_indented(command(*words))]


def _indented(*lines: str) -> list[str]:
    return [f"  {line}" for line in lines]


def _short(place: str) -> str:
    """An absolute path from here, where it lies below; a Hub id as it is."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else place
