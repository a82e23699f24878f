"""Sizes and counts beyond reason: copies, files, bytes, manifests above their limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import manifest_of, rewrite, write_manifest


def _copies(count: int):
    def damage(x: Path, w: object) -> None:
        content = manifest_of(x)
        first = content["copies"][0]
        content["copies"] = [{**first, "name": f"copy-{n}"} for n in range(1, count + 1)]
        write_manifest(x, content)

    return damage


def _files(count: int):
    def change(content: dict) -> None:
        files = content["copies"][0]["files"]
        stem = "delta" if "handoff" in content else "model"
        entry = next(iter(files.values()))
        for number in range(count):
            files[f"{stem}-{number:05}-of-{count:05}.safetensors"] = entry

    return lambda x, w: rewrite(x, change)


def _bytes(value: int):
    def change(content: dict) -> None:
        next(iter(content["copies"][0]["files"].values()))["bytes"] = value

    return lambda x, w: rewrite(x, change)


def _frozen(x: Path, w: object) -> None:
    """Patterns that take long to match, many of them."""
    rewrite(x, lambda content: content.update(frozen=["*a" * 100 + "b"] * 500))


def _many_present(x: Path, w: object) -> None:
    for number in range(2000):
        (x / "copy-1" / f"x{number}").touch()


def cases() -> Iterator[Case]:
    """What a manifest says, and what is there."""
    for thing in ("handoff", "update"):
        yield Case(f"{thing}: 9,999 copies", thing, _copies(9999), slow=True)
        yield Case(
            f"{thing}: 1,000 copies",
            thing,
            _copies(1000),
            but=UNSEEN if thing == "handoff" else {},
            slow=True,
        )
        yield Case(f"{thing}: 5,000 files", thing, _files(5000), slow=True)
        yield Case(f"{thing}: 20,000 files", thing, _files(20_000), slow=True)
        yield Case(f"{thing}: a file of 2⁶² bytes", thing, _bytes(2**62), but=UNSEEN)
        yield Case(f"{thing}: a file of 10¹⁰⁰ bytes", thing, _bytes(10**100), but=UNSEEN)
        yield Case(f"{thing}: 2,000 unlisted files", thing, _many_present, but=UNSEEN)
    yield Case(
        "handoff: patterns that match slowly",
        "handoff",
        _frozen,
        expect="1 Gate",
        but={"verify": "0", "inspect": "0", "diff": "0", "unlearn": "3 BadModel"},
        why="what is frozen is the server's choice; time stays bounded",
    )
