"""`--pack FILE.tar`, and tar files where a command takes a bundle's directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError


def tar_file(text: str) -> Path:
    """Read the value of `--pack`.

    Another suffix is refused: `--pack` was a flag of unlearn once, and would take the next option
    for its value.
    """
    file = Path(text)
    if file.suffix.lower() != ".tar":
        raise UsageError(
            f"--pack {file}: name the tar file to write, FILE.tar",
            "to pack short texts into blocks, give --packing",
        )
    return file


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
