"""The small files beside the weights: by allow-list, without origin, with the stored dtype."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.side_files import (
    check_side_files,
    copy_side_files,
    is_allowed,
    refuse_unpublished,
    refuse_unread,
)
from mpu_cli.errors import BadModelError


@pytest.fixture
def model(tmp_path, tiny_pair) -> Path:
    """A copy of the tiny Llama that a test may change."""
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
    """Pickles of the exact weights, optimizer states, notes, code and folders are not copied."""
    for name in (
        "README.md",
        "pytorch_model.bin",
        "optimizer.pt",
        "training_args.bin",
        "modeling_evil.py",
        ".env",
        "notes.json",
    ):
        (model / name).write_text("{}")
    (model / "tokenizer.model").write_bytes(b"\0spiece")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "vocab.json").mkdir()
    assert {path.name for path in _copy(model).iterdir()} == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
    }


def test_the_origin_is_removed(model):
    """_name_or_path, commits and absolute paths are removed at any depth; other settings stay."""
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "_commit_hash": "abc",
        "cache": "/home/alice/.cache",
    }
    _config(
        model,
        _name_or_path="/home/alice/secret-project",
        rope_parameters=rope,
        nested={"keep": "/home/alice/l"},
    )
    _config(
        model,
        "tokenizer_config.json",
        name_or_path="/home/alice/tok",
        special_tokens_map_file="/home/alice/map.json",
        additional_special_tokens=["<a>", "/home/alice/x"],
    )
    target = _copy(model)
    text = "".join(path.read_text() for path in target.iterdir())
    assert "alice" not in text
    assert "secret-project" not in text
    content = json.loads((target / "config.json").read_text())
    assert content["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e4}
    assert content["hidden_size"] == 32
    assert json.loads((target / "tokenizer_config.json").read_text())[
        "additional_special_tokens"
    ] == ["<a>"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_config_names_the_stored_dtype(model, dtype):
    """A wrong dtype in config.json makes transformers round silently."""
    _config(model, torch_dtype="float16", dtype="auto", text_config={"torch_dtype": "float16"})
    text = (_copy(model, dtype) / "config.json").read_text()
    assert json.loads(text)["dtype"] == dtype
    assert text.count("dtype") == 1


def test_a_tokenizer_that_needs_remote_code_is_refused(model):
    """auto_map in tokenizer_config.json would run code at the client."""
    _config(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tok", None]})
    with pytest.raises(BadModelError, match=r"tokenizer_config.json: needs remote code"):
        _copy(model)


def test_a_link_in_the_hub_cache_is_followed(model, tmp_path):
    """A snapshot consists of links to blobs; the copy is a regular file."""
    blobs, snapshot = (tmp_path / "models--org--name" / part for part in ("blobs", "snapshots/abc"))
    blobs.mkdir(parents=True)
    model = Path(shutil.move(model, snapshot))
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).rename(blobs / name)
        (model / name).symlink_to(Path("..") / ".." / "blobs" / name)
    target = _copy(model)
    assert not (target / "tokenizer.json").is_symlink()
    assert (target / "tokenizer.json").read_bytes() == (blobs / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "config.json.bak",
        "xconfig.json",
        "tokenizer.json/..",
        "mpu.yaml",
        "CONFIG.JSON",
        "",
        "my vocab.tiktoken",
        "é.tiktoken",
    ],
)
def test_names_are_compared_whole(name):
    """A name that only starts like an allowed one is not copied."""
    assert not is_allowed(name)


def _out_of(model: Path, name: str, how: str) -> None:
    """Create a link at `name` to a file outside the model directory, in one of several ways."""
    (model / name).unlink(missing_ok=True)
    outside = model.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.yaml").write_text("master")
    if how == "absolute":
        (model / name).symlink_to(outside / "secret.yaml")
    elif how == "relative":
        (model / name).symlink_to(Path("..") / "outside" / "secret.yaml")
    elif how == "through another link":
        (model / "inner").symlink_to(outside)
        (model / name).symlink_to(Path("inner") / "secret.yaml")
    else:
        (model / name).symlink_to(Path("..") / "nowhere")


@pytest.mark.parametrize("how", ["absolute", "relative", "through another link", "dangling"])
@pytest.mark.parametrize(
    "name",
    [
        "vocab.txt",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "x.tiktoken",
        "any.thing",
    ],
)
def test_a_link_to_the_outside_is_refused(model, name, how):
    """For every file that mpu or transformers reads, and every kind of link.

    No file is opened.
    """
    _out_of(model, name, how)
    with pytest.raises(BadModelError, match="is a link to a file outside the model directory"):
        open_checkpoint(model)
    if is_allowed(name):
        with pytest.raises(BadModelError, match=f"{name}: is a link to a file outside"):
            check_side_files(model)


@pytest.mark.parametrize(
    "place",
    [
        "blobs of another repository",
        "blobs that are a link",
        "a blob that is a link",
        "beside the blobs",
    ],
)
def test_an_imitated_hub_cache_is_refused(model, tmp_path, place):
    """Names of the cache from an archive do not allow a link to the outside."""
    repository = tmp_path / "models--org--name"
    snapshot, outside = repository / "snapshots" / "abc", tmp_path / "outside"
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    outside.mkdir()
    (outside / "secret.yaml").write_text("master")
    target = Path("..") / ".." / "blobs" / "secret.yaml"
    if place == "blobs of another repository":
        target = tmp_path / "models--org--other" / "blobs" / "secret.yaml"
        target.parent.mkdir(parents=True)
        target.write_text("master")
    elif place == "blobs that are a link":
        (repository / "blobs").symlink_to(outside)
    elif place == "a blob that is a link":
        (repository / "blobs").mkdir()
        (repository / "blobs" / "secret.yaml").symlink_to(outside / "secret.yaml")
    else:
        (repository / "secret.yaml").write_text("master")
        target = Path("..") / ".." / "secret.yaml"
    (snapshot / "vocab.txt").symlink_to(target)
    with pytest.raises(BadModelError, match=r"vocab.txt: is a link to a file outside"):
        open_checkpoint(snapshot)


def test_a_link_in_the_folder_of_named_templates_is_refused(model, tmp_path):
    """Transformers reads this one folder of a model directory; it may not be or hold a link."""
    (tmp_path / "outside.jinja").write_text("x")
    folder = model / "additional_chat_templates"
    folder.mkdir()
    (folder / "a.jinja").symlink_to(tmp_path / "outside.jinja")
    with pytest.raises(BadModelError, match=r"a.jinja: is a link to a file outside"):
        open_checkpoint(model)
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    with pytest.raises(
        BadModelError, match="additional_chat_templates: is a link to a file outside"
    ):
        open_checkpoint(model)


def test_a_link_inside_the_directory_is_followed(model):
    """Some programs save one file under two names. The directory itself may be a link too."""
    (model / "model.safetensors").rename(model / "weights.safetensors")
    (model / "model.safetensors").symlink_to("weights.safetensors")
    (model.parent / "by-link").symlink_to(model)
    assert (
        open_checkpoint(model.parent / "by-link").tensors.keys()
        == open_checkpoint(model).tensors.keys()
    )


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3523016\n"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
    ],
)
def test_a_git_lfs_pointer_is_recognised(model, name):
    """A clone without Git LFS: the message names the file, and the hint says how to get it."""
    (model / name).write_text(LFS)
    with pytest.raises(BadModelError, match=f"{name}: is a Git LFS pointer") as caught:
        open_checkpoint(model)
        check_side_files(model)
    assert "git lfs pull" in (caught.value.hint or "")


@pytest.mark.parametrize("quote", ['"', "'", ""])
def test_a_file_of_a_secret_directory_under_an_allowed_name_is_refused(model, quote):
    """Copied or hard-linked, of any lineage, as YAML or JSON: its HMAC reveals it."""
    (model / "vocab.txt").write_text(
        f"{quote}format{quote}: 1\n{quote}hmac{quote}: {quote}{'Ab' * 32}{quote}\n"
    )
    with pytest.raises(BadModelError, match=r"vocab.txt: is a file of a server's secret directory"):
        check_side_files(model)


def test_a_huge_side_file_is_refused(model):
    """Memory is bounded: the file is not read whole."""
    with (model / "vocab.txt").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(BadModelError, match=r"vocab.txt: larger than 128 MiB"):
        check_side_files(model)


def test_a_pipe_is_refused_without_waiting_for_a_writer(model):
    """Opening it would block forever."""
    (model / "vocab.txt").unlink(missing_ok=True)
    os.mkfifo(model / "vocab.txt")
    with pytest.raises(BadModelError, match=r"vocab.txt: is not a regular file"):
        check_side_files(model)


def test_special_tokens_map_holds_only_tokens(model):
    """Transformers passes its keys to the tokenizer's constructor."""
    token = {"content": "<s>", "lstrip": False, "special": True}
    kept = {
        "bos_token": token,
        "image_token": "<i>",
        "additional_special_tokens": ["<a>", token],
        "extra_special_tokens": {"x": "<x>"},
    }
    evil = {
        "tokenizer_file": "/evil/t.json",
        "vocab_file": "v.json",
        "auto_tokenizer": "x",
        "name_or_path": "x",
        "eos_token": None,
    }
    (model / "special_tokens_map.json").write_text(json.dumps({**kept, **evil}))
    (model / "added_tokens.json").write_text('{"<b>": 7, "is_local": 8}')
    _config(
        model,
        "tokenizer_config.json",
        sp_model_kwargs={"alpha": 0.1, "model_file": "/evil/spiece.model"},
    )
    target = _copy(model)
    assert json.loads((target / "special_tokens_map.json").read_text()) == kept
    assert json.loads((target / "added_tokens.json").read_text()) == {"<b>": 7, "is_local": 8}
    assert json.loads((target / "tokenizer_config.json").read_text())["sp_model_kwargs"] == {
        "alpha": 0.1
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", {"bos_token": 5}),
        ("special_tokens_map.json", {"bos_token": {"file": "x"}}),
        ("special_tokens_map.json", {"bos_token": ["<s>"]}),
        ("special_tokens_map.json", {"additional_special_tokens": [["x"]]}),
        ("special_tokens_map.json", {"extra_special_tokens": {"x": {"path": "y"}}}),
        ("added_tokens.json", {"<a>": "7"}),
        ("added_tokens.json", {"<a>": True}),
        ("added_tokens.json", {"<a>": -1}),
        ("added_tokens.json", {"<a>": {"path": "x"}}),
    ],
)
def test_an_invalid_token_is_refused(model, name, content):
    """The message names file and key."""
    (model / name).write_text(json.dumps(content))
    with pytest.raises(BadModelError, match=rf"{name}: .*{next(iter(content))}"):
        _copy(model)


def test_special_tokens_map_cannot_replace_the_vocabulary(model):
    """A special_tokens_map.json that names another tokenizer.json changes no token."""
    from mpu_cli.modeling.tokenizer import load_tokenizer

    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)  # with it, transformers does not read the map
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    before = load_tokenizer(model).get_vocab()
    evil = json.loads((model / "tokenizer.json").read_text())
    evil["model"]["vocab"] = {word + "x": number for word, number in evil["model"]["vocab"].items()}
    evil["model"]["merges"] = []
    (model.parent / "tokenizer.json").write_text(json.dumps(evil))
    (model / "special_tokens_map.json").write_text(
        json.dumps({"tokenizer_file": str(model.parent / "tokenizer.json")})
    )
    assert load_tokenizer(model).get_vocab() == before


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "_attn_implementation", "org/kernel"),
        ("config.json", "attn_implementation", {"": "org/kernel"}),
        ("config.json", "experts_implementation", "org/kernel"),
        ("config.json", "use_kernels", True),
        ("config.json", "transformers_weights", "org/other.safetensors"),
        ("config.json", "device_map", {"": "cuda"}),
        ("config.json", "text_config", {"_attn_implementation": "org/kernel"}),
        ("config.json", "auto_map", {"AutoModel": "x.Y"}),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["x.Y", None]}),
        ("tokenizer_config.json", "tokenizer_file", "x"),
        ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.5.0.0.json"]),
        ("tokenizer_config.json", "tokenizer_class", "AutoModel"),
        ("tokenizer_config.json", "sp_model_kwargs", {"model_file": "x"}),
        ("generation_config.json", "auto_map", {"x": "x.Y"}),
        ("generation_config.json", "custom_generate", "org/code"),
        ("generation_config.json", "compile_config", {"backend": "x"}),
        ("processor_config.json", "auto_map", {"AutoProcessor": "x.Y"}),
        ("preprocessor_config.json", "auto_map", {"AutoImageProcessor": "x.Y"}),
        ("special_tokens_map.json", "tokenizer_file", "x"),
        ("special_tokens_map.json", "vocab_file", "x"),
    ],
)
def test_a_copy_holds_no_setting_that_mpu_never_publishes(model, name, key, value):
    """Other programs would use settings that mpu ignores. The file and the key are named."""
    _copy(model)
    copy = model.parent / "copied"
    refuse_unpublished(copy)
    (copy / name).write_text(
        json.dumps(
            {
                **(json.loads((copy / name).read_text()) if (copy / name).exists() else {}),
                key: value,
            }
        )
    )
    with pytest.raises(BadModelError, match=rf"{name}: .*\b{key}") as refused:
        refuse_unpublished(copy)
    assert len(str(refused.value).splitlines()) == 1


def test_settings_that_earlier_versions_published_are_allowed(model):
    """Settings of the training machine and of saving programs are harmless."""
    _copy(model)
    copy = model.parent / "copied"
    _config(
        copy,
        use_cache=True,
        pretraining_tp=1,
        attn_implementation="sdpa",
        torchscript=False,
        id2label={"0": "A"},
        _x=None,
    )
    _config(
        copy,
        "generation_config.json",
        _from_model_config=True,
        use_cache=True,
        output_scores=False,
        custom_generate=None,
    )
    _config(copy, "tokenizer_config.json", processor_class="XProcessor", is_local=True)
    refuse_unpublished(copy)


@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer_config.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize(
    "text",
    [
        '{"stop_strings": "\\ud800"}',
        '{"chat_template": "a\\uDC00b"}',
        '{"x": ' + "[" * 600 + "]" * 600 + "}",
    ],
)
def test_unencodable_json_is_refused(model, name, text):
    """Half a character, and endless lists: one line that names the file.

    A whole character in two escapes is fine.
    """
    (model / name).write_text(text)
    with pytest.raises(BadModelError, match=name):
        _copy(model)
    (model / name).write_text(
        '{"chat_template": "\\ud83d\\ude00", "x": ' + "[" * 20 + "]" * 20 + "}"
    )
    assert (model.parent / "copied").rename(model.parent / "first")
    _copy(model)


@pytest.mark.parametrize(
    "name",
    [
        "sub/pytorch_model.bin",
        "a/b/modeling.PY",
        "m.BIN",
        "modeling.Py",
        "model.safetensors-00001-of-00002",
        "sub/model.safetensors",
        "MODEL2.SAFETENSORS",
        "pytorch_model.bin-00001",
        "lib.so.6",
        "x.pyc",
    ],
)
def test_unchecked_code_and_weights_are_refused(model, name):
    """In folders too, in any case, and numbered parts.

    Documents and a downloader's folders are allowed.
    """
    for harmless in (
        "README.md",
        ".cache/huggingface/x.py",
        ".git/hooks/y.py",
        "onnx/notes.txt",
        "old.safetensors.index.json",
    ):
        (model / harmless).parent.mkdir(parents=True, exist_ok=True)
        (model / harmless).write_text("{}")
    refuse_unread(open_checkpoint(model))
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(b"")
    with pytest.raises(BadModelError, match="is not part of the checked model"):
        refuse_unread(open_checkpoint(model))


def test_a_model_whose_settings_ask_for_code_is_refused(model):
    """Both `perturb` and `verify` refuse it."""
    _config(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(BadModelError, match=r"tokenizer_config.json: needs remote code"):
        refuse_unread(open_checkpoint(model))
