"""Pack a bundle into one tar file.

The bytes depend only on the bundle, not on the machine. They are those of `tar --sort=name
--owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u=rwX,go=rX -cf FILE DIR`.
"""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path
from shlex import quote

from mpu_cli.bundle.manifest import MANIFEST, SIGNATURE
from mpu_cli.bundle.read import open_manifest
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import InPlaceError
from mpu_cli.errors import OutputError


def pack(
    directory: Path,
    file: Path,
    *,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> None:
    """Write the bundle in `directory` to the tar file `file`, under the directory's own name.

    Only listed files go in: folders 0755, files 0644, owner 0, time 0, sorted by name.

    Raises:
        OutputError: the file exists (unless `force`) or cannot be written; the directory is kept.
        BadBundleError: the directory is not a bundle.
        SignatureError: it has a signature that does not fit.
    """
    manifest = open_manifest(directory).manifest
    names = [MANIFEST, *([SIGNATURE] if (directory / SIGNATURE).exists() else [])]
    names += [
        name
        for copy in manifest.copies
        for name in (copy.name, *(f"{copy.name}/{inner}" for inner in copy.files))
    ]
    total = (directory / MANIFEST).stat().st_size + sum(
        entry.bytes for copy in manifest.copies for entry in copy.files.values()
    )
    top = directory.resolve().name
    try:
        require_space(
            file.parent,
            total + 2 * tarfile.BLOCKSIZE * len(names) + 2 * tarfile.RECORDSIZE,
            f"packing {directory}",
        )
        with (
            staged_file(file, force=force) as target,
            tarfile.open(
                fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8"
            ) as archive,
        ):
            archive.addfile(_member(top, folder=True))
            done = 0
            for name in sorted(names, key=lambda name: name.encode().split(b"/")):
                source = directory / name
                if source.is_dir():
                    archive.addfile(_member(f"{top}/{name}", folder=True))
                    continue
                with source.open("rb") as content:
                    archive.addfile(_member(f"{top}/{name}", size=source.stat().st_size), content)
                done += source.stat().st_size
                progress("packing", done, total)
    except InPlaceError:
        raise
    except OutputError as error:
        raise type(error)(
            error.message, f"{directory} is complete; {by_hand(directory, file)}"
        ) from error


def holds(file: Path, directory: Path) -> bool:
    """Whether a tar file was made of this bundle: it holds the same manifest, byte for byte."""
    with suppress(tarfile.TarError, KeyError, OSError), tarfile.open(file, "r:") as archive:
        member = archive.extractfile(f"{directory.resolve().name}/{MANIFEST}")
        own = (directory / MANIFEST).read_bytes()
        return member is not None and member.read(len(own) + 1) == own
    return False


def by_hand(directory: Path, file: Path) -> str:
    """The hint that packs a bundle without mpu, to the same bytes."""
    place = directory.resolve()
    return (
        "pack it elsewhere with tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0"
        f" --mode=u=rwX,go=rX -cf {quote(file.name)} -C {quote(str(place.parent))}"
        f" {quote(place.name)}"
    )


def _member(name: str, size: int = 0, *, folder: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, 0
    member.type, member.mode = (tarfile.DIRTYPE, 0o755) if folder else (tarfile.REGTYPE, 0o644)
    return member
