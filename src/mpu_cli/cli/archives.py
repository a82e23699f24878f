"""`--pack FILE.tar`, and tar files where a command takes a bundle's directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError


def _tar_name(file: Path | None) -> Path | None:
    """Refuse another name at once.

    `--pack` was a flag of unlearn once, and would now swallow the next option.
    """
    if file is not None and file.suffix.lower() != ".tar":
        raise UsageError(
            f"--pack {file}: name the tar file to write, FILE.tar",
            "short texts are put together by --packing",
        )
    return file


Pack = Annotated[
    Path | None,
    typer.Option(
        "--pack",
        help="Write the result as one tar file too: no times, no names of users.",
        metavar="FILE.tar",
        callback=_tar_name,
    ),
]


@contextmanager
def unpacked(output: Output, *paths: Path, work: Path | None = None) -> Iterator[list[Path]]:
    """The bundles' directories.

    Those that are tar files are unpacked for as long as the context lasts.
    """
    from mpu_cli.bundle.unpack import as_directory

    with ExitStack() as stack:
        with output.progress() as progress:
            places = [stack.enter_context(as_directory(path, work, progress)) for path in paths]
        yield places


def check_pack(
    file: Path | None, directories: Sequence[Path], kept: Sequence[Path], *, force: bool
) -> dict[Path, Path]:
    """Where each of these directories will be packed to, checked before the work is done.

    Nothing without --pack.

    Several directories get a file each, named after them: FILE-holder-1.tar.

    Args:
        file: of --pack.
        directories: to be written, then packed.
        kept: what the tar file must not lie in.
        force: replace files that exist.

    Raises:
        UsageError: it lies in a directory that mpu reads or writes.
        OutputError: a file exists, unless `force`.
    """
    from mpu_cli.checkpoint.staged_file import refuse_existing_file
    from mpu_cli.checkpoint.staging import refuse_nesting

    if file is None:
        return {}
    many = len(directories) > 1
    files = {
        each: file.with_name(f"{file.stem}-{each.name}{file.suffix}") if many else file
        for each in directories
    }
    for target in files.values():
        refuse_existing_file(target, force=force)
        refuse_nesting(target, *directories, *kept)
    return files


def write_packs(output: Output, files: dict[Path, Path], *, force: bool) -> None:
    """Pack each directory to its file."""
    from mpu_cli.bundle.pack import pack

    with output.progress() as progress:
        for directory, file in files.items():
            pack(directory, file, force=force, progress=progress)
