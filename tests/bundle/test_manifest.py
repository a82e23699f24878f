"""The two public manifests and the ordered checks, in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flips import BITS_OF_A_BYTE, flipped_bits

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import (
    FileEntry,
    HandoffManifest,
    PublishedCopy,
    UpdateCopy,
    UpdateManifest,
    decode,
    encode,
    listed,
)
from mpu_cli.bundle.trusted import TrustedBundle, check_update_of
from mpu_cli.errors import BadBundleError, GateError

HASH = "ab" * 32
FILES = {"config.json": FileEntry("11" * 32, 10), "model.safetensors": FileEntry("22" * 32, 20)}
HANDOFF = HandoffManifest(
    "cd" * 16, "float32", ("model.embed_tokens.weight", "*.bias"), (PublishedCopy("copy-1", FILES),)
)
UPDATE = UpdateManifest(
    "cd" * 16,
    HANDOFF.digest,
    (UpdateCopy("copy-1", HASH, "delta", {"delta.safetensors": FileEntry("33" * 32, 30)}),),
)
LISTING = {"": {"mpu.yaml": 5}, "copy-1": {"config.json": 10, "model.safetensors": 20}}


def _encoded(content: dict[str, object]) -> bytes:
    """A manifest with a valid digest and any content, as a hostile party would send it."""
    return canonical.dump({**content, "digest": canonical.digest(content)})


@pytest.mark.parametrize("manifest", [HANDOFF, UPDATE])
def test_a_manifest_survives_encoding(manifest):
    """Decode returns the encoded manifest, and its digest is that of the canonical form."""
    assert decode(encode(manifest), "mpu.yaml") == manifest
    assert canonical.digest(manifest.content()) == manifest.digest


def test_digests_are_fixed():
    """The digests of format 1 never change: updates name those of the handoff and its copies."""
    assert (HANDOFF.digest, HANDOFF.copies[0].digest, UPDATE.digest) == (
        "7e4fa1c185dd2581894810a161820b4beed918430dd455cbf3b91adc9e94c22b",
        "d976bea8b31528d58744f9bcc4d0b4c57197b54c755e49c121b514171cafdcce",
        "3fea2d702e94d6c56d9030007980e54f4670d4453eb464743ef7a6d201fb382c",
    )


@BITS_OF_A_BYTE
@pytest.mark.parametrize("manifest", [HANDOFF, UPDATE])
def test_every_byte_of_a_manifest_is_covered(manifest, bits_of_a_byte):
    """Flipping one bit is refused, in whatever byte."""
    data = encode(manifest)
    accepted = []
    for bit in flipped_bits(len(data), bits_of_a_byte):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(flipped), "mpu.yaml")
        except BadBundleError:
            continue
        accepted.append(bit)
    assert accepted == []


def _copy(**changes: object) -> dict[str, object]:
    return {**HANDOFF.content(), "copies": [{**HANDOFF.content()["copies"][0], **changes}]}


def _file(name: str = "config.json", **entry: object) -> dict[str, object]:
    return _copy(files={name: {"sha256": HASH, "bytes": 1, **entry}})


def _update(**changes: object) -> dict[str, object]:
    return {**UPDATE.content(), "copies": [{**UPDATE.content()["copies"][0], **changes}]}


CONTENTS = {
    "unknown kind": ({**HANDOFF.content(), "kind": "secret"}, "'kind'"),
    "kind missing": ({"format": 1}, "'kind' is missing"),
    "newer format": (
        {**HANDOFF.content(), "format": 2, "novelty": True},
        "has format 2, but this mpu reads format 1",
    ),
    "format true": ({**HANDOFF.content(), "format": True}, "'format'"),
    "unknown field": ({**HANDOFF.content(), "alpha": 1.5}, "'alpha' is not a known field"),
    "unknown field of a copy": (_copy(kappa=0.1), "'kappa' is not a known field"),
    "unknown field of a file": (_file(mode=1), "'mode' is not a known field"),
    "short id": ({**HANDOFF.content(), "id": "ab"}, "'id'"),
    "id in capitals": ({**HANDOFF.content(), "id": "AB" * 16}, "'id'"),
    "id with a line break": ({**HANDOFF.content(), "id": "ab" * 16 + "\n"}, "'id'"),
    "unknown dtype": ({**HANDOFF.content(), "dtype": "int8"}, "'dtype'"),
    "frozen a string": ({**HANDOFF.content(), "frozen": "x"}, "'frozen'"),
    "frozen with a terminal code": ({**HANDOFF.content(), "frozen": ["\x1b[2J"]}, "'frozen'"),
    "copies a map": ({**HANDOFF.content(), "copies": {}}, "'copies'"),
    "no copies": ({**HANDOFF.content(), "copies": []}, "lists no copies"),
    "a copy twice": (
        {**HANDOFF.content(), "copies": HANDOFF.content()["copies"] * 2},
        "or lists one twice",
    ),
    "a copy a string": ({**HANDOFF.content(), "copies": ["copy-1"]}, "expected a map"),
    "bytes negative": (_file(bytes=-1), "'bytes'"),
    "bytes a fraction": (_file(bytes=1.0), "'bytes'"),
    "digest of a file too short": (_file(sha256="ab"), "'sha256'"),
    "payload unknown": (
        {**UPDATE.content(), "copies": [{**UPDATE.content()["copies"][0], "payload": "pickle"}]},
        "'payload'",
    ),
    "handoff of the update with another field": (
        {**UPDATE.content(), "handoff": {"id": "cd" * 16, "digest": HASH, "path": "/home/bob"}},
        "'path'",
    ),
    "handoff of the update a text": (
        {**UPDATE.content(), "handoff": "cd" * 16},
        "mpu.yaml: handoff: expected a map",
    ),
    "handoff of the update without a good id": (
        {**UPDATE.content(), "handoff": {"id": "AB" * 16, "digest": HASH}},
        "mpu.yaml: handoff: field 'id'",
    ),
    "handoff of the update without a good digest": (
        {**UPDATE.content(), "handoff": {"id": "cd" * 16, "digest": "AB" * 32}},
        "mpu.yaml: handoff: field 'digest'",
    ),
    "unknown field of a copy of the update": (_update(kappa=1), "'kappa' is not a known field"),
    "copy of the update with another name": (_update(name="copy-0"), "'name'"),
    "copy of the update of no digest": (_update(of="x"), "'of'"),
    "fields of the other kind": (
        {**UPDATE.content(), "frozen": []},
        "'frozen' is not a known field",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_unexpected_content_is_refused(name):
    """The schema is closed, even if the manifest's own digest is valid."""
    content, expected = CONTENTS[name]
    with pytest.raises(BadBundleError) as caught:
        decode(_encoded(content), "mpu.yaml")
    assert expected in caught.value.message


AGAIN = "ask for the files again"
REFUSALS = {
    "format": (
        _encoded({**HANDOFF.content(), "format": 2}),
        "in.yaml: has format 2, but this mpu reads format 1",
        "update mpu",
    ),
    "digest": (
        canonical.dump({**HANDOFF.content(), "digest": HASH}),
        "in.yaml: does not match its own digest: it was altered or damaged",
        AGAIN,
    ),
    "digest that is none": (
        canonical.dump({**HANDOFF.content(), "digest": "x"}),
        "in.yaml: field 'digest' has an unexpected value",
        "update mpu if a newer version wrote the file, or else ask for the file again",
    ),
    "no copies": (
        _encoded({**HANDOFF.content(), "copies": []}),
        "in.yaml: lists no copies, or lists one twice",
        None,
    ),
    "no manifest": (
        b"x",
        "in.yaml: not in canonical form: it was edited or damaged",
        f"{AGAIN}; do not edit manifests by hand",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_is_wrong_and_what_to_do(case):
    """Word for word, with the name that the caller gave."""
    data, message, hint = REFUSALS[case]
    with pytest.raises(BadBundleError) as caught:
        decode(data, "in.yaml")
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_of_the_format_is_read(dtype):
    """They are what safetensors calls F32, BF16 and F16."""
    manifest = replace(HANDOFF, dtype=dtype)
    assert decode(encode(manifest), "mpu.yaml") == manifest


@pytest.mark.parametrize("payload", ["delta", "lora"])
def test_every_payload_of_the_format_is_read(payload):
    """Dense changes and adapters."""
    manifest = replace(UPDATE, copies=(replace(UPDATE.copies[0], payload=payload),))
    assert decode(encode(manifest), "mpu.yaml") == manifest


def test_written_files_become_entries():
    """Digest and size by name, as writers return them."""
    assert listed({"a": (HASH, 3)}) == {"a": FileEntry(HASH, 3)}


def test_half_a_surrogate_pair_is_refused():
    """Mpu never writes one, but an escape in a foreign file can hold one."""
    data = _encoded({**HANDOFF.content(), "frozen": ["SURROGATE"]}).replace(
        b"SURROGATE", rb"\ud800"
    )
    with pytest.raises(BadBundleError):
        decode(data, "mpu.yaml")


@pytest.mark.parametrize("data", [b"1: 2\n", b"null: 1\n", b"{}\n", b'"kind": "handoff"\n'])
def test_other_canonical_texts_are_refused(data):
    """Keys that are not strings, no fields, or only one field."""
    with pytest.raises(BadBundleError):
        decode(data, "mpu.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "copy-0",
        "copy-01",
        "copy-x",
        "Copy-1",
        "copy-1/..",
        "..",
        "",
        "copy-12345",
        "copy-1\n",
        "holder-1",
    ],
)
def test_a_copy_has_a_plain_name(name):
    """A name that leaves the directory or looks like another file is refused."""
    with pytest.raises(BadBundleError, match="'name'"):
        decode(_encoded(_copy(name=name)), "mpu.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        ".hidden",
        "..",
        "",
        "a\0b",
        "a\nb",
        "é.json",
        "x" * 129,
    ],
)
def test_a_listed_file_has_a_plain_name(name):
    """No separator, no leading dot, no control letters: no path can leave the directory."""
    with pytest.raises(BadBundleError, match="not an allowed name"):
        decode(_encoded(_file(name)), "mpu.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "modeling.py",
        "pytorch_model.bin",
        "README.md",
        "delta.safetensors",
        "adapter.safetensors",
        "mpu.yaml",
    ],
)
def test_a_handoff_lists_only_what_a_model_directory_needs(name):
    """Code, pickles and strange tensors are refused by name before they are looked at."""
    with pytest.raises(BadBundleError, match="which a handoff cannot hold"):
        TrustedBundle("in").read_manifest(_encoded(_file(name)))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "forget.jsonl", "notes.txt"]
)
def test_an_update_lists_nothing_but_deltas(name):
    """No other file of the client may be in an update."""
    update = replace(
        UPDATE, copies=(UpdateCopy("copy-1", HASH, "delta", {name: FileEntry(HASH, 1)}),)
    )
    with pytest.raises(BadBundleError, match="which an update cannot hold"):
        TrustedBundle("in").read_manifest(encode(update))


def _trusted() -> TrustedBundle:
    trusted = TrustedBundle("in")
    trusted.read_manifest(encode(HANDOFF))
    return trusted


def test_a_bundle_is_verified_after_all_steps_in_order():
    """Finish returns the manifest after manifest, listing and every file were checked."""
    trusted = _trusted()
    trusted.check_listing(LISTING)
    for name, entry in FILES.items():
        trusted.check_file("copy-1", name, entry.sha256)
    assert trusted.finish() == HANDOFF


def test_steps_in_the_wrong_order_raise_runtime_error():
    """Each step needs the previous one, and finish needs all."""
    with pytest.raises(RuntimeError):
        TrustedBundle("in").check_listing(LISTING)
    with pytest.raises(RuntimeError):
        TrustedBundle("in").check_file("copy-1", "config.json", HASH)
    with pytest.raises(RuntimeError):
        TrustedBundle("in").finish()
    trusted = _trusted()
    with pytest.raises(RuntimeError):
        trusted.check_file("copy-1", "config.json", FILES["config.json"].sha256)
    with pytest.raises(RuntimeError):
        trusted.finish()
    trusted.check_listing(LISTING)
    trusted.check_file("copy-1", "config.json", FILES["config.json"].sha256)
    with pytest.raises(RuntimeError):
        trusted.finish()


def test_no_step_runs_after_a_refused_manifest():
    """After an error the next steps raise too."""
    trusted = TrustedBundle("in")
    with pytest.raises(BadBundleError):
        trusted.read_manifest(_encoded(_file("evil.py")))
    with pytest.raises(RuntimeError):
        trusted.check_listing(LISTING)


LISTINGS = {
    "extra file in a copy": (
        {**LISTING, "copy-1": {**LISTING["copy-1"], "extra": 1}},
        "in/copy-1/extra: is not listed",
    ),
    "extra file at the top": (
        {**LISTING, "": {"mpu.yaml": 5, "README": 1}},
        "in/README: is not listed",
    ),
    "extra folder": ({**LISTING, "copy-2": {}}, "in/copy-2: is not listed"),
    "missing file": (
        {**LISTING, "copy-1": {"config.json": 10}},
        "in/copy-1/model.safetensors: is listed in mpu.yaml but absent",
    ),
    "missing copy": ({"": {"mpu.yaml": 5}}, "is listed in mpu.yaml but absent"),
    "another size": (
        {**LISTING, "copy-1": {**LISTING["copy-1"], "config.json": 11}},
        "in/copy-1/config.json: has 11 bytes, but mpu.yaml says 10",
    ),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_the_listing_must_equal_the_manifest(name):
    """A file that is extra, absent, or of another size is named."""
    found, expected = LISTINGS[name]
    with pytest.raises(BadBundleError) as caught:
        _trusted().check_listing(found)
    assert expected in caught.value.message


def test_a_signature_needs_no_listing():
    """mpu.yaml.sig is reserved."""
    _trusted().check_listing({**LISTING, "": {"mpu.yaml": 5, "mpu.yaml.sig": 9}})


def test_bytes_that_do_not_match_are_refused():
    """A file's digest is compared with its entry."""
    trusted = _trusted()
    trusted.check_listing(LISTING)
    with pytest.raises(BadBundleError, match=r"in/copy-1/config\.json: its bytes do not match"):
        trusted.check_file("copy-1", "config.json", FILES["model.safetensors"].sha256)


def test_an_update_belongs_to_one_handoff_and_its_copies():
    """Another handoff, an unknown copy, and a copy under the name of another are refused."""
    copies = {"copy-1": HASH, "copy-2": "cd" * 32}
    check_update_of(UPDATE, UPDATE.handoff_id, UPDATE.handoff_digest, copies)
    with pytest.raises(GateError, match="was made from handoff"):
        check_update_of(UPDATE, "ef" * 16, UPDATE.handoff_digest, copies)
    with pytest.raises(GateError, match="was made from handoff"):
        check_update_of(UPDATE, UPDATE.handoff_id, HASH, copies)
    with pytest.raises(GateError, match="does not have"):
        check_update_of(UPDATE, UPDATE.handoff_id, UPDATE.handoff_digest, {"copy-2": HASH})
    with pytest.raises(GateError, match="another copy"):
        check_update_of(UPDATE, UPDATE.handoff_id, UPDATE.handoff_digest, {"copy-1": "cd" * 32})


def test_the_digest_of_a_copy_covers_names_bytes_and_sizes():
    """The digest that an update names as `of` changes with any file of the copy."""
    copy = HANDOFF.copies[0]
    others = [
        {**FILES, "config.json": FileEntry("12" * 32, 10)},
        {**FILES, "config.json": FileEntry("11" * 32, 11)},
        {"config.json": FILES["config.json"]},
        {"vocab.json": FILES["config.json"], "model.safetensors": FILES["model.safetensors"]},
    ]
    assert len({copy.digest, *(PublishedCopy("copy-1", files).digest for files in others)}) == 5
