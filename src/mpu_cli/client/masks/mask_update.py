"""`mpu mask update`: an update of which only the sum over a group can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.mask import FRACTION_BITS, MASKED, Mask, largest_share
from mpu_cli.bundle.masked import STORED
from mpu_cli.bundle.payload import Changes, check_changes, open_changes
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.tensors import is_frozen, shapes
from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.dtypes import spans
from mpu_cli.checkpoint.model import SPAN
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import CheckpointWriter, Files
from mpu_cli.client.changed_copy import change_spans
from mpu_cli.client.masks.group import MaskGroup
from mpu_cli.client.masks.key import MaskKey
from mpu_cli.client.masks.stream import MaskSource, TensorMask
from mpu_cli.client.masks.used import MaskUse, UsedMasks
from mpu_cli.client.own_update import open_own_update
from mpu_cli.client.update import make_copy_directory, write_manifest
from mpu_cli.errors import BadBundleError, CheckFailedError

_PIECE = 1 << 18
"""Entries that are written at once."""


@dataclass(frozen=True, slots=True)
class MaskedUpdate:
    """What was written."""

    manifest: UpdateManifest
    largest: float
    """The largest |entry| of the update, as a share of what one member may have."""
    other_groups: tuple[str, ...]
    """Digests of other groups for which this key has masked an update of the same handoff."""


def mask_update(
    update: Path,
    handoff: Path,
    group: MaskGroup,
    key: MaskKey,
    out: Path,
    shard_bytes: int,
    *,
    force: bool = False,
    signing: SigningKey | None = None,
    progress: Progress = lambda *_: None,
) -> MaskedUpdate:
    """Write `update` to `out` in steps of 2⁻²⁸, plus this member's masks, modulo 2³².

    `signing` signs the masked update.

    Every tensor that the handoff lets change is written, so the file does not say which ones did.

    Raises:
        BadBundleError: a malformed handoff or update, a copy without a change, a masked update.
        BadInputError: the key is not in the group.
        GateError: the update answers another handoff, or does not fit this one.
        CheckFailedError: an entry is too large, or the key has masked another update for this
            handoff and group.
    """
    refuse_nesting(out, handoff, update)
    refuse_existing(out, force=force)
    opened, plain = open_own_update(update, handoff, progress)
    if plain.mask is not None:
        raise BadBundleError(
            f"{update}: is masked already", "give the update that mpu unlearn or mpu diff made"
        )
    payloads = {copy.name: copy.payload for copy in plain.copies}
    if absent := sorted(set(opened.copies) - set(payloads)):
        raise BadBundleError(
            f"{update}: has no change of {absent[0]}; the masks cover all copies",
            "make an update of all copies",
        )
    mask = Mask(group.keys, group.number_of(key))
    masks = MaskSource(key, group, opened.manifest.digest)
    uses, use = UsedMasks(key.path), MaskUse(opened.manifest.digest, group.digest, plain.digest)
    other_groups = uses.check(use)
    published = next(iter(opened.copies.values()))
    tensors = [
        replace(info, dtype=STORED)
        for name, info in published.tensors.items()
        if not is_frozen(name, opened.frozen)
    ]
    fixed, done = FixedPoint(len(group.members)), 0
    total = sum(info.elements for info in tensors) * len(opened.copies)
    require_space(out, 4 * total, "the masked update")

    def count(entries: int) -> None:
        nonlocal done
        done += entries
        progress(f"masking {update.name}", done, total)

    written = {}
    with Staging(out, force=force) as staging:
        for name in opened.copies:
            where = update / name
            changes = open_changes(where, payloads[name])
            check_changes(where, changes, shapes(published.tensors), opened.frozen, opened.matrices)
            directory = make_copy_directory(staging.path / name, out)
            writer = CheckpointWriter(directory, tensors, max_shard_bytes=shard_bytes, stem=MASKED)
            with disk_errors(out):
                written[name] = _write_copy(
                    writer, where, changes, partial(masks.of, name), fixed, count
                )
        with disk_errors(out):
            manifest = write_manifest(staging.path, opened.manifest, written, mask, signing)
        opened.files.require_unchanged(update)
        uses.add(use)
        staging.commit()
    return MaskedUpdate(manifest, fixed.largest / fixed.limit, other_groups)


def _write_copy(
    writer: CheckpointWriter,
    where: Path,
    changes: Changes,
    mask_of: Callable[[str], TensorMask],
    fixed: FixedPoint,
    count: Callable[[int], None],
) -> Files:
    """Write every tensor of one copy: its change, or zeros, plus the mask."""
    pool = Pool(3)
    try:
        for info in writer.order:
            mask = mask_of(info.name)
            pieces = change_spans(changes, info)
            if pieces is None:
                zeros = torch.zeros(min(SPAN, info.elements), dtype=torch.float64)
                pieces = ((a, b, zeros[: b - a].zero_()) for a, b in spans(info.elements))
            for start, stop, change in pieces:
                for first in range(0, stop - start, _PIECE):
                    part = change[first : first + _PIECE].numpy()
                    buffer = pool.take(4 * len(part))
                    words = np.frombuffer(buffer, dtype="<u4", count=len(part))
                    fixed.convert(part, words.view("<i4"), where, info.name)
                    mask.add_to(words)
                    writer.write(words.view(np.uint8).data, partial(pool.put, buffer))
                    count(len(part))
        return writer.close().files
    finally:
        writer.abort()


class FixedPoint:
    """Turns entries into whole steps of 2⁻²⁸, in a range that the sum of n members cannot leave."""

    def __init__(self, members: int) -> None:
        self._members, self.limit = members, largest_share(members)
        self.largest = 0.0
        """The largest |entry| so far, in steps."""

    def convert(
        self,
        change: npt.NDArray[np.float64],
        steps: npt.NDArray[np.int32],
        where: Path,
        name: str,
    ) -> None:
        """Write the nearest steps of a change into `steps`; `change` is overwritten.

        Raises:
            CheckFailedError: an entry is not a number, or out of range.
        """
        np.rint(np.multiply(change, 2.0**FRACTION_BITS, out=change), out=change)
        largest = float(max(change.max(), -change.min()))
        if not isfinite(largest):
            raise CheckFailedError(
                f"{where}: tensor {name} holds NaN or infinity",
                "lower the learning rate and train again",
            )
        if largest > self.limit:
            raise CheckFailedError(
                f"{where}: tensor {name} changed by {largest * 2.0**-FRACTION_BITS:.4g}; with"
                f" {self._members} members an entry may change by at most"
                f" {self.limit * 2.0**-FRACTION_BITS:.4g}",
                "lower the learning rate and train again",
            )
        self.largest = max(self.largest, largest)
        steps[:] = change
