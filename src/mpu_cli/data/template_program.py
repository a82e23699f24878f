"""The program of the child process that runs chat templates (rendering.py has the other end).

A template is a program of the other party. jinja's sandbox keeps it from our objects, but not from
using time and memory, and sandboxes have had holes; so it runs where it has limits, no environment
variables, and cannot open a file or start a process. Standard input and output carry messages: four
bytes of length, then JSON.

transformers renders with the clock (`strftime_now`), and jinja has two random functions (`random`,
`lipsum`), so the same row could become other tokens tomorrow. Apart from these, the environment is
the one that templates are written for: sandboxed, blocks trimmed, with `raise_exception`, `tojson`,
`break` and `continue`, and `{% generation %}`.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from datetime import date
from functools import lru_cache
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mpu_cli.data.dates import format_day

SECONDS, MEGABYTES = 3, 256
"""The limits of one rendering, in CPU time, and of the process, in address space."""
MAX_TEXT = 16 << 20
"""The longest rendering, in characters."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LOCALE_NUMBER = re.compile(r"\{[^{}]*:[^{}]*n\}")
_LATER = """
    encodings.ascii encodings.latin_1 encodings.unicode_escape html jinja2.debug jinja2.runtime
    linecache pprint textwrap traceback urllib.parse
"""
"""Modules that jinja imports when it needs them, which it cannot once no file may be opened."""


def main() -> None:
    """Answer requests until the standard input ends."""
    for name in _LATER.split():
        import_module(name)
    _limit()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    write_message(target, {"ready": True})
    while (request := read_message(source)) is not None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
        try:
            answer = _answer(request)
        except MemoryError:
            answer = {"limit": f"needs more than {MEGABYTES} MB"}
        except Exception as error:  # a template may raise anything
            answer = {"error": str(error)[:2000] or type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(target, answer)


def read_message(source: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end."""
    head = source.read(4)
    if len(head) < 4:
        return None
    data = source.read(int.from_bytes(head, "big"))
    message: dict[str, Any] = json.loads(data)
    return message


def write_message(target: BinaryIO, message: dict[str, Any]) -> None:
    """Send a message; half characters stay as they are, because all but ASCII is escaped."""
    data = json.dumps(message).encode("ascii")
    target.write(len(data).to_bytes(4, "big") + data)
    target.flush()


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEGABYTES << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if "given" not in request:
        tree = _environment().parse(request["source"])
        return {"reads": sorted(meta.find_undeclared_variables(tree))}
    template = _compiled(request["source"], date.fromisoformat(request["day"]))
    text = str(template.render(**request["given"], tools=None, documents=None))
    if len(text) > MAX_TEXT:
        return {"limit": f"prints more than {MAX_TEXT >> 20} MiB"}
    return {"text": text}


@lru_cache(maxsize=4)
def _compiled(source: str, day: date) -> Any:
    environment = _environment()
    environment.globals["strftime_now"] = lambda wanted: format_day(day, str(wanted))
    tree = environment.parse(source)
    if any(
        attribute.attr in ("format", "format_map") for attribute in tree.find_all(nodes.Getattr)
    ):
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str) and _LOCALE_NUMBER.search(constant.value):
                raise TemplateError(
                    f"the number format {constant.value!r} depends on the machine's locale"
                )
    return environment.from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        finalize=_finalize,
    )
    environment.filters["tojson"] = _to_json
    environment.filters["random"] = lambda *_: _refuse_random("random")
    environment.globals["lipsum"] = lambda *_, **__: _refuse_random("lipsum")
    environment.globals["raise_exception"] = _raise
    environment.globals["dict"] = lambda *pairs, **items: dict(*pairs, **items)
    return environment


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model wrote; here it is a plain block."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements between the two tags, in a scope of their own."""
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


def _finalize(value: Any) -> Any:
    """Refuse to print an object whose text is its address in memory: it differs in every run."""
    if not isinstance(value, str | int | float | None) and _ADDRESS.search(str(value)):
        raise SecurityError(
            f"it prints an object ({type(value).__name__}) whose text differs in every run"
        )
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse_random(name: str) -> NoReturn:
    raise TemplateError(
        f"it uses random numbers ({name}), so the same row would become another prompt each time"
    )


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


if __name__ == "__main__":
    main()
