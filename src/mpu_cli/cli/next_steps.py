"""What comes after a command.

Lines that run as they stand, with the paths of this run, quoted where a shell needs it.

Each command stands on a line of its own, indented, so that it can be copied whole. What is not
known yet gets the name that this documentation uses (forget.jsonl, to-server, model-next), with a
number where something of that name is there already.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from os.path import lexists
from pathlib import Path

from mpu_cli.cli.flags import Given
from mpu_cli.documentation import page

ROWS = {"--forget": "forget.jsonl", "--retain": "retain.jsonl"}
_READING = ("--system-prompt", "--template-date", "--map", "--template-var", "--content-parts")


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
    updates = [
        free("to-server" if len(handoffs) == 1 else f"to-server-{number}")
        for number in range(1, len(handoffs) + 1)
    ]
    taken_back = (
        "aggregate",
        *updates,
        "--secret",
        path(secret),
        "--model",
        path(model),
        "--out",
        free("model-next"),
    )
    return [
        *(line for pair in zip(handoffs, updates, strict=True) for line in on_handoff(*pair)),
        (
            "then  on the server's side, once the change is back:"
            if len(updates) == 1
            else "then  on the server's side, once all are back:"
        ),
        *_indented(
            *(command("verify", update, "--expect", "update") for update in updates),
            command(*taken_back),
        ),
    ]


def on_handoff(handoff: Path, update: str | None = None) -> list[str]:
    """What a client does with a handoff. The default method needs rows to keep."""
    return [
        f"next  on the client's side, beside its {' and '.join(ROWS.values())}:",
        *_indented(
            command("verify", path(handoff), "--expect", "handoff"),
            command("unlearn", path(handoff), *_rows({}), "--out", update or free("to-server")),
        ),
    ]


def after_update(update: Path, handoff: Path, given: Given, sent: Path | None = None) -> list[str]:
    """What to send (`sent`: as one file), how the client sees first what it does, and what the server does with it.

    `given` is what the user gave to the command; without rows, they get the usual names.
    """
    sent = sent or update
    return [
        "",
        (
            f"send  {sent}  back to the server (it holds no text; what it still tells:"
            f" {page('threat-model')})"
        ),
        "next  on the client's side, what it does, before it leaves:",
        *_indented(command("eval", path(update), "--handoff", path(handoff), *_rows(given))),
        *on_update(sent, "then"),
    ]


def on_update(update: Path, when: str = "next") -> list[str]:
    """What the server does with an update; where its secret and its model lie it alone knows."""
    return [
        f"{when}  on the server's side, then the mpu aggregate line that its mpu perturb printed:",
        *_indented(command("verify", path(update), "--expect", "update")),
    ]


def after_copy(handoff: Path, out: Path, copies: Sequence[str]) -> list[str]:
    """What is left to do once one of a handoff's `copies` has been trained by itself."""
    left = [name for name in copies if not (out / name).is_dir()]
    if left:
        return [
            "",
            (
                f"next  the same command with --copy {left[0].rpartition('-')[2]} ({len(left)} of"
                f" {len(copies)} copies are left)"
            ),
        ]
    return [
        "",
        "next  all copies are trained:",
        *_indented(command("unlearn", path(handoff), "--finish", "--out", path(out))),
    ]


def after_model(model: Path, given: Given) -> list[str]:
    """How a model is measured on the rows that were given.

    `given` is what the user gave to the command.
    """
    return ["", f"model {model}", "next", *_indented(command("eval", path(model), *_rows(given)))]


def after_aggregate(model: Path, secret: Path, base: str | None, *, has_base: bool) -> list[str]:
    """Measure the new model; then another round, or the Hub.

    `base` is where the lineage's base is, if that is known.
    """
    again = [
        "perturb",
        path(model),
        *(["--base", path(_short(base))] if base else []),
        "--secret",
        path(secret),
    ]
    known = base is not None or not has_base
    name = re.sub(r"[^\w.-]+", "-", model.resolve().name)
    return [
        "next  whoever has rows to measure it on:",
        *_indented(command("eval", path(model), *_rows({}), "--record", free(f"{name}-record"))),
        (
            "then  another round:"
            if known
            else "then  another round, with the --base of the first one:"
        ),
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


def after_demo(kept: Path | None) -> list[str]:
    """What to look at; `kept` is where everything that was made is, if it was kept."""
    looked = [command("demo", "--keep", free("demo"))]
    if kept is not None:
        looked = [
            command("inspect", path(kept / "server" / name))
            for name in ("to-client", "secret", "model")
        ]
    return _indented(*looked, command("perturb", "--help"))


def _rows(given: Given) -> list[str]:
    """The options that name the rows and say how to read them; without rows, the usual names."""
    files = {flag: given[flag][0] for flag in ROWS if flag in given} or ROWS
    words = [word for option in files.items() for word in option]
    for flag in _READING:
        if flag in given:
            words += [word for value in given[flag] for word in (flag, value)] or [flag]
    return words


def _indented(*lines: str) -> list[str]:
    return [f"  {line}" for line in lines]


def _short(place: str) -> str:
    """An absolute path from here, where it lies below; a Hub id as it is."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else place
