"""Opening a model directory: what is refused, and the digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError


@pytest.fixture
def model(tmp_path, tiny_pair) -> Path:
    """A copy of the tiny Llama that a test may break."""
    return Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "model"))


@pytest.fixture
def sharded(model) -> Path:
    """The same model in two shards with an index."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, mine in halves.items():
        save_file({name: tensors[name] for name in mine}, model / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, mine in halves.items() for name in mine}
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (model / "model.safetensors").unlink()
    return model


def _config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _index(model: Path, change) -> None:
    path = model / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def _refused(model: Path, *words: str) -> None:
    with pytest.raises(BadModelError) as caught:
        open_checkpoint(model)
    assert all(word in caught.value.message + (caught.value.hint or "") for word in words), (
        caught.value.message
    )


def test_a_missing_directory_is_refused(tmp_path):
    """The message names the path."""
    _refused(tmp_path / "nowhere", str(tmp_path / "nowhere"), "no such model directory")


def test_a_directory_without_config_is_refused(model):
    """Weights alone are not a model."""
    (model / "config.json").unlink()
    _refused(model, "no config.json")


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", "[" * 100_000])
def test_a_config_that_is_not_a_json_object_is_refused(model, text):
    """The message names config.json."""
    (model / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    _refused(model, "config.json")


def test_remote_code_is_refused(model):
    """auto_map would run code from the directory."""
    _config(model, auto_map={"AutoModelForCausalLM": "evil.Model"})
    _refused(model, "auto_map", "remote code")


def test_a_quantised_checkpoint_is_refused_with_a_hint(model):
    """The hint is to dequantise it first."""
    _config(model, quantization_config={"quant_method": "bitsandbytes"})
    _refused(model, "quantised", "dequantise first")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_are_named_and_never_read(model, name):
    """The message names the pickle."""
    (model / "model.safetensors").rename(model / name)
    _refused(model, name, "pickle", "safetensors")


def test_a_directory_without_weights_is_refused(model):
    """There is neither a single file nor an index."""
    (model / "model.safetensors").unlink()
    _refused(model, "neither model.safetensors nor model.safetensors.index.json")


def test_a_single_file_beside_an_index_is_refused(sharded, tiny_pair):
    """One of them is left over; the wrong choice could publish the wrong weights."""
    shutil.copy(tiny_pair("llama").model / "model.safetensors", sharded)
    _refused(sharded, "both model.safetensors and model.safetensors.index.json")


def test_an_index_of_a_single_file_is_accepted(model):
    """mlx-lm writes one beside model.safetensors; it must match the file."""
    before = open_checkpoint(model).tensors
    index = model / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(before, "model.safetensors")})
    )
    assert open_checkpoint(model).tensors == before
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys([*before, "foreign"], "model.safetensors")})
    )
    _refused(model, "foreign", "no shard holds")


@pytest.mark.parametrize(
    "name",
    ["model-{}-of-000002.safetensors", "model.safetensors-{}-of-00002", "part {}.safetensors"],
)
def test_shards_may_have_any_name(sharded, name):
    """DeepSeek's distillates use six digits, and other programs put the number last."""
    before = open_checkpoint(sharded).tensors.keys()
    renamed = {f"model-0000{k}-of-00002.safetensors": name.format(f"0000{k}") for k in (1, 2)}
    for old, new in renamed.items():
        (sharded / old).rename(sharded / new)
    _index(
        sharded,
        lambda weight_map: weight_map.update(
            {key: renamed[shard] for key, shard in weight_map.items()}
        ),
    )
    assert open_checkpoint(sharded).tensors.keys() == before


def test_an_index_that_names_an_absent_shard_is_refused(sharded):
    """The message names the index and the shard."""
    (sharded / "model-00002-of-00002.safetensors").unlink()
    _refused(sharded, "model.safetensors.index.json", "model-00002-of-00002.safetensors", "absent")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin", "", ".."]
)
def test_an_index_that_leaves_the_directory_is_refused(sharded, shard):
    """Only plain safetensors file names are allowed."""
    _index(sharded, lambda weight_map: weight_map.update({"another.weight": shard}))
    _refused(sharded, "not a plain safetensors file name")


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": ["b"]}])
def test_an_index_without_a_map_of_names_is_refused(sharded, weight_map):
    """weight_map must map strings to strings."""
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _refused(sharded, "weight_map")


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    """A tensor in another shard, an unlisted one, and one that no shard holds."""
    good = (sharded / "model.safetensors.index.json").read_text()
    _index(sharded, lambda m: m.update({"model.norm.weight": "model-00002-of-00002.safetensors"}))
    _refused(sharded, "model.norm.weight")
    (sharded / "model.safetensors.index.json").write_text(good)
    _index(sharded, lambda m: m.pop("model.norm.weight"))
    _refused(sharded, "model.norm.weight")
    (sharded / "model.safetensors.index.json").write_text(good)
    _index(sharded, lambda m: m.update({"foreign": "model-00001-of-00002.safetensors"}))
    _refused(sharded, "foreign", "no shard holds")


def test_a_checkpoint_without_tensors_is_refused(model):
    """An empty safetensors file is not a model."""
    save_file({}, model / "model.safetensors")
    _refused(model, "no tensors")


def test_a_redundant_tied_head_is_dropped(tmp_path, tiny_pair):
    """Some programs write a tied head twice; tensors and digest are as without it."""
    source = tiny_pair("llama-tied").model
    plain = open_checkpoint(source)
    model = Path(shutil.copytree(source, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        model / "model.safetensors",
    )
    opened = open_checkpoint(model)
    assert "lm_head.weight" not in opened.tensors
    assert model_digest(opened) == model_digest(plain)


@pytest.mark.parametrize(
    ("family", "said", "dropped"),
    [
        ("llama", None, False),
        ("llama", False, False),
        ("llama", True, True),
        ("gemma", None, True),
        ("gemma", False, False),
        ("gemma", True, True),
    ],
)
def test_a_head_equal_to_the_embedding_is_dropped_only_if_tied(
    tmp_path, built_tiny, family, said, dropped
):
    """config.json decides, or the class's default if it lacks the key."""
    model = Path(shutil.copytree(built_tiny(family), tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        model / "model.safetensors",
    )
    content = json.loads((model / "config.json").read_text())
    content.pop("tie_word_embeddings", None)
    (model / "config.json").write_text(
        json.dumps(content if said is None else {**content, "tie_word_embeddings": said})
    )
    assert ("lm_head.weight" not in open_checkpoint(model).tensors) == dropped


def test_a_tied_head_that_differs_is_refused(tmp_path, tiny_pair):
    """Transformers would silently untie it; the message names the tensor."""
    model = Path(shutil.copytree(tiny_pair("llama-tied").model, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    head[0, 0] += 1
    save_file({**tensors, "lm_head.weight": head}, model / "model.safetensors")
    _refused(model, "ties lm_head to model.embed_tokens.weight", "differ")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].half()},
        model / "model.safetensors",
    )
    _refused(model, "differ")


def test_the_digest_depends_on_the_tensors_only(sharded, tiny_pair, tmp_path):
    """Resharding, moving, another config.json and saving by transformers do not change it."""
    from transformers import AutoModelForCausalLM

    source = tiny_pair("llama").model
    digest = model_digest(open_checkpoint(source))
    assert model_digest(open_checkpoint(sharded)) == digest
    moved = sharded.rename(tmp_path / "elsewhere")
    _config(moved, rope_theta=1.0)
    assert model_digest(open_checkpoint(moved)) == digest
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(
        tmp_path / "saved", max_shard_size="20KB"
    )
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    assert model_digest(open_checkpoint(tmp_path / "saved")) == digest


def test_the_digest_changes_with_one_bit_a_name_a_shape_or_a_dtype(model):
    """Another model has another digest."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    digests = {model_digest(open_checkpoint(model))}
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    digests.add(model_digest(open_checkpoint(model)))
    norm = tensors.pop("model.norm.weight")
    others = [
        ("norm.weight", norm),
        ("model.norm.weight", norm.view(2, -1)),
        ("model.norm.weight", norm.view(torch.int32)),
    ]
    for name, tensor in others:
        save_file({**tensors, name: tensor}, path)
        digests.add(model_digest(open_checkpoint(model)))
    assert len(digests) == 5


def test_a_file_that_shrinks_while_it_is_read_is_refused(model):
    """A tensor that ends early is an error, not zeros."""
    opened = open_checkpoint(model)
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(BadModelError, match="ends inside tensor"):
        model_digest(opened)
