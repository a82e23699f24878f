"""`mpu perturb`: publish perturbed copies of a model (server)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.archives import Pack, check_pack, write_packs
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_perturb, on_handoff
from mpu_cli.cli.options import (
    SECRET,
    Config,
    DryRun,
    Force,
    Json,
    ShardSize,
    choice,
    estimate_facts,
    from_environment,
    numbers,
    server_words,
    use_one_thread,
)
from mpu_cli.cli.output import Output, facts, share, table, unknown
from mpu_cli.documentation import page
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.server.publishing.result import PerturbResult
    from mpu_cli.server.publishing.settings import PerturbSettings

GUIDE = Guide(
    "server",
    "Publish perturbed copies of a model, and keep the secret.",
    (
        "mpu perturb model --base base --handoff to-client --secret server",
        "mpu perturb model --base base --handoff to-holders --secret server --split",
    ),
)


def perturb(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="Model directory, org/name[@revision] or hf://org/name[@revision]."),
    ],
    handoff: Annotated[Path, typer.Option("--handoff", help="Directory to write for the client.")],
    secret: Annotated[
        Path | None,
        typer.Option("--secret", envvar=SECRET, help="The lineage's secret; made at first use."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The public model that MODEL was fine-tuned from.")
    ] = None,
    copies: Annotated[
        int | None, typer.Option("--copies", "-m", help="How many copies. [default: 3]")
    ] = None,
    kappa: Annotated[
        float | None,
        typer.Option(
            help=(
                "Noise, as a share of the task vector (of the weights without a base). [default:"
                " 0.1]"
            )
        ),
    ] = None,
    denoising: Annotated[
        str | None, typer.Option(help="harmonic or extrapolation. [default: harmonic]")
    ] = None,
    alphas: Annotated[
        str | None, typer.Option(help="Noise scale of each copy, in copy order: 1,1.5,2.")
    ] = None,
    nodes: Annotated[
        str | None, typer.Option(help="Node of each copy on the noise line, in copy order: 1,-1.")
    ] = None,
    offset: Annotated[
        float | None,
        typer.Option(
            help=(
                "Secret offset in the noise's unit, frozen at the lineage's first perturb."
                " [default: 0]"
            )
        ),
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="One handoff per copy, each for another holder.")
    ] = False,
    reparam: Annotated[
        str | None,
        typer.Option(help="signed-permutation (the default), rotation, paper-rotation or none."),
    ] = None,
    noise_relative_to: Annotated[str | None, typer.Option(help="task-vector or weights.")] = None,
    scope: Annotated[
        str, typer.Option(help="layers, or all: embeddings, head and final norm get noise too.")
    ] = "layers",
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16. [default: auto]")
    ] = None,
    max_shard_size: ShardSize = "50GB",
    check: Annotated[
        str, typer.Option(help="Prove function preservation on sample, all or none of the layers.")
    ] = "sample",
    probe: Annotated[
        Path | None, typer.Option(help="Rows (JSON or JSONL): report what each copy loses on them.")
    ] = None,
    client: Annotated[
        str, typer.Option(help="Who gets this handoff; kept in the secret only.")
    ] = "",
    preset: Annotated[
        str | None, typer.Option(help="paper: the authors' settings; options you give win.")
    ] = None,
    train_embeddings: Annotated[
        bool | None,
        typer.Option(
            "--train-embeddings/--no-train-embeddings",
            help="Let the client train embeddings. [default: no]",
        ),
    ] = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Work on a model that a newer accepted one has replaced.")
    ] = False,
    new_lineage: Annotated[
        Path | None,
        typer.Option(help="Begin another lineage of a model that has one, in this new directory."),
    ] = None,
    reissue: Annotated[
        str | None, typer.Option(help="Write a lost handoff again, bit for bit, by its id.")
    ] = None,
    pack: Pack = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Publish perturbed copies of a model, and keep the secret that takes their updates back."""
    if new_lineage is not None and from_environment(context, "secret"):
        secret = None  # its lineage is still looked at: see _named_secrets
    if (secret is None) == (new_lineage is None):
        raise UsageError(
            "give --secret DIR, or --new-lineage DIR to begin another lineage (one of the two)"
        )
    output = Output(context, as_json=json)
    directory = secret or new_lineage
    assert directory is not None
    settings = _settings(
        output,
        preset,
        {
            "copies": copies,
            "kappa": kappa,
            "denoising": denoising,
            "reparam": reparam,
            "dtype": dtype,
            "train_embeddings": train_embeddings,
        },
        alphas=numbers("--alphas", alphas),
        nodes=numbers("--nodes", nodes),
        offset=offset,
        split=split,
        noise_relative_to=noise_relative_to
        and choice("--noise-relative-to", noise_relative_to, ("task-vector", "weights")),
        scope=choice("--scope", scope, ("layers", "all")),
        shard_size=max_shard_size,
        check=choice("--check", check, ("sample", "all", "none")),
        client=client,
        fork=fork,
    )
    from mpu_cli.checkpoint.locate import locate

    source = locate(model)
    if dry_run:
        from mpu_cli.server.publishing.estimate import estimate_perturb

        needs = estimate_perturb(source.path, settings)
        copies_of_it = f"{settings.copies} cop{'y' if settings.copies == 1 else 'ies'}"
        output.result(needs, *server_words(needs, copies_of_it), facts(estimate_facts(needs)))
        return
    targets = (
        [handoff / f"holder-{number + 1}" for number in range(settings.copies)]
        if split
        else [handoff]
    )
    packs = check_pack(pack, targets, [directory, source.path], force=force)
    if reissue is not None:
        from mpu_cli.server.publishing.reissue import reissue as write_again

        record = write_again(source, handoff, directory, reissue, force=force)
        write_packs(output, packs, force=force)
        data = {
            "handoff": str(handoff),
            "id": record.id,
            "digest": record.digest,
            "packed": [str(pack)] if pack else [],
        }
        output.result(
            data,
            f"handoff {record.id} written again, bit for bit: {handoff}",
            *on_handoff(pack or handoff),
        )
        return
    with output.progress() as progress:
        from mpu_cli.server.publishing.perturb import Target
        from mpu_cli.server.publishing.perturb import perturb as run

        use_one_thread()
        result = run(
            source,
            locate(base) if base else None,
            Target(
                handoff,
                directory,
                new_lineage=new_lineage is not None,
                named_secrets=_named_secrets(),
                force=force,
            ),
            settings,
            probe=_probe(probe),
            progress=progress,
        )
    write_packs(output, packs, force=force)
    for warning in result.warnings:
        output.warn(warning)
    if result.test_secret:
        output.warn("this secret was prepared by a test (origin: test): it hides nothing")
    if output.verbose:
        for line in result.background:
            output.note(line)
    data = _data(result, handoff, directory) | {"packed": [str(file) for file in packs.values()]}
    places = list(packs.values()) or _handed_out(result, handoff)
    output.result(
        data,
        *_body(result, places, directory, model),
        brief=f"handoff {', '.join(map(str, places))}",
    )


def _settings(
    output: Output, preset: str | None, options: Mapping[str, Any], *, shard_size: str, **rest: Any
) -> PerturbSettings:
    """`options` are those that a preset sets, None where they were not given."""
    from mpu_cli.checkpoint.writer import parse_size
    from mpu_cli.server.publishing.settings import PAPER, PerturbSettings
    from mpu_cli.server.transforms import REPARAMETERIZATIONS

    given = {key: value for key, value in options.items() if value is not None}
    values: dict[str, Any] = dict(given)
    if preset is not None:
        choice("--preset", preset, ("paper",))
        values = {**PAPER, **given}
        told = [
            f"{key.replace('_', '-')} {value}" for key, value in PAPER.items() if key not in given
        ]
        own = [f"{key.replace('_', '-')} {value}" for key, value in given.items()]
        output.note(
            f"preset paper sets: {', '.join(told)}{'; yours: ' if own else ''}{', '.join(own)}"
        )
    known = {
        "denoising": ("harmonic", "extrapolation"),
        "reparam": tuple(REPARAMETERIZATIONS),
        "dtype": ("auto", "float32", "bfloat16", "float16"),
    }
    for key, choices in known.items():
        if key in values:
            choice(f"--{key}", values[key], choices)
    return PerturbSettings(**values, max_shard_bytes=parse_size(shard_size), **rest)


def _named_secrets() -> list[Path]:
    named = os.environ.get(SECRET)
    return [Path(named)] if named else []


def _probe(path: Path | None) -> Any:
    if path is None:
        return None
    from mpu_cli.evaluation.answer_scores import copy_losses

    return lambda model, copies: copy_losses(path, model, copies)


def _data(result: PerturbResult, handoff: Path, secret: Path) -> dict[str, Any]:
    from mpu_cli.server.publishing.advice import meaning

    first = result.handoffs[0]
    return {
        "handoffs": [
            {"path": h.target, "id": h.id, "digest": h.digest, "holder": h.holder}
            for h in result.handoffs
        ],
        "handoff": str(handoff),
        "secret": str(secret),
        "new_lineage": result.new_lineage,
        "model": first.model,
        "copies": first.size,
        "dtype": first.dtype,
        "denoising": first.denoising,
        "kappa": first.kappa,
        "offset": first.offset,
        "relative_to": result.relative_to,
        "transforms": list(first.transforms),
        "sigma": dict(first.sigma),
        "realised": dict(first.realised),
        "exposure": result.exposure.content(),
        "exposure_means": meaning(result.relative_to, result.exposure.no_copy),
        "ledger": result.ledger.content(),
        "checks": len(result.checks),
        "probe": dict(result.probe),
        "advice": list(result.advice),
        "warnings": list(result.warnings),
    }


def _body(
    result: PerturbResult, sent: Sequence[Path], secret: Path, model: str
) -> list[RenderableType]:
    first = result.handoffs[0]
    unit = "of the task vector" if result.relative_to == "task-vector" else "of the weights"
    realised = first.realised
    noise = [f"asked {first.kappa:g} {unit}"]
    if "noise" in realised:
        noise.append(f"realised × {realised['noise']:.4f}")
    noise.append(f"{realised['changed']:.2%} of entries changed" if realised["changed"] else "none")
    told = {
        "copies": f"{first.size}, {first.dtype}, {first.denoising}",
        "noise": ", ".join(noise),
        "cancels to": f"{share(realised['residual'])} of the weights",
        "recoverable": (
            f"{realised['recoverable']:.2%} of entries, by rounding a copy to the model's own"
            " number grid"
        ),
        "checked": _checked(result),
    }
    body: list[RenderableType] = [facts(told)]
    from mpu_cli.server.publishing.advice import interrupted, meaning

    body.append(table("exposure", f"left unknown {unit}, at most", rows=_exposed(result)))
    body.append(f"{meaning(result.relative_to, result.exposure.no_copy)} ({page('threat-model')})")
    if result.ledger.prepared:
        body.append(interrupted(result.ledger.prepared))
    body.append(f"error of a smooth update: order {result.exposure.order} in the noise")
    if result.probe:
        rows = [(name, f"{loss:.4f}") for name, loss in result.probe.items()]
        body.append(table("probe", "loss, nats per token", rows=rows))
    body.extend(f"note: {line}" for line in result.advice)
    body.append("")
    for place, record in zip(sent, result.handoffs, strict=True):
        body.append(f"send  {place}  to {record.holder}")
    body.append(f"keep  {secret}  (secret; back it up, never send it)")
    return [*body, *after_perturb(sent, secret, model)]


def _handed_out(result: PerturbResult, handoff: Path) -> list[Path]:
    """The handoffs as the user named them; the records have absolute paths."""
    here = handoff.absolute()
    targets = [Path(record.target) for record in result.handoffs]
    return [
        handoff / target.relative_to(here) if target.is_relative_to(here) else target
        for target in targets
    ]


def _exposed(result: PerturbResult) -> list[tuple[str, str]]:
    """The exposure of this draw, then that of its holders with all that they have of the lineage."""
    from mpu_cli.server.publishing.advice import who_pool

    shown, ledger = result.exposure, result.ledger
    earlier = ledger.handoffs - len(result.handoffs)
    lefts = [
        ("with no copy", shown.no_copy),
        ("to a holder of one copy (the best-known one)", shown.one_copy),
        ("to a holder of all copies", shown.all_copies),
    ]
    before = f", with {earlier} earlier handoff{'s' * (earlier > 1)}" if earlier else ""
    pools = (
        ledger.coalitions if earlier else ledger.coalitions[1:-1]
    )  # the first and the last are above
    lefts += [(who_pool(size, len(ledger.by_holder)) + before, left) for size, left in pools]
    if earlier and not ledger.coalitions:
        lefts += [(f"to {holder}{before}", left) for holder, left in ledger.by_holder.items()]
    if ledger.all_together < min(left for _, left in lefts):
        lefts.append(("to all holders of this lineage together", ledger.all_together))
    return [(who, unknown(left)) for who, left in lefts]


def _checked(result: PerturbResult) -> str:
    if not result.checks:
        return "nothing (no reparameterization, or --check none)"
    worst = max(check.difference / check.rounding for check in result.checks)
    layers = len({check.layer for check in result.checks})
    return (
        f"{layers} layers × {result.handoffs[0].size} copies keep the function, at most"
        f" {worst:.1f}× their own rounding (limit 20×)"
    )
