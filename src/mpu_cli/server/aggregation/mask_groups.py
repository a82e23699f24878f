"""Masked updates are taken together: every member of the group once, all of one handoff.

These checks read manifests only, so they come before any file is hashed. With a member missing or
given twice the masks do not cancel, and the sum is noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.mask import Mask, readable
from mpu_cli.bundle.read import open_manifest
from mpu_cli.documentation import page
from mpu_cli.errors import BadBundleError, GateError

_TOGETHER = "give the updates of all members of one group in one call, each once"


@dataclass(frozen=True, slots=True)
class _Masked:
    path: Path
    handoff: str
    digest: str
    mask: Mask


def unverified(paths: Sequence[Path]) -> list[tuple[Path, UpdateManifest]]:
    """The manifests of updates whose files nobody has checked yet.

    There are none if one of the paths is no update or is damaged: it would look like a missing
    member. `read_update` says later what it is.
    """
    found = []
    for path in paths:
        try:
            manifest = open_manifest(path).manifest
        except BadBundleError:
            return []
        if not isinstance(manifest, UpdateManifest):
            return []
        found.append((path, manifest))
    return found


def check_mask_groups(updates: Iterable[tuple[Path, UpdateManifest]]) -> None:
    """Check the updates of one call by their manifests alone.

    Raises:
        GateError: a plain update beside masked ones of the same handoff, members of two groups,
            a member that is missing, given twice, or answers another handoff.
    """
    masked: list[_Masked] = []
    plain: dict[str, Path] = {}
    for path, manifest in updates:
        if manifest.mask is None:
            plain[manifest.handoff_id] = path
        else:
            masked.append(
                _Masked(path, manifest.handoff_id, manifest.handoff_digest, manifest.mask)
            )
    for update in masked:
        if update.handoff in plain:
            raise GateError(
                f"{plain[update.handoff]}: is a plain update of the handoff that {update.path}"
                " answers with a masked one",
                "give one kind: the masked updates of all members, or the plain one without them",
            )
    for handoff in dict.fromkeys(update.handoff for update in masked):
        _check_group([update for update in masked if update.handoff == handoff], masked)


def _check_group(together: Sequence[_Masked], every: Sequence[_Masked]) -> None:
    """Check the masked updates of one handoff."""
    first = together[0]
    size = len(first.mask.group)
    present: dict[int, Path] = {}
    for update in together:
        if update.mask.group != first.mask.group:
            raise GateError(
                f"{update.path}: belongs to the mask group {readable(update.mask.digest)}, but"
                f" {first.path} to {readable(first.mask.digest)}: their masks do not cancel",
                "every member masks again with the same group file (mpu mask group FILE prints"
                " the digest to compare)",
            )
        if update.digest != first.digest:
            raise GateError(
                f"{update.path}: was made from other copies than {first.path}, so their masks do"
                " not cancel",
                "send one and the same handoff to all members",
            )
        number = update.mask.member
        if number in present:
            raise GateError(
                f"{update.path}: is from member {number} of {size} of its mask group, and so is"
                f" {present[number]}",
                _TOGETHER,
            )
        present[number] = update.path
    missing = [number for number in range(1, size + 1) if number not in present]
    if not missing:
        return
    for update in every:
        if update.mask.group == first.mask.group and update.handoff != first.handoff:
            raise GateError(
                f"{update.path}: answers handoff {update.handoff[:12]}…, but {first.path}, of the"
                f" same mask group, answers {first.handoff[:12]}…: their masks do not cancel",
                "all members answer one and the same handoff",
            )
    names = ", ".join(f"{number} (key {first.mask.group[number - 1][:8]}…)" for number in missing)
    raise GateError(
        f"{first.path}: of the {size} members of its mask group {len(missing)} are missing: member"
        f" {names}; without them the masks do not cancel",
        f"{_TOGETHER}; if a member has left, see {page('masks')}",
    )
