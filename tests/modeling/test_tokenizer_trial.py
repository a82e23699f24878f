"""A tokenizer.json of the other party that aborts, grows without bound or takes for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mpu_cli
from mpu_cli.cli.app import run
from mpu_cli.errors import BadModelError
from mpu_cli.modeling import tokenizer_trial
from mpu_cli.modeling.tokenizer import load_tokenizer

MODEL = Path(mpu_cli.__file__).parent / "demo" / "assets" / "model"
DOUBLE = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aa"}
BROKEN = {
    "a panic of the library": {
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}
    },
    "a padding of three billion tokens": {
        "padding": {
            "strategy": {"Fixed": 3_000_000_000},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    },
    "a padding of a million tokens": {
        "padding": {
            "strategy": {"Fixed": 1_000_000},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    },
    "a text doubled 30 times": {"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 30}},
}


@pytest.fixture
def changed(tmp_path):
    """A model directory whose tokenizer.json has these keys changed."""

    def make(keys: dict):
        model = shutil.copytree(MODEL, tmp_path / "model")
        file = model / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))
        return model

    return make


@pytest.mark.parametrize("kind", BROKEN)
def test_it_is_refused_before_this_process_uses_it(kind, changed, monkeypatch):
    """One line that names the directory; the child meets the limits, not this process."""
    monkeypatch.setattr(tokenizer_trial, "_CHILD", tokenizer_trial._CHILD.replace("(10,)", "(1,)"))
    model = changed(BROKEN[kind])
    with pytest.raises(BadModelError, match="no usable tokenizer") as caught:
        load_tokenizer(model)
    assert str(model) in caught.value.message
    assert "\n" not in caught.value.message


def test_the_command_ends_with_one_line(capfd, changed, tmp_path):
    """Exit code 3, no traceback, nothing of the library's own output."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "w1 ?", "answer": "w2 ."}\n')
    model = changed(BROKEN["a panic of the library"])
    assert run(["data", "check", str(rows), "--model", str(model)]) == 3
    err = capfd.readouterr().err
    assert [line[:11] for line in err.splitlines()] == ["mpu: error:", "mpu: hint: "]


def test_a_good_one_is_tried_once(monkeypatch):
    """Negative control; a second load starts no child."""
    load_tokenizer(MODEL)
    monkeypatch.setattr(tokenizer_trial.subprocess, "run", None)
    assert load_tokenizer(MODEL)("w1")["input_ids"]
