"""Registries: directories in which every file is an entry, so that adding one is adding a file.

A registry is a package of Python files or a directory of YAML files. Names that begin with `_` or
`.` are not entries: helper files of such a package start with `_`. A file is read only when an
entry is asked for. One that cannot be read (half written, an attribute missing, bad YAML) is named
in an `MpuWarning` and skipped, and so hinders no other entry and no command.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from mpu_cli.errors import BadInputError, MpuWarning, UsageError

Entry = TypeVar("Entry")
Loaded = TypeVar("Loaded")


class Registry(Generic[Entry]):
    """The entries of one directory."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        read: Callable[[Path], Iterable[Entry]],
        name: Callable[[Entry], str] = attrgetter("name"),
        suffix: str = ".py",
    ) -> None:
        """Touches no file.

        Args:
            kind: what an entry is, for messages: "metric".
            directory: where the files are.
            read: the entries that one file declares. Any exception means that the file is broken.
            name: the name of an entry; two entries of one name are a mistake.
            suffix: of the files.
        """
        self.kind, self.directory, self._suffix = kind, directory, suffix
        self._read, self._name = read, name

    def files(self) -> dict[str, Path]:
        """All files by their stem, sorted; no file is read."""
        return {path.stem: path for path in sorted(self.directory.glob(f"[!_.]*{self._suffix}"))}

    def entries(self) -> dict[str, Entry]:
        """All entries by name, in the order of their files.

        Broken files are skipped with a warning. Of two entries with one name the first is used, and
        a warning names both files.
        """
        entries: dict[str, Entry] = {}
        owners: dict[str, Path] = {}
        for path in self.files().values():
            try:
                declared = [(self._name(entry), entry) for entry in self._read(path)]
            except Exception as error:
                warn(f"{path}: {reason(error)}; this {self.kind} is skipped")
                continue
            for name, entry in declared:
                if name in entries:
                    warn(
                        f"{path}: {owners[name].name} already declares the {self.kind} {name};"
                        " this one is skipped"
                    )
                else:
                    entries[name], owners[name] = entry, path
        return entries

    def load(self, stem: str, read: Callable[[Path], Loaded]) -> Loaded:
        """What `read` returns for one file.

        Raises:
            BadInputError: the file is broken.
        """
        path = self.files()[stem]
        try:
            return read(path)
        except Exception as error:
            raise BadInputError(
                f"{path}: {reason(error)}", f"correct or remove the file of this {self.kind}"
            ) from error


def attribute(package: str, name: str) -> Callable[[Path], Any]:
    """A reader of Python files: it imports a file of `package` and returns its attribute `name`."""
    return lambda path: getattr(import_module(f"{package}.{path.stem}"), name)


def instances(package: str, kind: type[Loaded]) -> Callable[[Path], list[Loaded]]:
    """A reader of Python files: it imports a file of `package` and returns what is a `kind`."""

    def read(path: Path) -> list[Loaded]:
        module = import_module(f"{package}.{path.stem}")
        if found := [value for value in vars(module).values() if isinstance(value, kind)]:
            return found
        raise ValueError(f"declares no {kind.__name__}")

    return read


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that is most like a word in either case, or None if none is like it."""
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, known: Collection[str], fallback: str | None = None) -> str | None:
    """The hint "did you mean NAME?", or the fallback if no name is like the word."""
    match = nearest(word, known)
    return fallback if match is None else f"did you mean {match}?"


def choose(flag: str, word: str, known: Collection[str], fallback: str | None = None) -> str:
    """The known name that a user means by a word, in upper or lower case.

    Raises:
        UsageError: there is none; the hint names the nearest, or is the fallback.
    """
    match = next((name for name in known if name.lower() == word.lower()), None)
    if match is None:
        raise UsageError(
            f"{flag} {word}: unknown, expected one of {', '.join(known)}",
            did_you_mean(word, known, fallback),
        )
    return match


def warn(text: str) -> None:
    """Warn of something that does not stop the command; it prints `mpu: warning: TEXT`."""
    warnings.warn(text, MpuWarning, stacklevel=2)


def reason(error: Exception) -> str:
    """Why a file is broken, in one line."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    if (mark := getattr(error, "problem_mark", None)) is not None:  # of PyYAML
        return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'not valid YAML'}"
    lines = str(error).splitlines() or [""]
    return lines[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {lines[0]}"
