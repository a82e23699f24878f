"""Standard output and standard error as they come.

In any encoding, closed, on a full disk, or with nobody reading.

A result that cannot be printed is an error of exit code 3, because whoever asked for it did not get
it. A message that cannot be printed is dropped: work that takes hours does not end because of a
warning.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from mpu_cli.errors import OutputError

_PLAIN = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "Δ": "Delta",
    "ε": "epsilon",
    "η": "eta",
    "θ": "theta",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "ξ": "xi",
    "π": "pi",
    "Π": "Prod",
    "σ": "sigma",
    "Σ": "Sum",
    "ℓ": "l",
    "→": "->",
    "←": "<-",
    "–": "-",
    "—": "-",
    "−": "-",
    "·": "*",
    "×": "x",
    "⊕": "(+)",
    "⊙": "(*)",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∝": "~",
    "√": "sqrt",
    "∞": "inf",
    "‖": "||",
    "⟦": "[[",
    "⟧": "]]",
    "°": " degrees",
    "⁻": "^-",
    "✓": "yes",
    "✗": "no",
    "§": "section ",
    "↑": "^",
    "↓": "v",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "«": '"',
    "»": '"',
}
"""What our own messages hold and an encoding may lack. Letters with accents lose them; the rest becomes a question mark."""


class ReaderLeftError(OutputError):
    """Whoever read the other end of the pipe has gone, as `head` does.

    Nobody is there to be told.
    """


def printable(text: str, encoding: str) -> str:
    """The text with whatever this encoding lacks replaced.

    Bytes of a path that is not UTF-8 as `\\xNN`.
    """
    return text.encode(encoding, "mpu.plain").decode(encoding)


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on standard output.

    Letters that its encoding lacks are escaped, so that no value changes.
    """
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(data)
    print(text)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Put a stream that replaces what cannot be printed in the place of both.

    Raises:
        ReaderLeftError, OutputError: whoever writes a result is told so where it cannot be written.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = cast("TextIO", _Stream(before[0], must_arrive=True))
    sys.stderr = cast("TextIO", _Stream(before[1], must_arrive=False))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def reserve_numbers() -> None:
    """Open /dev/null under the numbers 0, 1 and 2 that are closed.

    Otherwise the next file that is opened for writing gets one of them, and what a library prints
    lands in it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


class _Stream:
    """A text stream around another one, or around None, which is what Python has for a closed one."""

    def __init__(self, target: TextIO | None, *, must_arrive: bool) -> None:
        self._target = target
        self._must_arrive = must_arrive
        self.works = True

    @property
    def encoding(self) -> str:
        return getattr(self._target, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        self._pass_on("write", printable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        # A closed stream has nothing to flush: only what was to be said and was not is an error.
        if self._target is not None:
            self._pass_on("flush")

    def isatty(self) -> bool:
        return self._target is not None and not self._target.closed and self._target.isatty()

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # typer would write UTF-8 bytes there where the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._target, name)

    def _pass_on(self, action: str, *text: str) -> None:
        try:
            if not self.works or self._target is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            getattr(self._target, action)(*text)
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            self._discard_the_rest()
            if self._must_arrive:
                raise _complaint(error) from error

    def _discard_the_rest(self) -> None:
        """Python flushes once more when it ends, and would complain then in its own words."""
        if not self.works:
            return
        self.works = False
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _complaint(error: OSError | ValueError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return ReaderLeftError("standard output: nobody reads it")
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"standard output: {why}; the result was not printed",
        "what the command wrote to files is complete",
    )


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python holds a byte of a path that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    without_accents = "".join(
        part for part in unicodedata.normalize("NFKD", letter) if part.isascii()
    )
    return _PLAIN.get(letter) or without_accents or ("" if unicodedata.combining(letter) else "?")


codecs.register_error("mpu.plain", _replace)
