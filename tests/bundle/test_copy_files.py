"""Every listed file is used, none is missing, and copies differ in their weights only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpu_cli.bundle.copy_files import check_alike
from mpu_cli.bundle.manifest import (
    MANIFEST,
    FileEntry,
    HandoffManifest,
    PublishedCopy,
    UpdateCopy,
    UpdateManifest,
    decode,
    encode,
)
from mpu_cli.bundle.read import read_bundle
from mpu_cli.bundle.tensors import open_copies, open_delta
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.errors import BadBundleError

GOLDEN = Path(__file__).parents[1] / "golden"
HASH = "ab" * 32
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def _entries(names: Iterable[str]) -> dict[str, FileEntry]:
    return {name: FileEntry(HASH, 1) for name in names}


def _handoff(*copies: Iterable[str]) -> bytes:
    published = tuple(
        PublishedCopy(f"copy-{number}", _entries({*names, "config.json"}))
        for number, names in enumerate(copies, 1)
    )
    return encode(HandoffManifest("cd" * 16, "float32", ("*.bias",), published))


def _update(payload: str, names: Iterable[str]) -> bytes:
    copy = UpdateCopy("copy-1", HASH, payload, _entries(names))
    return encode(UpdateManifest("cd" * 16, HASH, (copy,)))


def _read(data: bytes) -> None:
    TrustedBundle("in").read_manifest(data)


@pytest.mark.parametrize(
    "names", [["model.safetensors"], [*SHARDS, INDEX], ["model.safetensors", "tokenizer.json"]]
)
def test_a_complete_set_of_weights_is_accepted(names):
    """One file, or all shards of one number and their index."""
    _read(_handoff(names))
    _read(_handoff(names, names))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.safetensors", INDEX], INDEX),
        (["model.safetensors", *SHARDS, INDEX], SHARDS[0]),
        (["model.safetensors", "model-00001-of-00001.safetensors"], "model-00001-of-00001"),
        ([*SHARDS, INDEX, "model-00001-of-00003.safetensors"], "00003"),
        ([*SHARDS, INDEX, "model-00003-of-00002.safetensors"], "model-00003-of-00002"),
        ([*SHARDS, INDEX, "model-00000-of-00002.safetensors"], "model-00000-of-00002"),
        ([*SHARDS, INDEX, "model-000001-of-00002.safetensors"], "model-000001-of-00002"),
        (["model.safetensors", "model.evil.safetensors"], "model.evil.safetensors"),
        (["model.safetensors", "model-evil.safetensors"], "model-evil.safetensors"),
        (["model.safetensors", "model_2.safetensors"], "model_2.safetensors"),
        (["model.safetensors", "model.evil.safetensors.index.json"], "model.evil"),
        (["model.safetensors", "adapter_model.safetensors"], "adapter_model.safetensors"),
        (["model.safetensors", "adapter_config.json"], "adapter_config.json"),
    ],
)
def test_weights_beside_a_complete_set_are_refused(names, found):
    """Stray shards, a second index, weights under other names: refused by the manifest alone."""
    with pytest.raises(BadBundleError, match=r"belongs to no set|cannot hold") as refused:
        _read(_handoff(names))
    assert found in refused.value.message


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (SHARDS, INDEX),
        ([SHARDS[0], INDEX], SHARDS[1]),
        ([SHARDS[1], INDEX], SHARDS[0]),
        (["model-00001-of-999999.safetensors", INDEX], "model-00002-of-999999.safetensors"),
    ],
)
def test_an_incomplete_set_of_weights_is_refused(names, absent):
    """The message names what is missing, in time that does not grow with a claimed number."""
    with pytest.raises(BadBundleError, match="without") as refused:
        _read(_handoff(names))
    assert refused.value.message.endswith(f"without {absent}")


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        ("delta", ["delta.safetensors"]),
        ("delta", ["delta-00001-of-00001.safetensors", "delta.safetensors.index.json"]),
        ("lora", ["adapter_config.json", "adapter_model.safetensors"]),
    ],
)
def test_a_complete_payload_is_accepted(payload, names):
    """The counterpart of the refusals below."""
    _read(_update(payload, names))


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        ("delta", ["delta.safetensors", "delta.safetensors.index.json"]),
        ("delta", ["delta.safetensors", "delta.evil.safetensors"]),
        ("delta", ["delta.safetensors", "adapter_config.json"]),
        ("delta", ["delta.safetensors", "adapter_model.safetensors"]),
        ("delta", ["delta.safetensors", "delta-adapter_model.safetensors"]),
        ("delta", ["delta.safetensors", "masked.safetensors"]),
        ("delta", ["delta-00001-of-00002.safetensors", "delta.safetensors.index.json"]),
        ("delta", ["delta.safetensors.index.json"]),
        ("lora", ["adapter_config.json", "adapter_model.safetensors", "delta.safetensors"]),
    ],
)
def test_a_payload_lists_all_of_its_files_and_no_other(payload, names):
    """An adapter beside deltas, stray shards, an index alone."""
    with pytest.raises(BadBundleError, match=r"belongs to no set|cannot hold|without"):
        _read(_update(payload, names))


SIDE_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/rag.jinja",
    INDEX,
]


@pytest.mark.parametrize("change", ["other bytes", "missing"])
@pytest.mark.parametrize("name", SIDE_FILES)
def test_copies_differ_in_their_weights_only(name, change):
    """Another configuration, tokenizer, template or index in one copy: the copies are not alike."""
    files = _entries([*SIDE_FILES, *SHARDS])
    other = {key: entry for key, entry in files.items() if key != name}
    if change == "other bytes":
        other[name] = FileEntry("cd" * 32, 1)
    copies = tuple(
        PublishedCopy(f"copy-{number}", held)
        for number, held in enumerate((files, other, files), 1)
    )
    with pytest.raises(BadBundleError) as refused:
        check_alike(copies, "in")
    assert refused.value.message.startswith(f"in: copy-2/{name} differs from that of copy-1")
    check_alike((copies[0], copies[2]), "in")


def test_copies_with_other_shards_are_refused():
    """One file in one copy, two in the other: mpu cuts all copies alike."""
    copies = (
        PublishedCopy("copy-1", _entries(["model.safetensors"])),
        PublishedCopy("copy-2", _entries([*SHARDS, INDEX])),
    )
    with pytest.raises(BadBundleError, match="copy-2/"):
        check_alike(copies, "in")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "config.json"])
def test_every_reader_of_a_handoff_refuses_unlike_copies(tmp_path, name):
    """The digests are right; `open_copies` is what verify, unlearn, diff and the audits call."""
    bundle = Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))
    file = bundle / "copy-2" / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, "bos_token_id": None}))
    _redigested(bundle)
    manifest = read_bundle(bundle)
    assert isinstance(manifest, HandoffManifest)
    with pytest.raises(BadBundleError, match=f"copy-2/{name} differs from that of copy-1"):
        open_copies(bundle, manifest)


def _redigested(bundle: Path) -> None:
    """Write a manifest that lists what the bundle holds now, as a hostile sender would."""
    manifest = decode((bundle / MANIFEST).read_bytes(), "")
    copies = tuple(
        PublishedCopy(
            copy.name,
            {
                file.name: FileEntry(file_digest(file), file.stat().st_size)
                for file in sorted((bundle / copy.name).iterdir())
            },
        )
        for copy in manifest.copies
    )
    content = HandoffManifest(manifest.id, manifest.dtype, manifest.frozen, copies)
    (bundle / MANIFEST).write_bytes(encode(content))


def _sharded(tmp_path: Path) -> Path:
    """The golden handoff with its weights in two shards."""
    bundle = Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))
    for copy in sorted(item for item in bundle.iterdir() if item.is_dir()):
        tensors = load_file(copy / "model.safetensors")
        names = sorted(tensors)
        halves = (names[: len(names) // 2], names[len(names) // 2 :])
        for shard, half in zip(SHARDS, halves, strict=True):
            save_file({name: tensors[name] for name in half}, copy / shard, {"format": "pt"})
        weight_map = {
            name: shard for shard, half in zip(SHARDS, halves, strict=True) for name in half
        }
        (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (copy / "model.safetensors").unlink()
    _redigested(bundle)
    return bundle


@pytest.mark.parametrize(
    "fault", ["none", "a key", "metadata", "not a map", "a shard that it does not name"]
)
def test_an_index_names_exactly_the_listed_shards(tmp_path, fault):
    """Its digest is right, but its content is not what mpu writes."""
    bundle = _sharded(tmp_path)
    for copy in ("copy-1", "copy-2"):
        index = bundle / copy / INDEX
        content = json.loads(index.read_text())
        if fault == "a key":
            content["run_dir"] = "/home/u"
        elif fault == "metadata":
            content["metadata"] = {"note": "forget set 3"}
        elif fault == "not a map":
            content["weight_map"] = ["garbage"]
        elif fault == "a shard that it does not name":
            save_file({}, bundle / copy / SHARDS[0], {"format": "pt"})
            content["weight_map"] = {
                name: shard for name, shard in content["weight_map"].items() if shard != SHARDS[0]
            }
        index.write_text(json.dumps(content))
    _redigested(bundle)
    manifest = read_bundle(bundle)
    assert isinstance(manifest, HandoffManifest)
    if fault == "none":
        assert len(open_copies(bundle, manifest)) == len(manifest.copies)
        return
    with pytest.raises(BadBundleError, match=r"model\.safetensors\.index\.json"):
        open_copies(bundle, manifest)


def test_an_index_of_a_delta_names_exactly_its_shards(tmp_path):
    """A shard without tensors beside the named one is not accepted silently."""
    save_file({"a": torch.zeros(2)}, tmp_path / "delta-00001-of-00002.safetensors")
    save_file({}, tmp_path / "delta-00002-of-00002.safetensors")
    index = tmp_path / "delta.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "delta-00001-of-00002.safetensors"}}))
    with pytest.raises(BadBundleError, match="00002-of-00002"):
        open_delta(tmp_path)
    (tmp_path / "delta-00002-of-00002.safetensors").unlink()
    assert list(open_delta(tmp_path)) == ["a"]


@pytest.mark.parametrize("metadata", [{"note": "x"}, {"format": "pt", "user": "alice"}])
def test_metadata_that_no_reader_uses_is_refused(tmp_path, metadata):
    """In a header, text of any length would travel unseen."""
    bundle = Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))
    file = bundle / "copy-2/model.safetensors"
    save_file(load_file(file), file, metadata)
    _redigested(bundle)
    manifest = read_bundle(bundle)
    assert isinstance(manifest, HandoffManifest)
    with pytest.raises(BadBundleError, match=r"copy-2/.*metadata has keys"):
        open_copies(bundle, manifest)
    save_file({"a": torch.zeros(2)}, tmp_path / "delta.safetensors", metadata)
    with pytest.raises(BadBundleError, match=r"delta\.safetensors.*metadata has keys"):
        open_delta(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_a_signature_is_a_plain_file(tmp_path, kind):
    """The one unlisted name is no way to smuggle a folder or a link."""
    import os

    bundle = Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))
    signature = bundle / "mpu.yaml.sig"
    if kind == "folder":
        signature.mkdir()
        (signature / "weights.bin").write_bytes(b"x")
    elif kind == "link":
        signature.symlink_to("/etc/passwd")
    else:
        os.mkfifo(signature)
    with pytest.raises(BadBundleError, match=r"mpu\.yaml\.sig"):
        read_bundle(bundle)
