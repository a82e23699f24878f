"""`mpu perturb`: publish copies of a model, and remember in the secret what is needed to take their updates back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, PublishedCopy, encode, listed
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadModelError, BadSecretError
from mpu_cli.server.denoise import weights
from mpu_cli.server.exposure import Exposure, advice, exposure
from mpu_cli.server.function_check import LayerCheck, check_layer, layers_to_check, require_passed
from mpu_cli.server.lineage import Lineage, create, open_locked
from mpu_cli.server.measure import Measured, measure
from mpu_cli.server.plan import Plan, make_plan
from mpu_cli.server.publish import Publication, write_copies
from mpu_cli.server.realised import RECOVERABLE_WARNING, RealisedNoise
from mpu_cli.server.records import CopyRecord, HandoffRecord, ModelRecord
from mpu_cli.server.secret import SECRET_FILE, Secret, SystemEntropy
from mpu_cli.server.settings import PerturbSettings
from mpu_cli.server.transforms import Reparameterization, chosen, draw_layer, load

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much is done, and out of how much."""
Probe = Callable[[Path, Sequence[Path]], Mapping[str, float]]
"""Given the model and the copies, says what each loses on a text (nats per token)."""


@dataclass(frozen=True, slots=True)
class PerturbResult:
    """What was published and what it exposes."""

    handoffs: tuple[HandoffRecord, ...]
    exposure: Exposure
    """Of the whole draw."""
    relative_to: str
    new_lineage: bool
    test_secret: bool
    checks: tuple[LayerCheck, ...]
    probe: Mapping[str, float]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]


def perturb(
    model: Located,
    base: Located | None,
    handoff: Path,
    secret: Path,
    settings: PerturbSettings,
    *,
    new_lineage: bool = False,
    probe: Probe | None = None,
    force: bool = False,
    entropy: SystemEntropy | None = None,
    progress: Progress = lambda *_: None,
) -> PerturbResult:
    """Publish one draw of copies under `handoff`; the secret directory is made if it is not there.

    Raises:
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
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    names = chosen(settings.reparam, layout.transforms, layout.family)
    base_checkpoint = open_checkpoint(base.path) if base is not None else None
    with _lineage(secret, new=new_lineage) as lineage:
        progress("measure", 0, 1)
        groups = layout.groups(settings.scope)
        measured = measure(source, base_checkpoint, groups)
        if lineage is not None:
            _enter(lineage, measured, settings, model)
        job = _Job(source, layout, groups, names, settings, measured, lineage, entropy or SystemEntropy())
        checks = job.check(progress)
        with ExitStack() as stack:
            staging = stack.enter_context(Staging(handoff, force=force))
            with disk_errors(handoff):
                records = job.publish(staging.path, progress)
                losses = _probe(probe, source.path, staging.path)
                _commit(job, records, staging, secret, (model.source, base.source if base else None), stack)
    return job.result(records, checks, losses, new_lineage=lineage is None)


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
        first = records[0]
        whole = Exposure(min(r.exposure["one_copy"] for r in records), first.exposure["all_copies"], int(first.exposure["order"]))
        return PerturbResult(
            handoffs=records,
            exposure=whole,
            relative_to=first.relative_to,
            new_lineage=False,
            test_secret=lineage.secret.origin == "test",
            checks=(),
            probe={},
            advice=(),
            warnings=("an interrupted run had already written this handoff; its record now says so",),
        )


class _Job:
    """One draw: everything between the decisions and the renames."""

    def __init__(
        self,
        source: Checkpoint,
        layout: ModelLayout,
        groups: Mapping[str, tuple[str, ...]],
        transforms: tuple[str, ...],
        settings: PerturbSettings,
        measured: Measured,
        lineage: Lineage | None,
        entropy: SystemEntropy,
    ) -> None:
        self.source, self.layout, self.groups, self.transforms = source, layout, groups, transforms
        self.settings, self.measured, self.lineage = settings, measured, lineage
        self.new_id = entropy.new_id
        self.origin = lineage.secret.origin if lineage else entropy.origin
        self.master = lineage.secret.master if lineage else entropy.master()
        self.plan: Plan = make_plan(
            settings, measured, lineage.secret if lineage else None, self.master, entropy.new_id(), source.float_dtypes,
            exact=all(load(name).EXACT for name in transforms),
        )  # fmt: skip

    def reparameterizations(self) -> list[dict[int, Reparameterization]]:
        """T_k by position, then by layer."""
        return [
            {
                layer.index: draw_layer(self.transforms, layer, self.master, self.plan.draw.id, position)
                for layer in self.layout.layers
            }
            for position in range(self.plan.draw.size)
        ]

    def check(self, progress: Progress) -> tuple[LayerCheck, ...]:
        """Prove function preservation on the actual weights before anything is written."""
        results: list[LayerCheck] = []
        layers = layers_to_check(self.layout, self.settings.check) if self.transforms else []
        for done, layer in enumerate(layers):
            progress("check", done, len(layers))
            steps = [
                draw_layer(self.transforms, layer, self.master, self.plan.draw.id, position)
                for position in range(self.plan.draw.size)
            ]
            results += check_layer(self.source, self.layout, layer, steps)
            require_passed(results)
        return tuple(results)

    def publish(self, staging: Path, progress: Progress) -> list[HandoffRecord]:
        """Write all copies and manifests below `staging`; return the records, not yet saved."""
        size = self.plan.draw.size
        folders = [staging / f"holder-{k + 1}" / "copy-1" if self.settings.split else staging / f"copy-{k + 1}" for k in range(size)]
        for folder in folders:
            folder.mkdir(parents=True)
            for made in (folder, folder.parent):
                made.chmod(0o755)
        publication = Publication(
            self.source, self.layout, self.groups, self.plan.draw, self.reparameterizations(), self.plan.dtype,
            self.settings.max_shard_bytes,
        )  # fmt: skip
        coefficients = self.plan.draw.coefficients
        realised = RealisedNoise(
            weights(self.settings.denoising, coefficients), [abs(value) for value in coefficients], self.measured.grid
        )
        done, total = 0, self.source.elements

        def on_tensor(elements: int) -> None:
            nonlocal done
            done += elements
            progress("write", done, total)

        files = write_copies(publication, folders, realised, on_tensor)
        copies = [PublishedCopy(folder.name, listed(written)) for folder, written in zip(folders, files, strict=True)]
        handed_out = [[position] for position in range(size)] if self.settings.split else [list(range(size))]
        return [
            self._handoff(folders[positions[0]].parent, [copies[k] for k in positions], positions, realised.report(), number)
            for number, positions in enumerate(handed_out)
        ]

    def _handoff(
        self, folder: Path, copies: list[PublishedCopy], positions: list[int], realised: Mapping[str, float], number: int
    ) -> HandoffRecord:
        manifest = HandoffManifest(self.new_id(), self.plan.dtype, self.layout.frozen, tuple(copies))
        write_new(folder / MANIFEST, encode(manifest))
        settings, draw = self.settings, self.plan.draw
        holder = settings.client or "client"
        return HandoffRecord(
            id=manifest.id,
            digest=manifest.digest,
            sequence=(self.lineage.next_sequence if self.lineage else 1) + number,
            state="prepared",
            target="",
            holder=f"{holder}-{number + 1}" if settings.split else holder,
            model=self.measured.digest,
            draw=draw.id,
            size=draw.size,
            copies=tuple(
                CopyRecord(copy.name, copy.digest, position, draw.coefficients[position])
                for copy, position in zip(copies, positions, strict=True)
            ),
            denoising=settings.denoising,
            kappa=settings.kappa,
            offset=self.plan.offset_everywhere,
            relative_to=self.plan.relative_to,
            sigma=draw.sigma,
            transforms=self.transforms,
            scope=settings.scope,
            dtype=self.plan.dtype,
            source_dtype=self.source.dtype,
            shard_bytes=settings.max_shard_bytes,
            realised=realised,
            exposure=self.exposure(positions).content(),
        )

    def exposure(self, positions: Sequence[int]) -> Exposure:
        """The exposure of the copies at these positions; `all_copies` is always that of the whole draw."""
        settings, draw, offset = self.settings, self.plan.draw, self.plan.offset_everywhere
        whole = exposure(settings.denoising, settings.kappa, draw.coefficients, offset)
        own = exposure(settings.denoising, settings.kappa, [draw.coefficients[k] for k in positions], offset)
        return replace(whole, one_copy=own.one_copy)

    def result(
        self, records: list[HandoffRecord], checks: tuple[LayerCheck, ...], probe: Mapping[str, float], *, new_lineage: bool
    ) -> PerturbResult:
        """Collect what the command prints."""
        settings, coefficients = self.settings, self.plan.draw.coefficients
        warnings = list(self.plan.warnings)
        recoverable = records[0].realised["recoverable"]
        if recoverable > RECOVERABLE_WARNING:
            warnings.append(
                f"{recoverable:.0%} of the noised entries come back exactly when a copy is rounded to the model's own "
                "number grid: this noise is too small to hide them; raise --kappa or --offset"
            )
        words = advice(settings.denoising, settings.kappa, coefficients, self.plan.offset_everywhere, split=settings.split)
        if settings.reparam == "rotation":
            words += (
                "under AdamW the rotation alone moves the aggregated update by 16–30 % of its norm (not under SGD or Muon); "
                "--reparam signed-permutation does not",
            )
        return PerturbResult(
            handoffs=tuple(records),
            exposure=self.exposure(range(self.plan.draw.size)),
            relative_to=self.plan.relative_to,
            new_lineage=new_lineage,
            test_secret=self.origin == "test",
            checks=checks,
            probe=probe,
            advice=words,
            warnings=tuple(warnings),
        )


def _enter(lineage: Lineage, measured: Measured, settings: PerturbSettings, model: Located) -> None:
    lineage.recover()
    lineage.require_usable(measured.digest, model.path, fork=settings.fork)
    record = lineage.models[measured.digest]
    if record.state == "prepared":  # it lies before us, so its rename did happen
        lineage.save_model(replace(record, state="committed"))
    known = lineage.secret.base
    if known is not None and measured.base_digest is not None and measured.base_digest != known:
        raise BadModelError(
            f"--base: another base (digest {measured.base_digest[:12]}…) than this lineage began with ({known[:12]}…)",
            "give the same base in every round",
        )


@contextmanager
def _lineage(path: Path, *, new: bool) -> Iterator[Lineage | None]:
    """An existing lineage, locked; None where a new one is to be made."""
    if path.exists() and not path.is_dir():
        raise BadSecretError(f"{path}: is not a directory", "give the server's secret directory with --secret")
    if path.exists() and any(path.iterdir()):
        with open_locked(path) as lineage:
            # What an interrupted --new-lineage has left is the lineage that was asked for.
            if new and any(record.state != "prepared" for record in lineage.handoffs.values()):
                raise BadSecretError(f"{path}: --new-lineage needs a directory that does not exist yet")
            yield lineage
    else:
        yield None


def _commit(
    job: _Job, records: list[HandoffRecord], staging: Staging, secret: Path, sources: tuple[str | None, str | None], stack: ExitStack
) -> None:
    """Records first, flushed; then the handoff's rename; then `issued`. A crash between is finished by `recover`."""
    for number, record in enumerate(records):
        folder = staging.target / f"holder-{number + 1}" if job.settings.split else staging.target
        records[number] = replace(record, target=str(folder))
    lineage = job.lineage
    if lineage is None:
        new = stack.enter_context(Staging(secret, private=True))
        root = ModelRecord(job.measured.digest, 0, "committed", None, (), (), 0.0, sources[0])
        content = Secret(job.new_id(), job.origin, job.master, job.measured.base_digest, sources[1], job.plan.offset)
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


def _probe(probe: Probe | None, model: Path, staging: Path) -> Mapping[str, float]:
    if probe is None:
        return {}
    return probe(model, sorted(staging.glob("holder-*/copy-1")) or sorted(staging.glob("copy-*")))
