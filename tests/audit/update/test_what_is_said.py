"""`mpu audit update` says no more and no less than was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mpu_cli.audit.update.string_scan import scan
from mpu_cli.audit.update.subject import open_subject


def sets(client):
    """The options with the rows."""
    return ("--forget", client.rows["forget"], "--decoys", client.rows["decoys"])


def test_every_row_is_scanned_whatever_the_attacks_sample(client, mpu, tmp_path, monkeypatch):
    """The attacks use five rows of twelve; a text of any other row is found too."""
    audit = ("audit", "update", client.update, client.handoff, *sets(client), "--json")
    few, all_ = (mpu(*audit, "--max-rows", number).findings["string_scan"] for number in (5, 12))
    assert few["strings"] == all_["strings"]


def test_a_short_name_in_numbers_is_chance_and_in_text_is_none(tmp_path):
    """Gigabytes of small numbers hold any four bytes with a digit; a tar header is text."""
    noise = np.random.default_rng(0).bytes(4096)
    file = tmp_path / "delta.bin"
    file.write_bytes(noise[:1000] + b"gpu1" + noise[1000:])
    assert scan(tmp_path, ["gpu1"])[1] == []
    file.write_bytes(noise[:1000] + b"ustar\x0000" + b"gpu1" + bytes(28) + noise[1000:])
    assert [hit.text for hit in scan(tmp_path, ["gpu1"])[1]] == ["gpu1"]


def test_a_condition_on_token_rows_sees_the_tensor_that_reveals_most(client, mpu, unlearned):
    """The head's rows all move and list nothing; the embedding's list the tokens."""
    audit = ("audit", "update", unlearned("--train-embeddings"), client.handoff, *sets(client))
    done = mpu(*audit, "--fail-if", "token_precision>.99")
    assert done.code == 1
    assert "token_precision is 1" in done.err


@pytest.mark.parametrize("decay", ["0.01", "0.1"])
def test_small_decay_does_not_hide_the_tokens(client, mpu, unlearned, decay):
    """Rounding may be as large as the decay of one step; the list of tokens stays."""
    update = unlearned(
        "--train-embeddings", "--weight-decay", decay, "--learning-rate", "1e-5", "--epochs", "8"
    )
    done = mpu("audit", "update", update, client.handoff, *sets(client), "--json")
    embedding = done.findings["token_rows:model.embed_tokens.weight"]
    assert embedding["precision"] == 1 and embedding["recall"] > 0.9, embedding


def test_a_change_that_breaks_the_model_is_refused_in_one_line(client, mpu, altered):
    """NaN in an update, or a model whose loss is NaN, gives no area."""
    huge = altered(lambda part: torch.full_like(part, 3e38) * part.sign())
    done = mpu("audit", "update", huge, client.handoff, *sets(client))
    assert (done.code, done.out) == (1, "")
    assert "with this change the model computes no number for" in done.err
    assert "mpu: hint: lower the learning rate and train again" in done.err


def test_a_condition_on_cover_rows_without_any_is_refused_at_once(client, mpu):
    """Before the attacks run."""
    audit = ("audit", "update", client.update, client.handoff, *sets(client))
    done = mpu(*audit, "--fail-if", "cover_loss_change>.6")
    assert (done.code, done.out) == (2, "")
    assert "--fail-if cover_loss_change>.6: cover_loss_change needs --cover" in done.err


def test_no_bit_of_the_change_is_rounded_away(client, mpu, tiny_pair, tmp_path):
    """The server has the float32 change, whatever dtype the copies were published in."""
    pair, handoff, update = tiny_pair("llama"), tmp_path / "to-client", tmp_path / "to-server"
    perturb = ("perturb", pair.model, "--base", pair.base, "--handoff", handoff, "-m", 1)
    options = ("--dtype", "bfloat16", "--check", "none", "--secret", tmp_path / "server")
    assert mpu(*perturb, *options).code == 0
    train = ("--method", "GradAscent", "--learning-rate", "1e-3", "--epochs", "1")
    unlearn = ("unlearn", handoff, "--forget", client.rows["forget"], *train, "--out", update)
    assert mpu(*unlearn).code == 0
    with open_subject(update, handoff, 1) as subject:
        before = load_file(handoff / "copy-1" / "model.safetensors")
        after = load_file(subject.changed / "model.safetensors")
    for name, change in load_file(update / "copy-1" / "delta.safetensors").items():
        torch.testing.assert_close(after[name], before[name].float() + change, rtol=0, atol=0)


def test_a_model_in_the_place_of_a_handoff_or_update_is_named(client, mpu, tiny_pair):
    """The hint says what to give to a command that the client runs."""
    model = tiny_pair("llama").model
    swapped = {
        (client.update, model): ("expected a handoff", "the directory that the model owner sent"),
        (model, client.handoff): ("expected an update", "give the update: the directory that mpu"),
    }
    for places, (message, hint) in swapped.items():
        done = mpu("audit", "update", *places, *sets(client))
        error, remedy = done.err.splitlines()[-2:]
        assert (done.code, message in error, hint in remedy) == (3, True, True), done.err
