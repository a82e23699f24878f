"""`mpu audit update`: each attack finds what is there, and fails where it must."""

from __future__ import annotations

import base64
import shutil
import tarfile

import numpy as np
import pytest
import torch

from mpu_cli.audit.update.area import area
from mpu_cli.audit.update.string_scan import data_strings, scan
from mpu_cli.bundle.pack import pack
from mpu_cli.data.row import Row

ATTACKS = ("loss_change", "gradient_cosine")


def audited(mpu, client, update=None, *options):
    """The findings on an update."""
    sets = ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])
    done = mpu(
        "audit", "update", update or client.update, client.handoff, *sets, *options, "--json"
    )
    assert done.code == 0, done.out + done.err
    return done.findings


def test_forgotten_rows_are_told_from_decoys_and_decoys_are_not(client, mpu):
    """Both attacks, with halves of the decoys and with a file of control rows."""
    found = audited(mpu, client)
    other = audited(mpu, client, None, "--control", client.rows["control"])
    for attack in ATTACKS:
        for content in (found[f"forget_decoys:{attack}"], other[f"forget_decoys:{attack}"]):
            auc, control = content["auc"], content["control_auc"]
            assert auc["value"] > 0.9 and auc["low"] > 0.6, (attack, auc)
            assert auc["low"] <= auc["value"] <= auc["high"] <= 1
            assert control["low"] < 0.5 < control["high"]
    assert found["token_rows"]["measured"] == "none moved: frozen"
    assert found["string_scan"]["found"] == [] and found["string_scan"]["strings"] > 20
    steps = found["training_length"]
    assert steps["steps_range"][0] < 16 < steps["steps_range"][1]  # 12 rows, batches of 6, 8 epochs
    assert found["public_facts"]["fields"] == sorted(
        ("copies.files", "copies.name", "copies.of", "copies.payload", "format", "handoff", "kind")
    )


def test_no_attack_wins_on_a_change_of_the_same_size_with_random_signs(client, mpu, altered):
    """Negative control: the attacks read the direction, and nothing else, of the change."""
    signs = torch.Generator().manual_seed(3)
    update = altered(lambda part: part * (torch.randint(0, 2, part.shape, generator=signs) * 2 - 1))
    found = audited(mpu, client, update)
    for attack in ATTACKS:
        auc = found[f"forget_decoys:{attack}"]["auc"]
        assert auc["low"] < 0.5 < auc["high"], (attack, auc)


def test_trained_embeddings_list_the_tokens_also_after_weight_decay(client, mpu, unlearned):
    """Precision and recall of the embedding's rows; all rows of the head move."""
    update = unlearned("--train-embeddings", "--weight-decay", "0.1")
    found = audited(mpu, client, update)
    embedding = found["token_rows:model.embed_tokens.weight"]
    # A token that only ends rows is no input, so its row gets no gradient.
    assert embedding["precision"] == 1 and embedding["recall"] > 0.9
    assert 0 < embedding["decay"] < 1e-2 and embedding["moved"] < 64
    assert found["token_rows:lm_head.weight"]["moved"] == 64
    by_size = found["token_rows:lm_head.weight"]["auc_by_size"]
    assert max(by_size, 1 - by_size) > 0.7


def test_an_adapter_reveals_as_much(client, mpu, unlearned):
    """The attacks work on a LoRA update."""
    found = audited(mpu, client, unlearned("--lora-rank", "4", "--learning-rate", "2e-2"))
    assert "LoRA adapter" in found["public_facts"]["measured"]
    for attack in ATTACKS:
        assert found[f"forget_decoys:{attack}"]["auc"]["low"] > 0.5, attack


def test_the_report_in_words(client, mpu):
    """The table, a sentence for each finding, and what to do next."""
    rows = ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])
    done = mpu("audit", "update", client.update, client.handoff, *rows, "--max-rows", "6")
    assert done.code == 0
    assert "membership by loss change" in done.out and "95 % interval" in done.out
    assert "token rows: none moved: frozen." in done.out
    assert "--cover FILE" in done.out


def test_a_condition_on_a_printed_number_makes_it_fail(client, mpu):
    """`--fail-if` exits 1 after everything was printed; an unknown number is a usage error."""
    rows = ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])
    audit = ("audit", "update", client.update, client.handoff, *rows, "--fail-if")
    done = mpu(*audit, "membership_loss_change>.9")
    assert done.code == 1 and "membership by loss change" in done.out
    assert "--fail-if membership_loss_change>.9: membership_loss_change is" in done.err
    assert mpu(*audit, "token_precision>0 or rows>1000000").code == 0
    unknown = mpu(*audit, "membership>.9")
    assert unknown.code == 2 and "there is no number membership" in unknown.err


def test_bad_input_names_the_file_and_a_remedy(client, mpu, tmp_path):
    """One line each, with the documented exit codes, and nothing is left behind."""
    update, handoff = client.update, client.handoff
    forget, decoys = client.rows["forget"], client.rows["decoys"]
    few, mixed = tmp_path / "few.jsonl", tmp_path / "mixed.jsonl"
    few.write_text("".join(decoys.read_text().splitlines(keepends=True)[:4]))
    mixed.write_text(decoys.read_text() + forget.read_text().splitlines()[2])
    cases = {
        ("--forget", forget): (2, "--decoys is missing", "give rows of the same kind"),
        ("--decoys", decoys): (2, "--forget is missing", "give the rows that were forgotten"),
        ("--forget", forget, "--decoys", mixed): (
            3,
            "mixed.jsonl:25: is also forget.jsonl:3",
            "a decoy is a row that was not forgotten: take it out of --decoys",
        ),
        ("--forget", forget, "--decoys", few): (
            3,
            f"--decoys {few}: 4 rows, but an audit needs at least 5",
            "give more rows of the same kind",
        ),
        ("--forget", forget, "--decoys", decoys, "--control", decoys): (
            3,
            "decoys.jsonl:1: is also decoys.jsonl:1, and 23 more",
            "the two are compared: take it out of one of them",
        ),
        ("--forget", forget, "--decoys", decoys, "--copy", "2"): (
            2,
            "--copy 2: the handoff has 1 copies",
            "give a number from 1 to 1",
        ),
    }
    for options, (code, message, hint) in cases.items():
        done = mpu("audit", "update", update, handoff, *options)
        assert (done.code, done.out) == (code, ""), (options, done.err)
        assert f"mpu: error: {message}" in done.err, options
        assert f"mpu: hint: {hint}" in done.err, options


def test_an_update_of_another_handoff_is_refused(client, mpu, tiny_pair, tmp_path):
    """The message names both."""
    pair, other = tiny_pair("llama"), tmp_path / "other"
    made = ("perturb", pair.model, "--handoff", other, "--secret", tmp_path / "s", "-m", "1")
    assert mpu(*made, "--base", pair.base, "--check", "none").code == 0
    rows = ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])
    done = mpu("audit", "update", client.update, other, *rows)
    assert done.code == 1
    assert f"{client.update} was not made from {other}" in done.err
    assert "mpu: hint: give the handoff that was trained on" in done.err
    exchanged = mpu("audit", "update", other, client.update, *rows)
    assert exchanged.code == 3 and "Traceback" not in exchanged.err


def test_a_tar_file_is_scanned_as_it_is_sent(client, mpu, tmp_path, monkeypatch):
    """A tar file of another program names the user in its headers, and ours does not."""
    monkeypatch.setenv("LOGNAME", "zebedee-holdings")
    rows = ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])
    sent = {name: tmp_path / f"{name}.tar" for name in ("ours", "foreign")}
    pack(client.update, sent["ours"], force=False, progress=lambda *_: None)
    shutil.copy(sent["ours"], sent["foreign"])
    with tarfile.open(sent["ours"]) as ours, tarfile.open(sent["foreign"], "w") as foreign:
        for member in ours.getmembers():
            member.uname = "zebedee-holdings"
            foreign.addfile(member, ours.extractfile(member) if member.isfile() else None)
    clean = mpu("audit", "update", sent["ours"], client.handoff, *rows, "--json")
    assert clean.code == 0 and clean.findings["string_scan"]["found"] == []
    assert clean.findings["string_scan"]["bytes"] == sent["ours"].stat().st_size
    page = tmp_path / "page.html"
    leaking = mpu("audit", "update", sent["foreign"], client.handoff, *rows, "--report", page)
    assert leaking.code == 1
    assert "zebedee" not in page.read_text()  # the page can be mailed: it says where, not what
    assert "holds text of your rows, or a name of yours" in page.read_text()
    assert "the first (UTF-8) in foreign.tar" in page.read_text()
    assert "1 of " in leaking.err and "'zebedee-holdings' (UTF-8) in foreign.tar" in leaking.err


@pytest.mark.parametrize(
    "planted",
    [
        b"Quentin Marlowe owes the bank",
        "x Marlowe".encode("utf-16-le"),
        b"Marlowe".hex().upper().encode(),
        *(base64.b64encode(bytes(shift) + b"Marlowe owes") for shift in range(3)),
    ],
)
def test_the_scan_finds_every_form_at_every_place(tmp_path, planted):
    """Also across the border of two blocks; random bytes hold none of the strings."""
    row = Row("rows.jsonl:1", prompt="Who?", answer="Quentin Marlowe owes the bank 300 crowns.")
    strings = data_strings([row], [], known="")
    noise = np.random.default_rng(0).bytes((4 << 20) + 4096)
    file = tmp_path / "delta.bin"
    for place in (0, (4 << 20) - 5, len(noise) - len(planted)):
        file.write_bytes(noise[:place] + planted + noise[place + len(planted) :])
        size, hits = scan(tmp_path, strings)
        assert size == len(noise)
        assert hits and all(abs(hit.offset - place) <= len(planted) for hit in hits)
    file.write_bytes(noise)
    assert scan(tmp_path, strings)[1] == []


def test_the_area_has_an_interval_also_where_all_rows_are_told_apart():
    """At 1 the interval is one-sided, as wide as the rows are few; equal rows give .5."""
    few, many = (area(np.arange(n) + 100.0, np.arange(n) * 1.0) for n in (10, 100))
    assert few.value == many.value == few.high == many.high == 1
    assert 0.6 < few.low < 0.75 < 0.95 < many.low < 0.98
    assert (few.caught, area(np.zeros(20), np.zeros(20)).value) == (1, 0.5)
