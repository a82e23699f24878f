"""`mpu inspect`: describe a directory (both parties); it never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.checkpoint.recognise import (
    ANY,
    BUNDLE,
    HANDOFF,
    MODEL,
    RECORD,
    SECRET,
    UPDATE,
    instead_of,
    recognise,
)
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import NextRound, on_handoff, on_secret
from mpu_cli.cli.options import given_path
from mpu_cli.cli.output import Output, facts, size, table, unknown
from mpu_cli.cli.signing import signature_content, who_signed
from mpu_cli.option import REQUIRED, option

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from mpu_cli.bundle.signatures.trust import BundleSigner

GUIDE = Guide(
    "both",
    "Describe a directory: what it is, and what it holds.",
    (
        "mpu inspect to-client",
        "mpu inspect server    # on the server's side: rounds, holders, exposure",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions(Job):
    """What `mpu inspect` was asked to do."""

    path: str = option(
        REQUIRED,
        "Handoff or update (or its tar file), secret, record, model directory or Hub id.",
        panel="Model",
        flag="PATH",
    )
    digest: bool = option(
        True,
        "Print the digest of a model, for which mpu reads all its weights.",
        panel="Output",
        flag="--digest/--no-digest",
    )


@command()
def inspect(job: InspectOptions, output: Output) -> None:
    """Print what a directory is and what it holds.

    It reads manifests and headers, and a model's weights for its digest; `verify` checks them.
    """
    path = job.path
    with unpacked(output, given_path(path)) as [place]:
        data, body = _view(place, Path(path))
        if data["kind"] == MODEL and job.digest:
            from mpu_cli.checkpoint.digest import model_digest
            from mpu_cli.checkpoint.model import open_checkpoint

            with output.progress() as progress:
                data["digest"] = model_digest(open_checkpoint(place), progress)
            body += [
                "",
                facts(
                    {
                        "digest": (
                            f"{data['digest']}  (what records and mpu inspect SECRET call this"
                            " model)"
                        )
                    }
                ),
            ]
    output.result(data, *body)


def _view(place: Path, given: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    """Describe what lies at `place`; messages call it `given`."""
    kind = recognise(place).kind
    if kind in {BUNDLE, HANDOFF, UPDATE}:
        return _bundle(place, given)
    views = {SECRET: _secret, RECORD: _record, MODEL: _model}
    if kind not in views:
        raise instead_of(place, ANY)
    return views[kind](place)


def _record(path: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    from mpu_cli.cli.eval_view import View, shown
    from mpu_cli.errors import BadDataError
    from mpu_cli.evaluation.records.read import read_summary

    summary = read_summary(path / "summary.json")
    try:
        sets = ", ".join(f"{name} ({info['rows']} rows)" for name, info in summary["sets"].items())
        body, lines = shown(summary, View(every=True))
        properties = {
            "kind": "record: an evaluation of a model",
            "model": str(summary["model"]["name"]),
            "sets": sets,
            **_evidence(summary),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadDataError(
            f"{path / 'summary.json'}: not a record of an evaluation ({type(error).__name__})",
            "evaluate again",
        ) from None
    return summary, [
        facts(properties),
        "",
        *body,
        *lines,
        "next  compare it with another record (mpu compare --help)",
    ]


def _evidence(summary: dict[str, Any]) -> dict[str, str]:
    """The model, the date and the versions that a record states."""
    model, made, prompting = (
        summary["model"],
        summary.get("made") or {},
        summary["settings"].get("prompting") or {},
    )
    handoff = model.get("handoff") or {}
    properties = {
        "digest": model.get("digest"),
        "handoff": ", ".join(f"{name} {value}" for name, value in handoff.items()) or None,
        "date": made.get("date"),
        "versions": ", ".join(
            f"{name} {number}" for name, number in (made.get("versions") or {}).items()
        ),
        **{
            what.replace("_", " "): f"{made[what]['name']}, digest {made[what]['digest']}"
            for what in ("retain_record", "before", "reference")
            if what in made
        },
        "template": ", ".join(f"{name} {value}" for name, value in prompting.items() if value),
        "robustness": ", ".join(summary["settings"].get("robustness") or ()),
    }
    return {name: str(value) for name, value in properties.items() if value}


def _bundle(path: Path, given: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    from mpu_cli.bundle.read import open_manifest
    from mpu_cli.cli.inspect_update import update_view

    opened = open_manifest(path)
    manifest, signer = opened.manifest, opened.signer
    return (
        _handoff(given, manifest, signer)
        if isinstance(manifest, HandoffManifest)
        else update_view(path, given, manifest, signer)
    )


def _handoff(
    path: Path, manifest: HandoffManifest, signer: BundleSigner | None
) -> tuple[dict[str, Any], list[RenderableType]]:
    total = sum(entry.bytes for copy in manifest.copies for entry in copy.files.values())
    data = {
        "kind": "handoff",
        "path": str(path),
        "id": manifest.id,
        "digest": manifest.digest,
        "dtype": manifest.dtype,
        "copies": [copy.name for copy in manifest.copies],
        "frozen": list(manifest.frozen),
        "cut": manifest.cut and manifest.cut.content(),
        "bytes": total,
        "signature": signature_content(signer),
    }
    rows = {
        "kind": "handoff: perturbed copies of a model, from its owner",
        "id": manifest.id,
        "copies": f"{len(manifest.copies)}, {manifest.dtype}, {size(total)} in all",
        "frozen": ", ".join(manifest.frozen) or "nothing",
        "digest": manifest.digest,
        "signature": who_signed(signer),
    }
    cut = manifest.cut
    if cut is not None:
        rows["layers"] = (
            f"the lowest {cut.layers} of {cut.of}; constants stand in for"
            f" {', '.join(cut.stand_ins) or 'nothing'}"
        )
    return data, [facts(rows), "", *on_handoff(path, is_cut=cut is not None)]


def _model(path: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    from mpu_cli.architectures.family import family_of
    from mpu_cli.architectures.read import read_layout
    from mpu_cli.bundle.tensors import shapes
    from mpu_cli.checkpoint.model import open_checkpoint
    from mpu_cli.cli.inspect_model import ModelReport

    model = open_checkpoint(path)
    family = family_of(model.config, path / "config.json")
    layout = read_layout(model.config, shapes(model.tensors), path, family)
    report = ModelReport(model, layout, family)
    return {"kind": "model", "path": str(path), **report.content()}, report.view()


def _secret(path: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    from mpu_cli.server.lineage.exposure import ledger, prior
    from mpu_cli.server.lineage.models import Lineage
    from mpu_cli.server.publishing.advice import attack, interrupted, meaning, who_pool

    lineage = Lineage.read(path)
    exposed, means = (
        ledger(lineage.handoffs.values()),
        meaning(
            lineage.secret.offset.relative_to,
            prior(lineage.handoffs.values()).size,
            is_cut=any(record.layers for record in lineage.handoffs.values()),
        ),
    )
    data = {
        "kind": "secret",
        "path": str(path),
        "lineage": lineage.secret.lineage,
        "origin": lineage.secret.origin,
        "offset": lineage.secret.offset.ratio,
        "base": lineage.secret.base,
        "head": lineage.head,
        "models": [
            {
                "digest": m.digest,
                "parent": m.parent,
                "accepted": lineage.accepted(m.digest),
                "state": m.state,
                "updates": list(m.updates),
                "server_lr": m.server_lr,
                "date": m.date or None,
            }
            for m in lineage.models.values()
        ],
        "handoffs": [
            {
                "id": h.id,
                "model": h.model,
                "holder": h.holder,
                "copies": len(h.copies),
                "of": h.size,
                "kappa": h.kappa,
                "denoising": h.denoising,
                "layers": h.layers or None,
                "withheld": h.withheld,
                "state": h.state,
                "date": h.date or None,
                "answered_in": [m.digest for m in lineage.models.values() if h.id in m.handoffs],
            }
            for h in lineage.handoffs.values()
        ],
        "exposure": {**exposed.content(), "means": means},
    }
    properties = {
        "kind": "secret of one lineage: never leaves the server",
        "lineage": lineage.secret.lineage,
        "offset": (
            f"{lineage.secret.offset.ratio:g} of the {lineage.secret.offset.relative_to}, frozen,"
            f" in {_offset_groups(lineage)}"
        ),
    }
    if lineage.secret.origin == "test":
        properties["origin"] = "test: prepared by a test, hides nothing"
    how = {name: attack(bound) for name, bound in exposed.bounds.items()}
    rows = [
        (f"to {holder}", unknown(left, how[holder])) for holder, left in exposed.by_holder.items()
    ]
    rows += [
        (who_pool(size, len(exposed.by_holder)), unknown(left, how[f"{size} together"]))
        for size, left in exposed.coalitions[1:]
    ]
    body: list[RenderableType] = [facts(properties), _tree(lineage)]
    if rows:
        body += [table("exposure so far", "share still unknown (upper bound)", rows=rows), means]
    if exposed.prepared:
        body.append(interrupted(exposed.prepared))
    answered = {id_ for model in lineage.models.values() for id_ in model.handoffs}
    waiting = any(
        handoff.model == lineage.head and handoff.id not in answered
        for handoff in lineage.handoffs.values()
    )
    results = [] if waiting else [record.digest for record in lineage.children(lineage.head)]
    model = results[-1] if results else lineage.head
    following = NextRound.of_lineage(lineage)
    return data, [*body, "", *on_secret(model, following, waiting=waiting)]


def _dated(date: str) -> str:
    return f", {date[:16].replace('T', ' ')} UTC" if date else ""


def _part(handoff: Any) -> str:
    return f"{handoff.layers} of {handoff.all_layers} layers, " if handoff.layers else ""


def _offset_groups(lineage: Any) -> str:
    scale = lineage.secret.offset.scale
    bare = sorted(group for group, size in scale.items() if not size)
    return (
        "nothing"
        if not any(scale.values())
        else "everything"
        if not bare
        else f"all but {', '.join(bare)}"
    )


def _tree(lineage: Any) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    root = next(record for record in lineage.models.values() if record.parent is None)

    def label(record: Any) -> Text:
        state = (
            "head"
            if record.digest == lineage.head
            else "accepted"
            if lineage.accepted(record.digest)
            else "candidate"
        )
        if record.state == "prepared":
            state += ", interrupted while it was written"
        made = (
            f", {len(record.updates)} updates, server-lr {record.server_lr:g}"
            if record.parent
            else ""
        )
        return Text(f"model {record.digest[:12]}  {state}{made}{_dated(record.date)}")

    def grow(branch: Tree, record: Any) -> None:
        for handoff in lineage.handoffs.values():
            if handoff.model == record.digest:
                answered = (
                    "update in"
                    if any(handoff.id in m.handoffs for m in lineage.models.values())
                    else "no update yet"
                )
                if handoff.state == "prepared":
                    answered = "interrupted: it may or may not have left"
                branch.add(
                    Text(
                        f"handoff {handoff.id[:12]}  to {handoff.holder}, {len(handoff.copies)} of"
                        f" {handoff.size} copies, {_part(handoff)}noise {handoff.kappa:g},"
                        f" {handoff.denoising}{_dated(handoff.date)}: {answered}"
                    )
                )
        for child in lineage.children(record.digest):
            grow(branch.add(label(child)), child)

    tree = Tree(label(root))
    grow(tree, root)
    return tree
