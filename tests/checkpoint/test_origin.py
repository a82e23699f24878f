"""No published settings file says where a model came from: by its keys, and by its values."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from mpu_cli.checkpoint.config_file import known_keys, read_config
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.origin import origin_of, origin_of_token
from mpu_cli.checkpoint.side_files import check_side_files, copy_side_files
from mpu_cli.errors import BadModelError, MpuWarning

ORIGINS = {
    "s3://clinic-7/models/llama": "an address",
    "gs://bucket": "an address",
    "https://wandb.ai/alice/runs/3f9k2b1c": "an address",
    "file:/home/alice/x": "an address",
    "hdfs:///user/alice": "an address",
    "alice@gpu7.example.org": "an address",
    "git@github.com:clinic/secret-project": "an address",
    "/home/alice/runs/7": "a path",
    "/mnt/a": "a path",
    "~/models/x": "a path",
    "~alice/models": "a path",
    "C:\\Users\\alice": "a path",
    "D:/models": "a path",
    "\\\\fileserver\\share": "a path",
    "runs/clinic/7": "a path",
    "./wandb/run-20260101": "a path",
    "../alice": "a path",
    "alice/llama-forget": "a path",
    "gpu7.example.org": "a host name",
    "gpu7.example.org:6006": "a host name",
    "10.0.0.7": "a host name",
    "10.0.0.7:8080": "a host name",
}
PLAIN = [
    "gelu_pytorch_tanh",
    "silu",
    "torch.float32",
    "full_attention",
    "MEM*EMEM|-",
    "longest_first",
    "<|im_end|>",
    "</s>",
    "/think",
    "/no_think",
    "a / b",
    "LlamaForCausalLM",
    "1.5",
    "v1.0.0",
    "",
]


@pytest.mark.parametrize("text", ORIGINS)
def test_an_origin_is_recognised(text):
    """Paths, addresses, hosts."""
    assert origin_of(text) == ORIGINS[text]


@pytest.mark.parametrize("text", PLAIN)
def test_a_setting_is_no_origin(text):
    """Words of settings, tokens of chat models."""
    assert origin_of(text) is None and origin_of_token(text) is None


def test_a_token_may_look_like_a_name_with_dots_and_slashes():
    """Only what is surely an origin is taken out of a list of tokens."""
    assert origin_of_token("and/or") is origin_of_token("example.org") is None
    assert origin_of_token("http://") is None
    assert origin_of_token("/home/alice") == "a path"
    assert origin_of_token("s3://bucket/x") == "an address"


@pytest.mark.parametrize("text", ["a" * 4000, "a." * 2000, "a/" * 2000 + " ", "/a" * 2000 + "@"])
def test_long_texts_take_no_time(text):
    """No expression tries the same letters twice."""
    origin_of(text)
    origin_of_token(text)


def _text_keys() -> list[tuple[str, str, str]]:
    """(model type, key, kind) of every key of config.json that may hold a text, each key once."""
    found = {}
    for model_type, kinds in known_keys().items():
        for kind, names in kinds.items():
            if kind in {"parts", "derived", "defaults"}:
                continue
            if {"text", "any", "list", "map"} & set(kind.split("|")):
                for name in set(names) - {"model_type"}:  # another one is refused by itself
                    found.setdefault((name, kind), model_type)
    return [(model_type, name, kind) for (name, kind), model_type in found.items()]


@pytest.mark.parametrize("origin", ["s3://clinic-7/x", "/home/alice/runs", "alice@gpu7", "a/b/c"])
def test_no_key_of_a_config_takes_an_origin(origin):
    """Every key of every model type that may hold a text refuses it, or drops it."""
    kept = []
    for model_type, key, kind in _text_keys():
        shapes = [origin, [origin], {"x": origin}, {origin: 1}, {"x": {"y": [origin]}}]
        for value in shapes:
            try:
                content = read_config(
                    Path("config.json"), {"model_type": model_type, key: value}
                ).content
            except BadModelError as error:
                assert key in error.message
                continue
            if origin in json.dumps(content):
                kept.append((model_type, key, kind))
    assert kept == []


FOREIGN = {
    "wandb_run_id": "3f9k2b1c",
    "wandb_project": "clinic",
    "run_dir": "exp7",
    "output_dir": "s3://clinic-7/out",
    "user": "alice",
    "host": "gpu7",
    "hostname": "gpu7.example.org",
    "data_path": "/data/patients.jsonl",
    "job_id": 4711,
    "trainer": {"user": "alice", "dir": "/home/alice"},
}
SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)


@pytest.fixture
def model(tmp_path, tiny_pair) -> Path:
    """A model directory that a test may change."""
    return Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "model"))


def _set(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **changes}))


def _published(model: Path) -> tuple[dict[str, str], list[str]]:
    """The published settings files, and the warnings."""
    target = model.parent / "copy"
    target.mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_side_files(model)
    copy_side_files(open_checkpoint(model), target, "float32")
    files = {name: (target / name).read_text() for name in SETTINGS if (target / name).exists()}
    return files, [str(item.message) for item in caught if item.category is MpuWarning]


def test_keys_about_the_training_machine_are_not_published(model):
    """Run directories, ids of trackers, buckets, users and hosts, in every settings file."""
    for name in SETTINGS:
        _set(model / name, **FOREIGN)
    files, _ = _published(model)
    assert set(files) == set(SETTINGS)
    for name, text in files.items():
        for key in FOREIGN:
            assert key not in json.loads(text), name
        for word in ("alice", "clinic", "gpu7", "3f9k2b1c", "4711", "patients"):
            assert word not in text, name


@pytest.mark.parametrize("origin", ORIGINS)
def test_values_that_are_origins_are_left_out_and_named(model, origin):
    """Known keys with such a value: gone from what is published, and a warning says so."""
    _set(model / "generation_config.json", early_stopping=origin, temperature=0.7)
    _set(model / "tokenizer_config.json", errors=origin, model_input_names=["input_ids", origin])
    _set(model / "preprocessor_config.json", data_format=origin, do_resize=True)
    files, told = _published(model)
    assert not [name for name, text in files.items() if json.dumps(origin)[1:-1] in text]
    assert json.loads(files["generation_config.json"])["temperature"] == 0.7
    assert json.loads(files["preprocessor_config.json"]) == {"do_resize": True}
    assert json.loads(files["tokenizer_config.json"])["model_input_names"] == ["input_ids"]
    text = "\n".join(told)
    for key in ("early_stopping", "errors", "model_input_names", "data_format"):
        assert f"{key} ({ORIGINS[origin]})" in text


def test_ordinary_settings_are_published_silently(model):
    """The negative control: templates, tokens and stop strings stay, also odd ones."""
    template = "{{ messages }} see https://example.org/a/b and /usr/share/x"
    _set(model / "tokenizer_config.json", chat_template=template, eos_token="</s>")
    _set(model / "tokenizer_config.json", additional_special_tokens=["/think", "and/or"])
    _set(model / "generation_config.json", stop_strings=["</s>", "example.org"])
    _set(
        model / "preprocessor_config.json",
        image_processor_type="Gemma3ImageProcessor",
        processor_class="Gemma3Processor",
        size={"height": 896, "width": 896},
        image_mean=[0.5, 0.5, 0.5],
    )
    files, told = _published(model)
    assert told == []
    tokenizer = json.loads(files["tokenizer_config.json"])
    assert tokenizer["chat_template"] == template
    assert tokenizer["additional_special_tokens"] == ["/think", "and/or"]
    assert json.loads(files["generation_config.json"])["stop_strings"] == ["</s>", "example.org"]
    assert set(json.loads(files["preprocessor_config.json"])) == {
        "image_processor_type",
        "processor_class",
        "size",
        "image_mean",
    }
