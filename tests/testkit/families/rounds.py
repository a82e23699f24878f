"""Foreign rounds, replays, mix-and-match, rollbacks, copies under other numbers, m changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from testkit.case import OTHER_HANDOFF, Case
from testkit.damage import manifest_of, only, resign, rewrite
from testkit.world import World

NO_HANDOFF = {"verify": "0", "inspect": "0"}
WHY = "without the handoff, verify and inspect cannot know"


def _become(name: str):
    """Put another thing of the world in place."""

    def damage(x: Path, w: World) -> None:
        shutil.rmtree(x)
        shutil.copytree(w.root / name, x)

    return damage


def _drop_copy(x: Path, w: World) -> None:
    shutil.rmtree(x / "copy-2")
    rewrite(x, lambda content: content["copies"].pop())


def _third_copy(x: Path, w: World) -> None:
    shutil.copytree(x / "copy-1", x / "copy-3")
    rewrite(x, lambda c: c["copies"].append({**c["copies"][0], "name": "copy-3"}))


def _foreign_copy(x: Path, w: World) -> None:
    """Copy 2 comes from another handoff of another lineage."""
    other = w.foreign_handoff if "frozen" in manifest_of(x) else w.foreign_update
    shutil.rmtree(x / "copy-2")
    shutil.copytree(other / "copy-2", x / "copy-2")
    theirs = next(copy for copy in manifest_of(other)["copies"] if copy["name"] == "copy-2")
    rewrite(x, lambda content: content["copies"].__setitem__(1, theirs))


def _sent_as(x: Path, w: World) -> None:
    """Copy 1 is sent as copy 2, and copy 2 not at all."""
    shutil.rmtree(x / "copy-2")
    (x / "copy-1").rename(x / "copy-2")

    def change(content: dict) -> None:
        content["copies"] = [{**content["copies"][0], "name": "copy-2"}]

    rewrite(x, change)


def _other_round(x: Path, w: World) -> None:
    """The changes of this round under the handoff of another."""
    content = manifest_of(w.update_in_shards)
    rewrite(x, lambda mine: mine.update(handoff=content["handoff"]))


def _false_digest(x: Path, w: World) -> None:
    rewrite(x, lambda content: content["handoff"].update(digest="ab" * 32))


def _bad_alpha(value: float):
    def damage(x: Path, w: World) -> None:
        for file in (x / "handoffs").glob("*.yaml"):
            resign(file, lambda content: content["copies"][0].update(coefficient=value))

    return damage


def _record(**changes: object):
    def damage(x: Path, w: World) -> None:
        for file in (x / "handoffs").glob("*.yaml"):
            resign(file, lambda content: content.update(changes))

    return damage


def _positions(x: Path, w: World) -> None:
    for file in (x / "handoffs").glob("*.yaml"):
        resign(file, lambda content: [copy.update(position=7) for copy in content["copies"]])


def _cycle(x: Path, w: World) -> None:
    """Two models that are each other's parents, beside the first one."""
    root = only(x / "models")
    names = ["ab" * 32, "cd" * 32]
    for name, parent in zip(names, reversed(names), strict=True):
        file = Path(shutil.copy(root, root.with_name(f"{name}.yaml")))
        resign(file, lambda c, name=name, parent=parent: c.update(digest=name, parent=parent))


def _rename(folder: str):
    def damage(x: Path, w: World) -> None:
        file = only(x / folder)
        file.rename(file.with_name("0" * len(file.stem) + ".yaml"))

    return damage


def _foreign_record(folder: str):
    def damage(x: Path, w: World) -> None:
        file = only(w.foreign_secret / folder)
        shutil.copy(file, x / folder / file.name)

    return damage


def _file_more(place: str):
    def damage(x: Path, w: World) -> None:
        (x / place).write_text("x")

    return damage


def _rollback(x: Path, w: World) -> None:
    for file in (x / "handoffs").glob("*.yaml"):
        file.unlink()


def _old_master(x: Path, w: World) -> None:
    shutil.copy(w.foreign_secret / "secret.yaml", x / "secret.yaml")


def cases() -> Iterator[Case]:
    """What arrives is whole, but not what it should be."""
    refused, gate = {"verify": "0", "inspect": "0"}, "1 Gate"
    for name, damage in {
        "of a foreign lineage": _become("foreign-update"),
        "of another round of the same model": _other_round,
        "with a false digest of the handoff": _false_digest,
        "copy 2 of a foreign update": _foreign_copy,
        "copy 1 sent as copy 2": _sent_as,
    }.items():
        yield Case(f"update: {name}", "update", damage, expect=gate, but=refused, why=WHY)
    yield Case(
        "update: a copy that the handoff does not have",
        "update",
        _third_copy,
        expect=gate,
        but=refused,
        why=WHY,
    )
    yield Case(
        "update: one copy is missing",
        "update",
        _drop_copy,
        expect="0",
        but={"aggregate": gate, "mask update": "3 BadBundle"},
        why="one copy's change is whole; only what needs all copies refuses it",
    )
    for thing, other, but in (
        ("handoff", "update", {}),
        ("update", "handoff", {}),
        ("handoff", "secret", {"unlearn": "3 BadModel"}),
        ("handoff", "model", {"unlearn": "0"}),
        ("handoff", "record", {"verify": "3 BadInput", "unlearn": "3 BadModel"}),
        ("update", "secret", {}),
        ("update", "model", {}),
        ("model", "handoff", {"unlearn": "0", "data check": "0"}),
        ("model", "update", {"unlearn": "3 BadBundle"}),
        ("secret", "handoff", {"report": "3 BadInput"}),
        ("secret", "model", {"report": "3 BadInput"}),
        ("record", "model", {"report": "3 BadInput"}),
        ("record", "secret", {"report": "2 Usage"}),
    ):
        yield Case(
            f"{thing}: is a {other}",
            thing,
            _become(other),
            but={**({"inspect": "0"} if thing == "record" else refused), **but},
            why="inspect and verify say which kind it is; scripts give verify --expect",
        )
    yield Case(
        "handoff: copy 2 of a foreign handoff",
        "handoff",
        _foreign_copy,
        expect="0",
        but=OTHER_HANDOFF,
        why="a hostile server may hand out what it likes; the copies have the same form",
    )
    yield Case(
        "secret: before the handoff was made (rollback)",
        "secret",
        _rollback,
        expect="0",
        but={"aggregate": gate, "audit handoff": gate},
        why="an old backup is a whole secret; an update of a handoff that it lacks is refused",
    )
    yield Case(
        "secret: of a foreign lineage",
        "secret",
        _become("foreign-secret"),
        expect=gate,
        but={"verify": "0", "inspect": "0", "perturb": "0", "report": "0", "audit trace": "0"},
        why="a whole secret of the same model; the handoff is not in it",
    )
    for value in (0.0, -1.0, 1e-320, 1e300):
        yield Case(f"secret: an α of {value:g}", "secret", _bad_alpha(value))
    for said, changes in {
        "κ of −1": {"kappa": -1.0},
        "no copies": {"copies": []},
        "a draw of 0 copies": {"size": 0},
        "a draw of 10⁹ copies": {"size": 10**9},
        "an unknown transform": {"transforms": ["rotate_all"]},
        "an unknown model": {"model": "ab" * 32},
        "an unknown denoising": {"denoising": "average"},
        "σ below zero": {"sigma": {"layer 0": -1.0}},
        "shards of 0 bytes": {"shard_bytes": 0},
    }.items():
        yield Case(f"secret: {said} in a record", "secret", _record(**changes))
    yield Case("secret: copies at impossible positions", "secret", _positions)
    yield Case("secret: models that are each other's parents", "secret", _cycle)
    for folder in ("handoffs", "models"):
        yield Case(f"secret: {folder}: a renamed record", "secret", _rename(folder))
        yield Case(
            f"secret: {folder}: a record of another lineage", "secret", _foreign_record(folder)
        )
        yield Case(f"secret: {folder}: a foreign file", "secret", _file_more(f"{folder}/notes.txt"))
        yield Case(
            f"secret: {folder} is missing", "secret", lambda x, w, f=folder: shutil.rmtree(x / f)
        )
    yield Case(
        "secret: an old master with new records",
        "secret",
        _old_master,
    )
