"""The two public manifests, of a handoff and of an update (docs/bundle-format.md).

Neither holds anything that helps the other side: no α, node, κ, σ, seed, round number, path, name
or time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpu_cli.bundle import canonical
from mpu_cli.bundle.mask import MASKED, Mask
from mpu_cli.bundle.schema import (
    COPY_NAME,
    FILE_NAME,
    HEX_128,
    HEX_256,
    TENSOR_PATTERN,
    FieldReader,
)
from mpu_cli.errors import BadBundleError

FORMAT = 1
MANIFEST = "mpu.yaml"
_MOST_LAYERS = 10_000
"""The largest models have 126."""
SIGNATURE = "mpu.yaml.sig"
"""The signature of the manifest: the only unlisted file that may lie beside it."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A listed file."""

    sha256: str
    bytes: int


Files = Mapping[str, FileEntry]


@dataclass(frozen=True, slots=True)
class PublishedCopy:
    """One copy of a handoff."""

    name: str
    files: Files

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical list of the copy's files; an update names it as `of`."""
        return canonical.digest(_files(self.files))


@dataclass(frozen=True, slots=True)
class Cut:
    """What the copies of a cut handoff hold: the lower layers of a model."""

    layers: int
    """How many layers they have, the lowest ones."""
    of: int
    """How many the whole model has."""
    stand_ins: tuple[str, ...]
    """Tensors with a constant in place of the model's numbers, which nobody trains."""

    def content(self) -> dict[str, Any]:
        """The field as plain data."""
        return {"layers": self.layers, "of": self.of, "stand_ins": list(self.stand_ins)}


@dataclass(frozen=True, slots=True)
class HandoffManifest:
    """`mpu.yaml` of a handoff."""

    id: str
    dtype: str
    frozen: tuple[str, ...]
    copies: tuple[PublishedCopy, ...]
    cut: Cut | None = None
    """None if the copies are whole models."""

    @property
    def frozen_for_training(self) -> tuple[str, ...]:
        """What is frozen although it could be trained: all but the stand-ins of a cut."""
        constants = self.cut.stand_ins if self.cut else ()
        return tuple(name for name in self.frozen if name not in constants)

    def content(self) -> dict[str, Any]:
        """The manifest as plain data, without its digest."""
        return {
            "kind": "handoff",
            "format": FORMAT,
            "id": self.id,
            "dtype": self.dtype,
            "frozen": list(self.frozen),
            "copies": [{"name": copy.name, "files": _files(copy.files)} for copy in self.copies],
            **({} if self.cut is None else {"cut": self.cut.content()}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return canonical.digest(self.content())


@dataclass(frozen=True, slots=True)
class UpdateCopy:
    """The change of one copy; `of` is the digest of the published copy."""

    name: str
    of: str
    payload: str
    """`delta`, `lora` or `masked`"""
    files: Files


@dataclass(frozen=True, slots=True)
class UpdateManifest:
    """`mpu.yaml` of an update."""

    handoff_id: str
    handoff_digest: str
    copies: tuple[UpdateCopy, ...]
    mask: Mask | None = None
    """Who masked it; None if its changes can be read."""

    def content(self) -> dict[str, Any]:
        """The manifest as plain data, without its digest."""
        return {
            "kind": "update",
            "format": FORMAT,
            "handoff": {"id": self.handoff_id, "digest": self.handoff_digest},
            "copies": [
                {
                    "name": copy.name,
                    "of": copy.of,
                    "payload": copy.payload,
                    "files": _files(copy.files),
                }
                for copy in self.copies
            ],
            **({} if self.mask is None else {"mask": self.mask.content()}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return canonical.digest(self.content())


def encode(manifest: HandoffManifest | UpdateManifest) -> bytes:
    """The bytes of `mpu.yaml`.

    Raises:
        BadBundleError: it would be larger than its readers accept.
    """
    data = canonical.dump({**manifest.content(), "digest": manifest.digest})
    if len(data) > canonical.MAX_BYTES:
        raise BadBundleError(
            f"{MANIFEST}: {len(manifest.copies)} copies need a manifest of {len(data)} bytes, more"
            f" than the limit of {canonical.MAX_BYTES}",
            "make fewer copies; for a handoff, mpu perturb has --max-shard-size",
        )
    return data


def decode(data: bytes, where: object) -> HandoffManifest | UpdateManifest:
    """Parse and check the bytes of `mpu.yaml`.

    Raises:
        BadBundleError: not canonical, an unknown or malformed field, a wrong digest, or another
            format.
    """
    content = canonical.parse(data, where, BadBundleError)
    reader = FieldReader(content, where, BadBundleError)
    kind = reader.text("kind", choices=("handoff", "update"))
    if reader.natural("format") != FORMAT:
        raise BadBundleError(
            f"{where}: has format {content['format']}, but this mpu reads format {FORMAT}",
            "update mpu",
        )
    if reader.text("digest", HEX_256) != canonical.digest(content):
        raise BadBundleError(
            f"{where}: does not match its own digest: it was altered or damaged",
            "ask for the files again",
        )
    manifest = _handoff(reader) if kind == "handoff" else _update(reader, where)
    reader.done()
    names = [copy.name for copy in manifest.copies]
    if not names or len(set(names)) != len(names):
        raise BadBundleError(f"{where}: lists no copies, or lists one twice")
    return manifest


def _handoff(reader: FieldReader) -> HandoffManifest:
    copies = []
    for item in reader.maps("copies"):
        copies.append(PublishedCopy(item.text("name", COPY_NAME), _read_files(item)))
        item.done()
    return HandoffManifest(
        id=reader.text("id", HEX_128),
        dtype=reader.text("dtype", choices=("float32", "bfloat16", "float16")),
        frozen=reader.texts("frozen", TENSOR_PATTERN),
        copies=tuple(copies),
        cut=_cut(reader),
    )


def _cut(reader: FieldReader) -> Cut | None:
    if not reader.has("cut"):
        return None
    part = FieldReader(reader.take("cut"), "mpu.yaml: cut", BadBundleError)
    cut = Cut(part.natural("layers"), part.natural("of"), part.texts("stand_ins", TENSOR_PATTERN))
    part.done()
    if not 0 < cut.layers < cut.of <= _MOST_LAYERS:
        raise reader.wrong("cut", f"says {cut.layers} of {cut.of} layers, which cannot be")
    return cut


def _update(reader: FieldReader, where: object) -> UpdateManifest:
    copies = []
    for item in reader.maps("copies"):
        name, of = item.text("name", COPY_NAME), item.text("of", HEX_256)
        payload = item.text("payload", choices=("delta", "lora", MASKED))
        copies.append(UpdateCopy(name, of, payload, _read_files(item)))
        item.done()
    handoff = FieldReader(reader.take("handoff"), "mpu.yaml: handoff", BadBundleError)
    id_, digest = handoff.text("id", HEX_128), handoff.text("digest", HEX_256)
    handoff.done()
    mask = None
    if reader.has("mask"):
        mask = Mask.read(FieldReader(reader.take("mask"), f"{where}: mask", BadBundleError))
    if any((copy.payload == MASKED) != (mask is not None) for copy in copies):
        raise reader.wrong("mask", "and the copies' payloads disagree")
    return UpdateManifest(id_, digest, tuple(copies), mask)


def _read_files(reader: FieldReader) -> Files:
    def entry(item: FieldReader) -> FileEntry:
        result = FileEntry(item.text("sha256", HEX_256), item.natural("bytes"))
        item.done()
        return result

    return reader.entries("files", FILE_NAME, entry)


def _files(files: Files) -> dict[str, Any]:
    return {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in files.items()}


def listed(written: Mapping[str, tuple[str, int]]) -> dict[str, FileEntry]:
    """Entries from the digests and sizes that writers return."""
    return {name: FileEntry(*entry) for name, entry in written.items()}
