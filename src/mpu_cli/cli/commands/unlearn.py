"""`mpu unlearn`: unlearn on every copy of a handoff, or on a model (client)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.archives import check_pack, unpacked, write_packs
from mpu_cli.cli.flags import command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_copy, after_model, after_update
from mpu_cli.cli.options import estimate_facts
from mpu_cli.cli.output import Output, facts
from mpu_cli.cli.progress import OverCopies
from mpu_cli.cli.signing import CheckedHandoff, signature_content, signing_key
from mpu_cli.cli.unlearn_options import UnlearnOptions
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.bundle.signatures.private_key import SigningKey
    from mpu_cli.bundle.signatures.trust import Trust
    from mpu_cli.training.report import TrainingReport

GUIDE = Guide(
    "client",
    "Unlearn the forget set on every copy, or on a model.",
    (
        "mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl --out to-server",
        "# one copy alone (make -j, job arrays); then 2 and 3, then --finish",
        "mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl --copy 1 --out spread",
        "mpu unlearn to-client --finish --out spread",
        "# several processes train together",
        "torchrun --nproc-per-node 2 -m mpu_cli unlearn to-client \\\n"
        "    --forget forget.jsonl --retain retain.jsonl --out to-server-2",
    ),
)


@command(joint=True)
def unlearn(job: UnlearnOptions, output: Output) -> None:
    """Unlearn the forget set on every copy in the same way.

    The update holds only the change of each copy.
    """
    if job.list_methods:
        _list_methods(output)
        return
    if job.source is None:
        raise UsageError(
            "SOURCE is missing",
            "give a handoff, a model directory or a Hub id; see mpu unlearn --help",
        )
    with _directories(job, job.source, output) as (source, reference):
        _run(replace(job, reference=reference), output, source)


@contextmanager
def _directories(
    job: UnlearnOptions, source: str, output: Output
) -> Iterator[tuple[str, str | None]]:
    """SOURCE and `--reference`; directories instead of the tar files among them."""
    from mpu_cli.checkpoint.recognise import is_tar
    from mpu_cli.modeling.processes import this_process

    texts = [text for text in (source, job.reference) if text and is_tar(Path(text))]
    if texts and this_process().size > 1:
        raise UsageError(
            f"{texts[0]}: several processes train on one directory, not on a tar file",
            f"unpack it first: tar -xf {quote(texts[0])}",
        )
    with unpacked(output, *map(Path, texts), work=job.checkpoints.directory) as places:
        directories = dict(zip(texts, map(str, places), strict=True))
        reference = job.reference and directories.get(job.reference, job.reference)
        yield directories.get(source, source), reference


def _run(job: UnlearnOptions, output: Output, source: str) -> None:
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.locate import locate

    is_handoff = is_bundle(Path(source))
    _check_outputs(job, source, is_handoff=is_handoff)
    is_config = job.dry_run and Path(source).is_file()
    place = Path(source) if is_handoff or is_config else locate(source).path
    if job.dry_run:
        _print_estimate(job, output, place)
        return
    if job.out is None:
        raise UsageError("--out is missing", "give the directory to write")
    packs = check_pack(job.pack, [job.out], [place], force=job.force)
    signing, named = signing_key(job.sign), Path(str(job.source))
    checked = job.signers.check(named, place, output) if is_handoff else None
    checks = _Signatures(checked, signing)
    if job.finish:
        _finish(job, output, place, job.out, packs, checks)
    else:
        _train(job, output, place, job.out, packs, checks, is_handoff=is_handoff)


@dataclass(frozen=True, slots=True)
class _Signatures:
    """Who signed the handoff (None: SOURCE is a model), and the key that signs the update."""

    handoff: CheckedHandoff | None
    signing: SigningKey | None

    @property
    def trust(self) -> Trust:
        """Who must have signed the handoff."""
        from mpu_cli.bundle.signatures.trust import ANYBODY

        return ANYBODY if self.handoff is None else self.handoff.trust

    def content(self) -> dict[str, Any]:
        """What --json prints."""
        signer = None if self.handoff is None else self.handoff.signer
        return {
            "signed_with": None if self.signing is None else self.signing.key.fingerprint,
            "handoff_signature": signature_content(signer),
        }


def _check_outputs(job: UnlearnOptions, source: str, *, is_handoff: bool) -> None:
    if not is_handoff and (job.copy is not None or job.finish):
        raise UsageError("--copy and --finish belong to a handoff", f"{source} is not a handoff")
    for flag, given in (("--pack", job.pack), ("--sign", job.sign)):
        if given is not None and (not is_handoff or job.copy is not None):
            finish = "give it with --finish, when all copies are made"
            raise UsageError(
                f"{flag} is for a whole update",
                finish if is_handoff else f"{source} is not a handoff",
            )
    if not is_handoff:
        job.signers.refuse_given(job.given, f"{source} is not a handoff")
    if job.finish and job.copy is not None:
        raise UsageError(
            "--copy and --finish: give one of them", "--finish comes when all copies are made"
        )


def _print_estimate(job: UnlearnOptions, output: Output, place: Path) -> None:
    from mpu_cli.cli.unlearn_estimate import resource_estimate
    from mpu_cli.cli.unlearn_job import print_rate
    from mpu_cli.cli.unlearn_view import dry_run_words

    needs = resource_estimate(job, output, place)
    print_rate(job, output, place)
    lines = dry_run_words(needs, has_rows=job.forget is not None)
    output.result(needs, *lines, facts(estimate_facts(needs)))


def _finish(
    job: UnlearnOptions,
    output: Output,
    place: Path,
    out: Path,
    packs: dict[Path, Path],
    checks: _Signatures,
) -> None:
    from mpu_cli.client.unlearn import finish_update

    with output.progress("checking the handoff") as progress:
        update = finish_update(place, out, progress, trust=checks.trust, signing=checks.signing)
    write_packs(output, packs, force=job.force)
    data = {
        "update": str(out),
        "digest": update.digest,
        "handoff": update.handoff_id,
        "packed": [str(file) for file in packs.values()],
        **checks.content(),
    }
    lines = after_update(out, Path(str(job.source)), job.given, packs.get(out))
    words = () if checks.handoff is None else (checks.handoff.words,)
    output.result(data, *words, *lines, brief=f"update {packs.get(out, out)}")


def _train(
    job: UnlearnOptions,
    output: Output,
    place: Path,
    out: Path,
    packs: dict[Path, Path],
    checks: _Signatures,
    *,
    is_handoff: bool,
) -> None:
    from mpu_cli.cli.unlearn_job import print_rate
    from mpu_cli.cli.unlearn_view import trained
    from mpu_cli.cli.verdict import states_verdict, verdict
    from mpu_cli.modeling.processes import this_process

    reports = _reports(job, output, place, out, checks, is_handoff=is_handoff)
    if this_process().is_first:
        write_packs(output, packs, force=job.force)
    data: dict[str, Any] = {
        "out": str(out),
        "copies": {name: asdict(report) for name, report in reports.items()},
        "packed": [str(file) for file in packs.values()],
        **checks.content(),
    }
    print_rate(job, output, place)
    body = trained(reports)
    judgement = verdict(reports)
    if judgement is not None:
        data["verdict"] = judgement.content
        body += ["", judgement.words]
        for warning in judgement.warnings:
            output.warn(warning)
    moved = states_verdict(reports)
    if moved is not None:
        data["verdict"] = moved.content
        body += ["", moved.words]
    if checks.handoff is not None:
        body += ["", checks.handoff.words]
    source = Path(str(job.source))
    if not is_handoff:
        output.result(data, *body, *after_model(out, job.given), brief=f"model {out}")
    elif job.copy is not None:
        brief = f"copy {out / f'copy-{job.copy}'}"
        output.result(data, *body, *after_copy(source, out, _copies(place)), brief=brief)
    else:
        sets = (job.forget, job.retain, job.refusals, job.cover, job.unanswerable)
        files = [str(file) for file in sets if file is not None]
        lines = [
            *after_update(out, source, job.given, packs.get(out), is_cut=moved is not None),
            f"keep  {' and '.join(files)}",
        ]
        output.result(data, *body, *lines, brief=f"update {packs.get(out, out)}")


def _reports(
    job: UnlearnOptions,
    output: Output,
    place: Path,
    out: Path,
    checks: _Signatures,
    *,
    is_handoff: bool,
) -> dict[str, TrainingReport]:
    """Train; the report of each copy, or of the model, by name."""
    names = [place.name]
    if is_handoff:
        names = _copies(place) if job.copy is None else [f"copy-{job.copy}"]
    with output.progress("reading rows") as progress:  # before the imports, which take seconds
        from mpu_cli.cli.unlearn_job import build_job
        from mpu_cli.client import unlearn as client

        over = OverCopies(progress, names, output.note if output.verbose else None)
        checking = partial(progress, "checking the handoff")
        work = replace(
            build_job(job, output, place),
            checking=checking,
            doing=over.doing,
            trust=checks.trust,
            signing=checks.signing,
        )
        if not is_handoff:
            report = client.unlearn_model(
                place, out, work, over.on_step, dtype=job.storage.dtype, force=job.force
            )
        elif job.copy is not None:
            report = client.unlearn_one_copy(
                place, out, job.copy, work, over.on_step, force=job.force
            )
        else:
            return client.unlearn_handoff(place, out, work, over.on_step, force=job.force)[1]
    return {names[0]: report}


def _copies(handoff: Path) -> list[str]:
    from mpu_cli.bundle.manifest import decode
    from mpu_cli.bundle.read import manifest_bytes

    return [copy.name for copy in decode(manifest_bytes(handoff), handoff).copies]


def _list_methods(output: Output) -> None:
    from mpu_cli.cli.unlearn_view import method_facts, method_view
    from mpu_cli.client import methods

    described = methods.describe()
    output.result(
        {"methods": [method_facts(info) for info in described]},
        *(part for info in described for part in method_view(info)),
    )
