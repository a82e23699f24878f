"""`mpu perturb`: publish copies of a model, and remember in the secret what is needed to take their updates back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from mpu_cli.architectures.family import family_of
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.config_file import CONFIG_FILE
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.errors import BadModelError, BadSecretError
from mpu_cli.server.can_be_loaded import check_loads, check_published
from mpu_cli.server.estimate import handoff_bytes
from mpu_cli.server.lineage.exposure import Exposure, Ledger, exposure_of, ledger
from mpu_cli.server.lineage.model_card import read_model_card
from mpu_cli.server.lineage.models import Lineage, create, open_locked
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord, now
from mpu_cli.server.lineage.second_lineage import (
    lineages_beside,
    places,
    refuse_own_model,
    refuse_unasked,
)
from mpu_cli.server.lineage.second_lineage import warnings as second_lineage_warnings
from mpu_cli.server.publishing.advice import advice, equal_alphas
from mpu_cli.server.publishing.function_check import LayerCheck
from mpu_cli.server.publishing.handoff_builder import Handout, Progress
from mpu_cli.server.publishing.noise_statistics import RECOVERABLE_WARNING, cancels_badly
from mpu_cli.server.publishing.reparameterizations import chosen, is_rotation
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.publishing.weight_statistics import WeightStatistics, measure
from mpu_cli.server.secrets.leak_scan import require_no_secret
from mpu_cli.server.secrets.secret import SECRET_FILE, Secret, SystemEntropy

Probe = Callable[[Path, Sequence[Path]], Mapping[str, float]]
"""Given the model and the copies, says what each loses on a text (nats per token)."""


@dataclass(frozen=True, slots=True)
class PerturbResult:
    """What was published and what it exposes."""

    handoffs: tuple[HandoffRecord, ...]
    exposure: Exposure
    """Of the whole draw."""
    ledger: Ledger
    """Of the holders of this draw, with everything that they hold of the lineage."""
    relative_to: str
    new_lineage: bool
    test_secret: bool
    checks: tuple[LayerCheck, ...]
    probe: Mapping[str, float]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    background: tuple[str, ...] = ()
    """What speaks against a default: for readers who ask for more."""


def perturb(
    model: Located,
    base: Located | None,
    handoff: Path,
    secret: Path,
    settings: PerturbSettings,
    *,
    new_lineage: bool = False,
    named_secrets: Sequence[Path] = (),
    probe: Probe | None = None,
    force: bool = False,
    entropy: SystemEntropy | None = None,
    progress: Progress = lambda *_: None,
) -> PerturbResult:
    """Publish one draw of copies under `handoff`; the secret directory is made if it is not there.

    Where it is not there, no other lineage may know the model: one beside `secret`, `handoff`, the
    model, or one of the `named_secrets` (secret directories that the user has named elsewhere).
    `new_lineage` begins another all the same.

    Raises:
        GateError: `secret` would begin a second lineage of the model, and `new_lineage` was not
            given.
        MpuError: see the modules that decide: settings, plan, lineage, function_check, checkpoint.
    """
    kept = [model.path, *([base.path] if base else [])]
    refuse_nesting(handoff, secret, *kept)
    refuse_nesting(secret, *kept)
    finished = _finish_interrupted(handoff, secret)
    if finished is not None and not force:
        return finished
    refuse_existing(handoff, force=force)
    source = open_checkpoint(model.path)
    check_side_files(source.path)
    family_of(
        source.config, source.path / CONFIG_FILE
    )  # an unknown architecture before what follows from it
    check_loads(source)
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    names = chosen(settings.reparam, layout.transforms, layout.family)
    base_checkpoint = open_checkpoint(base.path) if base is not None else None
    with _lineage(secret, new=new_lineage) as lineage:
        near = (
            places(secret, handoff, model.path, *named_secrets)
            if new_lineage or lineage is None
            else frozenset()
        )
        if near and not new_lineage:
            refuse_own_model(model.path, read_model_card(model.path), secret, near)
        _require_space(handoff, source, settings.copies, settings.dtype)
        progress("measure", 0, 1)
        groups = layout.groups(settings.scope)
        measured = measure(source, base_checkpoint, groups)
        if lineage is not None:
            _enter(lineage, measured, settings, model)
        rivals = lineages_beside(measured.digest, near, secret)
        if near and not new_lineage:
            refuse_unasked(model.path, measured.digest, secret, rivals)
        handout = Handout(
            source, layout, groups, names, settings, measured, lineage, entropy or SystemEntropy()
        )
        _require_space(handoff, source, settings.copies, handout.plan.dtype)
        checks = handout.check(progress)
        with ExitStack() as stack:
            staging = stack.enter_context(Staging(handoff, force=force))
            with disk_errors(handoff):
                records = handout.publish(staging.path, progress)
                require_no_secret(staging.path, handout.master)
                check_published(next(staging.path.rglob("copy-1")))
                losses = _probe(probe, source.path, staging.path)
                after = _commit(
                    handout, records, staging, secret, (model.source, _place(base)), stack
                )
    return _result(
        handout, after, records, checks, losses, new_lineage=lineage is None, rivals=rivals
    )


def _place(base: Located | None) -> str | None:
    """Where a base can be found again in the next round."""
    return None if base is None else base.source or str(base.path.absolute())


def _require_space(handoff: Path, source: Checkpoint, copies: int, dtype: str) -> None:
    require_space(
        handoff,
        handoff_bytes(source, copies, dtype),
        f"a handoff of {copies} cop{'y' if copies == 1 else 'ies'}",
    )


def _finish_interrupted(handoff: Path, secret: Path) -> PerturbResult | None:
    """The result of an interrupted run whose handoff is in place and whose record only did not say so yet."""
    if not (secret / SECRET_FILE).exists():
        return None
    with open_locked(secret) as lineage:
        names = lineage.recover()
        records = tuple(lineage.handoffs[name] for name in names if name in lineage.handoffs)
        target = str(handoff.absolute())
        if not any(record.target in {target, f"{target}/holder-1"} for record in records):
            return None
        return PerturbResult(
            handoffs=records,
            exposure=exposure_of(
                [record for record in lineage.handoffs.values() if record.draw == records[0].draw]
            ),
            ledger=_ledger(lineage, records),
            relative_to=records[0].relative_to,
            new_lineage=False,
            test_secret=lineage.secret.origin == "test",
            checks=(),
            probe={},
            advice=(),
            warnings=(
                "an interrupted run had already written this handoff; its record now says so",
            ),
        )


def _ledger(lineage: Lineage, records: Sequence[HandoffRecord]) -> Ledger:
    return ledger(lineage.handoffs.values(), {record.holder for record in records})


def _enter(
    lineage: Lineage, measured: WeightStatistics, settings: PerturbSettings, model: Located
) -> None:
    lineage.use(measured.digest, model.path, fork=settings.fork)
    known = lineage.secret.base
    if known is not None and measured.base_digest is not None and measured.base_digest != known:
        raise BadModelError(
            f"--base: another base (digest {measured.base_digest[:12]}…) than this lineage began"
            f" with ({known[:12]}…)",
            "give the same base in every round",
        )


@contextmanager
def _lineage(path: Path, *, new: bool) -> Iterator[Lineage | None]:
    """An existing lineage, locked; None where a new one is to be made."""
    if path.exists() and not path.is_dir():
        raise BadSecretError(
            f"{path}: is not a directory", "give the server's secret directory with --secret"
        )
    if path.exists() and any(path.iterdir()):
        with open_locked(path) as lineage:
            # What an interrupted --new-lineage has left is the lineage that was asked for.
            if new and any(record.state != "prepared" for record in lineage.handoffs.values()):
                raise BadSecretError(
                    f"{path}: --new-lineage needs a directory that does not exist yet",
                    "give another one",
                )
            yield lineage
    else:
        yield None


def _commit(
    handout: Handout,
    records: list[HandoffRecord],
    staging: Staging,
    secret: Path,
    sources: tuple[str | None, str | None],
    stack: ExitStack,
) -> Lineage:
    """Records first, flushed; then the handoff's rename; then `issued`.

    A crash between is finished by `recover`.
    """
    for number, record in enumerate(records):
        folder = (
            staging.target / f"holder-{number + 1}" if handout.settings.split else staging.target
        )
        records[number] = replace(record, target=str(folder))
    lineage = handout.lineage
    if lineage is None:
        new = stack.enter_context(Staging(secret, private=True))
        root = ModelRecord(
            handout.measured.digest, 0, "committed", None, (), (), 0.0, sources[0], now()
        )
        content = Secret(
            handout.new_id(),
            handout.origin,
            handout.master,
            handout.measured.base_digest,
            sources[1],
            handout.plan.offset,
        )
        with disk_errors(secret):
            lineage = create(new.path, content, root)
            for record in records:
                lineage.save_handoff(record)
        new.commit()
        lineage.path = new.target
    else:
        for record in records:
            lineage.save_handoff(record)
    staging.commit()
    for number, record in enumerate(records):
        records[number] = replace(record, state="issued")
        lineage.save_handoff(records[number])
    return lineage


def _probe(probe: Probe | None, model: Path, staging: Path) -> Mapping[str, float]:
    if probe is None:
        return {}
    return probe(model, sorted(staging.glob("holder-*/copy-1")) or sorted(staging.glob("copy-*")))


def _result(
    handout: Handout,
    lineage: Lineage,
    records: list[HandoffRecord],
    checks: tuple[LayerCheck, ...],
    probe: Mapping[str, float],
    *,
    new_lineage: bool,
    rivals: Sequence[Path],
) -> PerturbResult:
    settings, plan = handout.settings, handout.plan
    warnings = [*handout.source.remarks, *plan.warnings]
    if new_lineage:
        warnings.insert(
            0,
            f"new lineage begun in {lineage.path}: its replay history, exposure and offset start"
            f" here; give --secret {quote(str(lineage.path))} in every later round",
        )
    recoverable = records[0].realised["recoverable"]
    if recoverable > RECOVERABLE_WARNING:
        warnings.append(
            f"{recoverable:.0%} of the noised entries come back exactly when a copy is rounded to"
            " the model's own number grid: this noise is too small to hide them; raise --kappa or"
            " --offset"
        )
    warnings += second_lineage_warnings(rivals, records)
    if settings.dtype != "auto":
        warnings += cancels_badly(
            records[0].size, records[0].dtype, records[0].realised["residual"]
        )
    words = advice(
        settings.denoising,
        settings.kappa,
        plan.draw.coefficients,
        plan.offset_everywhere,
        split=settings.split,
    )
    alphas = equal_alphas(
        settings.denoising, settings.kappa, plan.draw.coefficients, split=settings.split
    )
    words += alphas if settings.alphas is not None else ()
    if is_rotation(settings.reparam):
        words += (
            (
                "under AdamW the rotation alone moves the aggregated update by 16–30 % of its norm"
                " (not under SGD or Muon); --reparam signed-permutation does not"
            ),
        )
    if settings.train_embeddings:
        words += (
            (
                "this handoff lets the client train embeddings, if it asks for that too: rows of"
                " theirs that moved will tell you the tokens of its forget set"
            ),
        )
    return PerturbResult(
        handoffs=tuple(records),
        exposure=handout.exposure(range(plan.draw.size)),
        ledger=_ledger(lineage, records),
        relative_to=plan.relative_to,
        new_lineage=new_lineage,
        test_secret=handout.origin == "test",
        checks=checks,
        probe=probe,
        advice=words,
        warnings=tuple(warnings),
        background=alphas if settings.alphas is None else (),
    )
