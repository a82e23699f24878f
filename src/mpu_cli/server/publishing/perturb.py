"""`mpu perturb`: publish copies of a model; keep in the secret what aggregating needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from mpu_cli.architectures.family import family_of
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.config_file import CONFIG_FILE
from mpu_cli.checkpoint.digest import combine
from mpu_cli.checkpoint.file_state import altered
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.mount_point import is_mount_point
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.errors import BadModelError, BadSecretError
from mpu_cli.server.can_be_loaded import check_loads, check_published
from mpu_cli.server.lineage.model_card import read_model_card
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.lineage.records import ModelRecord, now
from mpu_cli.server.lineage.second_lineage import (
    lineages_beside,
    places,
    refuse_own_model,
    refuse_unasked,
)
from mpu_cli.server.lineage.second_lineage import warnings as second_lineage_warnings
from mpu_cli.server.part import cut_of, part_of
from mpu_cli.server.publishing.commit import begin_lineage, issue, save
from mpu_cli.server.publishing.copy_set import Progress
from mpu_cli.server.publishing.copy_writer import write_copies
from mpu_cli.server.publishing.earlier_run import complete_earlier
from mpu_cli.server.publishing.estimate import require_handoff_space
from mpu_cli.server.publishing.exposure_gate import require_unknown
from mpu_cli.server.publishing.function_check import check_copies
from mpu_cli.server.publishing.handoff_builder import build_handoffs, draft_records, make_folders
from mpu_cli.server.publishing.lineage_gate import require_same_base
from mpu_cli.server.publishing.perturb_warnings import (
    noise_warnings,
    plan_warnings,
    settings_advice,
)
from mpu_cli.server.publishing.plan import make_plan
from mpu_cli.server.publishing.result import PerturbResult, published
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.publishing.weight_statistics import weight_statistics
from mpu_cli.server.secrets.leak_scan import require_no_secret
from mpu_cli.server.secrets.prepared import current_entropy
from mpu_cli.server.secrets.secret import Secret, SystemEntropy
from mpu_cli.server.transforms.choice import chosen

Probe = Callable[[Path, Sequence[Path]], Mapping[str, float]]
"""Takes the model and the copies; returns the loss of each on a text, in nats per token."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where `perturb` writes."""

    handoff: Path
    """What the client gets."""
    secret: Path
    """The lineage's directory; it is made if it does not exist."""
    new_lineage: bool = False
    """Begin another lineage of a model that has one already."""
    named_secrets: Sequence[Path] = ()
    """Other secret directories that the user has named: one of them may know the model."""
    force: bool = False
    """Replace a handoff that mpu wrote."""
    signing: SigningKey | None = None
    """Signs the handoff's manifest."""
    packs: Mapping[Path, Path] = field(default_factory=dict)
    """The tar file that the caller will make of each handoff."""
    is_trial: bool = False
    """Handoff and secret are thrown away."""


def perturb(
    model: Located,
    base: Located | None,
    target: Target,
    settings: PerturbSettings,
    *,
    probe: Probe | None = None,
    entropy: SystemEntropy | None = None,
    progress: Progress = lambda *_: None,
) -> PerturbResult:
    """Publish one draw of copies.

    A new lineage is begun only if no other lineage knows the model, among those that lie beside the
    secret, the handoff and the model, and those that the user has named.

    Raises:
        GateError: `target.secret` would begin a second lineage of the model without
            `target.new_lineage`, or the draw would pass `settings.max_exposure`.
        BadModelError: the model was altered between its first reading, which decides the noise and
            names the model in the lineage, and the writing of the copies.
        MpuError: see the modules that decide: settings, plan, lineage, function_check, checkpoint.
    """
    handoff, secret = target.handoff, target.secret
    inputs = [model.path, *([base.path] if base else [])]
    refuse_nesting(handoff, secret, *inputs)
    refuse_nesting(secret, *inputs)
    completed = (
        None
        if target.force
        else complete_earlier(model, handoff, secret, settings, target.signing, target.packs)
    )
    if completed is not None:
        return completed
    refuse_existing(handoff, force=target.force)
    if is_mount_point(secret) and not any(secret.iterdir()):
        refuse_existing(secret)  # the secret is renamed into place, too
    source = open_checkpoint(model.path)
    check_side_files(source.path)
    family_of(source.config, source.path / CONFIG_FILE)  # name an unknown architecture first
    check_loads(source)
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    cut = cut_of(source, layout, settings.upto)
    part = part_of(source, cut)
    transforms = chosen(settings.reparam, layout)
    base_checkpoint = open_checkpoint(base.path) if base is not None else None
    entropy = entropy or current_entropy()
    with _open_lineage(target) as lineage, ExitStack() as stack:
        begins_unasked = lineage is None and not target.new_lineage
        searched = (
            places(secret, handoff, model.path, *target.named_secrets)
            if begins_unasked or target.new_lineage
            else frozenset()
        )
        if begins_unasked:
            refuse_own_model(model.path, read_model_card(model.path), secret, searched)
        require_handoff_space(handoff, part, settings.copies, settings.dtype)
        progress("measure", 0, 1)
        statistics = weight_statistics(source, base_checkpoint, layout.groups(settings.scope))
        measured = statistics.tensors
        if lineage is not None:
            lineage.use(statistics.digest, model.path, fork=settings.fork)
            require_same_base(lineage, statistics.base_digest)
        rivals = lineages_beside(statistics.digest, searched, secret)
        if begins_unasked:
            refuse_unasked(model.path, statistics.digest, secret, rivals)
        plan = make_plan(
            settings, source, base_checkpoint, layout, transforms, statistics, lineage, entropy, cut
        )
        sequence = lineage.next_sequence if lineage else 1
        staging = Staging(handoff, force=target.force)
        drafts = draft_records(plan, staging.target, sequence)
        earlier = lineage.handoffs.values() if lineage else ()
        require_unknown(settings.max_exposure, drafts, earlier, plan.prior)
        require_handoff_space(handoff, part, settings.copies, plan.copies.dtype)
        checks = check_copies(plan.copies, settings.check, progress)
        stack.enter_context(staging)
        with disk_errors(handoff):
            folders = make_folders(staging.path, settings.copies, split=settings.split)
            written = write_copies(plan.copies, folders, statistics.dtype, progress)
            if written.source != combine((t, measured[n]) for n, t in part.tensors.items()):
                raise altered(source.path, BadModelError)
            records = build_handoffs(plan, written, drafts, entropy.new_id, target.signing)
            master = plan.copies.draw.master
            require_no_secret(staging.path, master)
            check_published(folders[0])
            losses = probe(source.path, folders) if probe else {}
            staging.flush()
            if lineage is None:
                root = ModelRecord(
                    statistics.digest, 0, "committed", None, (), (), 0.0, model.source, now()
                )
                base_source = None if base is None else base.source or str(base.path.absolute())
                content = Secret(
                    entropy.new_id(),
                    entropy.origin,
                    master,
                    statistics.base_digest,
                    base_source,
                    plan.offset,
                )
                begun = begin_lineage(
                    secret, content, root, records, remembered=not target.is_trial
                )
                current = stack.enter_context(begun)
            else:
                current = lineage
                save(lineage, records)
            issued = issue(current, records, staging)
    advice, background = settings_advice(plan)
    return replace(
        published(current, issued),
        new_lineage=lineage is None,
        checks=checks,
        probe=losses,
        advice=advice,
        background=background,
        warnings=(
            *([_begun(current.path)] if lineage is None else []),
            *source.remarks,
            *plan_warnings(plan),
            *second_lineage_warnings(rivals, issued),
            *noise_warnings(plan, written.noise),
        ),
    )


@contextmanager
def _open_lineage(target: Target) -> Iterator[Lineage | None]:
    """The existing lineage, locked; None if the secret directory is absent or empty."""
    path = target.secret
    if path.exists() and not path.is_dir():
        raise BadSecretError(
            f"{path}: is not a directory", "give the server's secret directory with --secret"
        )
    if not path.exists() or not any(path.iterdir()):
        yield None
        return
    with open_locked(path) as lineage:
        # An interrupted --new-lineage leaves prepared records only: it may go on.
        issued = any(record.state != "prepared" for record in lineage.handoffs.values())
        if target.new_lineage and issued:
            raise BadSecretError(
                f"{path}: --new-lineage needs a directory that does not exist yet",
                "give another one",
            )
        yield lineage


def _begun(secret: Path) -> str:
    return (
        f"new lineage begun in {secret}: its replay history, exposure and offset start here; give"
        f" --secret {quote(str(secret))} in every later round"
    )
