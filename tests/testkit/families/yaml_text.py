"""Text that YAML reads in surprising ways: bombs, aliases, tags, depth, base 60, encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import Case
from testkit.damage import only

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
TEXTS: dict[str, Callable[[str], str | bytes]] = {
    "a bomb of aliases": lambda text: BOMB + text,
    "an anchor": lambda text: text.replace("1\n", "&one 1\n", 1),
    "an alias": lambda text: text + '"x": *y\n',
    "a merge key": lambda text: text + "<<: {a: 1}\n",
    "a Python object": lambda text: (
        text + '"x": !!python/object/apply:os.system ["touch /tmp/x"]\n'
    ),
    "a tag": lambda text: text + '"x": !!int ""\n',
    "a tag of its own": lambda text: text + '"x": !secret y\n',
    "50,000 lists deep": lambda text: "[" * 50_000 + "]" * 50_000,
    "50,000 maps deep": lambda text: "".join(f"{' ' * 0}{{a: " for _ in range(50_000)),
    "base 60": lambda text: text + '"x": ' + "1:" * 400_000 + "1\n",
    "an integer of 900,000 digits": lambda text: text + '"x": ' + "9" * 900_000 + "\n",
    "a key twice": lambda text: text + text.splitlines(keepends=True)[-1],
    "two documents": lambda text: text + "---\n" + text,
    "a comment": lambda text: "# checked by me\n" + text,
    "a directive": lambda text: "%YAML 1.1\n---\n" + text,
    "single quotes": lambda text: text.replace('"', "'"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "UTF-16": lambda text: text.encode("utf-16"),
    "a NUL": lambda text: text + "\0",
    "bytes that are no text": lambda text: text.encode() + b"\xff\xfe",
    "a tab": lambda text: text.replace("  ", "\t", 1) if "  " in text else text + "\t\n",
    "a NaN": lambda text: text + '"x": .nan\n',
    "a complex key": lambda text: text + "? [a, b]\n: 1\n",
    "no final line break": lambda text: text.rstrip("\n"),
    "a list": lambda text: "- 1\n",
    "a word": lambda text: "hello\n",
    "two MiB of spaces": lambda text: text + " " * (2 << 20) + "\n",
    "100,000 opened quotes": lambda text: '"a\n' * 100_000,
    "keys in another order": lambda text: "".join(reversed(_blocks(text))),
}
LARGEST = {"secret": 1, "handoff": 1, "update": 1}


def _blocks(text: str) -> list[str]:
    """The lines of each key at the top, together."""
    blocks: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith('"'):
            blocks.append(line)
        else:
            blocks[-1] += line
    return blocks


def _write(path: Path, change: Callable[[str], str | bytes]) -> None:
    text = change(path.read_text())
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def cases() -> Iterator[Case]:
    """In the manifest of a handoff and of an update, in a secret and in its records."""
    for name, change in TEXTS.items():
        for thing, place in {
            "handoff": "mpu.yaml",
            "update": "mpu.yaml",
            "secret": "secret.yaml",
        }.items():
            yield Case(
                f"{thing}: {name}",
                thing,
                lambda x, w, place=place, change=change: _write(x / place, change),
            )
    for name in ("a bomb of aliases", "a Python object", "50,000 lists deep", "base 60"):
        yield Case(
            f"secret: a record with {name}",
            "secret",
            lambda x, w, name=name: _write(only(x / "models"), TEXTS[name]),
        )
        yield Case(
            f"plan: {name}", "plan", lambda x, w, name=name: _write(x / "plan.yaml", TEXTS[name])
        )
