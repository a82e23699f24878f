"""Standard output and standard error in any encoding, closed, or on a full disk.

If mpu cannot print a result, it exits with code 3. If it cannot print a message, it drops the
message: hours of work must not end because of a warning.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from mpu_cli.errors import OutputError
from mpu_cli.foreign_text import visible

_PAIRS = r"""
    α alpha  β beta  γ gamma  δ delta  Δ Delta  ε epsilon  η eta  θ theta  κ kappa  λ lambda
    Λ Lambda  μ mu  ξ xi  π pi  Π Prod  σ sigma  Σ Sum  τ tau  ℓ l  → ->  ← <-  – -  — -  − -  · *
    × x  ⊕ (+)  ⊙ (*)  ± +-  ≤ <=  ≥ >=  ≠ !=  ≈ ~  ∝ ~  √ sqrt  ∞ inf  ‖ ||  ⟦ [[  ⟧ ]]  ⟨ <  ⟩ >
    ⁻ ^-  ρ rho  ∇ grad  ✓ yes  ✗ no  ↑ ^  ↓ v  ‘ '  ’ '  “ "  ” "  « "  » "
"""
_PLAIN = {
    **dict(zip(_PAIRS.split()[::2], _PAIRS.split()[1::2], strict=True)),
    "°": " degrees",
    "§": "section ",
}
"""Plain text for the symbols of our messages, in case an encoding lacks them.

Other letters lose their accents or become a question mark.
"""


class ReaderLeftError(OutputError):
    """The reader closed the pipe, as `head` does, so there is no one to show an error to."""


def printable(text: str, encoding: str) -> str:
    """Replace characters that an encoding lacks, and bytes of a non-UTF-8 path by `\\xNN`."""
    return text.encode(encoding, "mpu.plain").decode(encoding)


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object; characters that cannot be seen or encoded are escaped."""
    import json

    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
        same = visible(text) == text  # else a terminal obeys it, though JSON allows it
    except UnicodeEncodeError:
        same = False
    print(text if same else json.dumps(data))


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Replace both streams with ones that substitute unprintable characters.

    Writing to standard output raises ReaderLeftError or OutputError if it fails.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = cast("TextIO", _Stream(before[0], must_arrive=True))
    sys.stderr = cast("TextIO", _Stream(before[1], must_arrive=False))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def reserve_numbers() -> None:
    """Open /dev/null for each closed file descriptor 0, 1 and 2.

    The next file would get such a descriptor, and libraries would print into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


class _Stream:
    """A text stream around another one, or around None, Python's value for a closed stream."""

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
        # A closed stream has nothing to flush; only a lost write is an error.
        if self._target is not None:
            self._pass_on("flush")

    def isatty(self) -> bool:
        return self._target is not None and not self._target.closed and self._target.isatty()

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # typer would write UTF-8 bytes to it even if the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._target, name)

    def _pass_on(self, action: str, *text: str) -> None:
        try:
            if not self.works or self._target is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            getattr(self._target, action)(*text)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._discard_the_rest()
            if self._must_arrive:
                raise _output_error(error) from error

    def _discard_the_rest(self) -> None:
        """Redirect the stream to /dev/null, because Python flushes again at exit and would fail."""
        if not self.works:
            return
        self.works = False
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _output_error(error: OSError | ValueError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return ReaderLeftError("standard output: the reader closed the pipe")
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"standard output: {why}; the result was not printed",
        "redirect standard output to another file; the files that the command wrote are complete",
    )


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # Python's code for a byte of a path that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    without_accents = "".join(
        part for part in unicodedata.normalize("NFKD", letter) if part.isascii()
    )
    return _PLAIN.get(letter) or without_accents or ("" if unicodedata.combining(letter) else "?")


codecs.register_error("mpu.plain", _replace)
