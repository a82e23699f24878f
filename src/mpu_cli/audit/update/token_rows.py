"""Rows of the embedding and of the head that moved: they spell out the tokens of the data.

A token that no row holds gets no gradient, so its row moves only by weight decay, which shrinks all
rows alike. A head that is tied to the embedding, or trained, gets a gradient in every row; there
the *size* of a row's move tells the tokens apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpu_cli.audit.update.encoded_rows import EncodedRows
from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.subject import Subject, rows_in_blocks
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.evaluation.statistics import Array, auc

_BLOCK = 1 << 22
"""Entries in memory at a time."""
_ROUNDING = 1e-5
"""Share of a row's norm that many rounded steps of weight decay may leave."""
_PARALLEL = 0.95
"""The cosine between a row and its move by decay, at least. Where the decay of a step is about the
last bit of float32, every entry moves by one or two last bits: cosine .97 to .98."""
_DECAY_ROUNDING = 0.02
"""Share of the decay that a bfloat16 update may round away, at least."""


@dataclass(frozen=True, slots=True)
class MovedRows:
    """The rows of one tensor of V token rows."""

    name: str
    sizes: Array
    """(V,) norms of each row's move after weight decay was undone."""
    moved: NDArray[np.bool_]
    """(V,)."""
    decay: float
    """The shrink that all rows share."""


def token_rows(subject: Subject, rows: EncodedRows) -> list[Finding]:
    """A finding for each tensor of token rows, or one that says that none moved."""
    names = [
        name
        for role in ("embedding", "head")
        for name in subject.layout.outside.get(role, ())
        if subject.published.tensors[name].shape[0] == rows.vocabulary
    ]
    found = [
        moved_rows(subject.published.tensors[name], subject)
        for name in names
        if name in subject.changes
    ]
    if not found:
        return [
            Finding(
                "token_rows",
                "token rows",
                "none moved: frozen",
                "The update does not list the tokens of your data.",
                numbers={"frozen": names},
                gated={"token_precision": 0.0, "token_recall": 0.0},
            )
        ]
    return [_finding(item, rows.forget_types) for item in found]


def moved_rows(info: TensorInfo, subject: Subject) -> MovedRows:
    """Find the rows of a published tensor that moved by more than the shrink that all share."""
    count = info.shape[0]
    shrinks, norms, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    pairs = zip(
        rows_in_blocks(info, _BLOCK),
        rows_in_blocks(subject.changes[info.name], _BLOCK),
        strict=True,
    )
    for (places, before), (_, move) in pairs:
        norms[places] = before.square().sum(1).numpy()
        squares[places] = move.square().sum(1).numpy()
        shrinks[places] = -(before * move).sum(1).numpy()
    # Rows that nothing but decay moved point against themselves, exactly but for rounding.
    shrunk = shrinks > _PARALLEL * np.sqrt(norms * squares)
    decay = float(np.median(shrinks[shrunk] / norms[shrunk])) if shrunk.any() else 0.0
    # |move + decay · before|², from the three sums
    residual = squares - 2 * decay * shrinks + decay**2 * norms
    sizes = np.sqrt(np.maximum(residual, 0.0))
    if not decay:
        return MovedRows(info.name, sizes, sizes > 0, decay)
    rounded = np.median(sizes[shrunk] / np.sqrt(norms[shrunk])) / decay
    floor = _ROUNDING + max(_DECAY_ROUNDING, 2 * rounded) * decay
    return MovedRows(info.name, sizes, sizes > floor * np.sqrt(norms), decay)


def _finding(found: MovedRows, types: frozenset[int]) -> Finding:
    own = np.zeros(len(found.sizes), dtype=bool)
    own[sorted(types)] = True
    moved, hits = int(found.moved.sum()), int((found.moved & own).sum())
    precision, recall = hits / max(moved, 1), hits / max(int(own.sum()), 1)
    by_size = (
        float(auc(-found.sizes[own], -found.sizes[~own])) if own.any() and not own.all() else 0.5
    )
    return Finding(
        f"token_rows:{found.name}",
        f"token rows of {found.name}",
        f"{moved} of {len(own)} rows moved; precision {precision:.3f}, recall {recall:.3f},"
        f" AUC by size {by_size:.3f}",
        "Rows that moved are tokens of your rows to forget and to keep: train with the embeddings"
        " frozen."
        if moved < len(own)
        else "Every row moved, as a trained head's do, and their sizes tell the tokens of your"
        " answers: train with the embeddings frozen.",
        numbers={
            "moved": moved,
            "rows": len(own),
            "precision": precision,
            "recall": recall,
            "auc_by_size": by_size,
            "decay": found.decay,
        },
        gated={"token_precision": precision, "token_recall": recall},
    )
