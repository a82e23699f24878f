"""Record `mpu demo` in a terminal and draw it: `make docs/images/demo.svg`.

The drawing replays what was printed, line by line, faster than it was; the column on the right has
the true time. Paths of this checkout are shortened, and nothing else is changed. After the replay,
or where nothing moves, the whole text is shown.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from svg import document

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 100, 40
LINE, LEFT, TOP, CHARACTER = 17, 14, 44, 7.23
"""Pixels: height of a line, margins, width of a character at 12 px."""
LONGEST_WAIT = 1.2
"""Seconds between two lines of the replay, at most."""
_BOLD = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line and when it was complete, in seconds after the start."""

    seconds: float
    text: str


def record(command: list[str], folder: str) -> list[Line]:
    """Run a command in a pseudo-terminal; what it printed, line by line.

    Raises:
        SystemExit: the command failed.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        os.execvp(command[0], command)  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, rest, lines = time.monotonic(), b"", []
    while chunk := _read(terminal):
        *complete, rest = (rest + chunk).split(b"\n")
        seconds = time.monotonic() - start
        lines += [Line(seconds, _OTHER_SEQUENCE.sub("", part.decode())) for part in complete]
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{command}: exit code {code}")
    return [
        Line(line.seconds, line.text.rpartition("\r")[2] or line.text.rstrip("\r"))
        for line in lines
    ]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says EIO when the command has ended
        return b""


def wrapped(line: Line) -> list[list[tuple[bool, str]]]:
    """The rows that a line takes in the terminal, each as (bold, text) spans."""
    rows: list[list[tuple[bool, str]]] = [[]]
    bold, column = False, 0
    for index, part in enumerate(_BOLD.split(line.text.replace(str(ROOT), "/home/you/mpu"))):
        if index % 2:
            bold = part in {"1", "1;39"} or (bold and part not in {"", "0"})
            continue
        while part:
            room = COLUMNS - column
            rows[-1].append((bold, part[:room]))
            column, part = column + len(part[:room]), part[room:]
            if part:
                rows.append([])
                column = 0
    return rows


def draw(lines: list[Line]) -> str:
    """The recording as an animated picture."""
    parts, rules, replay, last, row = [], [], 0.6, 0.0, 0
    for line in [Line(0, "\x1b[1m$ mpu demo\x1b[0m"), *lines]:
        replay += min(LONGEST_WAIT, max(0.08, (line.seconds - last) / 10))
        last = line.seconds
        for number, spans in enumerate(wrapped(line)):
            y = TOP + LINE * row
            row += 1
            text = "".join(
                f'<tspan class="{"bold" if bold else "plain"}">{escape(part, quote=False)}</tspan>'
                for bold, part in spans
            )
            clock = f"{int(line.seconds) // 60}:{int(line.seconds) % 60:02d}"
            right = LEFT + CHARACTER * (COLUMNS + 6)
            shown = (
                f'<text class="words mono" text-anchor="end" x="{right:.0f}" y="{y}">{clock}</text>'
            )
            parts.append(
                f'<g class="line" style="animation-delay: {replay:.2f}s">'
                f'<text class="mono" xml:space="preserve" x="{LEFT}" y="{y}">{text}</text>'
                f"{shown if number == 0 and line.text.strip() else ''}</g>"
            )
    rules = [
        "@keyframes show { from { opacity: 0; } to { opacity: 1; } }",
        ".line { animation: show 0.05s linear backwards; }",
        ".bold { font-weight: 600; }",
        "@media (prefers-reduced-motion: reduce) { .line { animation: none; } }",
    ]
    width, height = 2 * LEFT + CHARACTER * (COLUMNS + 6), TOP + LINE * row + 6
    frame = [
        f"<style>{' '.join(rules)}</style>",
        f'<rect class="box shared" x="1" y="1" width="{width - 2:.0f}" height="24" rx="6"/>',
        f'<text class="words" x="{LEFT}" y="17">a recording of mpu demo, replayed faster;'
        " on the right minutes and seconds of the run</text>",
    ]
    return document(width, height, "A recording of mpu demo", [*frame, *parts])


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        sys.stdout.write(draw(record([*sys.argv[1:], "demo"], scratch)))
