"""The settings of `mpu perturb`, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mpu_cli.checkpoint.settings import StorageSettings
from mpu_cli.errors import UsageError
from mpu_cli.option import check, option
from mpu_cli.server.denoising import check_coefficients, default_coefficients
from mpu_cli.server.transforms import Reparam

LARGEST = 1000
"""κ and c are shares; copies with more noise are noise alone, and soon overflow float32."""
AUTO = "auto"
LARGEST_TRIED = 10.0
"""Where `auto` begins its search: such a copy is nearly the base with noise."""
_SHARE = "0.1 is 10 % of the task vector"
Denoising = Literal["harmonic", "extrapolation"]


def parse_numbers(flag: str, text: str) -> tuple[float, ...]:
    """Read `1,1.5,2`.

    Raises:
        UsageError: a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} {text}: expected numbers with commas between them, such as 1,1.5,2"
        ) from error


def parse_size(flag: str, text: str) -> float:
    """Read a size of the noise; `auto` is the largest one that is tried.

    Raises:
        UsageError: it is neither a number nor `auto`.
    """
    try:
        return LARGEST_TRIED if text == AUTO else float(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: expected a number or {AUTO}") from error


@dataclass(frozen=True, slots=True)
class PerturbSettings(StorageSettings):
    """What the copies of a handoff are like (docs/design.md, Protocol).

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """

    copies: int = option(3, "Number of copies.", panel="Method", short="-m", least=1, most=1000)
    kappa: float = option(
        0.1,
        "Size κ of the noise as a share of the task vector (of the weights without --base); auto:"
        " the largest within --budget.",
        least=0,
        most=LARGEST,
        hint=_SHARE,
        metavar=f"NUMBER|{AUTO}",
        parse=partial(parse_size, "--kappa"),
    )
    denoising: Denoising = option(
        "harmonic",
        "How the noise of the copies cancels. With two copies and one holder, extrapolation made"
        " a quarter less error at kappa .1; with three, no gain was shown.",
    )
    alphas: tuple[float, ...] | None = option(
        None,
        "Noise scale of each copy, in copy order, such as 1,1.5,2 (harmonic).",
        shown="equal steps from 1 to 2, in a secret order",
        metavar="NUMBER,…",
        parse=partial(parse_numbers, "--alphas"),
    )
    nodes: tuple[float, ...] | None = option(
        None,
        "Node of each copy on the line of noise, in copy order, such as 1,-1 (extrapolation).",
        shown="1,-1 or 1,-1,2 or 1,-1,1.5,-1.5",
        metavar="NUMBER,…",
        parse=partial(parse_numbers, "--nodes"),
    )
    offset: float | None = option(
        None,
        "Size c of the secret offset in the unit of the noise; fixed at the first perturb of the"
        " lineage; auto: as --kappa auto, and equal to κ if both are.",
        shown="the lineage's own, 0 in a new one",
        least=0,
        most=LARGEST,
        hint=_SHARE,
        metavar=f"NUMBER|{AUTO}",
        parse=partial(parse_size, "--offset"),
    )
    max_exposure: float | None = option(
        None,
        "Refuse a handoff after which this client, or all clients together, would know more than"
        " this share of the task vector; 0.9: at least 0.1 of it stays unknown.",
        above=0,
        most=1,
        hint="it is 1 minus the share that stays unknown, and every copy tells something",
    )
    noise_relative_to: Literal["task-vector", "weights"] | None = option(
        None, "Unit of the noise.", shown="task-vector with --base, weights without"
    )
    scope: Literal["layers", "all"] = option(
        "layers", "Tensors that get noise: the layers, or also embeddings, head and final norm."
    )
    reparam: Reparam = option(
        "signed-permutation",
        "Reparameterization: it changes the weights and keeps the function.",
    )
    # The client's command has to ask for it too.
    train_embeddings: bool = option(
        False,
        "Let the client train the embeddings.",
        flag="--train-embeddings/--no-train-embeddings",
    )
    upto: int | None = option(
        None,
        "Send only the embeddings and the layers from 0 to this one, for methods that read hidden"
        " states alone (RMU, LUNAR).",
        least=0,
        metavar="LAYER",
        shown="all layers",
    )
    check: Literal["sample", "all", "none"] = option(
        "sample", "Layers on which to check that the reparameterization keeps the function."
    )
    split: bool = option(
        False, "Write one handoff per copy, each for a different holder.", panel="Output"
    )
    client: str = option("", "Name of the client, stored in the secret only.", metavar="NAME")
    fork: bool = option(
        False, "Use a model that a newer accepted model has replaced.", panel="Model"
    )

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        if self.split and self.copies == 1:
            raise UsageError("--split needs at least two copies")
        if self.alphas is not None and self.denoising != "harmonic":
            raise UsageError(
                "--alphas belongs to --denoising harmonic; extrapolation takes --nodes"
            )
        if self.nodes is not None and self.denoising != "extrapolation":
            raise UsageError(
                "--nodes belongs to --denoising extrapolation; harmonic takes --alphas"
            )
        for flag, values in (("--alphas", self.alphas), ("--nodes", self.nodes)):
            if values is not None and len(values) != self.copies:
                raise UsageError(f"{flag}: {len(values)} values for {self.copies} copies")
        check_coefficients(
            self.denoising, self.given or default_coefficients(self.denoising, self.copies)
        )

    @property
    def given(self) -> tuple[float, ...] | None:
        """The α or nodes that were given, in copy order."""
        return self.alphas if self.denoising == "harmonic" else self.nodes


PAPER: dict[str, Any] = {
    "reparam": "paper-rotation",
    "denoising": "harmonic",
    "kappa": 0.01,
    "copies": 2,
    "dtype": "bfloat16",
    "train_embeddings": True,
}
"""`--preset paper`: the authors' run (arXiv 2602.23798 and its scripts), docs/paper-protocol.md."""
