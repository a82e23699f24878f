"""Masked updates of a group: the server gets their sum exactly, and nothing of one alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mask_cases import altered, make_group, mask
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from two_parties import difference, fingerprint, small_change, take_back, weights, write_update

from mpu_cli.bundle.adapter import AdapterConfig, adapter_names, encode_config
from mpu_cli.bundle.manifest import MANIFEST, FileEntry, UpdateCopy, decode
from mpu_cli.bundle.mask import readable
from mpu_cli.bundle.masked import open_masked
from mpu_cli.bundle.read import read_handoff, read_update
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.dtypes import Scratch
from mpu_cli.client.masks.group import read_group
from mpu_cli.client.masks.key import public_path, read_key
from mpu_cli.client.update import write_manifest
from mpu_cli.errors import CheckFailedError, GateError
from mpu_cli.server.aggregation.masked_sum import masked_sums

STEP = 2.0**-28
NAMES = ("lab", "clinic", "archive")


class Together:
    """A server, one handoff of two copies, and three members with updates, plain and masked."""

    def __init__(self, server):
        self.server, self.root = server, server.root
        (record,) = server.lineage.handoffs.values()
        self.handoff, self.record = self.root / "handoff-1", record
        self.keys = [read_key(self.root / f"{name}.key") for name in NAMES]
        self.group = read_group(*(public_path(key.path) for key in self.keys))
        self.plain = [self.root / f"update-{number}" for number in (2, 3, 4)]
        self.masked = [self.root / f"masked-{name}" for name in NAMES]

    def deltas(self, copy="copy-1"):
        """The plain changes of one copy, by member."""
        return [load_file(plain / copy / "delta.safetensors") for plain in self.plain]

    def words(self, copy="copy-1"):
        """All entries of one masked copy as unsigned integers, by member."""
        files = [load_arrays(masked / copy / "masked.safetensors") for masked in self.masked]
        return [
            np.concatenate([part.view(np.uint32).ravel() for part in tensors.values()])
            for tensors in files
        ]

    def number(self, name):
        """A member's number in the group."""
        return self.group.number_of(self.keys[NAMES.index(name)])


@pytest.fixture(scope="module")
def prepared(server_in, tmp_path_factory):
    """The directories of `Together`, made once."""
    root = tmp_path_factory.mktemp("masked")
    server = server_in(root)
    handed = server.perturb(copies=2)
    keys, group = make_group(root, *NAMES)
    for number, key in enumerate(keys):
        plain = server.update(handed, number=number)
        mask(plain, handed[0], group, key, root / f"masked-{key.path.stem}")
    return root


@pytest.fixture
def together(prepared, server_in, tmp_path):
    """A copy that a test may break."""
    root = tmp_path / "together"
    shutil.copytree(prepared, root)
    server = server_in(root, 2)
    server.count = 9
    return Together(server)


def rows_of(change, count):
    """The first rows of a sum."""
    return change.rows(np.arange(count), Scratch(), Scratch())


def quantised(deltas):
    """The sum of the members' changes in whole steps, in float32."""
    total = {
        name: torch.zeros_like(value, dtype=torch.float64) for name, value in deltas[0].items()
    }
    for delta in deltas:
        for name, value in delta.items():
            total[name] += torch.round(value.double() / STEP)
    return {name: (value * STEP).float() for name, value in total.items()}


def test_the_sum_is_exact(together):
    """The model equals that of the plain rounded sum bit for bit, in any order of the members."""
    shutil.copytree(together.server.secret, together.root / "before")
    result = together.server.aggregate(together.masked[::-1], out="from-masked")
    sums = {name: quantised(together.deltas(name)) for name in ("copy-1", "copy-2")}
    write_update(together.handoff, together.root / "sum", sums)
    model, out = together.server.pair.model, together.root / "from-plain"
    take_back(together.root / "sum", together.root / "before", model, out)
    ours, plain = (weights(together.root / out) for out in ("from-masked", "from-plain"))
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    # The members' changes add up: as large as the rows of all of them.
    wanted = [small_change(together.server.pair.model, number=number) for number in range(3)]
    moved = difference(together.root / "from-masked", together.server.pair.model)
    for name in wanted[0]:
        assert (moved[name] - sum(change[name] for change in wanted)).abs().max() < 1e-6
    assert result.model.handoffs == (together.record.id,)
    assert len(result.model.updates) == 3
    assert result.agreement[0] > 0.99


def test_rounding_is_within_half_a_step_a_member(together):
    """Against the changes before rounding: n · 2⁻²⁹ per entry, and what float32 adds above 1/16."""
    for copy in ("copy-1", "copy-2"):
        sums = masked_sums(together.root, [open_masked(path / copy) for path in together.masked])
        exact = {
            name: sum(delta[name].double() for delta in together.deltas(copy)) for name in sums
        }
        for name, change in sums.items():
            rows = rows_of(change, len(exact[name]))
            error = (rows.double() - exact[name].reshape(rows.shape)).abs()
            assert (error <= 3 * STEP / 2 + 2.0**-24 * rows.abs()).all()


def test_less_than_all_is_uniform(together):
    """One member's file, and the sum of two: every byte is uniform and follows no change.

    Without masks the same test sees the change at once.
    """
    words = together.words()
    for shown in (words[0], words[0] + words[1]):
        for shift in (0, 8, 16, 24):
            counts = np.bincount((shown >> shift) & 0xFF, minlength=256)
            assert chisquare(counts).pvalue > 1e-6
        for delta in together.deltas():
            flat = torch.cat([delta[name].flatten() for name in sorted(delta)]).numpy()
            correlation = np.corrcoef(shown.view(np.int32).astype(float), flat)[0, 1]
            assert abs(correlation) < 5 / len(flat) ** 0.5
    whole = words[0] + words[1] + words[2]
    assert chisquare(np.bincount(whole >> 24, minlength=256)).pvalue < 1e-100


def test_no_mask_is_used_twice(together):
    """Two copies, two tensors, two groups and two handoffs get unlike masks from the same keys.

    An update that changes nothing shows the masks themselves, and holds every tensor.
    """
    server = together.server
    write_update(together.handoff, together.root / "none", {"copy-1": {}, "copy-2": {}})
    other = server.perturb(copies=2)
    write_update(other[0], together.root / "none-2", {"copy-1": {}, "copy-2": {}})
    pair_group = make_group(together.root / "pair", "x", "y")[1]
    both = replace(together.group, members=(*together.group.members, *pair_group.members))
    both = replace(both, members=tuple(sorted(both.members, key=lambda one: one.public)))
    streams = []
    for folder, handoff, group in (
        ("none", together.handoff, together.group),
        ("none", together.handoff, both),
        ("none-2", other[0], together.group),
    ):
        key = replace(together.keys[0], path=together.root / f"{len(streams)}.key")
        out = mask(together.root / folder, handoff, group, key, together.root / f"m{len(streams)}")
        for copy in ("copy-1", "copy-2"):
            tensors = load_arrays(out / copy / "masked.safetensors")
            expected = set(weights(handoff / copy)) - set(read_handoff(handoff).frozen)
            assert set(tensors) == expected
            assert not any((part == 0).mean() > 0.1 for part in tensors.values())
            streams += [part.tobytes()[:64] for part in tensors.values()]
    assert len(set(streams)) == len(streams)


def test_a_private_key_opens_its_own_update_as_the_page_says(together):
    """The page's words as code, without ours: whoever has a member's key reads its update."""
    keys = "".join(f'- "{key}"\n' for key in together.group.keys)
    text = f'"format": 1\n"keys":\n{keys}"kind": "mask-group"\n'
    digest = hashlib.sha256(text.encode()).hexdigest()
    own, name = together.keys[0], "model.layers.0.mlp.up_proj.weight"
    opened = load_arrays(together.masked[0] / "copy-2" / "masked.safetensors")[name]
    words = opened.view(np.uint32).ravel().copy()
    for other in together.group.keys:
        if other == own.public:
            continue
        secret = own.private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
        pair = sorted((own.public, other))
        context = ["mpu-mask", 1, together.record.digest, digest, *pair, "copy-2", name]
        info = json.dumps(context, separators=(",", ":")).encode()
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        mask_words = np.frombuffer(stream.update(bytes(words.nbytes)), dtype="<u4")
        words = words - mask_words if own.public < other else words + mask_words
    plain = together.deltas("copy-2")[0][name].double().flatten().numpy()
    assert (words.view(np.int32) == np.rint(plain / STEP)).all()


def test_an_adapter_and_bfloat16_are_expanded(together):
    """A masked file does not say how its change was stored; shards add up with whole files."""
    rank, module = 2, "model.layers.0.self_attn.q_proj"
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape, generator=generator) * 0.05 for shape in ((rank, 32), (32, rank)))
    lora = together.root / "lora"
    for copy in ("copy-1", "copy-2"):
        (lora / copy).mkdir(parents=True)
        config = encode_config(AdapterConfig(rank, 4, (module,), fan_in_fan_out=False))
        (lora / copy / "adapter_config.json").write_bytes(config)
        factors = dict(zip(adapter_names(module), (a, b), strict=True))
        save_file(factors, lora / copy / "adapter_model.safetensors")
    write_manifest(lora, read_handoff(together.handoff))
    halves = {"model.norm.weight": torch.full((32,), 0.01).bfloat16()}
    write_update(together.handoff, together.root / "bf16", {"copy-1": halves, "copy-2": halves})
    keys, group = make_group(together.root / "pair", "x", "y")
    masked = [
        mask(together.root / name, together.handoff, group, key, together.root / f"m-{name}", size)
        for name, key, size in zip(("lora", "bf16"), keys, (10**9, 4000), strict=True)
    ]
    assert len(list((masked[1] / "copy-1").glob("masked-*.safetensors"))) > 5
    sums = masked_sums(together.root, [open_masked(path / "copy-2") for path in masked])
    q = rows_of(sums[f"{module}.weight"], 32)
    assert (q - 2.0 * b @ a).abs().max() < 2 * STEP
    norm_rows = rows_of(sums["model.norm.weight"], 32)
    assert (norm_rows.view(-1) - halves["model.norm.weight"].float()).abs().max() < STEP
    assert not rows_of(sums["model.layers.1.mlp.up_proj.weight"], 48).any()


def test_the_range_is_kept(together):
    """An entry beyond 8/n is refused by name, as one that is no number; just below passes."""
    name, root = "model.norm.weight", together.root
    keys = [replace(key, path=root / f"{key.path.stem}.again") for key in together.keys]
    for value, message in (
        (2.7, f"tensor {name} changed by 2.7; with 3 members an entry may change by at most 2.667"),
        (float("nan"), f"tensor {name} holds NaN or infinity"),
        (float("inf"), f"tensor {name} holds NaN or infinity"),
        (-2.6666, None),
    ):
        shutil.rmtree(root / "large", ignore_errors=True)
        change = {name: torch.full((32,), value)}
        write_update(together.handoff, root / "large", {"copy-1": change, "copy-2": change})
        if message is None:
            break
        with pytest.raises(CheckFailedError) as caught:
            mask(root / "large", together.handoff, together.group, keys[0], root / "x")
        assert caught.value.message == f"{root / 'large' / 'copy-1'}: {message}"
        assert not (root / "x").exists()
    members = [
        mask(root / "large", together.handoff, together.group, key, root / f"x-{key.path.stem}")
        for key in keys
    ]
    sums = masked_sums(root, [open_masked(path / "copy-1") for path in members])
    assert rows_of(sums[name], 16).numpy() == pytest.approx(-3 * 2.6666)


def test_holders_of_a_split_may_be_groups(server_in, tmp_path):
    """Two holders, two groups of two members: all four updates are taken in one call."""
    server = server_in(tmp_path)
    folder, records = server.perturb(split=True, copies=2)
    updates = []
    for place, record in enumerate(records, 1):
        handoff = folder / f"holder-{place}"
        keys, group = make_group(tmp_path, f"a{place}", f"b{place}")
        for number, key in enumerate(keys):
            plain = server.update((handoff, record), number=number)
            updates.append(mask(plain, handoff, group, key, tmp_path / f"m-{key.path.stem}"))
    with pytest.raises(GateError, match="1 of the 2 copies of this draw"):
        server.aggregate(updates[:2])
    result = server.aggregate(updates[::-1])
    assert [len(result.model.updates), len(result.model.handoffs)] == [4, 2]
    wanted = [small_change(server.pair.model, number=number) for number in range(2)]
    moved = difference(tmp_path / "next", server.pair.model)
    for name in wanted[0]:
        assert (moved[name] - wanted[0][name] - wanted[1][name]).abs().max() < 1e-6


def test_a_handoff_that_freezes_nothing(tiny_pair, server_in, tmp_path):
    """Then the embeddings are masked, too, whether a member trained them or not; tied ones once."""
    server = server_in(tmp_path)
    server.pair = tiny_pair("llama-tied")
    folder, record = server.perturb(copies=2, train_embeddings=True)
    name, keys, group = "model.embed_tokens.weight", *make_group(tmp_path, "a", "b")
    change = {name: torch.full((64, 32), 0.01)}
    write_update(folder, tmp_path / "some", {"copy-1": change, "copy-2": change})
    updates = (server.update((folder, record)), tmp_path / "some")
    masked = [
        mask(update, folder, group, key, tmp_path / f"m-{key.path.stem}")
        for update, key in zip(updates, keys, strict=True)
    ]
    assert set(open_masked(masked[0] / "copy-1")) == set(weights(server.pair.model))
    server.aggregate(masked)
    moved = difference(tmp_path / "next", server.pair.model)
    assert (moved[name] - 0.01).abs().max() < 1e-6


def refused(together, updates, message, hint=None, error=GateError):
    """Aggregation is refused with this message, and nothing changes."""
    before = fingerprint(together.server.secret)
    with pytest.raises(error) as caught:
        together.server.aggregate(updates)
    assert caught.value.message == message
    assert hint is None or hint in str(caught.value.hint)
    assert not (together.root / "next").exists()
    assert fingerprint(together.server.secret) == before


def test_members_that_are_missing_or_given_twice_are_refused(together):
    """By their number; a mixed call, too, before any file is read in full."""
    lab, clinic, archive = together.masked
    number, key = together.number("archive"), together.keys[2].public[:8]
    refused(
        together,
        [lab, clinic],
        f"{lab}: of the 3 members of its mask group 1 are missing: member {number} (key {key}…);"
        " without them the masks do not cancel",
        "if a member has left, see",
    )
    twice = f"is from member {together.number('lab')} of 3 of its mask group, and so is"
    again = together.root / "again"
    shutil.copytree(lab, again)
    refused(together, [lab, clinic, archive, again], f"{again}: {twice} {lab}", "each once")
    refused(
        together,
        [lab, clinic, archive, together.plain[0]],
        f"{together.plain[0]}: is a plain update of the handoff that {lab} answers with a masked"
        " one",
        "give one kind",
    )
    together.server.aggregate(together.masked)
    with pytest.raises(GateError, match="already in the model"):
        together.server.aggregate(together.masked, "next", "later")
    with pytest.raises(GateError, match="another update of the same handoff"):
        together.server.aggregate(together.plain[0], "next", "later")


def test_members_of_another_group_or_handoff_are_refused_before_their_files_are_read(together):
    """A damaged file would be found only later."""
    lab, clinic, archive = together.masked
    more, larger = make_group(together.root / "more", *NAMES)
    other = mask(
        together.plain[2], together.handoff, larger, more[2], together.root / "other-group"
    )
    (other / "copy-1" / "masked.safetensors").write_bytes(
        bytes((other / "copy-1" / "masked.safetensors").stat().st_size)
    )
    refused(
        together,
        [lab, clinic, other],
        f"{other}: belongs to the mask group {readable(larger.digest)}, but {lab} to"
        f" {readable(together.group.digest)}: their masks do not cancel",
        "mpu mask group FILE",
    )
    second = together.server.perturb(copies=2)
    late = together.server.update(second, number=2)
    late = mask(late, second[0], together.group, together.keys[2], together.root / "late")
    refused(
        together,
        [lab, clinic, late],
        f"{late}: answers handoff {second[1].id[:12]}…, but {lab}, of the same mask group, answers"
        f" {together.record.id[:12]}…: their masks do not cancel",
    )
    altered(archive, handoff_digest="0" * 64)
    with pytest.raises(GateError, match="was made from other copies"):
        together.server.aggregate(together.masked)


@pytest.mark.parametrize("fault", ["swapped copies", "another key", "a copy left out"])
def test_masks_that_do_not_cancel_are_noticed(together, fault):
    """Where every digest is right, the sum itself shows it."""
    lab, clinic, archive = together.masked
    message = "the masks of the 3 members do not cancel"
    if fault == "swapped copies":
        first, second = read_update(archive).copies
        (archive / "copy-1").rename(archive / "x")
        (archive / "copy-2").rename(archive / "copy-1")
        (archive / "x").rename(archive / "copy-2")
        altered(
            archive,
            copies=(
                UpdateCopy("copy-1", first.of, "masked", second.files),
                UpdateCopy("copy-2", second.of, "masked", first.files),
            ),
        )
    elif fault == "another key":
        keys, group = make_group(together.root / "more", *NAMES)
        wrong = mask(together.plain[2], together.handoff, group, keys[2], together.root / "wrong")
        archive = altered(wrong, mask=read_update(archive).mask)
    else:
        held = read_update(archive).copies[:1]
        shutil.rmtree(archive / "copy-2")
        altered(archive, copies=held)
        message = "holds other copies than"
    with pytest.raises(GateError, match=message):
        together.server.aggregate([lab, clinic, archive], min_agreement=-1.0)
    assert not (together.root / "next").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t | {"model.extra.weight": t["model.norm.weight"]}, "the model has no such"),
        (lambda t: t | {"lm_head.weight": t["model.norm.weight"]}, "the handoff freezes it"),
        (
            lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"},
            "is missing; a masked",
        ),
        (
            lambda t: t | {"model.norm.weight": t["model.norm.weight"][1:]},
            r"shape \[31\], expected",
        ),
        (
            lambda t: t | {"model.norm.weight": t["model.norm.weight"].float()},
            "is F32, expected 32",
        ),
    ],
    ids=["foreign", "frozen", "missing", "shape", "dtype"],
)
def test_a_bad_tensor_in_one_copy_is_refused(together, spoil, message):
    """It is named, before anything is added."""
    archive = together.masked[2]
    file = archive / "copy-2" / "masked.safetensors"
    tensors = spoil(load_file(file))
    file.unlink()
    save_file({name: value.clone() for name, value in tensors.items()}, file)
    held = {file.name: FileEntry(file_digest(file), file.stat().st_size)}
    first, second = decode((archive / MANIFEST).read_bytes(), archive).copies
    altered(archive, copies=(first, replace(second, files=held)))
    with pytest.raises(GateError, match=message) as caught:
        together.server.aggregate(together.masked)
    assert caught.value.message.startswith(f"{archive / 'copy-2'}: ")
    assert not (together.root / "next").exists()
