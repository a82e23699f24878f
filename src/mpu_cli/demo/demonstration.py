"""`mpu demo`: one round of the protocol on the embedded model and data, beside the noise-free baseline."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mpu_cli.data.rows import read_rows
from mpu_cli.demo.parties import Party
from mpu_cli.errors import CheckFailedError
from mpu_cli.evaluation.answer_scores import answer_probabilities

Tell = Callable[[str], None]

OFFSET = 0.1
KAPPA = 0.03
"""The default's .1 is 2 to 4 % of these small weights, which is too much for the update's error to be small."""
PERTURB = ("perturb", "model", "--base", "base", "--kappa", f"{KAPPA:g}")
RECIPE = ("--method", "GradDiff", "--epochs", "8", "--round", "1")
"""All else is the default; what it does to this model with and without noise is in docs/decisions/0004."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured. Probabilities are mean answer probabilities on (forget, retain)."""

    before: tuple[float, float]
    noise_free: tuple[float, float]
    mpu: tuple[float, float]
    exposure: dict[str, float]
    exposure_with_offset: dict[str, float]
    agreement: float
    directory: Path | None


def assets() -> Path:
    """The embedded base, model and data."""
    return Path(str(resources.files(__package__).joinpath("assets")))


def run_demo(tell: Tell, keep: Path | None = None) -> DemoResult:
    """Play both parties; `keep` is a new directory for everything that was made (else it is removed).

    Raises:
        CheckFailedError: a step failed, or one party could read the other's files.
    """
    root = keep or Path(tempfile.mkdtemp(prefix="mpu-demo-"))
    finished = False
    try:
        server = _party(root, "server", ("base", "model"))
        client = _party(root, "client", ("forget.jsonl", "retain.jsonl"))
        exposure, agreement = _round(tell, server, client)
        with_offset = _offset(tell, server, client)
        baseline = _noise_free(tell, root)
        tell("measure  mean answer probability of three models on the client's rows")
        sets = [read_rows(client.directory / name) for name in ("forget.jsonl", "retain.jsonl")]
        before, free, after = (
            _pair(answer_probabilities(path, sets))
            for path in (server.directory / "model", baseline, server.directory / "model-next")
        )
        finished = True
        return DemoResult(before, free, after, exposure, with_offset, agreement, keep)
    finally:
        if keep is None or not finished:
            shutil.rmtree(root, ignore_errors=True)


def _party(root: Path, name: str, belongings: tuple[str, ...]) -> Party:
    directory = root / name
    directory.mkdir(mode=0o700, parents=True)
    for item in belongings:
        source = assets() / item
        if source.is_dir():
            shutil.copytree(source, directory / item)
        else:
            shutil.copyfile(source, directory / item)
    return Party(name, directory)


def _round(tell: Tell, server: Party, client: Party) -> tuple[dict[str, float], float]:
    perturbed = _say_and_run(
        tell, server, client, *PERTURB, "--handoff", "to-client", "--secret", "secret"
    )
    secret = server.directory / "secret" / "secret.yaml"
    if not client.cannot_read(server, secret) or not server.cannot_read(
        client, client.directory / "forget.jsonl"
    ):
        raise CheckFailedError(
            "one party can read the other's files on this machine: the demo would prove nothing"
        )
    tell(
        "wall     the client's processes cannot read the server's secret, nor the server's the"
        " forget set (tried)"
    )
    server.carry("to-client", client)
    tell("courier  to-client: server → client")
    _say_and_run(tell, client, server, "verify", "to-client")
    _say_and_run(
        tell,
        client,
        server,
        "unlearn",
        "to-client",
        "--forget",
        "forget.jsonl",
        "--retain",
        "retain.jsonl",
        *RECIPE,
        "--out",
        "to-server",
    )
    client.carry("to-server", server)
    tell("courier  to-server: client → server")
    merged = _say_and_run(
        tell,
        server,
        client,
        "aggregate",
        "to-server",
        "--secret",
        "secret",
        "--model",
        "model",
        "--out",
        "model-next",
    )
    return perturbed["exposure"], float(merged["agreement"][0])


def _offset(tell: Tell, server: Party, client: Party) -> dict[str, float]:
    arguments = (
        "--handoff",
        "to-client-offset",
        "--new-lineage",
        "secret-offset",
        "--offset",
        f"{OFFSET:g}",
    )
    exposure: dict[str, float] = _say_and_run(tell, server, client, *PERTURB, *arguments)[
        "exposure"
    ]
    return exposure


def _noise_free(tell: Tell, root: Path) -> Path:
    """What both together would get without the protocol: the same recipe on the exact model."""
    both = _party(root, "both", ("model", "forget.jsonl", "retain.jsonl"))
    nobody = Party("nobody", root / "nobody")
    nobody.directory.mkdir()
    _say_and_run(
        tell,
        both,
        nobody,
        "unlearn",
        "model",
        "--forget",
        "forget.jsonl",
        "--retain",
        "retain.jsonl",
        *RECIPE,
        "--out",
        "noise-free",
    )
    return both.directory / "noise-free"


def _say_and_run(tell: Tell, party: Party, other: Party, *arguments: str) -> dict[str, Any]:
    tell(f"{party.name:<8} $ mpu {' '.join(arguments)}")
    return party.mpu(*arguments, away_from=other)


def _pair(values: list[float]) -> tuple[float, float]:
    forget, retain = values
    return forget, retain
