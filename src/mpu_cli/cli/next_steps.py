"""The next commands, printed after a command with the paths of this run.

Each command is on a separate indented line, ready to copy into a shell. Unknown files get the names
of the documentation (forget.jsonl, to-server, model-next), with a number if the name exists.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.cli.flags import Given
from mpu_cli.documentation import page

if TYPE_CHECKING:
    from mpu_cli.server.lineage.models import Lineage
    from mpu_cli.server.lineage.records import HandoffRecord

UNNAMED = "client"
"""The name of a client without --client."""
ROWS = {"--forget": "forget.jsonl", "--retain": "retain.jsonl"}
_READING = ("--system-prompt", "--template-date", "--map", "--template-var", "--content-parts")


def command(*words: object) -> str:
    """A command line for a POSIX shell."""
    return shlex.join(["mpu", *map(str, words)])


def path(place: Path | str) -> str:
    """A path as an argument; a leading hyphen must not make it an option."""
    text = str(place)
    return f"./{text}" if text.startswith("-") else text


def free(name: str) -> str:
    """The first of NAME, NAME-2, NAME-3 … that does not exist here, nor as a tar file."""
    number, candidate = 1, name
    while lexists(candidate) or lexists(f"{candidate}.tar"):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def after_perturb(
    handoffs: Sequence[Path], secret: Path, model: str, *, is_cut: bool = False
) -> list[str]:
    """The rest of the round: the commands of each client, then those of the server."""
    updates = [
        free("to-server" if len(handoffs) == 1 else f"to-server-{number}")
        for number in range(1, len(handoffs) + 1)
    ]
    files = ("--secret", path(secret), "--model", path(model), "--out", free("model-next"))
    back = "the update is back" if len(updates) == 1 else "all updates are back"
    return [
        *(
            line
            for pair in zip(handoffs, updates, strict=True)
            for line in on_handoff(*pair, is_cut=is_cut)
        ),
        f"then  on the server, when {back}:",
        *_indented(
            *(command("verify", update, "--expect", "update") for update in updates),
            command("aggregate", *updates, *files),
        ),
    ]


def on_handoff(handoff: Path, update: str | None = None, *, is_cut: bool = False) -> list[str]:
    """The commands of a client for a handoff. The default method needs retain rows and logits."""
    method, where = ("--method", "RMU") if is_cut else (), path(handoff)
    return [
        f"next  on the client, which has {' and '.join(ROWS.values())}:",
        *_indented(
            command("verify", where, "--expect", "handoff"),
            command("unlearn", where, *method, *_rows({}), "--out", update or free("to-server")),
        ),
    ]


def after_update(
    update: Path, handoff: Path, given: Given, sent: Path | None = None, *, is_cut: bool = False
) -> list[str]:
    """How the client evaluates the update and sends it (`sent`: a tar file); the server's part.

    `given` holds what the user gave to the command; unknown rows get the usual names. An update of
    a cut handoff cannot be evaluated by its client.
    """
    sent = sent or update
    evaluation = [
        "next  on the client, to evaluate the update before you send it:",
        *_indented(command("eval", path(update), "--handoff", path(handoff), *_rows(given))),
    ]
    return [
        "",
        (
            f"send  {sent}  back to the server (it holds none of your text; what it can reveal:"
            f" {page('threat-model')})"
        ),
        *([] if is_cut else evaluation),
        *on_update(sent, "next" if is_cut else "then"),
    ]


def on_update(update: Path, when: str = "next", masked: int = 0) -> list[str]:
    """The server's commands for an update; only the server knows the paths for aggregate.

    `masked` is the size of the mask group, all of whose updates are aggregated together.
    """
    then = "followed by the mpu aggregate command that mpu perturb printed"
    if masked:
        then = f"then one mpu aggregate command with the masked updates of all {masked} members"
    return [
        f"{when}  on the server, {then}:",
        *_indented(command("verify", path(update), "--expect", "update")),
    ]


def after_copy(handoff: Path, out: Path, copies: Sequence[str]) -> list[str]:
    """The next commands when one of the handoff's `copies` was trained alone."""
    left = [name for name in copies if not (out / name).is_dir()]
    if left:
        return [
            "",
            (
                f"next  run the same command with --copy {left[0].rpartition('-')[2]} ({len(left)}"
                f" of {len(copies)} copies are left)"
            ),
        ]
    return [
        "",
        "next  combine the trained copies:",
        *_indented(command("unlearn", path(handoff), "--finish", "--out", path(out))),
    ]


def after_model(model: Path, given: Given) -> list[str]:
    """How to evaluate a model; `given` holds what the user gave to the command."""
    return [
        "",
        f"model {model}",
        "next  evaluate it:",
        *_indented(command("eval", path(model), *_rows(given))),
    ]


@dataclass(frozen=True, slots=True)
class NextRound:
    """What the perturb command of a lineage's next round repeats of the last one."""

    secret: Path
    base: str | None
    """Path or Hub id of the lineage's base, if known."""
    has_base: bool
    client: str | None
    """The one client of the last round; None if it had several, or one without a name."""

    @classmethod
    def of(
        cls, secret: Path, base: str | None, handoffs: Iterable[HandoffRecord], *, has_base: bool
    ) -> NextRound:
        """`handoffs` are those of the last round."""
        clients = {_client(handoff) for handoff in handoffs}
        client = clients.pop() if len(clients) == 1 else None
        return cls(secret, base, has_base, client if client != UNNAMED else None)

    @classmethod
    def of_lineage(cls, lineage: Lineage) -> NextRound:
        """After the handoffs of the newest model that was handed out."""
        handoffs, secret = list(lineage.handoffs.values()), lineage.secret
        last = [handoff for handoff in handoffs if handoff.model == handoffs[-1].model]
        return cls.of(lineage.path, secret.base_source, last, has_base=secret.base is not None)

    def command(self, model: str) -> str:
        """The perturb command on a model."""
        words = [model]
        words += ["--base", path(_short(self.base))] if self.base else []
        words += ["--secret", path(self.secret)]
        words += ["--client", self.client] if self.client else []
        return command("perturb", *words, "--handoff", free("to-client"))


def _client(handoff: HandoffRecord) -> str:
    """The name that --client had; the holders of a split have a number after it."""
    is_split = handoff.size > len(handoff.copies)
    return handoff.holder.rpartition("-")[0] if is_split else handoff.holder


def after_aggregate(model: Path, following: NextRound) -> list[str]:
    """How to evaluate the new model, start another round, or publish the model on the Hub."""
    name = re.sub(r"[^\w.-]+", "-", model.resolve().name)
    return [
        "next  evaluate it on a machine that has the rows:",
        *_indented(command("eval", path(model), *_rows({}), "--record", free(f"{name}-record"))),
        *another_round(path(model), following),
        "or    publish it (after hf auth login):",
        *_indented(shlex.join(["hf", "upload", name, path(model), "--private"])),
    ]


def another_round(model: str, following: NextRound, when: str = "then") -> list[str]:
    """The perturb command of the next round of a lineage."""
    unknown = following.has_base and following.base is None
    more = ", with the --base of the first round" if unknown else ""
    return [f"{when}  start another round{more}:", *_indented(following.command(model))]


def on_secret(digest: str, following: NextRound, *, waiting: bool) -> list[str]:
    """The server's commands for the newest model of a lineage, which has this digest.

    `waiting` means that one of its handoffs has no update yet.
    """
    rest = another_round("model", following, when="next")
    if waiting:
        files = (
            "--secret",
            path(following.secret),
            "--model",
            "model",
            "--out",
            free("model-next"),
        )
        rest[0] = rest[0].replace("next", "or  ", 1)
        rest = [
            "next  when the update is back:",
            *_indented(command("aggregate", "to-server", *files)),
            *rest,
        ]
    return [*rest, f"(model stands for the directory of model {digest[:12]})"]


def after_eval(record: Path | None, before: Path | None) -> list[str]:
    """What to do with the record, if one was written."""
    if record is None:
        return []
    if before is None:
        return ["next  see all its numbers:", *_indented(command("inspect", path(record)))]
    words = ("compare", path(before), path(record))
    return ["next  compare it with the model before:", *_indented(command(*words))]


def after_demo(kept: Path | None) -> list[str]:
    """What to look at after the demo; `kept` is its directory, if it was kept."""
    commands = [command("demo", "--keep", free("demo"))]
    if kept is not None:
        commands = [
            command("inspect", path(kept / "server" / name))
            for name in ("to-client", "secret", "model")
        ]
    return _indented(*commands, command("perturb", "--help"))


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
    """A path relative to the working directory if it is below; a Hub id unchanged."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else place
