"""The server's records: one per handoff, one per model of the lineage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.bundle.schema import COPY_NAME, HEX_128, HEX_256, FieldReader
from mpu_cli.errors import GateError
from mpu_cli.server.denoising import LARGEST, SMALLEST
from mpu_cli.server.secrets.secret import FORMAT
from mpu_cli.server.transforms import names as transform_names

if TYPE_CHECKING:
    from mpu_cli.architectures.cut import ModelCut  # it needs numpy, and who reads records does not

DENOISINGS = ("harmonic", "extrapolation")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
SIZE = re.compile(r"[0-9]+(\.[0-9]+)?")
_MOST_COPIES = 9999  # as names of copies allow
_LARGEST_NOISE = 1e6
_LATER = (
    "train_embeddings",
    "date",
    "prior_shares",
    "prior_sizes",
    "structure",
    "grid",
    "layers",
    "all_layers",
)
"""Fields that records of an earlier mpu do not have."""


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """One published copy."""

    name: str
    digest: str
    position: int
    """Its place in the draw, from 0."""
    coefficient: float
    """Its α or node."""

    @classmethod
    def read(cls, reader: FieldReader) -> CopyRecord:
        """Read one entry of a handoff record."""
        record = cls(
            reader.text("name", COPY_NAME),
            reader.text("digest", HEX_256),
            reader.natural("position"),
            reader.number("coefficient"),
        )
        reader.done()
        return record


@dataclass(frozen=True, slots=True)
class HandoffRecord:
    """What the server must know of a handoff to aggregate its update."""

    id: str
    digest: str
    sequence: int
    """Order of all records of the lineage."""
    state: str
    """`prepared` until the handoff is renamed into place, then `issued`."""
    target: str
    """Where it was written: only needed to recover from a crash."""
    holder: str
    model: str
    draw: str
    """Id of the noise, which the handoffs of one split share."""
    size: int
    """Number of copies in the whole draw."""
    copies: tuple[CopyRecord, ...]
    denoising: str
    kappa: float
    offset: float
    relative_to: str
    sigma: Mapping[str, float]
    """σ by group, weight units."""
    transforms: tuple[str, ...]
    layout: str
    """Fingerprint of the layout from which T_k was drawn."""
    scope: str
    dtype: str
    source_dtype: str
    shard_bytes: int
    realised: Mapping[str, float]
    """Noise statistics of the written files."""
    exposure: Mapping[str, float]
    train_embeddings: bool = False
    """Whether the handoff freezes no tensor."""
    date: str = ""
    """When it was made, UTC; "" in records of an earlier mpu."""
    prior_shares: Mapping[str, float] = field(default_factory=dict)
    """See `exposure.Prior`; empty if `no_copy` of the exposure is the prior of all groups."""
    prior_sizes: Mapping[str, float] = field(default_factory=dict)
    structure: Mapping[str, float] = field(default_factory=dict)
    """`exposure.Prior`'s curve, by size of the noise; empty if shrinkage gains nothing."""
    grid: Mapping[str, float] = field(default_factory=dict)
    """Likewise, for rounding to the model's number grid."""
    layers: int = 0
    """How many layers were sent, the lowest ones; 0 if all. `sigma` names what was sent."""
    all_layers: int = 0
    """How many layers the whole model has; 0 if all were sent."""

    @property
    def withheld(self) -> float:
        """The share of ‖θ − base‖² (without a base: of ‖θ‖²) in layers that were not sent.

        Under `scope` layers it is a share of what all layers have, embeddings left out.
        """
        if not self.layers:
            return 0.0
        return sum(share for name, share in self.prior_shares.items() if name not in self.sigma)

    def content(self) -> dict[str, Any]:
        """The record as plain data, without its HMAC and without later fields that are empty."""
        return {"kind": "handoff-record", "format": FORMAT, **_without_empty(_plain(self), *_LATER)}

    def require_layout(self, layout: str, where: Path) -> None:
        """Raise GateError if the layout is not the one from which T_k was drawn."""
        if layout != self.layout:
            raise GateError(
                f"{where}: the layout has changed since handoff {self.id} was made, so its"
                " reparameterization cannot be undone",
                "restore config.json; if mpu was upgraded since, aggregate with the version that"
                " made the handoff",
            )

    @classmethod
    def read(cls, reader: FieldReader) -> HandoffRecord:
        """Read a record whose HMAC has been checked."""
        record = cls(
            id=reader.text("id", HEX_128),
            digest=reader.text("digest", HEX_256),
            sequence=reader.natural("sequence"),
            state=reader.text("state", choices=("prepared", "issued")),
            target=reader.text("target"),
            holder=reader.text("holder"),
            model=reader.text("model", HEX_256),
            draw=reader.text("draw", HEX_128),
            size=reader.natural("size"),
            copies=tuple(CopyRecord.read(item) for item in reader.maps("copies")),
            denoising=reader.text("denoising", choices=DENOISINGS),
            kappa=reader.number("kappa"),
            offset=reader.number("offset"),
            relative_to=reader.text("relative_to", choices=("task-vector", "weights")),
            sigma=reader.numbers("sigma"),
            transforms=_transforms(reader),
            layout=reader.text("layout", HEX_256),
            scope=reader.text("scope", choices=("layers", "all")),
            dtype=reader.text("dtype", choices=("float32", "bfloat16", "float16")),
            source_dtype=reader.text("source_dtype"),
            shard_bytes=reader.natural("shard_bytes"),
            realised=reader.numbers("realised"),
            exposure=reader.numbers("exposure"),
            train_embeddings=reader.flag("train_embeddings"),
            date=reader.text("date", DATE) if reader.has("date") else "",
            prior_shares=reader.numbers("prior_shares") if reader.has("prior_shares") else {},
            prior_sizes=reader.numbers("prior_sizes") if reader.has("prior_sizes") else {},
            structure=_curve(reader, "structure"),
            grid=_curve(reader, "grid"),
            layers=reader.natural("layers") if reader.has("layers") else 0,
            all_layers=reader.natural("all_layers") if reader.has("all_layers") else 0,
        )
        reader.done()
        if (wrong := _implausible(record)) is not None:
            raise reader.wrong(*wrong)
        return record


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of the lineage; the root has no parent."""

    digest: str
    sequence: int
    state: str
    """`prepared` until the model is renamed into place, then `committed`."""
    parent: str | None
    updates: tuple[str, ...]
    """Digests of the updates that made it from its parent."""
    handoffs: tuple[str, ...]
    """Ids of the handoffs that those updates answer."""
    server_lr: float
    source: str | None
    """Hub id and commit of a model from the Hub."""
    date: str = ""
    """When it was made or first used, UTC; "" in records of an earlier mpu."""

    def content(self) -> dict[str, Any]:
        """The record as plain data, without its HMAC."""
        return {"kind": "model-record", "format": FORMAT, **_without_empty(_plain(self), "date")}

    @classmethod
    def read(cls, reader: FieldReader) -> ModelRecord:
        """Read a record whose HMAC has been checked."""
        record = cls(
            digest=reader.text("digest", HEX_256),
            sequence=reader.natural("sequence"),
            state=reader.text("state", choices=("prepared", "committed")),
            parent=reader.optional_text("parent", HEX_256),
            updates=reader.texts("updates", HEX_256),
            handoffs=reader.texts("handoffs", HEX_128),
            server_lr=reader.number("server_lr"),
            source=reader.optional_text("source"),
            date=reader.text("date", DATE) if reader.has("date") else "",
        )
        reader.done()
        return record


def now() -> str:
    """The time in UTC, in the records' format: 2026-11-29T13:54:17Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def frozen_of(
    layout: ModelLayout, train_embeddings: bool, cut: ModelCut | None = None
) -> tuple[str, ...]:
    """Tensors that a handoff's manifest freezes; `layout` is of what is sent."""
    frozen = () if train_embeddings else tuple(layout.frozen)
    return frozen if cut is None else (*frozen, *cut.stand_ins)


def _implausible(record: HandoffRecord) -> tuple[str, str] | None:
    """The first field whose number no handoff has and why, or None.

    Whoever holds the master secret can sign any record, and so can an mpu with a mistake. Such
    numbers would divide by zero or be undone wrongly much later.
    """
    names = [copy.name for copy in record.copies]
    positions = [copy.position for copy in record.copies]
    coefficients = [copy.coefficient for copy in record.copies]
    if record.denoising == "harmonic":
        possible = all(SMALLEST <= value <= LARGEST for value in coefficients)
    else:
        possible = all(SMALLEST <= abs(value) <= LARGEST for value in coefficients)
        possible = possible and len(set(coefficients)) == len(coefficients)
    checks = (
        ("copies", "lists no copies, or one twice", 0 < len(set(names)) == len(names)),
        ("size", f"is not from 1 to {_MOST_COPIES}", 1 <= record.size <= _MOST_COPIES),
        (
            "copies",
            "has positions that the draw does not have",
            len(set(positions)) == len(positions) and max(positions, default=0) < record.size,
        ),
        ("copies", "has an α or a node that cannot be", possible),
        ("kappa", "is not a size of noise", 0 <= record.kappa <= _LARGEST_NOISE),
        ("offset", "is not a size of noise", 0 <= record.offset <= _LARGEST_NOISE),
        ("sigma", "holds a number below zero", all(value >= 0 for value in record.sigma.values())),
        ("shard_bytes", "is 0", record.shard_bytes > 0),
        (
            "layers",
            "is not a part of all layers",
            not record.layers or record.layers < record.all_layers,
        ),
    )
    return next(((field, why) for field, why, holds in checks if not holds), None)


def _curve(reader: FieldReader, name: str) -> Mapping[str, float]:
    curve = reader.numbers(name) if reader.has(name) else {}
    for size, value in curve.items():
        if not SIZE.fullmatch(size) or not float(size) or not 0 <= value <= 1:
            raise reader.wrong(name, f"holds {size}: {value}, and is not a curve")
    return curve


def _without_empty(plain: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if value or name not in names}


def _plain(record: HandoffRecord | ModelRecord | CopyRecord) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, tuple):
            value = [_plain(part) if isinstance(part, CopyRecord) else part for part in value]
        elif isinstance(value, Mapping):
            value = dict(value)
        result[item.name] = value
    return result


def _transforms(reader: FieldReader) -> tuple[str, ...]:
    names = reader.texts("transforms")
    for name in names:
        if name not in transform_names():
            raise reader.wrong(
                "transforms", f"names {name}, which this version of mpu does not know"
            )
    return names
