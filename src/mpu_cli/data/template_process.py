"""The child process that runs chat templates: start it, ask it, end it when it takes too long."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

from mpu_cli.errors import BadInputError
from mpu_cli.foreign_text import shown

_SECONDS, _MAX_BYTES = 3, 200 << 20
"""The program's limits: CPU time, and the text with every character escaped."""
_WAIT = 20 * _SECONDS  # on the clock, where other processes take most of the CPU
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from mpu_cli.data.template_program import main; main()"
)
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
"""A Python of a cluster's modules finds its own library by one of these."""


class TemplateLimitError(Exception):
    """A template exceeded a limit; the message is the end of a sentence about it."""


class _Child:
    """One process, used by one process: after a fork the child of the fork starts its own."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", PROGRAM, *map(os.path.abspath, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
            | {name: os.environ[name] for name in _LIBRARIES if name in os.environ},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        errors = self._process.stderr
        assert errors is not None
        try:
            self._require_ready(errors)
        finally:
            errors.close()

    def _require_ready(self, errors: IO[bytes]) -> None:
        if self._answer(time.monotonic() + _WAIT):
            return
        self.end()
        last = (errors.read(_MAX_BYTES).decode(errors="replace").strip().splitlines() or ["?"])[-1]
        raise BadInputError(
            f"{sys.executable}: chat templates run in a process of their own, and it does not"
            f" start: {shown(last)}",
            "this is no fault of the model: report it with the last line",
        )

    def ask(self, data: bytes) -> bytes:
        """Send a message and return the answer; empty if the process ended."""
        try:
            self._input.write(len(data).to_bytes(4, "big") + data)
            self._input.flush()
        except OSError:
            return b""
        return self._answer(time.monotonic() + _WAIT)

    def _answer(self, end: float) -> bytes:
        head = self._read(4, end)
        size = int.from_bytes(head, "big")
        if len(head) < 4 or size > _MAX_BYTES:
            return b""
        answer = self._read(size, end)
        return answer if len(answer) == size else b""

    def end(self) -> None:
        """End the process."""
        if self.owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output):
            with suppress(OSError):
                stream.close()

    def _read(self, size: int, end: float) -> bytes:
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while len(data) < size and selector.select(max(0.0, end - time.monotonic())):
                part = os.read(self._output.fileno(), min(size - len(data), 1 << 20))
                if not part:
                    break
                data += part
        return bytes(data)


_lock = threading.Lock()
_child: _Child | None = None


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Have one template parsed or rendered.

    Returns:
        The answer: `text`, `reads` or `error`.

    Raises:
        TemplateLimitError: it takes too much time or memory, or prints too much.
        BadInputError: the process cannot be started.
    """
    global _child
    with _lock:
        if _child is None or _child.owner != os.getpid():
            try:
                _child = _Child()
            except OSError as error:
                raise BadInputError(
                    f"{sys.executable}: {error.strerror}; chat templates run in a process of their"
                    " own",
                ) from error
            atexit.register(_child.end)
        data = _child.ask(json.dumps(request).encode("ascii"))
        if not data:
            atexit.unregister(_child.end)
            _child.end()
            _child = None
            raise TemplateLimitError(
                f"takes more than {_SECONDS} s or ends the process that runs it"
            )
    answer: dict[str, Any] = json.loads(data)
    if "limit" in answer:
        raise TemplateLimitError(answer["limit"])
    return answer
