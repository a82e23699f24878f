"""Codes of a terminal in names of the other party: no command prints them, whatever it reads."""

from __future__ import annotations

import io
import json
import shutil
import struct
import unicodedata
from pathlib import Path

import pytest

import mpu_cli
from mpu_cli.bundle.canonical import dump
from mpu_cli.cli import output
from mpu_cli.cli.output import facts, table

MODEL = Path(mpu_cli.__file__).parent / "demo" / "assets" / "model"
EVIL = "x\x1b[2J\x9b1m\u202egpj\u200b\nmpu: done" + "y" * 300_000
ROWS = '{"question": "Where ?", "answer": "There ."}\n'


def _config_key(root: Path) -> tuple:
    model = _model(root, "config.json", {EVIL: 1})
    return ("inspect", model)


def _config_value(root: Path) -> tuple:
    return ("inspect", _model(root, "config.json", {"hidden_act": EVIL}))


def _model_type(root: Path) -> tuple:
    model = _model(root, "config.json", {"model_type": EVIL})
    return ("data", "check", _rows(root), "--model", model)


def _tokenizer_class(root: Path) -> tuple:
    model = _model(root, "tokenizer_config.json", {"tokenizer_class": EVIL})
    return ("data", "check", _rows(root), "--model", model)


def _tensor(root: Path) -> tuple:
    model = _model(root, "config.json", {})
    header = {EVIL: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    return ("inspect", model)


def _dtype(root: Path) -> tuple:
    model = _model(root, "config.json", {})
    header = {"a": {"dtype": EVIL, "shape": [1], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    return ("inspect", model)


def _shard(root: Path) -> tuple:
    model = _model(root, "config.json", {})
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"a": f"{EVIL}.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return ("inspect", model)


def _template(root: Path) -> tuple:
    model = _model(root, "config.json", {})
    text = "{{ raise_exception(messages[0]['content']) }}"
    (model / "chat_template.jinja").write_text(text)
    rows = root / "rows.jsonl"
    rows.write_text(json.dumps({"question": EVIL[:4000], "answer": "There ."}) + "\n")
    return ("data", "check", rows, "--model", model)


def _column(root: Path) -> tuple:
    rows = root / "rows.jsonl"
    rows.write_text(json.dumps({EVIL: 1, "b": 2}) + "\n")
    return ("data", "check", rows)


def _csv_column(root: Path) -> tuple:
    rows = root / "rows.csv"
    rows.write_text(f'"{EVIL[:10000]}",b\n1,2\n')
    return ("data", "check", rows)


def _record(root: Path) -> tuple:
    summary = {
        "sets": {EVIL: {"rows": 1}},
        "model": {"name": EVIL},
        "settings": {},
        "metrics": {},
    }
    (root / "record").mkdir()
    (root / "record" / "summary.json").write_text(json.dumps(summary))
    (root / "record" / "items.jsonl").write_text("")
    return ("inspect", root / "record")


def _manifest(root: Path) -> tuple:
    (root / "bundle").mkdir()
    content = {"kind": EVIL[:2000], "format": 1, "id": EVIL[:20], "digest": "0" * 64}
    (root / "bundle" / "mpu.yaml").write_bytes(dump(content))
    return ("verify", root / "bundle")


def _plan(root: Path) -> tuple:
    plan = root / "plan.yaml"
    plan.write_text(json.dumps({EVIL[:5000]: 1}))
    return ("run", plan)


def _path(root: Path) -> tuple:
    return ("inspect", root / EVIL[:200])


def _long_path(root: Path) -> tuple:
    return ("verify", root / ("z" * 300))


def _option(root: Path) -> tuple:
    return ("inspect", root, f"--{EVIL[:500]}")


def _model(root: Path, name: str, change: dict) -> Path:
    model = Path(shutil.copytree(MODEL, root / "model"))
    file = model / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return model


def _rows(root: Path) -> Path:
    rows = root / "rows.jsonl"
    rows.write_text(ROWS)
    return rows


CASES = {
    function.__name__.strip("_"): function
    for function in (
        _config_key,
        _config_value,
        _model_type,
        _tokenizer_class,
        _tensor,
        _dtype,
        _shard,
        _template,
        _column,
        _csv_column,
        _record,
        _manifest,
        _plan,
        _path,
        _long_path,
        _option,
    )
}


def _unseen(text: str) -> set[str]:
    return {
        letter
        for letter in text.replace("\n", "")
        if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    }


@pytest.mark.parametrize("name", CASES)
def test_no_code_reaches_the_terminal(name, mpu, tmp_path):
    """Neither as text nor as JSON; no line is forged; a message has at most a few lines."""
    arguments = CASES[name](tmp_path)
    done = mpu(*arguments)
    assert done.code in {0, 2, 3}, done.err[:500]
    assert _unseen(done.out) == _unseen(done.err) == set()
    assert len(done.out) + len(done.err) < 10_000
    assert not any(line.startswith("mpu: done") for line in (done.out + done.err).splitlines())
    if done.code:
        assert "mpu: error: " in done.err
        told = mpu(*arguments[:-1], "--json", *arguments[-1:])
        assert _unseen(told.out) == set()
        assert len(json.loads(told.out)["error"]["message"]) <= 2000


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_command_prints_without_care(monkeypatch):
    """Text that reaches a console on any way is escaped there; rich's own colours stay."""
    from rich.text import Text
    from rich.tree import Tree

    file = _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output.sys, "stdout", file)
    printer = output.Output(None, as_json=False)
    evil = EVIL[:50]
    cells = table("a", rows=[(evil, evil)], title=evil)
    printer.result({}, evil, Text(evil, style="bold"), cells, facts({evil: evil}), Tree(evil))
    printed = file.getvalue()
    assert r"\x1b[2J" in printed
    assert "\x1b[1m" in printed  # negative control: this is a terminal
    for code in ("\x1b[2J", "\x9b", "\u202e", "\u200b"):
        assert code not in printed
