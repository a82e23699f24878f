"""What an experiment's results come from: versions, digests of its inputs, keys of its steps."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mpu_cli
from mpu_cli import __version__
from mpu_cli.experiment.runs import Experiment
from mpu_cli.experiment.step import Source

_PROGRAMS = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "scipy",
    "cryptography",
    "jinja2",
    "rouge-score",
    "pyarrow",
)


@cache
def _own_source() -> str:
    """A digest of mpu's own files: a method that was edited is another program."""
    root, content = Path(mpu_cli.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in {".py", ".yaml"} and path.is_file():
            data = path.read_bytes()
            content.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return content.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The versions of the programs that decide the bits of a step."""
    found = {"mpu": f"{__version__} ({_own_source()})", "python": platform.python_version()}
    for name in _PROGRAMS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def provenance(
    experiment: Experiment, keys: Mapping[str, str], *, complete: bool
) -> dict[str, Any]:
    """What the results come from, without times and names of machines.

    Args:
        experiment: the plan and its steps.
        keys: the key of every step by name.
        complete: whether all steps are done.
    """
    directory = experiment.plan.directory
    sources = {
        # Relative, as in the plan: the results name no machine.
        os.path.relpath(word.path, directory): word.digest
        for step in experiment.graph.steps.values()
        for word in step.words
        if isinstance(word, Source)
    }
    return {
        "name": experiment.plan.name,
        "plan_sha256": hashlib.sha256(experiment.plan.text).hexdigest(),
        "complete": complete,
        "entropy": "prepared (origin: test): the noise follows from the plan and hides nothing",
        "versions": versions(),
        "sources": dict(sorted(sources.items())),
        "steps": dict(keys),
    }
