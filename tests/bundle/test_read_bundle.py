"""Whole bundles and secrets on disk: one flipped bit, an extra or a missing file is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flips import BITS_OF_A_BYTE, flipped_bits
from safetensors.torch import load_file, save_file

from mpu_cli.bundle.finite import FileNumbers
from mpu_cli.bundle.manifest import FileEntry, HandoffManifest, PublishedCopy, decode, encode
from mpu_cli.bundle.payload import check_update_tensors
from mpu_cli.bundle.read import read_bundle, read_handoff, read_update
from mpu_cli.bundle.tensors import open_copies, open_delta
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.errors import BadBundleError, BadSecretError, GateError
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import CopyRecord, HandoffRecord, ModelRecord
from mpu_cli.server.secrets.secret import Offset, Secret, read_secret, read_signed, write_signed

GOLDEN = Path(__file__).parents[1] / "golden"
SIGNATURE_OF_HANDOFF = GOLDEN / "ssh" / "ed25519.ssh-keygen.sig"
MASTER = bytes(range(32))


@pytest.fixture
def handoff(tmp_path) -> Path:
    """A handoff that a test may break."""
    return Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))


@pytest.fixture
def update(tmp_path) -> Path:
    """An update that a test may break."""
    return Path(shutil.copytree(GOLDEN / "update-v1", tmp_path / "update"))


@pytest.fixture
def secret(tmp_path) -> Path:
    """A secret directory that a test may break."""
    return Path(shutil.copytree(GOLDEN / "secret-v1", tmp_path / "secret"))


def _flips(path: Path, bits: Iterable[int]) -> Iterator[int]:
    """Flip one bit of each file in turn, and restore it afterwards."""
    original = path.read_bytes()
    try:
        for bit in bits:
            flipped = bytearray(original)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            yield bit
    finally:
        path.write_bytes(original)


def _accepted(
    path: Path, bits: Iterable[int], read: Callable[[], object], error: type[Exception]
) -> list[int]:
    accepted = []
    for bit in _flips(path, bits):
        try:
            read()
        except error:
            continue
        accepted.append(bit)
    return accepted


@pytest.mark.parametrize("kind", ["handoff-v1", "update-v1"])
def test_a_flipped_bit_in_any_file_of_a_bundle_is_refused(tmp_path, kind):
    """Sampled bits of tensors, headers, side files and the manifest, on disk."""
    bundle = Path(shutil.copytree(GOLDEN / kind, tmp_path / "bundle"))
    rng = random.Random(1)
    for file in sorted(item for item in bundle.rglob("*") if item.is_file()):
        bits = 8 * file.stat().st_size
        chosen = {
            *rng.sample(range(bits), 40),
            0,
            7,
            bits - 1,
            *rng.sample(range(min(bits, 8 * 800)), 20),
        }
        assert (
            _accepted(file, iter(sorted(chosen)), lambda: read_bundle(bundle), BadBundleError) == []
        ), file
    read_bundle(bundle)


@BITS_OF_A_BYTE
def test_every_byte_of_a_secret_is_covered(tmp_path, bits_of_a_byte):
    """Flipping one bit of secret.yaml is refused, in whatever byte."""
    content = Secret(
        "ab" * 16, "test", MASTER, None, None, Offset(0.1, "weights", "layers", {"layer 0": 0.25})
    )
    path = tmp_path / "secret.yaml"
    write_signed(path, content.content(), MASTER)
    assert read_secret(tmp_path) == content
    bits = flipped_bits(path.stat().st_size, bits_of_a_byte)
    assert _accepted(path, bits, lambda: read_secret(tmp_path), BadSecretError) == []


@BITS_OF_A_BYTE
@pytest.mark.parametrize("kind", ["handoff", "model"])
def test_every_byte_of_a_record_is_covered(tmp_path, kind, bits_of_a_byte):
    """Flipping one bit of a handoff's or a model's record is refused, in whatever byte."""
    path = tmp_path / "record.yaml"
    if kind == "model":
        record: HandoffRecord | ModelRecord = ModelRecord(
            "12" * 32, 3, "committed", None, ("34" * 32,), ("56" * 16,), 1.0, None
        )
    else:
        record = HandoffRecord(
            id="ab" * 16,
            digest="12" * 32,
            sequence=1,
            state="issued",
            target="/x",
            holder="h",
            model="34" * 32,
            draw="56" * 16,
            size=1,
            copies=(CopyRecord("copy-1", "78" * 32, 0, 1.0),),
            denoising="harmonic",
            kappa=0.1,
            offset=0.0,
            relative_to="weights",
            sigma={"layer 0": 0.5},
            transforms=("ffn_signed_permutation",),
            layout="9a" * 32,
            scope="all",
            dtype="float32",
            source_dtype="F32",
            shard_bytes=9,
            realised={},
            exposure={},
        )
    write_signed(path, record.content(), MASTER)

    def read() -> object:
        return type(record).read(read_signed(path, f"{kind}-record", MASTER))

    assert read() == record
    bits = flipped_bits(path.stat().st_size, bits_of_a_byte)
    assert _accepted(path, bits, read, BadSecretError) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["handoff-v1", "update-v1", "secret-v1"])
def test_every_bit_of_the_golden_manifests_and_records_is_covered(tmp_path, name):
    """The same for full-sized files; the secret is checked through the whole lineage."""
    directory = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    read, error = (
        (Lineage.read, BadSecretError) if name == "secret-v1" else (read_bundle, BadBundleError)
    )
    for file in directory.rglob("*.yaml"):
        assert (
            _accepted(file, range(8 * file.stat().st_size), lambda: read(directory), error) == []
        ), file


def test_an_unlisted_file_is_refused(handoff):
    """At the top, in a copy, hidden, or as a folder: the unlisted path is named."""
    for name in (
        "README.md",
        "copy-1/model2.safetensors",
        "copy-1/.hidden",
        ".DS_Store",
        "mpu.yaml.bak",
    ):
        (handoff / name).write_text("x")
        with pytest.raises(BadBundleError, match="is not listed") as caught:
            read_bundle(handoff)
        assert str(handoff / name) in caught.value.message
        (handoff / name).unlink()
    (handoff / "copy-3").mkdir()
    with pytest.raises(BadBundleError, match="copy-3: is not listed"):
        read_bundle(handoff)


def test_an_absent_file_is_refused(handoff):
    """An absent listed file is named; without its manifest a directory is not a bundle."""
    (handoff / "copy-2" / "config.json").unlink()
    with pytest.raises(
        BadBundleError, match=r"copy-2/config.json: is listed in mpu.yaml but absent"
    ):
        read_bundle(handoff)
    shutil.rmtree(handoff / "copy-2")
    with pytest.raises(BadBundleError, match="copy-2"):
        read_bundle(handoff)
    (handoff / "mpu.yaml").unlink()
    with pytest.raises(
        BadBundleError,
        match=r"holds copies \(copy-1\) and no mpu.yaml, expected a handoff or an update",
    ):
        read_bundle(handoff)


@pytest.mark.parametrize(
    "name", ["mpu.yaml", "copy-1", "copy-1/config.json", "copy-1/model.safetensors"]
)
def test_a_symlink_in_a_bundle_is_refused(handoff, tmp_path, name):
    """Even a link to the right bytes: bundles hold regular files only."""
    (handoff / name).rename(tmp_path / "moved")
    (handoff / name).symlink_to(tmp_path / "moved")
    with pytest.raises(BadBundleError):
        read_bundle(handoff)


def test_a_folder_a_pipe_or_a_socket_in_a_copy_is_refused(handoff):
    """Reading does not block on a pipe."""
    (handoff / "copy-1" / "deep").mkdir()
    with pytest.raises(BadBundleError, match="copy-1/deep: is not a regular file"):
        read_bundle(handoff)
    (handoff / "copy-1" / "deep").rmdir()
    (handoff / "copy-1" / "config.json").unlink()
    os.mkfifo(handoff / "copy-1" / "config.json")
    with pytest.raises(BadBundleError, match="is not a regular file"):
        read_bundle(handoff)


def test_only_a_signature_may_lie_beside_the_manifest(handoff):
    """mpu.yaml.sig must be an SSH signature that fits, no garbage and no link."""
    signature = handoff / "mpu.yaml.sig"
    signature.write_bytes(SIGNATURE_OF_HANDOFF.read_bytes())
    assert isinstance(read_bundle(handoff), HandoffManifest)
    signature.write_bytes(b"signature")
    with pytest.raises(BadBundleError, match=r"mpu\.yaml\.sig: not an SSH signature"):
        read_bundle(handoff)
    signature.unlink()
    signature.symlink_to("mpu.yaml")
    with pytest.raises(BadBundleError, match="is a link"):
        read_bundle(handoff)


def test_a_huge_manifest_is_not_read_into_memory(handoff):
    """A sparse file of a terabyte is refused at once."""
    with (handoff / "mpu.yaml").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadBundleError, match="the limit for a manifest"):
        read_bundle(handoff)


def test_the_wrong_kind_of_bundle_is_named(handoff, update):
    """A handoff in place of an update, or the reverse."""
    assert read_handoff(handoff).id == read_update(update).handoff_id
    with pytest.raises(BadBundleError, match="is an update, expected a handoff"):
        read_handoff(update)
    with pytest.raises(BadBundleError, match="is a handoff, expected an update"):
        read_update(handoff)


def _sign_again(handoff: Path, **changes: object) -> HandoffManifest:
    """Write a manifest that matches the files, as a hostile server would."""
    old = decode((handoff / "mpu.yaml").read_bytes(), "mpu.yaml")
    copies = tuple(
        PublishedCopy(
            copy.name,
            {
                file.name: FileEntry(file_digest(file), file.stat().st_size)
                for file in sorted((handoff / copy.name).iterdir())
            },
        )
        for copy in old.copies
    )
    manifest = HandoffManifest(old.id, str(changes.get("dtype", old.dtype)), old.frozen, copies)
    (handoff / "mpu.yaml").write_bytes(encode(manifest))
    return read_handoff(handoff)


def _config(copy: Path, **changes: object) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _tensors(copy: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")


HOSTILE = {
    "a copy lacks a tensor": (
        lambda c: _tensors(c, lambda t: t.pop("model.norm.weight")),
        "its tensors differ",
    ),
    "a copy has a tensor more": (
        lambda c: _tensors(c, lambda t: t.update(extra=torch.zeros(1))),
        "its tensors differ",
    ),
    "a copy has another shape": (
        lambda c: _tensors(c, lambda t: t.update({"model.norm.weight": torch.zeros(9)})),
        "its tensors differ",
    ),
    "a copy has another dtype": (
        lambda c: _tensors(c, lambda t: t.update({"model.norm.weight": torch.zeros(8).half()})),
        "is F16, expected F32",
    ),
    "config.json lies about the dtype": (lambda c: _config(c, dtype="bfloat16"), "dtype differs"),
    "remote code": (lambda c: _config(c, auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "quantised": (lambda c: _config(c, quantization_config={"bits": 4}), "quantised"),
    "a broken header": (
        lambda c: (c / "model.safetensors").write_bytes(b"\xff" * 64),
        "not a valid safetensors file",
    ),
    "no weights": (lambda c: (c / "model.safetensors").unlink(), "neither model.safetensors"),
    "a broken config": (lambda c: (c / "config.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_copies_of_different_models_are_refused(handoff, name):
    """The digests match, but opening the copies finds the difference before anything is loaded."""
    break_it, expected = HOSTILE[name]
    break_it(handoff / "copy-2")
    with pytest.raises(BadBundleError) as caught:
        open_copies(handoff, _sign_again(handoff))
    assert "copy-2" in caught.value.message
    assert expected in caught.value.message


def test_a_wrong_dtype_in_the_manifest_is_refused(handoff):
    """The stored tensors decide."""
    with pytest.raises(BadBundleError, match="dtype"):
        open_copies(handoff, _sign_again(handoff, dtype="bfloat16"))


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), torch.float32), (float("-inf"), torch.bfloat16)]
)
def test_nan_and_infinity_are_found_in_an_update(update, value, dtype):
    """In float32 and bfloat16, without torch; the tensor is named."""
    path = update / "copy-2" / "delta.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    check_update_tensors(update, read_update(update))
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors, path)
    check_update_tensors(update, decode((update / "mpu.yaml").read_bytes(), "x"))
    tensors[name][-1, -1] = value
    save_file(tensors, path)
    numbers = FileNumbers()  # as verify has them, from the pass that computed the digests
    for file in update.rglob("*.safetensors"):
        numbers.digest(file)
    for noted in (None, numbers):
        with pytest.raises(GateError, match=f"copy-2: tensor {name} holds NaN or infinity"):
            check_update_tensors(update, decode((update / "mpu.yaml").read_bytes(), "x"), noted)


def test_a_delta_in_shards_is_read_and_its_index_checked(update):
    """Shards with an index are one delta; an index that disagrees with them is refused."""
    copy = update / "copy-1"
    tensors = load_file(copy / "delta.safetensors")
    whole = {name: info.shape for name, info in open_delta(copy).items()}
    (copy / "delta.safetensors").unlink()
    names = sorted(tensors)
    shards = {
        "delta-00001-of-00002.safetensors": names[:3],
        "delta-00002-of-00002.safetensors": names[3:],
    }
    for shard, mine in shards.items():
        save_file({name: tensors[name] for name in mine}, copy / shard)
    weight_map = {name: shard for shard, mine in shards.items() for name in mine}
    index = copy / "delta.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert {name: info.shape for name, info in open_delta(copy).items()} == whole
    for broken in (
        {**weight_map, "more": "delta-00001-of-00002.safetensors"},
        {**weight_map, names[0]: "x"},
        [],
        None,
    ):
        index.write_text(json.dumps({"weight_map": broken}))
        with pytest.raises(BadBundleError, match=r"delta.safetensors.index.json"):
            open_delta(copy)
    index.unlink()
    with pytest.raises(BadBundleError, match=r"delta.safetensors.index.json"):
        open_delta(copy)


def test_a_missing_misnamed_or_foreign_secret_file_is_refused(secret):
    """Records refer to each other by name and digest; a foreign file is named."""
    Lineage.read(secret)
    record = next((secret / "handoffs").iterdir())
    renamed = record.rename(record.with_name("00" * 16 + ".yaml"))
    with pytest.raises(BadSecretError, match="is the record of"):
        Lineage.read(secret)
    renamed.rename(record)
    (secret / "models" / "notes.txt").write_text("x")
    with pytest.raises(BadSecretError, match=r"notes.txt: does not belong here"):
        Lineage.read(secret)
    (secret / "models" / "notes.txt").unlink()
    model = next((secret / "models").iterdir())
    model.rename(secret.parent / model.name)
    with pytest.raises(BadSecretError):
        Lineage.read(secret)
    (secret.parent / model.name).rename(model)
    shutil.rmtree(secret / "handoffs")
    with pytest.raises(BadSecretError, match="handoffs: the folder is missing"):
        Lineage.read(secret)


ROOT_MODEL = "c86da3a0351f9890a6ac95e7ce2d77a7949e718034abc85112c5437d7c26e7d5"
A_HANDOFF = "62be29a756105a3a4b4404baff767603"
CONTRADICTIONS = {
    "an absent parent": (
        lambda models, _: [replace(models[ROOT_MODEL], digest="0" * 64, parent="1" * 64)],
        f"secret/models: the parent of {'0' * 64} is missing",
    ),
    "two first models": (
        lambda models, _: [replace(models[ROOT_MODEL], digest="0" * 64)],
        "secret/models: there must be exactly one first model",
    ),
    "a handoff of an unknown model": (
        lambda _, handoffs: [replace(handoffs[A_HANDOFF], model="0" * 64)],
        f"secret/handoffs: handoff {A_HANDOFF} was made from an unknown model",
    ),
    "a transform of a later version": (
        lambda _, handoffs: [replace(handoffs[A_HANDOFF], transforms=("rotate_all",))],
        f"handoffs/{A_HANDOFF}.yaml: field 'transforms' names rotate_all, which this version of mpu"
        " does not know",
    ),
    "a flag that is a text": (
        lambda _, handoffs: [replace(handoffs[A_HANDOFF], train_embeddings="no")],
        f"handoffs/{A_HANDOFF}.yaml: field 'train_embeddings' is neither true nor false",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_records_that_contradict_each_other_are_refused(secret, case):
    """Each is validly signed: an interrupted restore, or an older mpu on a newer lineage."""
    forge, words = CONTRADICTIONS[case]
    lineage = Lineage.read(secret)
    for record in forge(lineage.models, lineage.handoffs):
        if isinstance(record, ModelRecord):
            lineage.save_model(record)
        else:
            lineage.save_handoff(record)
    with pytest.raises(BadSecretError) as refused:
        Lineage.read(secret)
    assert words in refused.value.message


def test_a_directory_with_too_many_files_is_refused_while_it_is_listed(handoff, monkeypatch):
    """The bound holds for what lies on disk, whatever the manifest lists."""
    read_bundle(handoff)
    monkeypatch.setattr("mpu_cli.bundle.read._MAX_FILES", 3)
    with pytest.raises(BadBundleError, match=r"handoff: holds more than 3 files$"):
        read_bundle(handoff)


def test_a_record_signed_under_another_master_is_refused(secret):
    """A record of one lineage is not a record of another."""
    record = next((secret / "models").iterdir())
    write_signed(
        record,
        ModelRecord(record.stem, 0, "committed", None, (), (), 0.0, None).content(),
        bytes(32),
    )
    with pytest.raises(BadSecretError, match="altered, or from another secret"):
        Lineage.read(secret)
