"""The errors of mpu, each with an exit code that scripts can rely on (docs/exit-codes.md).

`message` says what is wrong and names the file, tensor or flag; `hint` says what to do. Both are
one line in lower case without a full stop. Only `cli/app.py` prints them.
"""

from __future__ import annotations


class MpuError(Exception):
    """Base of all errors for the user: a message, a hint, and an exit code."""

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MpuWarning(UserWarning):
    """Something that a user must read and that stops nothing; `mpu` prints it on stderr."""


class CheckFailedError(MpuError):
    """A check rejected well-formed input (exit 1)."""

    exit_code = 1


class FunctionChangedError(CheckFailedError):
    """A reparameterized layer does not compute what the original layer computes."""


class GateError(CheckFailedError):
    """A rule of the lineage or of aggregation rejected an update or a model."""


class SignatureError(CheckFailedError):
    """A signature does not fit its manifest, or is not by whom it must be, or is missing."""


class StoppedError(MpuError):
    """Ctrl-C or SIGTERM stopped the work (exit 130); the message says what was saved."""

    exit_code = 130


class BusyError(CheckFailedError):
    """Another mpu process is writing to the same place."""


class UsageError(MpuError):
    """The command line is contradictory, or a value is out of range (exit 2)."""

    exit_code = 2


class BadInputError(MpuError):
    """An input is invalid (exit 3)."""


class BadModelError(BadInputError):
    """A model directory is missing, truncated, quantised, of an unknown type, or unsafe."""


class BadBundleError(BadInputError):
    """A handoff or an update is malformed or was altered."""


class BadSecretError(BadInputError):
    """A server's secret directory is malformed, was altered, or is not readable."""


class BadDataError(BadInputError):
    """A data file has an invalid row; the message names file and line."""


class OutputError(BadInputError):
    """The result cannot be written: the target exists, or the disk is full."""
