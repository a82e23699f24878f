"""`mpu demo`: one round of the protocol on the embedded model, and the noise-free baseline."""

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

Print = Callable[[str], None]

OFFSET = 0.1
KAPPA = 0.03
"""The default, .1, is 2 to 4 % of these small weights: too much for a small error of the update."""
PERTURB = ("perturb", "model", "--base", "base", "--kappa", f"{KAPPA:g}")
_ROWS = "--forget forget.jsonl --retain retain.jsonl"
RECIPE = ("--method", "GradDiff", "--epochs", "8", "--round", "1")
"""Other settings are defaults; docs/decisions/0004 has their effect with and without noise."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The demo's results. Probabilities are mean answer probabilities on (forget, retain)."""

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


def run_demo(print_line: Print, keep: Path | None = None) -> DemoResult:
    """Play both parties; `keep` is a new directory for all files, which are removed without it.

    Raises:
        CheckFailedError: a step failed, or one party could read the other's files.
    """
    root = keep or Path(tempfile.mkdtemp(prefix="mpu-demo-"))
    finished = False
    try:
        server = _party(root, "server", ("base", "model"))
        client = _party(root, "client", ("forget.jsonl", "retain.jsonl"))
        exposure, agreement = _round(print_line, server, client)
        with_offset = _offset(print_line, server, client)
        baseline = _noise_free(print_line, root)
        print_line("measure  mean answer probability of three models on the client's rows")
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


def _round(print_line: Print, server: Party, client: Party) -> tuple[dict[str, float], float]:
    def run(party: Party, other: Party, command: str) -> dict[str, Any]:
        return _run(print_line, party, other, *command.split())

    perturbed = run(
        server, client, " ".join((*PERTURB, "--handoff", "to-client", "--secret", "secret"))
    )
    secret = server.directory / "secret" / "secret.yaml"
    if not client.cannot_read(server, secret) or not server.cannot_read(
        client, client.directory / "forget.jsonl"
    ):
        raise CheckFailedError(
            "one party can read the other's files on this machine: the demo would prove nothing",
            "run it on a Linux file system that keeps file modes",
        )
    print_line(
        "wall     the client's processes cannot read the server's secret, and the server's cannot"
        " read the forget set (tested)"
    )
    server.carry("to-client", client)
    print_line("courier  to-client: server → client")
    run(client, server, "verify to-client")
    run(client, server, f"unlearn to-client {_ROWS} {' '.join(RECIPE)} --out to-server")
    client.carry("to-server", server)
    print_line("courier  to-server: client → server")
    merged = run(
        server, client, "aggregate to-server --secret secret --model model --out model-next"
    )
    return perturbed["exposure"], float(merged["agreement"][0])


def _offset(print_line: Print, server: Party, client: Party) -> dict[str, float]:
    options = ("--handoff", "to-client-offset", "--new-lineage", "secret-offset")
    perturbed = _run(print_line, server, client, *PERTURB, *options, "--offset", f"{OFFSET:g}")
    exposure: dict[str, float] = perturbed["exposure"]
    return exposure


def _noise_free(print_line: Print, root: Path) -> Path:
    """Run the same recipe on the exact model, as both parties could without the protocol."""
    both = _party(root, "both", ("model", "forget.jsonl", "retain.jsonl"))
    nobody = Party("nobody", root / "nobody")
    nobody.directory.mkdir()
    command = ("unlearn", "model", *_ROWS.split(), *RECIPE, "--out", "noise-free")
    _run(print_line, both, nobody, *command)
    return both.directory / "noise-free"


def _run(print_line: Print, party: Party, other: Party, *arguments: str) -> dict[str, Any]:
    print_line(f"{party.name:<8} $ mpu {' '.join(arguments)}")
    return party.mpu(*arguments, away_from=other)


def _pair(values: list[float]) -> tuple[float, float]:
    forget, retain = values
    return forget, retain
