"""`mpu perturb`: publish perturbed copies of a model (server)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mpu_cli.cli.archives import check_pack, write_packs
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import on_handoff
from mpu_cli.cli.options import SECRET, Shared, estimate_facts, server_words, use_one_thread
from mpu_cli.cli.output import Output, facts
from mpu_cli.cli.perturb_view import body, data, handed_out, trial_rows
from mpu_cli.cli.signing import Signing, signing_key
from mpu_cli.errors import UsageError
from mpu_cli.option import REQUIRED, flags_of, option, same_option
from mpu_cli.server.publishing.settings import AUTO, PAPER, PerturbSettings

if TYPE_CHECKING:
    from mpu_cli.bundle.signatures.private_key import SigningKey
    from mpu_cli.checkpoint.locate import Located
    from mpu_cli.cli.progress import ProgressCallback
    from mpu_cli.server.publishing.noise_search import Search, Trial
    from mpu_cli.server.publishing.perturb import Target
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
    budget: float | None = option(
        None,
        "Most that a copy may lose on the --probe rows, in nats per token, for --kappa auto and"
        " --offset auto.",
        above=0,
        hint="0.05 nats are 5 % of the probability of each token",
        panel="Method",
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
    sign: Path | None = same_option(Signing, "sign")
    pack: Path | None = same_option(Shared, "pack")
    dry_run: bool = same_option(Shared, "dry_run")
    force: bool = same_option(Shared, "force")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of `--preset paper`."""
        return PAPER if given.get("preset") == "paper" else {}

    @property
    def search(self) -> Search | None:
        """What `--kappa auto` and `--offset auto` ask for; None without them.

        Raises:
            UsageError: `--budget` or `--probe` is missing, or there is nothing to search.
        """
        kappa, offset = (self.given.get(flag) == (AUTO,) for flag in ("--kappa", "--offset"))
        if not kappa and not offset:
            if self.budget is not None:
                raise UsageError(
                    "--budget has no effect without --kappa auto or --offset auto",
                    "give one of them too",
                )
            return None
        if self.budget is None or self.probe is None:
            raise UsageError(
                f"{'--kappa' if kappa else '--offset'} auto needs --budget and --probe",
                "give what a copy may lose, and the rows to measure it on: --budget 0.05 --probe"
                " rows.jsonl",
            )
        from mpu_cli.server.publishing.noise_search import Search

        return Search(kappa, offset, self.budget)

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
    directory, search = job.directory, job.search
    if job.settings.upto is not None and job.probe is not None:
        raise UsageError(
            "--upto and --probe: the lower layers of a model give no answers to measure",
            "leave one of them out",
        )
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
    packs = check_pack(
        job.pack,
        targets,
        [directory, source.path],
        force=job.force,
        keep_finished=job.reissue is None,
    )
    signing = signing_key(job.sign)
    if job.reissue is not None:
        _write_again(job, output, source, job.reissue, packs, signing)
        return
    with output.progress() as progress:
        from mpu_cli.server.publishing.perturb import Target

        use_one_thread()
        target = Target(
            job.handoff,
            directory,
            new_lineage=job.new_lineage is not None,
            named_secrets=_named_secrets(),
            force=job.force,
            signing=signing,
            packs=packs,
        )
        result, trials = _run(job, source, target, search, progress)
    write_packs(output, packs, force=job.force)
    _tell(result, output)
    packed = [str(file) for file in packs.values()]
    places = list(packs.values()) or handed_out(result, job.handoff)
    output.result(
        data(result, trials, job.handoff, directory)
        | {"packed": packed, "signed_with": signing and signing.key.fingerprint},
        *trial_rows(trials, result, job.budget),
        *body(result, places, directory, job.model),
        brief=f"handoff {', '.join(map(str, places))}",
    )


def _run(
    job: PerturbOptions,
    source: Located,
    target: Target,
    search: Search | None,
    progress: ProgressCallback,
) -> tuple[PerturbResult, tuple[Trial, ...]]:
    from mpu_cli.checkpoint.locate import locate

    base, probe = locate(job.base) if job.base else None, _probe(job.probe)
    if search is None:
        from mpu_cli.server.publishing.perturb import perturb as run

        return run(source, base, target, job.settings, probe=probe, progress=progress), ()
    from mpu_cli.server.publishing.noise_search import perturb_within_budget

    return perturb_within_budget(
        source, base, target, job.settings, search, probe, progress=progress
    )


def _print_estimate(job: PerturbOptions, output: Output, model: Path) -> None:
    from mpu_cli.server.publishing.estimate import estimate_perturb

    needs, copies = estimate_perturb(model, job.settings), job.settings.copies
    words = server_words(needs, f"{copies} cop{'y' if copies == 1 else 'ies'}")
    more: dict[str, int] = {}
    if job.search is not None:
        from mpu_cli.server.publishing.noise_search import TRIALS

        more = {"trials": TRIALS}
        words = [*words, f"at most {TRIALS} trials before, each of one copy that is removed again"]
    output.result({**needs, **more}, *words, facts(estimate_facts(needs)))


def _write_again(
    job: PerturbOptions,
    output: Output,
    source: Located,
    id: str,
    packs: dict[Path, Path],
    signing: SigningKey | None,
) -> None:
    from mpu_cli.server.publishing.reissue import reissue

    record = reissue(source, job.handoff, job.directory, id, force=job.force, signing=signing)
    write_packs(output, packs, force=job.force)
    told = {
        "handoff": str(job.handoff),
        "id": record.id,
        "digest": record.digest,
        "packed": [str(job.pack)] if job.pack else [],
        "signed_with": signing and signing.key.fingerprint,
    }
    output.result(
        told,
        f"handoff {record.id} written again, bit for bit: {job.handoff}",
        *on_handoff(job.pack or job.handoff),
    )


def _preset_words(job: PerturbOptions) -> str:
    """What the preset set, and which of it the user's own options changed."""
    flags = flags_of(PerturbSettings)
    sets, own = (
        [
            f"{flags[name].removeprefix('--')} "
            + " ".join(job.given.get(flags[name]) or (str(getattr(job.settings, name)),))
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
