"""Keys and values that a manifest or a record may not have, with its own digest right again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testkit.case import Case
from testkit.damage import only, resign, rewrite

HEX = "ab" * 32


def _files(content: dict) -> dict:
    return content["copies"][0]["files"]


def _entry(content: dict) -> dict:
    return next(iter(_files(content).values()))


def _pop(*names: str):
    def change(content: dict) -> None:
        for name in names:
            content.pop(name, None)

    return change


BOTH = {
    "an unknown key": lambda c: c.update(alpha=[1.0, 2.0]),
    "an unknown key in a copy": lambda c: c["copies"][0].update(seed=1),
    "an unknown key in a file's entry": lambda c: _entry(c).update(mode=511),
    "no kind": _pop("kind"),
    "no copies": _pop("copies"),
    "an empty list of copies": lambda c: c.update(copies=[]),
    "no digest of a file": lambda c: _entry(c).pop("sha256"),
    "no size of a file": lambda c: _entry(c).pop("bytes"),
    "format 2": lambda c: c.update(format=2),
    "format true": lambda c: c.update(format=True),
    "format 1.0": lambda c: c.update(format=1.0),
    "another kind": lambda c: c.update(kind="secret"),
    "a copy twice": lambda c: c["copies"].append(c["copies"][0]),
    "copies that are a map": lambda c: c.update(copies={"copy-1": c["copies"][0]}),
    "files that are a list": lambda c: c["copies"][0].update(files=list(_files(c))),
    "a size that is a text": lambda c: _entry(c).update(bytes="12"),
    "a size that is negative": lambda c: _entry(c).update(bytes=-1),
    "a size that is a float": lambda c: _entry(c).update(bytes=12.0),
    "a digest in capitals": lambda c: _entry(c).update(sha256="AB" * 32),
    "a digest that is too short": lambda c: _entry(c).update(sha256="ab"),
    "a digest that is null": lambda c: _entry(c).update(sha256=None),
}
HANDOFF = {
    "no dtype": _pop("dtype"),
    "dtype int8": lambda c: c.update(dtype="int8"),
    "an id with a path": lambda c: c.update(id="../../../../etc/passwd"),
    "frozen that is a text": lambda c: c.update(frozen="*"),
    "frozen with a control character": lambda c: c.update(frozen=["model\x1b[2J"]),
    "the key of an update": lambda c: c.update(handoff={"id": "ab" * 16, "digest": HEX}),
}
UPDATE = {
    "no handoff": _pop("handoff"),
    "a handoff with a key more": lambda c: c["handoff"].update(round=3),
    "no `of`": lambda c: c["copies"][0].pop("of"),
    "an unknown payload": lambda c: c["copies"][0].update(payload="pickle"),
    "a delta that says lora": lambda c: c["copies"][0].update(payload="lora"),
    "a delta that says masked": lambda c: c["copies"][0].update(payload="masked"),
    "a mask over a delta": lambda c: c.update(mask={"group": [HEX, "cd" * 32], "member": 1}),
    "the key of a handoff": lambda c: c.update(frozen=[]),
    "a list as `of`": lambda c: c["copies"][0].update(of=[HEX]),
}
MASK = {
    "no mask": _pop("mask"),
    "a group of one": lambda c: c["mask"].update(group=c["mask"]["group"][:1], member=1),
    "a key twice in the group": lambda c: c["mask"].update(group=c["mask"]["group"][:1] * 2),
    "a group out of order": lambda c: c["mask"]["group"].reverse(),
    "member 0": lambda c: c["mask"].update(member=0),
    "member 3 of 2": lambda c: c["mask"].update(member=3),
    "a name in the mask": lambda c: c["mask"].update(name="lab"),
    "a group of 300": lambda c: c["mask"].update(group=[f"{n:064x}" for n in range(300)]),
    "the field without a value": lambda c: c.update(mask=None),
}
SECRET = {
    "an unknown key": lambda c: c.update(extra=1),
    "no offset": _pop("offset"),
    "a master that is too short": lambda c: c.update(master="ab"),
    "an offset that is a text": lambda c: c["offset"].update(ratio="much"),
    "an origin that is unknown": lambda c: c.update(origin="dice"),
    "format 2": lambda c: c.update(format=2),
}
RECORD = {
    "an unknown key": lambda c: c.update(extra=1),
    "no copies": _pop("copies"),
    "no sigma": _pop("sigma"),
    "sigma that is a list": lambda c: c.update(sigma=[1.0]),
    "another kind": lambda c: c.update(kind="model-record"),
}


def cases() -> Iterator[Case]:
    """Every change of every table, on the manifests that it fits."""
    for thing, tables in {
        "handoff": (BOTH, HANDOFF),
        "update": (BOTH, UPDATE),
        "masked update": (MASK,),
    }.items():
        for table in tables:
            for name, change in table.items():
                yield Case(
                    f"{thing}: {name}", thing, lambda x, w, change=change: rewrite(x, change)
                )
    for name, change in SECRET.items():

        def secret(x: Path, w: object, change=change) -> None:
            resign(x / "secret.yaml", change, bytes(range(32)))

        yield Case(f"secret: {name}", "secret", secret)
    for name, change in RECORD.items():

        def record(x: Path, w: object, change=change) -> None:
            resign(only(x / "handoffs"), change)

        yield Case(f"secret: a handoff's record with {name}", "secret", record)
