"""Every way in which mpu says no, with the exit code that scripts may rely on (docs/exit-codes.md).

A message says what, where, expected and found; a hint says what to do next. Only `cli/app.py`
prints or exits.
"""

from __future__ import annotations


class MpuError(Exception):
    """Base of all errors that a user is meant to read: one line, a remedy, an exit code."""

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MpuWarning(UserWarning):
    """Something that a user must read and that stops nothing; `mpu` prints it on stderr."""


class CheckFailedError(MpuError):
    """A check or gate looked at well-formed input and said no (exit 1)."""

    exit_code = 1


class FunctionChangedError(CheckFailedError):
    """A reparameterized layer does not compute what the original layer computes."""


class GateError(CheckFailedError):
    """An update or a model was refused by a rule of the lineage or of aggregation."""


class StoppedError(MpuError):
    """Ctrl-C or SIGTERM ended the work (exit 130); the message says what was kept, if anything."""

    exit_code = 130


class BusyError(CheckFailedError):
    """Another mpu process is writing to the same place."""


class UsageError(MpuError):
    """The command line contradicts itself or the documented ranges (exit 2)."""

    exit_code = 2


class BadInputError(MpuError):
    """Something that was read is not what it must be (exit 3)."""


class BadModelError(BadInputError):
    """A model directory cannot be used: missing, truncated, quantised, unknown, unsafe."""


class BadBundleError(BadInputError):
    """A handoff or an update is malformed or altered."""


class BadSecretError(BadInputError):
    """A server's secret directory is malformed, altered, or not readable."""


class BadDataError(BadInputError):
    """A data file has a row that cannot be used; the message names file and line."""


class OutputError(BadInputError):
    """The result cannot be written: the target exists, or the disk is full."""
