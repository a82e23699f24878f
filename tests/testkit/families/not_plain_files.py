"""Links, pipes, sockets, devices, directories and sparse terabytes where a file should be."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import only, rewrite

TERABYTE = 1 << 40


def _outside(path: Path) -> Path:
    """A file with the same bytes elsewhere."""
    place = path.parent.parent.parent / "outside"
    place.mkdir(exist_ok=True)
    return Path(shutil.move(path, place / path.name))


def _link(path: Path) -> None:
    path.symlink_to(_outside(path))


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sparse(path: Path) -> None:
    os.truncate(path, TERABYTE)


THINGS: dict[str, Callable[[Path], None]] = {
    "a link to a file outside": _link,
    "a link to nothing": _dangling,
    "a link to itself": _loop,
    "a pipe": _pipe,
    "a socket": _socket,
    "/dev/zero": _endless,
    "a directory": _directory,
    "a sparse terabyte": _sparse,
}
PLACES = {
    "handoff": ("mpu.yaml", "copy-1/config.json", "copy-2/model.safetensors"),
    "update": ("mpu.yaml", "copy-1/delta.safetensors"),
    "LoRA update": ("copy-1/adapter_config.json",),
    "secret": ("secret.yaml", "handoffs/*.yaml", "models/*.yaml"),
    "record": ("summary.json", "items.jsonl"),
    "model": ("config.json", "model.safetensors", "tokenizer.json"),
    "model in shards": ("model.safetensors.index.json",),
    "plan": ("plan.yaml",),
    "rows": ("forget.jsonl",),
}
ALLOWED = {"secret", "record", "plan", "rows"}
"""Things of one's own in which a link to a regular file is followed."""


def _hard_link(x: Path, w: object) -> None:
    for file in list(x.rglob("*.safetensors")):
        os.link(file, x.parent / f"{file.parent.name}-{file.name}")


def _listed_terabyte(x: Path, w: object) -> None:
    """Its size is what the manifest says; hashing it would take an hour."""
    file = next((x / "copy-1").glob("*.safetensors"))
    os.truncate(file, TERABYTE)

    def change(content: dict) -> None:
        content["copies"][0]["files"][file.name]["bytes"] = TERABYTE

    rewrite(x, change)


def cases() -> Iterator[Case]:
    """In place of each kind of file; and a whole copy that is a link."""
    for thing, places in PLACES.items():
        for place in places:
            for said, make in THINGS.items():
                if said.startswith("a link to a file") and thing in ALLOWED:
                    continue
                yield Case(
                    f"{thing}: {said} as {place}",
                    thing,
                    lambda x, w, place=place, make=make: make(only(x, place)),
                    but=_but(thing, place, said),
                    why=_NO_TOKENIZER if place == "tokenizer.json" else "",
                )
    for thing in ("handoff", "update"):
        yield Case(
            f"{thing}: a copy that is a link",
            thing,
            lambda x, w: _link(x / "copy-2"),
            but=UNSEEN if thing == "handoff" else {},
        )
        yield Case(
            f"{thing}: a terabyte that the manifest lists",
            thing,
            _listed_terabyte,
            but=UNSEEN if thing == "handoff" else {},
        )
        yield Case(
            f"{thing}: hard links to its files elsewhere",
            thing,
            _hard_link,
            expect="0",
            why="a regular file with the right bytes; it is only read",
        )


_NO_TOKENIZER = "verify looks at files; a folder is none, and a model may come without a tokenizer"


def _but(thing: str, place: str, said: str) -> dict[str, str]:
    if (thing == "handoff" and place != "mpu.yaml") or place == "items.jsonl":
        return UNSEEN
    if place == "tokenizer.json":
        unread = {} if "outside" in said else {"inspect": "0", "audit trace": "0"}
        return {**unread, "verify": "0"} if said == "a directory" else unread
    if thing == "rows" and said == "a link to itself":
        return {"unlearn": "3 BadInput"}
    if thing == "handoff" and said in {"a link to nothing", "a link to itself"}:
        return {"unlearn": "3 BadModel"}  # it looks like a model directory without its files
    return {"data check": "0"} if "safetensors" in place and "model" in thing else {}
