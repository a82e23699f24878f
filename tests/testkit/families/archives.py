"""Tar files of a bundle with foreign members, links, paths, sizes and repetitions."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import flip

BY_KIND = {
    "handoff": {"verify": "3 BadInput", "inspect": "3 BadInput", "unlearn": "3 BadModel"},
    "update": {"verify": "3 BadInput", "inspect": "3 BadInput"},
}
"""What a compressed file is refused as: as no known kind, or as no model."""


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x"):
    def add(archive: tarfile.TarFile, folder: str) -> None:
        info = tarfile.TarInfo(name if name.startswith("/") else f"{folder}/{name}")
        info.type, info.linkname = kind, link
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(data))

    return add


MEMBERS: dict[str, Callable[[tarfile.TarFile, str], None]] = {
    "../": _member("../../outside"),
    "an absolute path": _member("/tmp/outside"),
    "a link out": _member("copy-1/link", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": _member("copy-1/link", tarfile.LNKTYPE, "mpu.yaml"),
    "a pipe": _member("copy-1/pipe", tarfile.FIFOTYPE),
    "a device": _member("copy-1/null", tarfile.CHRTYPE),
    "an unlisted file": _member("copy-1/more.txt"),
    "the manifest twice": _member("mpu.yaml", data=b"kind: handoff\n"),
    "a listed file twice": _member("copy-1/config.json", data=b"{}"),
    "a hidden file": _member("copy-1/.hidden"),
    "a name with a terminal code": _member("copy-1/\x1b[2J"),
    "a folder inside a copy": _member("copy-1/deep", tarfile.DIRTYPE),
}


def _packed(change: Callable[[tarfile.TarFile, str], None] | None):
    def damage(x: Path, w: object) -> Path:
        out = x.parent / "packed.tar"
        with tarfile.open(out, "w") as archive:
            for path in sorted(x.rglob("*")):
                archive.add(path, str(path.relative_to(x.parent)), recursive=False)
            if change is not None:
                change(archive, x.name)
        return out

    return damage


def _cut(share: float):
    def damage(x: Path, w: object) -> Path:
        out = _packed(None)(x, w)
        data = out.read_bytes()
        out.write_bytes(data[: int(share * len(data))])
        return out

    return damage


def _flipped(x: Path, w: object) -> Path:
    out = _packed(None)(x, w)
    flip(out, 0.6)
    return out


def _bomb(x: Path, w: object) -> Path:
    """Compressed: mpu reads plain tar files only."""
    out = x.parent / "packed.tar.gz"
    out.write_bytes(gzip.compress(_packed(None)(x, w).read_bytes()))
    return out


def cases() -> Iterator[Case]:
    """Given to the commands that take a tar file."""
    for thing in ("handoff", "update"):
        for said, change in MEMBERS.items():
            yield Case(f"{thing}: {said}", thing, _packed(change))
        for share in (0.1, 0.5, 0.9):
            yield Case(f"{thing}: {share:.0%} of the file", thing, _cut(share))
        yield Case(f"{thing}: a flipped bit", thing, _flipped, but=UNSEEN)
        yield Case(f"{thing}: compressed", thing, _bomb, but=BY_KIND[thing])
