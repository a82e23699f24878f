"""`mpu aggregate`: combine the clients' updates into the next model (server)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import NextRound, after_aggregate
from mpu_cli.cli.options import SECRET, Shared, estimate_facts, server_words, use_one_thread
from mpu_cli.cli.output import Output, facts
from mpu_cli.cli.signing import (
    Signing,
    ask_about,
    can_ask,
    first_use,
    signature_content,
    who_signed,
)
from mpu_cli.errors import UsageError
from mpu_cli.option import REQUIRED, option, same_option
from mpu_cli.server.aggregation.settings import AggregateSettings

if TYPE_CHECKING:
    from mpu_cli.server.aggregation.aggregate import AggregateResult
    from mpu_cli.server.aggregation.model_signature import ModelSigningKey
    from mpu_cli.server.lineage.client_keys import ClientKeys

GUIDE = Guide(
    "server",
    "Combine the clients' updates into the next model.",
    ("mpu aggregate to-server --secret server --model model --out model-next",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateOptions(Job):
    """What `mpu aggregate` was asked to do."""

    updates: tuple[Path, ...] = option(
        REQUIRED,
        "Updates that clients sent back: directories or tar files.",
        panel="Model",
        flag="UPDATES",
        metavar="UPDATE…",
        repeated=True,
    )
    secret: Path = option(
        REQUIRED,
        "Directory of the lineage's secret.",
        metavar="DIR",
        environment=SECRET,
    )
    allowed_signers: Path | None = option(
        None,
        "Accept only updates that a key in this file has signed, with the client's name in it"
        " (OpenSSH's format of allowed signers).",
        shown="allowed_signers in the secret",
        metavar="FILE",
    )
    trust_on_first_use: bool = same_option(Signing, "trust_on_first_use")
    model: str = option(REQUIRED, "Model to update: the head of the lineage.", metavar="MODEL")
    out: Path = option(REQUIRED, "Directory for the new model.", panel="Output", metavar="DIR")
    sign_model: Path | None = option(
        None,
        "Sign the new model with this key (PEM, P-256): writes OUT/model.sig in the format of"
        " OpenSSF Model Signing.",
        metavar="KEY",
    )
    settings: AggregateSettings
    dry_run: bool = same_option(Shared, "dry_run")
    force: bool = same_option(Shared, "force")


@command()
def aggregate(job: AggregateOptions, output: Output) -> None:
    """Undo the reparameterizations, cancel the noise, and add the updates to the model.

    The result is a candidate: it becomes the head of the lineage when perturb or aggregate uses it.
    Several candidates may be made from the same updates, for instance with another --server-lr.

    Updates that a group has masked (mpu mask) are given together, every member's once. They add up,
    as all updates do.
    """
    from mpu_cli.bundle.mask import group_digest, readable
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.server.aggregation.aggregate import aggregate as run

    use_one_thread()
    out, secret, settings = job.out, job.secret, job.settings
    if job.dry_run:
        from mpu_cli.server.aggregation.estimate import estimate_aggregate

        needs = estimate_aggregate(locate(job.model).path, settings.dtype)
        output.result(needs, *server_words(needs, "the new model"), facts(estimate_facts(needs)))
        return
    model_key = _model_key(job.sign_model)
    with unpacked(output, *job.updates) as places:
        keys = _client_keys(job, places, output)
        with output.progress("reading the model") as progress:
            model = locate(job.model)
            result = run(
                places,
                secret,
                model,
                out,
                settings,
                force=job.force,
                keys=keys,
                model_key=model_key,
                progress=progress,
            )
    for text in _warnings(result, settings.dtype):
        output.warn(text)
    data = _data(result, out, settings.dtype)
    rows = {"updates": _counted(len(job.updates), result)}
    if result.updates.mask_groups:
        rows["masked"] = ", ".join(
            f"{len(keys)} members of group {readable(group_digest(keys))}: only their sum is known"
            for keys in result.updates.mask_groups
        )
    if result.changed is not None:
        agreement = ", ".join(
            "not comparable" if value is None else f"{value:.3f}" for value in result.agreement
        )
        rows |= {
            "agreement": agreement,
            "relative norm": f"{result.changed.relative_norm:.4g} of the model's",
            "stored as": (
                f"{result.changed.dtype}, cosine {result.changed.cosine:.4f} with the exact update"
            ),
        }
    rows |= {
        "signatures": "; ".join(dict.fromkeys(map(who_signed, result.updates.signers))),
        "staleness": f"{result.updates.staleness} models since the oldest handoff",
        "digest": result.model.digest,
    }
    following = NextRound.of(
        secret,
        result.base_source,
        [draw.record for draw in result.updates.draws],
        has_base=result.has_base,
    )
    output.result(
        data,
        facts(rows),
        "",
        f"model {out}  (a candidate; using it in perturb or aggregate accepts it)",
        f"keep  {secret}",
        *after_aggregate(out, following),
        brief=f"model {out}",
    )


def _model_key(path: Path | None) -> ModelSigningKey | None:
    if path is None:
        return None
    from mpu_cli.server.aggregation.model_signature import ModelSigningKey

    return ModelSigningKey.read(path)


def _client_keys(job: AggregateOptions, places: list[Path], output: Output) -> ClientKeys:
    """Whose signatures are accepted; asks about first keys before anything else is printed."""
    from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners
    from mpu_cli.server.lineage.client_keys import ClientKeys

    given = None
    if job.allowed_signers is not None:
        if job.trust_on_first_use:
            raise UsageError(
                "--allowed-signers and --trust-on-first-use: give one of them",
                "with a file of allowed signers nothing is pinned",
            )
        given = AllowedSigners.read(job.allowed_signers)
    approved = set[tuple[str, bytes]]()
    if given is None and not job.trust_on_first_use and can_ask():
        approved = _approved(job, places)
    decide = first_use(output, accept=job.trust_on_first_use, approved=approved, may_ask=False)
    return ClientKeys(job.secret, given, decide)


def _approved(job: AggregateOptions, places: list[Path]) -> set[tuple[str, bytes]]:
    """The first keys of clients that the user at the terminal says are theirs."""
    from mpu_cli.bundle.manifest import UpdateManifest
    from mpu_cli.bundle.read import open_manifest
    from mpu_cli.bundle.signatures.trust import NAMESPACES
    from mpu_cli.server.lineage.client_keys import pinned_clients
    from mpu_cli.server.lineage.models import Lineage

    lineage, approved = Lineage.read(job.secret), set[tuple[str, bytes]]()
    pinned = pinned_clients(job.secret).read()
    for update, place in zip(job.updates, places, strict=True):
        opened = open_manifest(place)
        if not isinstance(opened.manifest, UpdateManifest) or opened.signer is None:
            continue
        record = lineage.handoffs.get(opened.manifest.handoff_id)
        if record is None or pinned.about(record.holder, NAMESPACES["update"]).lines:
            continue
        if ask_about(str(update), record.holder, opened.signer):
            approved.add((record.holder, opened.signer.key.blob))
    return approved


def _counted(updates: int, result: AggregateResult) -> str:
    """How many updates and copies there are: masked updates of a group have one sum a copy."""
    copies = sum(len(draw.deltas) for draw in result.updates.draws)
    sums = [f"{len(keys)} masked ones as one sum" for keys in result.updates.mask_groups]
    inside = f" ({', '.join(sums)})" if sums else ""
    return f"{updates}{inside}, {copies} cop{'y' if copies == 1 else 'ies'}"


def _warnings(result: AggregateResult, asked_dtype: str) -> list[str]:
    lines = [*result.remarks]
    if result.test_secret:
        lines.append("this secret was prepared by a test (origin: test): it hides nothing")
    if result.changed is None:
        lines.append(
            "an interrupted run had already written this model; its record is now committed"
        )
    if result.unchanged:
        lines.append(
            "the update changes nothing: the result is the model itself, and the lineage stays as"
            " it is"
        )
    if not result.unchanged:
        lines += [
            f"{draw.deltas[0].where.parent}: one copy, so there is nothing to compare its change"
            " with: only its handoff, its digest and its norms were checked"
            for draw, value in zip(result.updates.draws, result.agreement, strict=False)
            if value is None and len(draw.deltas) == 1
        ]
    for draw in result.updates.draws:
        if draw.missing:
            left = draw.residual * draw.record.kappa
            order = 1 if left or draw.record.offset else len(draw.deltas)
            lines.append(
                f"{draw.missing} of {draw.record.size} copies are missing: noise of {left:.3g} of"
                f" the {draw.record.relative_to} no longer cancels, and the update's error is of"
                f" order {order} in the noise"
            )
    if (
        asked_dtype == "auto"
        and result.changed
        and result.changed.dtype == "float32"
        and result.source_dtype != "F32"
    ):
        lines.append(
            "stored as float32: in the model's own dtype rounding would have lost too much of the"
            " update"
        )
    return lines


def _data(result: AggregateResult, out: Path, asked_dtype: str) -> dict[str, Any]:
    from mpu_cli.bundle.mask import group_digest

    return {
        "model": str(out),
        "digest": result.model.digest,
        "parent": result.model.parent,
        "dtype": result.changed.dtype if result.changed else None,
        "cosine": result.changed.cosine if result.changed else None,
        "relative_norm": result.changed.relative_norm if result.changed else None,
        "agreement": list(result.agreement),
        "gates": [
            {
                "gate": item.gate,
                "value": item.value,
                "limit": item.limit if isfinite(item.limit) else None,
                "tensor": item.tensor,
            }
            for item in result.measured
        ],
        "staleness": result.updates.staleness,
        "signatures": [signature_content(signer) for signer in result.updates.signers],
        "mask_groups": [
            {"digest": group_digest(keys), "members": len(keys)}
            for keys in result.updates.mask_groups
        ],
        "missing": sum(draw.missing for draw in result.updates.draws),
        "unchanged": result.unchanged,
        "completed": result.changed is None,
        "warnings": _warnings(result, asked_dtype),
    }
