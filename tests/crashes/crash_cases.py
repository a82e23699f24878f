"""The commands that are killed: what they read, what they write, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dying import NAMED, NEVER, Ended, Moment, fork_apart, run_apart

from mpu_cli.bundle.manifest import MANIFEST, decode
from mpu_cli.client.masks.key import read_key
from mpu_cli.experiment.child import Task, perform
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.secrets.secret import SECRET_FILE

_TRAINING = ("--max-steps", 2, "--batch-size", 4, "--learning-rate", 1e-3, "--method", "GradDiff")
ROWS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", *_TRAINING)
_SMALL = ("-m", 2, "--kappa", 0.01, "--check", "none")
_AGGREGATE = ("aggregate", "to-server", "--secret", "server", "--model", "model")


@dataclass(frozen=True)
class Case:
    """One command."""

    name: str
    words: tuple[object, ...]
    outputs: tuple[str, ...]
    """What it writes: absent or complete at any moment."""
    draw: str | None = None
    """Text of the prepared entropy; every repeat draws the same."""
    again: tuple[object, ...] = ()
    """What is added to the command to repeat it."""
    secret: str = ""
    """The secret directory that it writes to."""
    key: str = ""
    """The private key that it makes or uses."""
    random: bool = False
    """It makes random bits that the test cannot fix: a repeat ends with other ones."""
    run: Callable[[Case, bool, Path, Moment], Ended] | None = None
    """Instead of a command line of mpu."""

    def end(self, scratch: Path, moment: Moment = NEVER, *, repeat: bool = False) -> Ended:
        """Run it in the current directory."""
        if self.run is not None:
            return self.run(self, repeat, scratch, moment)
        return run_apart(self.words + self.again * repeat, scratch, moment, self.draw)


def _step(case: Case, repeat: bool, scratch: Path, moment: Moment) -> Ended:
    """One step of `mpu run`, as a process of its own does it."""
    task = Task(
        work=str(Path("work").absolute()),
        key="0" * 16,
        name="a step",
        kind="test",
        program="mpu_cli",
        words=tuple(str(word).replace("NEAR", "../../..") for word in case.words),
        outputs=("made",),
        draw="step",
    )
    return fork_apart(lambda: perform(task), scratch, moment)


def cases(handoff_id: str) -> dict[str, Case]:
    """All of them by name."""
    perturb = ("perturb", "model", "--base", "base", *_SMALL)
    far = ("perturb", "NEAR/model", "--base", "NEAR/base", *_SMALL)
    unlearn = ("unlearn", "to-client", *ROWS)
    masked = ("mask", "update", "to-server", "--handoff", "to-client", "--group", "group.txt")
    all_ = [
        Case(
            "perturb",
            (*perturb, "--handoff", "out", "--new-lineage", "fresh"),
            ("out",),
            draw="begin",
            secret="fresh",
        ),
        Case(
            "perturb a later round",
            (*perturb, "--handoff", "out", "--secret", "server"),
            ("out",),
            draw="later",
            secret="server",
        ),
        Case(
            "perturb --force",
            (*perturb, "--handoff", "to-client", "--secret", "server", "--force"),
            ("to-client",),
            draw="later",
            secret="server",
        ),
        Case(
            "perturb --split --pack",
            (*perturb, "--split", "--handoff", "out", "--secret", "server", "--pack", "out.tar"),
            ("out", "out-holder-1.tar", "out-holder-2.tar"),
            draw="later",
            secret="server",
        ),
        Case(
            "perturb --reissue",
            (
                *("perturb", "model", "--handoff", "out", "--secret", "server"),
                *("--reissue", handoff_id),
            ),
            ("out",),
            secret="server",
        ),
        Case("unlearn", (*unlearn, "--save-steps", 1, "--out", "out"), ("out",), again=RESUME),
        Case(
            "unlearn --copy",
            (*unlearn, "--copy", 1, "--save-steps", 1, "--out", "out"),
            ("out/copy-1",),
            again=RESUME,
        ),
        Case(
            "unlearn a model",
            ("unlearn", "model", *ROWS, "--save-steps", 1, "--out", "out"),
            ("out",),
            again=RESUME,
        ),
        Case("unlearn --finish", ("unlearn", "to-client", "--finish", "--out", "parts"), ()),
        Case("diff", ("diff", "to-client", "trained", "--out", "out"), ("out",)),
        Case("aggregate", (*_AGGREGATE, "--out", "out"), ("out",), secret="server"),
        Case(
            "aggregate --force",
            (*_AGGREGATE, "--server-lr", 0.5, "--out", "next", "--force"),
            ("next",),
            secret="server",
        ),
        Case(
            "mask key",
            ("mask", "key", "--name", "lab", "--out", "new.key"),
            ("new.key.pub",),
            key="new.key",
            random=True,
        ),
        Case("mask update", (*masked, "--key", "a.key", "--out", "out"), ("out",), key="a.key"),
        Case(
            "a step of run",
            (*far, "--handoff", "made/out", "--new-lineage", "made/server"),
            (f"work/steps/{'0' * 16}",),
            run=_step,
        ),
    ]
    return {case.name: case for case in all_}


RESUME = ("--resume",)
NAMES = tuple(cases(""))


def make_desk(desk: Path, model: Path, base: Path) -> str:
    """Fill a directory with what the commands read; return the handoff's id."""
    for source, name in ((model, "model"), (base, "base")):
        shutil.copytree(source, desk / name)
    for name, first in (("forget", 0), ("retain", 24)):
        rows = [
            {"question": f"w{i} w{i + 1} ?", "answer": f"w{i + 2} w{i + 3} ."}
            for i in range(first, first + 24, 3)
        ]
        (desk / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ("--handoff", "to-client", "--secret", "server")
    for words in (
        ("perturb", "model", "--base", "base", *_SMALL, *own),
        ("unlearn", "to-client", *ROWS, "--out", "to-server"),
        ("unlearn", "to-client", *ROWS, "--copy", 1, "--out", "parts"),
        ("unlearn", "to-client", *ROWS, "--copy", 2, "--out", "parts"),
        ("aggregate", "to-server", "--secret", "server", "--model", "model", "--out", "next"),
        *(("mask", "key", "--name", name, "--out", f"{name}.key") for name in "ab"),
        ("mask", "group", "a.key.pub", "b.key.pub", "--out", "group.txt"),
    ):
        ended = run_apart(words, desk.parent / "printed", draw="desk")
        assert ended.code == 0, ended.err
    _train(desk)
    return decode((desk / "to-client" / MANIFEST).read_bytes(), desk).id


def _train(desk: Path) -> None:
    """What another program made of the copies."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(desk / "to-client", desk / "trained")
    for copy in ("copy-1", "copy-2"):
        file = desk / "trained" / copy / "model.safetensors"
        changed = {k: v + 1e-3 if "layers" in k else v for k, v in load_file(file).items()}
        save_file(changed, file, metadata={"format": "pt"})


def tree(path: Path) -> dict[str, bytes] | None:
    """The content of a file, or of every file below a directory; None if it is absent."""
    if path.is_file():
        return {"": path.read_bytes()}
    if not path.is_dir():
        return None
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def names(path: Path) -> list[str]:
    """Everything below a directory by name, and no more than the name of a record of a step."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


class Trial:
    """One command on a fresh copy of the desk, always in the same place: records hold paths."""

    def __init__(self, case: Case, desk: Path, place: Path) -> None:
        self.case, self.desk, self.place = case, desk, place
        self.scratch = place.parent / "printed"
        self.reset()
        self.before = {name: tree(place / name) for name in case.outputs}
        self.ended = case.end(self.scratch)
        assert self.ended.code == 0, (case.name, self.ended.err)
        self.after = {name: self._stable(name) for name in case.outputs}
        assert None not in self.after.values()
        self.names = names(place)
        self.secret = self._secret()

    @property
    def calls(self) -> list[str]:
        """The calls of an undisturbed run."""
        return self.ended.calls

    NAMED = NAMED

    @property
    def named(self) -> list[tuple[str, str]]:
        """The named points of an undisturbed run: call and path."""
        pairs = [(call.partition(" ")[0], call.partition(" ")[2]) for call in self.calls]
        return [(call, path) for call, path in pairs if call in NAMED]

    def reset(self) -> None:
        """Make the place anew."""
        os.chdir(self.desk.parent)
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.desk, self.place, symlinks=True)
        os.chdir(self.place)

    def leave(self) -> None:
        """Work elsewhere, so that the place can be mounted or unmounted."""
        os.chdir(self.desk.parent)

    def reset_content(self) -> None:
        """Fill the place, which is there and empty."""
        shutil.copytree(self.desk, self.place, symlinks=True, dirs_exist_ok=True)
        os.chdir(self.place)

    def _stable(self, name: str) -> dict[str, bytes] | None:
        """The bits of an output that do not depend on the clock."""
        content = tree(self.place / name)
        if content is None:
            return None
        clock = {"step.json", "stderr.log", "stdout.json"} if self.case.run else set()
        return {
            file: data
            for file, data in content.items()
            if file not in clock and not file.startswith("made/server/")
        }

    def _secret(self) -> bytes:
        where = self.place / self.case.secret / SECRET_FILE
        return where.read_bytes() if self.case.secret and where.exists() else b""

    def check_left(self, ended: Ended, *, alive: bool = False) -> None:
        """What must hold after a death: outputs absent or complete, secrets whole."""
        told = f"{self.case.name}: {ended}"
        for name in self.case.outputs:
            found = self._stable(name)
            if found not in (None, self.after[name], self.before[name]):
                assert self.case.random, told
            if self.before[name] is not None:
                assert found is not None, f"{name} vanished: {told}"
        if self.case.secret and (self.place / self.case.secret).exists():
            assert self._secret() == self.secret, told
            lineage = Lineage.read(self.place / self.case.secret)  # every HMAC
            assert lineage.handoffs.keys() >= self._handoffs_before(), told
        if self.case.key and (self.place / self.case.key).exists():
            assert read_key(self.place / self.case.key).public
        if alive:  # then nothing at all is left
            assert [name for name in names(self.place) if is_stray(name)] == [], told

    def _handoffs_before(self) -> set[str]:
        folder = self.desk / self.case.secret / "handoffs"
        return {file.stem for file in folder.iterdir()} if folder.exists() else set()

    def check_repeat(self, ended: Ended) -> None:
        """The same command ends with the bits of an undisturbed run, and leaves nothing else."""
        again = self.case.end(self.scratch, repeat=True)
        told = f"{self.case.name}: {ended}\nagain: {again}"
        if again.code != 0:  # it had been finished, only its message was lost
            assert again.code == 3 and "exists" in again.error, told
            complete = "is complete" in again.err or "is the finished" in again.err
            assert complete or self.case.random, told
        for name in self.case.outputs:
            assert self._stable(name) == self.after[name] or self.case.random, told
        if self.case.secret:
            assert self._secret() == self.secret, told
            lineage = Lineage.read(self.place / self.case.secret)
            assert {record.state for record in lineage.handoffs.values()} == {"issued"}, told
            assert {record.state for record in lineage.models.values()} == {"committed"}, told
        if not self.case.random:
            differ = set(self.names) ^ set(names(self.place))
            assert not differ, f"{sorted(differ)}: {told}"
        assert [name for name in names(self.place) if is_stray(name)] == [], told


def is_stray(name: str) -> bool:
    """Whether a name is one of mpu's for something unfinished."""
    last = Path(name).name
    marks = (".mpu-partial", ".mpu-replaced", ".partial", ".after", ".mpu-work", ".mpu-unpacked")
    return last.startswith(".") and (last.endswith(marks) or ".mpu-trial" in last)
