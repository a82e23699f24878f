"""A second lineage of one model: its offset is another one, and the two average away.

A mistyped or moved --secret would begin one without a word, so it is begun only where it is asked
for.
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

    A directory that is somebody else's is not looked into; nothing is read but names.
    """
    found = {
        folder.resolve() for place in places for folder in _entries(place) if _holds(folder, record)
    }
    return sorted(found - {but.resolve()})


def places(*named: Path) -> frozenset[Path]:
    """The directories in which the named paths lie, as given and with links resolved."""
    return frozenset(
        parent for path in named for parent in (path.absolute().parent, path.resolve().parent)
    )


def refuse_unasked(model: Path, digest: str, secret: Path, others: Sequence[Path]) -> None:
    """Raise GateError if a model of this digest has the lineages `others` already, and `secret` would begin another."""
    if others:
        raise GateError(
            f"{model}: this model (digest {digest[:12]}…) is in the lineage of {others[0]}, and"
            f" {secret} holds no lineage",
            f"go on with --secret {quote(str(others[0]))}; to begin another, whose noise averages"
            f" away with the first's, give --new-lineage {quote(str(secret))} instead of --secret",
        )


def refuse_own_model(model: Path, card: Card | None, secret: Path, near: Iterable[Path]) -> None:
    """The same before the model's digest is known, by the model card that aggregate writes.

    Raises:
        GateError: the model has one.
    """
    if card is None:
        return
    if card.digest is not None:
        refuse_unasked(model, card.digest, secret, lineages_beside(card.digest, near, secret))
    raise GateError(
        f"{model}: its README.md says that mpu aggregate made it, so it has a lineage, and {secret}"
        " holds none",
        "give --secret the directory of that lineage (was it moved, or the name mistyped?); if it"
        f" is not yours, give --new-lineage {quote(str(secret))} instead of --secret",
    )


def warnings(others: Sequence[Path], records: Sequence[HandoffRecord]) -> list[str]:
    """One line if a model that begins a lineage with these records has other lineages already."""
    if not others:
        return []
    try:
        known = [tuple(Lineage.read(path).handoffs.values()) for path in others]
    except (MpuError, OSError) as error:
        numbers = f"how much that leaves cannot be said: {error}"
    else:
        numbers = _pooled([records, *(theirs for theirs in known if theirs)])
    names = ", ".join(map(str, others[:3])) + (
        f" and {len(others) - 3} more" if len(others) > 3 else ""
    )
    return [
        f"this model has another lineage already: {names}. Offsets and noise of two lineages are"
        f" independent and average away for a holder of copies of both ({numbers}); --secret"
        f" {quote(str(others[0]))} goes on with the first"
    ]


def _pooled(lineages: Sequence[Sequence[HandoffRecord]]) -> str:
    """What all copies of these lineages leave unknown; `lineages[0]` is the new one."""
    alone = [prior(mine).left(noise_of(mine)) for mine in lineages]
    if len({(mine[0].relative_to, mine[0].scope) for mine in lineages}) > 1:
        each = ", ".join(
            f"{left:.3g} of the {mine[0].relative_to.replace('-', ' ')} in {_PLACES[mine[0].scope]}"
            for left, mine in zip(alone, lineages, strict=True)
        )
        return (
            "they are not measured in one unit, so no one number can be given: less than any of"
            f" them leaves alone, at most {each}"
        )
    both = least(map(prior, lineages)).left(pooled(map(noise_of, lineages)))
    return (
        f"all copies of all of them leave at most {both:.3g} unknown, of this handoff alone"
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
