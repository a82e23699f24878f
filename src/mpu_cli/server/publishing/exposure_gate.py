"""`perturb --max-exposure`: no handoff after which clients know more than a share of the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mpu_cli.errors import GateError
from mpu_cli.server.lineage.exposure import Prior, ledger, noise_of
from mpu_cli.server.lineage.records import HandoffRecord

_ALL = "all clients together"


class TooMuchKnownError(GateError):
    """After this draw a client, or all clients together, would know more than the limit."""

    def __init__(self, message: str, hint: str, *, more_noise_helps: bool) -> None:
        """Take the message, the hint, and whether a larger κ leaves more unknown."""
        super().__init__(message, hint)
        self.more_noise_helps = more_noise_helps


def require_unknown(
    most: float | None,
    new: Sequence[HandoffRecord],
    earlier: Collection[HandoffRecord],
    prior: Prior,
) -> None:
    """Refuse a draw, before anything is written.

    Args:
        most: the largest share of what the base alone leaves unknown that may become known to a
            client of this draw, or to all clients of the lineage together; None = any.
        new: the records of the draw.
        earlier: all other records of the lineage.
        prior: what is unknown before the first copy.

    Raises:
        TooMuchKnownError: the holder, both shares, and what lets it know less.
    """
    if most is None:
        return
    told = ledger([*earlier, *new], {record.holder for record in new})
    unit = new[0].relative_to.replace("-", " ")
    lefts = [*told.by_holder.items(), (_ALL, told.all_together)]
    for who, left in lefts:
        known = 1 - left / prior.size if prior.size else 1.0  # the base gives all of it away
        if known > most:
            hint, more_noise_helps = _remedy(who, new, earlier)
            raise TooMuchKnownError(
                f"--max-exposure {most:g}: with this handoff {who} would know {known:.3g} of the"
                f" {unit} ({left:.3g} stays unknown)",
                f"{hint}; nothing was written",
                more_noise_helps=more_noise_helps,
            )


def _remedy(
    who: str, new: Sequence[HandoffRecord], earlier: Collection[HandoffRecord]
) -> tuple[str, bool]:
    """What lets `who` know less, and whether a larger κ does."""

    def noise(new: Sequence[HandoffRecord]) -> float:
        return noise_of(it for it in (*earlier, *new) if who in {it.holder, _ALL})

    more_noise_helps = noise([replace(it, kappa=it.kappa + 1) for it in new]) > noise(new)
    fixed = f"the lineage's offset is fixed at {new[0].offset:g}"
    helps = [
        *(["a larger --kappa"] if more_noise_helps else []),
        *(["a larger --offset"] if not earlier else []),
    ]
    if who != _ALL and len(new[0].copies) > 1 and noise(()) > noise(new):
        helps += ["fewer --copies", "or --split"]
    if helps in ([], ["a larger --offset"]) and who == _ALL:
        why = "only an offset stays unknown when clients pool all copies"
        return f"{f'give {helps[0]}' if helps else fixed}: {why}", more_noise_helps
    if not helps:
        return f"{fixed}, and what {who} already has leaves no more unknown", more_noise_helps
    why = f" ({fixed})" if earlier else ""
    return f"give {', '.join(helps)}{why}", more_noise_helps
