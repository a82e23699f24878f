"""`mpu audit update` says no more and no less than was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpu_cli.audit.update.string_scan import scan


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
