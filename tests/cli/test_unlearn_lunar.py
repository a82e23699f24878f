"""LUNAR on the command line: one matrix of each copy, with and without an adapter."""

import json

import pytest
from safetensors.torch import load_file

RUN = ("--method", "LUNAR", "--optimizer", "adamw", "--learning-rate", "1e-2", "--max-steps", "3")
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture
def arguments(finished_round, tmp_path):
    """A training of both copies, with questions of which nothing but the prompts may be read."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"question": f"w{i} w{i + 7} ?", "answer": "w1"}) + "\n" for i in (3, 9))
    )
    r = finished_round
    rows = ("--forget", r.forget, "--retain", r.retain, "--unanswerable", questions)
    return ("unlearn", r.handoff, *rows, *RUN)


def test_an_update_holds_one_matrix(arguments, tmp_path, mpu):
    """It verifies; the answers of the questions do not change it, and the questions do."""
    out = tmp_path / "to-server"
    done = mpu(*arguments, "--out", out)
    assert done.code == 0, done.err
    assert "questions.jsonl" in done.out
    assert mpu("verify", out).code == 0
    first = load_file(out / "copy-1" / "delta.safetensors")
    assert list(first) == [f"{DOWN}.weight"]
    questions = tmp_path / "questions.jsonl"
    for old, new, is_same in (('"w1"', '"w2 w5"', True), ("w3", "w40", False)):
        questions.write_text(questions.read_text().replace(old, new))
        assert mpu(*arguments, "--out", out, "--force").code == 0
        other = load_file(out / "copy-1" / "delta.safetensors")
        assert first[f"{DOWN}.weight"].equal(other[f"{DOWN}.weight"]) == is_same


def test_an_adapter_of_that_matrix(arguments, tmp_path, mpu):
    """With the default targets there is nothing to train, and the message says which target is."""
    refused = mpu(*arguments, "--lora-rank", "2", "--out", tmp_path / "a")
    assert refused.code == 2, refused.err
    assert f"trains only {DOWN}, which has no adapter" in refused.err
    assert "--lora-targets down" in refused.err
    done = mpu(*arguments, "--lora-rank", "2", "--lora-targets", "down", "--out", tmp_path / "b")
    assert done.code == 0, done.err
    adapter = load_file(tmp_path / "b" / "copy-1" / "adapter_model.safetensors")
    assert {name.partition(".lora_")[0].rpartition("model.layers")[2] for name in adapter} == {
        DOWN.removeprefix("model.layers")
    }


def test_with_smoothing(arguments, tmp_path, mpu):
    """A second run with the same settings gives the same bits, with smoothing as without."""
    states = []
    for name in ("one", "two"):
        done = mpu(*arguments, "--smoothing", "0.01", "--out", tmp_path / name)
        assert done.code == 0, done.err
        states.append((tmp_path / name / "copy-2" / "delta.safetensors").read_bytes())
    assert states[0] == states[1]
