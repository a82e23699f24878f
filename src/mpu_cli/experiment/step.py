"""One step of an experiment: a command of one party, in a directory of its own.

A step is a pure function: its result follows from its words, the results of the steps it reads,
the digests of the user's files it reads, and the versions of the programs. Its key is a digest of
all that, so a finished step is recognised in every plan that has it, before anything is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Party = Literal["server", "client", "observer"]
"""Who runs a step. The observer has both parties' results and measures them."""


@dataclass(frozen=True, slots=True)
class Result:
    """A path below the directory of an earlier step, for example "handoff" or "server/model"."""

    step: str
    """The name of the step that writes it."""
    path: str


@dataclass(frozen=True, slots=True)
class Own:
    """A path below this step's own directory: what it writes."""

    path: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file or a model directory of the user."""

    path: str
    """Absolute."""
    digest: str
    """SHA-256 of the file, or of a model's weights and side files, in hexadecimal."""
    prefix: str = ""
    """What stands before the path in its word: "NAME=" for `--knowledge NAME=FILE`."""
    files: tuple[str, ...] = ()
    """The files that the digest is of, each as `source_state` writes it."""


def source_state(path: Path) -> str:
    """Size, time of the last write and path of a file: enough to notice that it was altered.

    Raises:
        OSError: there is no such file.
    """
    about = path.stat()
    return f"{about.st_size}:{about.st_mtime_ns}:{path}"


def altered(states: Iterable[str]) -> str | None:
    """The first file that is not as `source_state` has written it."""
    for state in states:
        path = state.split(":", 2)[2]
        try:
            if source_state(Path(path)) != state:
                return path
        except OSError:
            return path
    return None


Word = str | Result | Own | Source
"""One word of a command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command with its inputs and outputs."""

    name: str
    """Unique in its graph and readable: "GradDiff kappa=0.1 copies=3 seed=1 / round 1 / eval"."""
    kind: str
    """What it does, for time estimates and log lines: perturb, unlearn, aggregate, eval, …"""
    party: Party
    words: tuple[Word, ...]
    """The command line after the program: `mpu WORDS…`, or `python -m PROGRAM WORDS…`."""
    program: str = "mpu_cli"
    """The module that is run."""
    outputs: tuple[str, ...]
    """Paths below the step's directory that exist once it is done; also stdout.json, always."""
    copied: Mapping[str, Result] = field(default_factory=dict)
    """What the command changes: copied to this path of its directory first (the secret)."""
    draw: str | None = None
    """Decides the noise of a `perturb` step instead of the operating system's generator."""
    resume: tuple[str, ...] = ()
    """Words that are added where an interrupted attempt left its directory (--resume)."""
    is_kept: bool = False
    """Its outputs stay; otherwise they go as soon as no step needs them (stdout.json stays)."""

    def inputs(self) -> Iterator[Result]:
        """What it reads of earlier steps."""
        yield from (word for word in self.words if isinstance(word, Result))
        yield from self.copied.values()

    def needs(self) -> frozenset[str]:
        """The names of the steps that must be done before."""
        return frozenset(result.step for result in self.inputs())


@dataclass(frozen=True, slots=True)
class Graph:
    """All steps of a plan, by name."""

    steps: Mapping[str, Step]

    def keys(self, versions: Mapping[str, str]) -> dict[str, str]:
        """The key of every step: 32 hexadecimal digits.

        Args:
            versions: names and versions of the programs whose change could change a result.

        Raises:
            graphlib.CycleError: a step needs itself.
            KeyError: a step needs one that the graph does not have.
        """
        from graphlib import TopologicalSorter

        keys: dict[str, str] = {}
        order = TopologicalSorter({name: step.needs() for name, step in self.steps.items()})
        for name in order.static_order():
            keys[name] = _key(self.steps[name], keys, versions)
        return keys


def _key(step: Step, keys: Mapping[str, str], versions: Mapping[str, str]) -> str:
    def plain(word: Word) -> Any:
        match word:
            case Result(name, path):
                return ["result", keys[name], path]
            case Own(path):
                return ["own", path]
            case Source(_, digest, prefix):
                return ["source", prefix, digest]
            case _:
                return word

    content = {
        "program": step.program,
        "words": [plain(word) for word in step.words],
        "copied": {path: plain(result) for path, result in sorted(step.copied.items())},
        "draw": step.draw,
        "versions": dict(versions),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
