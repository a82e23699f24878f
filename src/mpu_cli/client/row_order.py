"""Which rows a run sees, in which order: the same in all copies, different in each round."""

from __future__ import annotations

from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.data.batches import RowSampling
from mpu_cli.training.settings import TrainingSettings


def row_sampling(
    settings: TrainingSettings, opened: OpenHandoff | None = None, name: str = ""
) -> RowSampling:
    """The order for copy `name` of a handoff, or for a plain model.

    Without `--round`, a handoff of several copies draws its retain rows by its own id, so the next
    round sees others although the client does not know the round. A handoff of one copy may be part
    of a split, whose holders must see the same rows and share no id, so it has round 1's order, as
    a model has. `order_per_copy` distinguishes the copies of one handoff, never the holders of a
    split: each of them trains copy-1 of a handoff whose id its order does not use.
    """
    earlier = (
        (settings.round_number - 1) * settings.epochs if settings.round_number is not None else 0
    )
    own = opened.manifest.id if opened is not None and _by_id(settings, opened) else ""
    copy = "/".join(part for part in (own, name) if part) if settings.order_per_copy else ""
    return RowSampling(earlier, "" if copy else own, copy, settings.draws == "independent")


def words(settings: TrainingSettings, opened: OpenHandoff) -> str:
    """Tell the user which retain rows the run sees."""
    own = settings.order_per_copy and len(opened.copies) > 1
    if own and settings.round_number is not None:
        return (
            f"retain rows: those of round {settings.round_number}, in each copy's own order, which"
            " no noise-free baseline shares"
        )
    if own:
        return (
            "retain rows: drawn for each copy by its name and this handoff's id; no other copy,"
            " handoff or noise-free baseline sees the same"
        )
    if settings.round_number is not None:
        return (
            f"retain rows: those of round {settings.round_number}, starting where the previous"
            " round ended"
        )
    if _by_id(settings, opened):
        return (
            "retain rows: drawn by this handoff's id, so another handoff sees different rows; to"
            " compare with a noise-free baseline on the same rows, give both commands the same"
            " --round N"
        )
    return (
        "retain rows: those of round 1, because a handoff of one copy may be part of a split, whose"
        " holders must see the same rows; in later rounds give --round N to see new ones"
    )


def _by_id(settings: TrainingSettings, opened: OpenHandoff) -> bool:
    return settings.round_number is None and len(opened.copies) > 1
