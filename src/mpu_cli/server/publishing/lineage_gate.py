"""What `perturb` refuses about the lineage, known from digests alone: before any long work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError
from mpu_cli.server.lineage.model_card import read_model_card
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.second_lineage import (
    lineages_beside,
    refuse_own_model,
    refuse_unasked,
)
from mpu_cli.server.secrets.secret import SECRET_FILE


def require_lineage(
    model: Located, base: Located | None, secret: Path, near: Iterable[Path], *, fork: bool
) -> None:
    """Refuse what `perturb` refuses about the lineage.

    Args:
        model: θ.
        base: the public base.
        secret: the directory of the secret; if it holds none, a lineage would begin.
        near: where to look for other lineages of the model; empty if another one was asked for.
        fork: whether a model may be used that a newer one has replaced.

    Raises:
        GateError: a second lineage of the model would begin, or the lineage does not have it.
        BadModelError: the lineage began with another base.
    """
    digest = model_digest(open_checkpoint(model.path))
    if (secret / SECRET_FILE).exists():
        lineage = Lineage.read(secret)
        lineage.require_usable(digest, model.path, fork=fork)
        if base is not None:
            require_same_base(lineage, model_digest(open_checkpoint(base.path)))
        return
    near = list(near)
    if near:
        refuse_own_model(model.path, read_model_card(model.path), secret, near)
        refuse_unasked(model.path, digest, secret, lineages_beside(digest, near, secret))


def require_same_base(lineage: Lineage, digest: str | None) -> None:
    """Raise BadModelError if the lineage began with another base than the one of this digest."""
    first = lineage.secret.base
    if first is not None and digest is not None and digest != first:
        raise BadModelError(
            f"--base: another base (digest {digest[:12]}…) than this lineage began with"
            f" ({first[:12]}…)",
            "give the same base in every round",
        )
