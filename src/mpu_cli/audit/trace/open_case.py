"""From paths to what `trace` needs, with every mistake named first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.audit.trace.centre import Centre
from mpu_cli.audit.trace.leaked_model import LeakedModel, OpenLayout, open_leaked
from mpu_cli.audit.trace.settings import TraceSettings
from mpu_cli.audit.trace.suspects import suspect_draws
from mpu_cli.audit.trace.trace import Case, Progress
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.recognise import SECRET, instead_of
from mpu_cli.errors import BadModelError, BadSecretError, GateError, MpuError
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord


@dataclass(frozen=True, slots=True)
class OpenCase:
    """What the paths lead to, and what is left out."""

    found: LeakedModel
    case: Case
    silent: Sequence[HandoffRecord]
    """Handoffs without noise."""
    base: Path | None
    """The base that was used: the one given, or the one that the secret remembers."""
    test_secret: bool


def open_case(
    leaked: Path,
    secret: Path,
    model: Path | None,
    base: Path | None,
    settings: TraceSettings,
    progress: Progress = lambda *_: None,
) -> OpenCase:
    """Open a found model and the lineage that it may have come from.

    Args:
        leaked: a model directory or a safetensors file.
        secret: of the lineage.
        model: a model of the lineage, or None.
        base: the public base, or None for the one that the secret remembers, if it is there.
        settings: how much to read.
        progress: called while a model is hashed.

    Raises:
        BadModelError: a model cannot be read, or the found one is not laid out as the lineage's.
        BadSecretError: the secret cannot be read, or holds no handoff whose copies differ by noise.
        GateError: `model` is not in the lineage.
    """
    if not secret.is_dir():
        raise instead_of(secret, SECRET, BadSecretError)
    lineage = Lineage.read(secret)
    draws, silent = suspect_draws(lineage)
    if not draws:
        what = "no handoff yet" if not silent else "only handoffs without noise (κ = 0)"
        raise BadSecretError(
            f"{secret}: holds {what}, so there is no noise to trace a copy by",
            "make handoffs with mpu perturb --kappa above 0; then every copy can be told",
        )
    own = open_checkpoint(model) if model is not None else None
    if own is not None and (digest := model_digest(own, progress)) not in lineage.models:
        raise GateError(
            f"{model}: this model (digest {digest[:12]}…) is not in the lineage of {secret}",
            f"give a model of this lineage (mpu inspect {quote(str(secret))} lists their digests)"
            " or the --secret of this model's lineage",
        )
    found, known = open_leaked(leaked, OpenLayout.of(own) if own is not None else None)
    layout = fingerprint(known.layout)
    alike = [draw for draw in draws if draw.layout == layout]
    if not alike:
        raise BadModelError(
            f"{leaked if own is None else model}: is not laid out as the models of {secret}",
            "give a leak of this lineage's model, or the --secret of its own lineage; of a part of"
            " the layers, give the whole model as --model"
            if own is None
            else "its config.json has changed since, or mpu was upgraded",
        )
    _require_shared(found, known, leaked)
    remembered = _remembered(lineage, base)
    centre = Centre(
        LeakedModel(own.path, own.tensors) if own is not None else None,
        _opened(base) if base is not None else remembered,
    )
    return OpenCase(
        found,
        Case(alike, known, centre, settings),
        silent,
        centre.base.path if centre.base is not None else None,
        test_secret=lineage.secret.origin == "test",
    )


def _require_shared(found: LeakedModel, known: OpenLayout, where: Path) -> None:
    """Raise BadModelError if the found model has no tensor in which copies have noise."""
    noised = [name for names in known.layout.groups("layers").values() for name in names]
    shared = [
        name
        for name in noised
        if name in found.tensors and found.tensors[name].shape == known.shapes[name]
    ]
    if not shared:
        raise BadModelError(
            f"{where}: has no tensor of the lineage's models, for instance no {noised[0]} of shape"
            f" {list(known.shapes[noised[0]])}",
            "it is another architecture, or its tensors have other names: save it with"
            " transformers' save_pretrained",
        )


def _remembered(lineage: Lineage, given: Path | None) -> LeakedModel | None:
    """The base at the place that the secret remembers, if it is a model that can be read."""
    place = lineage.secret.base_source
    if given is not None or place is None or not Path(place).is_dir():
        return None
    try:
        return _opened(Path(place))
    except MpuError:
        return None


def _opened(path: Path) -> LeakedModel:
    checkpoint = open_checkpoint(path)
    return LeakedModel(checkpoint.path, checkpoint.tensors)
