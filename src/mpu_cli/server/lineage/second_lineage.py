"""Guards against a second lineage of one model: offsets of two lineages average away.

A mistyped or moved --secret would begin one silently, so only --new-lineage begins one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.staging import is_staging
from mpu_cli.errors import GateError, MpuError
from mpu_cli.server.lineage.exposure import least, noise_of, pooled, prior
from mpu_cli.server.lineage.models import MODELS, Lineage
from mpu_cli.server.lineage.records import HandoffRecord

if TYPE_CHECKING:
    from mpu_cli.server.lineage.model_card import Card

_PLACES = {"layers": "the layers", "all": "all tensors"}


def lineages_beside(model: str, places: Iterable[Path], new: Path) -> list[Path]:
    """Secret directories in `places` (other than `new`) that know a model of this digest."""
    return lineages_with(f"{MODELS}/{model}.yaml", places, new)


def lineages_with(record: str, places: Iterable[Path], but: Path) -> list[Path]:
    """Secret directories in `places` (other than `but`) that hold a record of this name.

    Only names are read, and only in directories of this user.
    """
    lineages = {
        folder.resolve() for place in places for folder in _entries(place) if _holds(folder, record)
    }
    return sorted(lineages - {but.resolve()})


def places(*named: Path) -> frozenset[Path]:
    """The directories in which the named paths lie, as given and with links resolved."""
    return frozenset(
        parent for path in named for parent in (path.absolute().parent, path.resolve().parent)
    )


def refuse_unasked(model: Path, digest: str, secret: Path, others: Sequence[Path]) -> None:
    """Raise GateError if the model has the lineages `others`, and `secret` would begin another."""
    if others:
        raise GateError(
            f"{model}: this model (digest {digest[:12]}…) is in the lineage of {others[0]}, and"
            f" {secret} holds no lineage",
            f"give --secret {quote(str(others[0]))} to continue that lineage; to begin another,"
            " whose noise averages away with the first's, give --new-lineage"
            f" {quote(str(secret))} instead of --secret",
        )


def refuse_own_model(model: Path, card: Card | None, secret: Path, near: Iterable[Path]) -> None:
    """Refuse a model that aggregate made, before its digest is known, by its model card.

    Raises:
        GateError: the model has such a card.
    """
    if card is None:
        return
    if card.digest is not None:
        refuse_unasked(model, card.digest, secret, lineages_beside(card.digest, near, secret))
    raise GateError(
        f"{model}: its README.md says that mpu aggregate made it, so it has a lineage, and {secret}"
        " holds none",
        "give the directory of that lineage as --secret, and check its name; if the lineage is not"
        f" yours, give --new-lineage {quote(str(secret))} instead of --secret",
    )


def warnings(others: Sequence[Path], records: Sequence[HandoffRecord]) -> list[str]:
    """One line if the model of these first records has other lineages."""
    if not others:
        return []
    try:
        earlier = [tuple(Lineage.read(path).handoffs.values()) for path in others]
    except (MpuError, OSError) as error:
        numbers = f"the exposure of both together is unknown: {error}"
    else:
        numbers = _pooled([records, *filter(None, earlier)])
    names = ", ".join(map(str, others[:3])) + (
        f" and {len(others) - 3} more" if len(others) > 3 else ""
    )
    return [
        f"this model has another lineage already: {names}. Offsets and noise of two lineages are"
        f" independent, so they average away for a holder of copies of both ({numbers}); give"
        f" --secret {quote(str(others[0]))} to continue the first"
    ]


def _pooled(lineages: Sequence[Sequence[HandoffRecord]]) -> str:
    """What all copies of these lineages leave unknown; `lineages[0]` is the new one."""
    alone = [prior(records).left(noise_of(records)) for records in lineages]
    firsts = [records[0] for records in lineages]
    if len({(first.relative_to, first.scope) for first in firsts}) > 1:
        limits = ", ".join(
            f"{left:.3g} of the {first.relative_to.replace('-', ' ')} in {_PLACES[first.scope]}"
            for left, first in zip(alone, firsts, strict=True)
        )
        return (
            "their units differ, so there is no common number: together they leave less unknown"
            f" than any of them alone, which leaves at most {limits}"
        )
    both = least(map(prior, lineages)).left(pooled(map(noise_of, lineages)))
    return (
        f"all their copies together leave at most {both:.3g} unknown, those of this handoff alone"
        f" {alone[0]:.3g}"
    )


def _entries(place: Path) -> list[Path]:
    try:
        return [entry for entry in place.iterdir() if not is_staging(entry)]
    except OSError:
        return []


def _holds(folder: Path, name: str) -> bool:
    try:
        about, record = folder.stat(), (folder / name).lstat()
    except OSError:  # no such record, or no right to look
        return False
    return (
        stat.S_ISDIR(about.st_mode)
        and about.st_uid == os.geteuid()
        and stat.S_ISREG(record.st_mode)
    )
