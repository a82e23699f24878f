"""The option `--pack FILE.tar`, and tar files as input in place of a bundle's directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mpu_cli.cli.output import Output
from mpu_cli.errors import OutputError, UsageError


def tar_file(text: str) -> Path:
    """Read the value of `--pack`; without a suffix .tar it could be the next option by mistake."""
    file = Path(text)
    if file.suffix.lower() != ".tar":
        raise UsageError(
            f"--pack {file}: not the name of a tar file",
            "give --pack FILE.tar; mpu unlearn packs short texts into blocks with --packing",
        )
    return file


@contextmanager
def unpacked(output: Output, *paths: Path, work: Path | None = None) -> Iterator[list[Path]]:
    """Yield the bundles' directories; tar files are unpacked until the context ends."""
    from mpu_cli.bundle.unpack import as_directory

    with ExitStack() as stack:
        with output.progress() as progress:
            folders = [stack.enter_context(as_directory(path, work, progress)) for path in paths]
        yield folders


def check_pack(
    file: Path | None,
    directories: Sequence[Path],
    kept: Sequence[Path],
    *,
    force: bool,
    keep_finished: bool = False,
) -> dict[Path, Path]:
    """Return the tar file of each directory, checked before the work starts; empty without --pack.

    Several directories get one file each, with their name appended: FILE-holder-1.tar.

    Args:
        file: the value of --pack.
        directories: the directories that the command will write and pack.
        kept: directories that the tar file must not be in.
        force: replace existing files.
        keep_finished: accept a file that was made of the directory that is there: an interrupted
            run may have made some of several.

    Raises:
        UsageError: the file is in a directory that mpu reads or writes.
        OutputError: a file exists, unless `force`.
    """
    from mpu_cli.bundle.pack import holds
    from mpu_cli.checkpoint.staged_file import refuse_existing_file
    from mpu_cli.checkpoint.staging import refuse_nesting

    if file is None:
        return {}
    several = len(directories) > 1
    files = {
        directory: file.with_name(f"{file.stem}-{directory.name}{file.suffix}") if several else file
        for directory in directories
    }
    for directory, target in files.items():
        if not (keep_finished and holds(target, directory)):
            refuse_existing_file(target, force=force)
        refuse_nesting(target, *directories, *kept)
    return files


def write_packs(output: Output, files: dict[Path, Path], *, force: bool) -> None:
    """Pack each directory into its tar file, unless `check_pack` has kept the file.

    Raises:
        OutputError: see `pack`; the hint says how to make the tar files that are left, too.
    """
    from mpu_cli.bundle.pack import by_hand, holds, pack

    left = dict(files)
    with output.progress() as progress:
        for directory, file in files.items():
            del left[directory]
            if not force and holds(file, directory):
                continue
            try:
                pack(directory, file, force=force, progress=progress)
            except OutputError as error:
                hint = "; ".join([error.hint or "", *(by_hand(*rest) for rest in left.items())])
                raise type(error)(error.message, hint) from error
