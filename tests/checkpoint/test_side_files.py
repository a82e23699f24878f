"""The small files beside the weights: by allow-list, without their origin, with the stored dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.side_files import copy_side_files, is_allowed
from mpu_cli.errors import BadModelError


@pytest.fixture
def model(tmp_path, tiny_pair) -> Path:
    """A copy of the tiny Llama that a test may fill."""
    return Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "model"))


def _config(model: Path, name: str = "config.json", **changes: object) -> None:
    path = model / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _copy(model: Path, dtype: str = "float32") -> Path:
    target = model.parent / "copied"
    target.mkdir()
    copy_side_files(open_checkpoint(model), target, dtype)
    return target


def test_only_listed_names_are_copied(model):
    """Pickles of the exact weights, optimizer states, notes, code and folders stay behind."""
    for name in ("README.md", "pytorch_model.bin", "optimizer.pt", "training_args.bin", "modeling_evil.py", ".env", "notes.json"):
        (model / name).write_text("{}")
    (model / "tokenizer.model").write_bytes(b"\0spiece")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "vocab.json").mkdir()
    assert {path.name for path in _copy(model).iterdir()} == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja",
    }  # fmt: skip


def test_what_tells_of_the_origin_is_stripped(model):
    """_name_or_path, commits and absolute paths go, at any depth; what the model needs stays."""
    _config(
        model,
        _name_or_path="/home/alice/secret-project",
        nested={"_commit_hash": "abc", "keep": 1, "cache": "/home/alice/.cache", "list": [{"name_or_path": "/x"}, "/home/alice/l", 2]},
    )
    _config(model, "tokenizer_config.json", name_or_path="/home/alice/tok", special_tokens_map_file="/home/alice/map.json")
    target = _copy(model)
    text = "".join(path.read_text() for path in target.iterdir())
    assert "alice" not in text
    assert "secret-project" not in text
    content = json.loads((target / "config.json").read_text())
    assert content["nested"] == {"keep": 1, "list": [{}, 2]}
    assert content["hidden_size"] == 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_config_names_the_stored_dtype(model, dtype):
    """A wrong dtype in config.json makes transformers round silently; every mention of it is set."""
    _config(model, torch_dtype="float16", dtype="float16", text_config={"torch_dtype": "float16"})
    content = json.loads((_copy(model, dtype) / "config.json").read_text())
    assert (content["dtype"], content["torch_dtype"], content["text_config"]) == (dtype, dtype, {"torch_dtype": dtype})


def test_a_tokenizer_that_needs_remote_code_is_refused(model):
    """auto_map in tokenizer_config.json would run code on the client's side."""
    _config(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tok", None]})
    with pytest.raises(BadModelError, match=r"tokenizer_config.json: needs remote code"):
        _copy(model)


def test_a_link_in_the_hub_cache_is_followed(model, tmp_path):
    """A snapshot is made of links into blobs; the copy is a plain file."""
    (model / "tokenizer.json").rename(tmp_path / "blob")
    (model / "tokenizer.json").symlink_to(tmp_path / "blob")
    target = _copy(model)
    assert not (target / "tokenizer.json").is_symlink()
    assert (target / "tokenizer.json").read_bytes() == (tmp_path / "blob").read_bytes()


@pytest.mark.parametrize("name", ["config.json.bak", "xconfig.json", "tokenizer.json/..", "mpu.yaml", "CONFIG.JSON", ""])
def test_names_that_only_look_allowed_are_not(name):
    """The list is of whole names."""
    assert not is_allowed(name)
