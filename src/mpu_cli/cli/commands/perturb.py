"""`mpu perturb`: publish perturbed copies of a model (server)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mpu_cli.cli.archives import check_pack, write_packs
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_perturb, on_handoff
from mpu_cli.cli.options import SECRET, Shared, estimate_facts, server_words, use_one_thread
from mpu_cli.cli.output import Output, facts, share, table, unknown
from mpu_cli.documentation import page
from mpu_cli.errors import UsageError
from mpu_cli.option import REQUIRED, flags_of, option, same_option
from mpu_cli.server.publishing.settings import PAPER, PerturbSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.checkpoint.locate import Located
    from mpu_cli.server.publishing.result import PerturbResult

GUIDE = Guide(
    "server",
    "Publish perturbed copies of a model, and keep the secret.",
    (
        "mpu perturb model --base base --handoff to-client --secret server",
        "mpu perturb model --base base --handoff to-holders --secret server --split",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbOptions(Job):
    """What `mpu perturb` was asked to do."""

    model: str = option(
        REQUIRED,
        "Model directory, org/name[@revision] or hf://org/name[@revision].",
        panel="Model",
        flag="MODEL",
    )
    base: str | None = option(
        None,
        "Public model that MODEL was fine-tuned from.",
        metavar="MODEL",
    )
    secret: Path | None = option(
        None,
        "Directory of the lineage's secret; the first perturb makes it.",
        metavar="DIR",
        environment=SECRET,
    )
    new_lineage: Path | None = option(
        None,
        "New directory for the secret of another lineage, for a model that already has a lineage.",
        metavar="DIR",
    )
    probe: Path | None = option(
        None,
        "Rows (JSON or JSONL) on which to measure the loss of each copy.",
        panel="Data",
        metavar="FILE",
    )
    preset_name: Literal["paper"] | None = option(
        None,
        "Use the authors' settings. Options that you give win.",
        panel="Method",
        flag="--preset",
    )
    handoff: Path = option(
        REQUIRED, "Directory to write for the client.", panel="Output", metavar="DIR"
    )
    settings: PerturbSettings
    reissue: str | None = option(
        None,
        "Write the lost handoff with this id again, bit for bit.",
        metavar="ID",
    )
    pack: Path | None = same_option(Shared, "pack")
    dry_run: bool = same_option(Shared, "dry_run")
    force: bool = same_option(Shared, "force")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of `--preset paper`."""
        return PAPER if given.get("preset") == "paper" else {}

    @property
    def directory(self) -> Path:
        """The directory of the secret.

        Raises:
            UsageError: not exactly one of `--secret` and `--new-lineage` was given.
        """
        secret = self.secret if self.new_lineage is None or "--secret" in self.given else None
        if (secret is None) == (self.new_lineage is None):
            raise UsageError(
                "give --secret DIR, or --new-lineage DIR to begin another lineage (one of the two)"
            )
        directory = secret or self.new_lineage
        assert directory is not None
        return directory


@command()
def perturb(job: PerturbOptions, output: Output) -> None:
    """Publish perturbed copies of a model, and keep the secret that aggregates their updates."""
    directory = job.directory
    if job.preset_name is not None:
        output.note(_preset_words(job))
    from mpu_cli.checkpoint.locate import locate

    source = locate(job.model)
    if job.dry_run:
        _print_estimate(job, output, source.path)
        return
    targets = [job.handoff]
    if job.settings.split:
        targets = [job.handoff / f"holder-{n + 1}" for n in range(job.settings.copies)]
    packs = check_pack(job.pack, targets, [directory, source.path], force=job.force)
    if job.reissue is not None:
        _write_again(job, output, source, job.reissue, packs)
        return
    with output.progress() as progress:
        from mpu_cli.server.publishing.perturb import Target
        from mpu_cli.server.publishing.perturb import perturb as run

        use_one_thread()
        result = run(
            source,
            locate(job.base) if job.base else None,
            Target(
                job.handoff,
                directory,
                new_lineage=job.new_lineage is not None,
                named_secrets=_named_secrets(),
                force=job.force,
            ),
            job.settings,
            probe=_probe(job.probe),
            progress=progress,
        )
    write_packs(output, packs, force=job.force)
    _tell(result, output)
    packed = [str(file) for file in packs.values()]
    places = list(packs.values()) or _handed_out(result, job.handoff)
    output.result(
        _data(result, job.handoff, directory) | {"packed": packed},
        *_body(result, places, directory, job.model),
        brief=f"handoff {', '.join(map(str, places))}",
    )


def _print_estimate(job: PerturbOptions, output: Output, model: Path) -> None:
    from mpu_cli.server.publishing.estimate import estimate_perturb

    needs, copies = estimate_perturb(model, job.settings), job.settings.copies
    words = server_words(needs, f"{copies} cop{'y' if copies == 1 else 'ies'}")
    output.result(needs, *words, facts(estimate_facts(needs)))


def _write_again(
    job: PerturbOptions, output: Output, source: Located, id: str, packs: dict[Path, Path]
) -> None:
    from mpu_cli.server.publishing.reissue import reissue

    record = reissue(source, job.handoff, job.directory, id, force=job.force)
    write_packs(output, packs, force=job.force)
    data = {
        "handoff": str(job.handoff),
        "id": record.id,
        "digest": record.digest,
        "packed": [str(job.pack)] if job.pack else [],
    }
    output.result(
        data,
        f"handoff {record.id} written again, bit for bit: {job.handoff}",
        *on_handoff(job.pack or job.handoff),
    )


def _preset_words(job: PerturbOptions) -> str:
    """What the preset set, and which of it the user's own options changed."""
    flags = flags_of(PerturbSettings)
    sets, own = (
        [
            f"{flags[name].removeprefix('--')} {getattr(job.settings, name)}"
            for name in PAPER
            if (flags[name] in job.given) == is_own
        ]
        for is_own in (False, True)
    )
    return f"preset paper sets: {', '.join(sets)}{'; yours: ' if own else ''}{', '.join(own)}"


def _named_secrets() -> list[Path]:
    named = os.environ.get(SECRET)
    return [Path(named)] if named else []


def _probe(path: Path | None) -> Any:
    if path is None:
        return None
    from mpu_cli.evaluation.answer_scores import copy_losses

    return partial(copy_losses, path)


def _tell(result: PerturbResult, output: Output) -> None:
    for warning in result.warnings:
        output.warn(warning)
    if result.test_secret:
        output.warn("this secret was prepared by a test (origin: test): it hides nothing")
    if output.verbose:
        for line in result.background:
            output.note(line)


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
        "exposure_by": dict(result.exposure.bounds),
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
    measured = first.realised
    noise = [f"asked for {first.kappa:g} {unit}"]
    if "noise" in measured:
        noise.append(f"measured {measured['noise']:.4f} of that")
    noise.append(f"{measured['changed']:.2%} of entries changed" if measured["changed"] else "none")
    properties = {
        "copies": f"{first.size}, {first.dtype}, {first.denoising}",
        "noise": ", ".join(noise),
        "cancels to": f"{share(measured['residual'])} of the weights",
        "recoverable": (
            f"{measured['recoverable']:.2%} of entries, by rounding a copy to the model's own"
            " number grid"
        ),
        "checked": _checked(result),
    }
    body: list[RenderableType] = [facts(properties)]
    from mpu_cli.server.publishing.advice import interrupted, meaning

    body.append(
        table("exposure", f"share {unit} still unknown (upper bound)", rows=_exposed(result))
    )
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
    """The exposure by this draw, then by all that its holders have of the lineage."""
    from mpu_cli.server.publishing.advice import attack, who_pool

    shown, ledger = result.exposure, result.ledger
    earlier = ledger.handoffs - len(result.handoffs)
    lefts = [
        ("with no copy", shown.no_copy, ""),
        (
            "to a holder of one copy (the best-known one)",
            shown.one_copy,
            attack(shown.bounds["one_copy"]),
        ),
        ("to a holder of all copies", shown.all_copies, attack(shown.bounds["all_copies"])),
    ]
    before = f", with {earlier} earlier handoff{'s' * (earlier > 1)}" if earlier else ""
    pools = (
        ledger.coalitions if earlier else ledger.coalitions[1:-1]
    )  # the first and the last are above
    lefts += [
        (
            who_pool(size, len(ledger.by_holder)) + before,
            left,
            attack(ledger.bounds[f"{size} together"]),
        )
        for size, left in pools
    ]
    if earlier and not ledger.coalitions:
        lefts += [
            (f"to {holder}{before}", left, attack(ledger.bounds[holder]))
            for holder, left in ledger.by_holder.items()
        ]
    if ledger.all_together < min(left for _, left, _ in lefts):
        together = attack(ledger.bounds["all together"])
        lefts.append(("to all holders of this lineage together", ledger.all_together, together))
    return [(who, unknown(left, how)) for who, left, how in lefts]


def _checked(result: PerturbResult) -> str:
    if not result.checks:
        return "nothing (no reparameterization, or --check none)"
    worst = max(check.difference / check.rounding for check in result.checks)
    layers = len({check.layer for check in result.checks})
    return (
        f"{layers} layers × {result.handoffs[0].size} copies keep the function, at most"
        f" {worst:.1f}× their own rounding (limit 20×)"
    )
