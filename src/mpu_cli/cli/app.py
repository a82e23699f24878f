"""`mpu` itself: its own options, and the one place that turns errors into messages and exit codes.

Results go to stdout. Notes (`mpu: …`), warnings (`mpu: warning: …`) and errors (`mpu: error: …`,
then `mpu: hint: …` on a line of its own) go to stderr, in lower case, without a full stop. With
--json stdout holds one JSON object and nothing else, errors included.
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
from mpu_cli.cli.output import error_fields
from mpu_cli.cli.streams import ReaderLeftError, forgiving_streams, print_json, printable
from mpu_cli.errors import (
    BadInputError,
    MpuError,
    MpuWarning,
    OutputError,
    StoppedError,
    UsageError,
)
from mpu_cli.foreign_text import one_line
from mpu_cli.registry import did_you_mean

INTERNAL_ERROR = 70
INTERRUPTED = 130
_COMPLETE = "_MPU_COMPLETE"
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"

WHERE_TO_BEGIN = """\
mpu makes a language model forget data that the model's owner may not see.

Where to begin:

  You want to see how it works
      mpu demo

  You own the model (the server)
      mpu perturb model --base base --handoff to-client --secret server
      mpu aggregate to-server --model model --secret server --out model-next

  You own the data (the client)
      mpu inspect to-client
      mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl \\
          --out to-server

All commands:                 mpu --help
One command, with examples:   mpu COMMAND --help"""
"""What `mpu` without a command prints."""

app = typer.Typer(
    name="mpu",
    cls=LazyGroup,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class InternalError(MpuError):
    """An internal error of mpu."""

    exit_code = INTERNAL_ERROR


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

    The owner of the model (the server) publishes perturbed copies of it with perturb. The owner of
    the data (the client) unlearns on each copy with unlearn, or with any other program and then
    diff. The server combines the changes with aggregate.

    Exit codes: 0 success, 1 a check failed, 2 wrong usage, 3 bad input, 130 interrupted.
    """
    try:
        _check_text(str(Path.cwd()))  # records hold absolute paths
    except FileNotFoundError as error:
        raise BadInputError(
            "the working directory no longer exists", "change to another directory"
        ) from error
    for name, asked in (("verbose", verbose), ("quiet", quiet)):
        if asked:
            set_voice(context, name)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    given = _COMPILER_CACHE in os.environ
    try:
        with forgiving_streams(), _printed_warnings():
            return _run(arguments)
    finally:
        # Importing torch's compiler makes this directory and names it so; mpu compiles nothing.
        if not given and _COMPILER_CACHE in os.environ:
            with suppress(OSError):  # it is not empty: another program uses it
                Path(os.environ.pop(_COMPILER_CACHE)).rmdir()


def _run(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for argument in arguments:
            _check_text(argument)
        if arguments or _COMPLETE in os.environ:  # a shell asks for completions without arguments
            code = typer.main.get_command(app).main(
                args=arguments, prog_name="mpu", standalone_mode=False, obj={"arguments": arguments}
            )
        else:
            code = print(WHERE_TO_BEGIN)
        sys.stdout.flush()
        # typer returns this code for Ctrl-C and prints nothing.
        if code == INTERRUPTED and _is_first_process():
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except ReaderLeftError as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail(StoppedError("interrupted; nothing was written"), arguments)
    except typer.TyperException as error:
        return _fail(usage_error(error), arguments) if error.format_message() else 2
    except BaseException as error:
        # A panic of a library in Rust is no Exception, but is an error of what it was reading.
        panic = type(error).__name__ == "PanicException"
        if os.environ.get("MPU_DEBUG") == "1" or not (panic or isinstance(error, Exception)):
            raise
        return _fail(error if isinstance(error, MpuError) else _mpu_error(error), arguments)


def usage_error(error: typer.TyperException) -> UsageError:
    """An error that typer found in a command line, in our words."""
    message, _, commands = error.format_message().partition(". Did you mean ")
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path if context else 'mpu'} --help"
    variable = getattr(getattr(error, "param", None), "envvar", None)
    if commands:
        hint = f"did you mean {commands.replace(chr(39), '')}"
    elif variable and message.startswith("Missing"):
        hint = f"give it, or set {variable}; {hint}"
    elif options := getattr(error, "possibilities", None):
        message = str(error)
        hint = did_you_mean(getattr(error, "option_name", ""), options, hint) or hint
    return UsageError(message[:1].lower() + message[1:].rstrip("."), hint)


def _mpu_error(error: BaseException) -> MpuError:
    if isinstance(error, OSError) and error.filename is not None:
        name = printable(os.fsdecode(error.filename), "utf-8")
        return BadInputError(f"{name}: {error.strerror}")
    first_line = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, RuntimeError) and first_line.startswith("Symlink loop from "):
        name = printable(first_line.removeprefix("Symlink loop from ").strip("'"), "utf-8")
        return BadInputError(f"{name}: is a link that leads to itself", "remove the link")
    # The tokenizers library raises these two and nothing more special.
    if type(error) is Exception or type(error).__name__ == "PanicException":
        return BadInputError(
            f"the tokenizer fails on a text: {first_line[:200]}",
            "use the tokenizer that the model was published with",
        )
    return InternalError(
        f"internal error: {type(error).__name__}: {first_line}",
        "please report it; MPU_DEBUG=1 shows where",
    )


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print each `MpuWarning` once, in our form; leave other warnings to Python."""
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


def _is_first_process() -> bool:
    from mpu_cli.modeling.processes import this_process

    return this_process().is_first


def _check_text(argument: str) -> None:
    """Refuse a text that is not UTF-8 before any work: our files and the libraries' paths are.

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
            f"{name}: this locale reads it as {coding}, but it is UTF-8",
            "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(error: MpuError, arguments: list[str]) -> int:
    """Print an error and return its exit code."""
    code = error.exit_code
    if wants_json(arguments):
        with suppress(OutputError):  # then it is printed on stderr
            print_json({"error": error_fields(error)})
            sys.stdout.flush()
            return code
    print(f"mpu: error: {_one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"mpu: hint: {_one_line(error.hint)}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """The names in a message may come from the other party."""
    return one_line(printable(text, "utf-8"))
