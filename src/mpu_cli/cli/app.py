"""`mpu`: the table of commands, and the one place that turns errors into messages and exit codes.

UI contract: results go to stdout. Notes (`mpu: …`), warnings (`mpu: warning: …`) and errors (`mpu:
error: …`, with the remedy on a line of its own, `mpu: hint: …`) go to stderr, lower case, no full
stop. With --json stdout holds one JSON object and nothing else, errors included.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from mpu_cli import __version__
from mpu_cli.cli.config import QUIET, VERBOSE, set_voice, wants_json
from mpu_cli.cli.group import LazyGroup
from mpu_cli.cli.streams import ReaderLeftError, forgiving_streams, print_json, printable
from mpu_cli.errors import BadInputError, MpuError, MpuWarning, OutputError, StoppedError

INTERNAL_ERROR = 70
INTERRUPTED = 130


app = typer.Typer(
    name="mpu",
    cls=LazyGroup,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mpu {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help=VERBOSE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET)] = False,
) -> None:
    """Unlearning between two parties that may not show each other their weights or their data.

    A model owner publishes perturbed copies (perturb), a data owner unlearns on each of them
    (unlearn or any other trainer, then diff), and the owner combines the changes (aggregate). Exit
    codes: 0 done, 1 a check said no, 2 usage, 3 bad input, 130 interrupted.
    """
    try:
        _check_text(str(Path.cwd()))  # records hold absolute paths
    except FileNotFoundError as error:
        raise BadInputError(
            "the working directory is gone", "change to another directory"
        ) from error
    for name, asked in (("verbose", verbose), ("quiet", quiet)):
        if asked:
            set_voice(context, name)


def run(arguments: list[str]) -> int:
    """Run one command line; return its exit code."""
    with forgiving_streams(), _printed_warnings():
        return _run(arguments or ["--help"])


def _run(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for argument in arguments:
            _check_text(argument)
        code = typer.main.get_command(app).main(
            args=arguments, prog_name="mpu", standalone_mode=False, obj={"arguments": arguments}
        )
        sys.stdout.flush()
        if code == INTERRUPTED and _speaks():  # typer turns Ctrl-C into this code without a word
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except ReaderLeftError as error:
        return error.exit_code
    except MpuError as error:
        _debug()
        kind = (
            "Interrupted"
            if isinstance(error, StoppedError)
            else type(error).__name__.removesuffix("Error")
        )
        return _fail(kind, error.message, error.hint, error.exit_code, arguments)
    except typer.TyperException as error:
        message = error.format_message()
        command = context.command_path if (context := getattr(error, "ctx", None)) else "mpu"
        return (
            _fail(
                "Usage",
                message[:1].lower() + message[1:].rstrip("."),
                f"see: {command} --help",
                2,
                arguments,
            )
            if message
            else 2
        )
    except (KeyboardInterrupt, typer.Abort):
        return _fail(
            "Interrupted", "interrupted; nothing was written", None, INTERRUPTED, arguments
        )
    except Exception as error:
        _debug()
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{printable(os.fsdecode(error.filename), 'utf-8')}: {error.strerror}"
            return _fail("BadInput", message, None, BadInputError.exit_code, arguments)
        message = (
            f"internal error: {type(error).__name__}:"
            f" {str(error).splitlines()[0] if str(error) else ''}"
        )
        return _fail(
            "Internal",
            message,
            "please report it; MPU_DEBUG=1 shows where",
            INTERNAL_ERROR,
            arguments,
        )


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print each `MpuWarning` once, in the form of the UI contract; other warnings as Python does."""
    printed: set[str] = set()
    default = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if not issubclass(category, MpuWarning):
            default(message, category, *where)
        elif (text := _one_line(str(message))) not in printed:
            printed.add(text)
            print(f"mpu: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", MpuWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _speaks() -> bool:
    from mpu_cli.modeling.processes import this_process

    return this_process().is_first


def _check_text(argument: str) -> None:
    """Libraries that read models open paths as UTF-8, and so do the files that we write.

    Refuse others before any work.

    Raises:
        BadInputError: an argument is not UTF-8, or this locale reads it as another text.
    """
    name = printable(argument, "utf-8")
    try:
        os.fsencode(argument).decode()
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{name}: not UTF-8", "rename it, or give a link to it that has another name"
        ) from error
    if name != argument or argument.encode() != os.fsencode(argument):
        coding = sys.getfilesystemencoding()
        raise BadInputError(
            f"{name}: this locale reads it as {coding}, and it is UTF-8",
            "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _debug() -> None:
    if os.environ.get("MPU_DEBUG") == "1":
        raise  # noqa: PLE0704 - re-raises the error being handled


def _fail(kind: str, message: str, hint: str | None, code: int, arguments: list[str]) -> int:
    message = _one_line(message)
    if wants_json(arguments):
        with suppress(OutputError):  # then it is said on stderr
            print_json(
                {"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}}
            )
            sys.stdout.flush()
            return code
    print(f"mpu: error: {message}", file=sys.stderr)
    if hint:
        print(f"mpu: hint: {hint}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """Names in a message may come from the other party.

    No line break and no terminal code of theirs is printed.
    """
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in printable(text, "utf-8")
    )
