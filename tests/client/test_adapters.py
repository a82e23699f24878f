"""`mpu diff` of peft's adapters, and what an update with the payload `lora` may hold."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from adapter_cases import (
    RESIDUAL,
    change_config,
    change_tensors,
    listed_again,
    load,
    train_all_with_peft,
    train_with_peft,
)
from safetensors.torch import load_file

from mpu_cli.bundle.manifest import decode, encode
from mpu_cli.bundle.payload import check_update_tensors
from mpu_cli.bundle.read import read_update
from mpu_cli.checkpoint.locate import Located
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.diff import diff
from mpu_cli.errors import BadBundleError, BadModelError, CheckFailedError, GateError
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings

SHARD = 10**9
NAME = "base_model.model.model.layers.0.self_attn.{}.lora_{}.weight"


@pytest.fixture(scope="module")
def handed(tiny_pair, tmp_path_factory, entropy):
    """A handoff of two copies with noise, and adapters that peft trained on them."""
    where, pair = tmp_path_factory.mktemp("handed"), tiny_pair("llama")
    settings = PerturbSettings(check="none", copies=2, kappa=0.1)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(where / "h", where / "s"),
        settings,
        entropy=entropy(7),
    )
    train_all_with_peft(where / "h", where / "t")
    diff(where / "h", where / "t", where / "u", DeltaFormat("float32", SHARD))
    return where


def take(where, update, tmp_path, pair, **settings):
    """Aggregate with a fresh copy of the secret."""
    shutil.copytree(where / "s", tmp_path / "s", dirs_exist_ok=True)
    aggregate(
        [update],
        tmp_path / "s",
        Located(pair.model, None),
        tmp_path / "out",
        AggregateSettings(**settings),
        force=True,
    )
    return load_file(tmp_path / "out" / "model.safetensors")


def test_an_update_of_adapters_says_nothing_of_where_it_was_made(handed):
    """It holds peft's two files with full module names, without path or version."""
    update = read_update(handed / "u")
    assert [copy.payload for copy in update.copies] == ["lora", "lora"]
    assert set(update.copies[0].files) == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((handed / "u/copy-1/adapter_config.json").read_text())
    assert config.pop("target_modules") == sorted(
        f"model.layers.{layer}.{'self_attn' if name[0] in 'qkv' else 'mlp'}.{name}"
        for layer in (0, 1)
        for name in RESIDUAL
    )
    assert config == {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 8,
        "peft_type": "LORA",
        "r": 4,
        "task_type": "CAUSAL_LM",
    }
    check_update_tensors(handed / "u", update)
    written = json.loads((handed / "t/copy-1/adapter_config.json").read_text())
    assert str(handed) in written["base_model_name_or_path"]  # which is what would have leaked


def test_peft_loads_an_update_onto_the_published_copy(handed):
    """PeftModel reads the update's directory and computes what the trained model computed."""
    from peft import PeftModel

    rows = torch.arange(24).reshape(2, 12)
    expected = PeftModel.from_pretrained(load(handed / "h/copy-2"), handed / "t/copy-2")(
        input_ids=rows
    ).logits
    found = PeftModel.from_pretrained(load(handed / "h/copy-2"), handed / "u/copy-2")(
        input_ids=rows
    ).logits
    plain = load(handed / "h/copy-2")(input_ids=rows).logits
    assert torch.equal(found, expected) and not torch.allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize(("family", "config"), [("llama", {}), ("llama-biased", {})])
def test_expanded_by_the_server_it_is_the_dense_way(tiny_pair, tmp_path, entropy, family, config):
    """Adapters, --merge, and full models merged by peft agree to 1e-6 of the change."""
    from peft import PeftModel

    pair = tiny_pair(family, **config)
    settings = PerturbSettings(check="none", copies=2, kappa=0.1)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s0"),
        settings,
        entropy=entropy(6),
    )
    shutil.copytree(tmp_path / "s0", tmp_path / "s")
    train_all_with_peft(
        tmp_path / "h", tmp_path / "t", rate=3e-3, use_rslora=family == "llama-biased"
    )
    for name in ("copy-1", "copy-2"):
        merged = PeftModel.from_pretrained(
            load(tmp_path / "h" / name), tmp_path / "t" / name
        ).merge_and_unload()
        merged.save_pretrained(tmp_path / "full" / name)
    results = []
    for number, (trained, options) in enumerate((("t", {}), ("t", {"merge": True}), ("full", {}))):
        update = diff(
            tmp_path / "h",
            tmp_path / trained,
            tmp_path / f"u{number}",
            DeltaFormat("float32", SHARD),
            **options,
        )
        assert {copy.payload for copy in update.copies} == {"delta" if number else "lora"}
        shutil.rmtree(tmp_path / "s")
        shutil.copytree(tmp_path / "s0", tmp_path / "s")
        results.append(take(tmp_path, tmp_path / f"u{number}", tmp_path / f"a{number}", pair))
    theta = load_file(pair.model / "model.safetensors")
    change = (
        sum(float((results[1][name].double() - theta[name]).square().sum()) for name in theta)
        ** 0.5
    )
    for other, bar in (
        (results[1], 1e-6),
        (results[2], 5e-5),
    ):  # the last: peft adds to float32 weights, which rounds
        off = (
            sum(float((results[0][name].double() - other[name]).square().sum()) for name in theta)
            ** 0.5
        )
        assert change > 0.05 and off <= bar * change


def test_the_expansion_itself_is_exact(handed, tmp_path):
    """Rows in any blocks equal those of scale · B A, also where weights are stored transposed."""
    from mpu_cli.bundle.adapter import open_adapter

    change = open_adapter(handed / "u/copy-1")["model.layers.1.mlp.gate_proj.weight"]
    tensors = load_file(handed / "u/copy-1/adapter_model.safetensors")
    a, b = (
        tensors[f"base_model.model.model.layers.1.mlp.gate_proj.lora_{half}.weight"].double()
        for half in "AB"
    )
    product = 2.0 * b @ a
    import numpy as np

    places = np.array([0, 1, 5, 17, 18, 47])
    assert torch.allclose(change.rows(places).double(), product[places], rtol=1e-7, atol=0)
    other = replace(change, transposed=True)
    assert other.shape == (32, 48)
    places = np.array([3, 4, 31])
    assert torch.allclose(other.rows(places).double(), product.T[places], rtol=1e-7, atol=0)


def test_gpt2_is_adapted_the_other_way_round(tmp_path, entropy):
    """An adapter on fused q, k and v, stored (inputs, outputs), gives the right result."""
    from peft import PeftModel

    model = _gpt2(tmp_path / "model")
    settings = PerturbSettings(check="none", copies=2, kappa=0.05, noise_relative_to="weights")
    perturb(
        Located(model, None),
        None,
        Target(tmp_path / "h", tmp_path / "s0"),
        settings,
        entropy=entropy(6),
    )
    warned = []
    train_all_with_peft(tmp_path / "h", tmp_path / "t", targets=("c_attn", "c_fc"), rate=3e-3)
    diff(
        tmp_path / "h",
        tmp_path / "t",
        tmp_path / "u",
        DeltaFormat("float32", SHARD),
        warn=warned.append,
    )
    assert (
        json.loads((tmp_path / "u/copy-1/adapter_config.json").read_text())["fan_in_fan_out"]
        is True
    )
    assert warned == []
    for name in ("copy-1", "copy-2"):
        adapted = PeftModel.from_pretrained(load(tmp_path / "h" / name), tmp_path / "u" / name)
        adapted.merge_and_unload().save_pretrained(tmp_path / "f" / name)
    diff(
        tmp_path / "h",
        tmp_path / "f",
        tmp_path / "v",
        DeltaFormat("float32", SHARD),
        warn=warned.append,
    )
    assert len(warned) == 2 and "resid_pdrop 0.1" in warned[0]
    results = []
    for name in ("u", "v"):
        shutil.copytree(tmp_path / "s0", tmp_path / f"s-{name}")
        aggregate(
            [tmp_path / name],
            tmp_path / f"s-{name}",
            Located(model, None),
            tmp_path / f"out-{name}",
            AggregateSettings(),
        )
        results.append(load_file(tmp_path / f"out-{name}" / "model.safetensors"))
    theta = load_file(model / "model.safetensors")
    change = (
        sum(float((results[0][name].double() - theta[name]).square().sum()) for name in theta)
        ** 0.5
    )
    off = (
        sum(float((results[0][name].double() - results[1][name]).square().sum()) for name in theta)
        ** 0.5
    )
    assert change > 0.05 and off <= 5e-5 * change
    change_config(tmp_path / "u/copy-1", fan_in_fan_out=False)
    listed_again(tmp_path / "u", tmp_path / "h")
    shutil.copytree(tmp_path / "s0", tmp_path / "s1")
    with pytest.raises(GateError, match=r"shape|other way round"):
        aggregate(
            [tmp_path / "u"],
            tmp_path / "s1",
            Located(model, None),
            tmp_path / "x",
            AggregateSettings(),
        )


def _gpt2(directory):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2",
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=48,
        vocab_size=64,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def test_bfloat16_adapters_are_half_as_large_and_nearly_as_good(handed, tmp_path):
    """--delta-dtype holds for A and B, from either dtype in."""
    diff(handed / "h", handed / "t", tmp_path / "u", DeltaFormat("bfloat16", SHARD))
    file = "copy-1/adapter_model.safetensors"
    exact, short = load_file(handed / "u" / file), load_file(tmp_path / "u" / file)
    assert {tensor.dtype for tensor in short.values()} == {torch.bfloat16}
    assert all(torch.equal(short[name], exact[name].bfloat16()) for name in exact)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 32}}, "alpha_pattern"),
        ({"target_modules": [*RESIDUAL, "embed_tokens"]}, "frozen"),
        ({"target_modules": [*RESIDUAL, "lm_head"]}, "frozen"),
    ],
)
def test_more_than_lora_is_refused_with_a_remedy(handed, tmp_path, config, words):
    """What peft can train and an update cannot say is named, whatever peft calls it."""
    options = {"targets": config.pop("target_modules")} if "target_modules" in config else {}
    train_all_with_peft(handed / "h", tmp_path / "t", steps=1, **config, **options)
    with pytest.raises((BadModelError, CheckFailedError), match=words) as refused:
        diff(handed / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    assert refused.value.hint and not (tmp_path / "u").exists()


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_that_peft_saves_along_are_compared_and_left_out(
    tiny_pair, tmp_path, entropy, family, dtype
):
    """With `save_embedding_layers=True`, unchanged embeddings are dropped, others refused."""
    model = _gpt2(tmp_path / "model") if family == "gpt2" else tiny_pair(family).model
    settings = PerturbSettings(check="none", copies=1, kappa=0.05, noise_relative_to="weights")
    perturb(
        Located(model, None),
        None,
        Target(tmp_path / "h", tmp_path / "s"),
        settings,
        entropy=entropy(6),
    )
    targets = ("c_attn", "c_fc") if family == "gpt2" else RESIDUAL
    train_all_with_peft(
        tmp_path / "h",
        tmp_path / "t",
        targets=targets,
        steps=1,
        save={"save_embedding_layers": True},
    )
    change_tensors(
        tmp_path / "t/copy-1",
        lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()},
    )
    saved = [
        name
        for name in load_file(tmp_path / "t/copy-1/adapter_model.safetensors")
        if ".lora_" not in name
    ]
    assert len(saved) == 2  # embedding and head
    diff(tmp_path / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    assert all(
        ".lora_" in name for name in load_file(tmp_path / "u/copy-1/adapter_model.safetensors")
    )
    for number, name in enumerate(saved):
        for what, change in (
            ("moved", lambda tensor: tensor * 1.5),
            ("longer", lambda tensor: torch.cat([tensor, tensor[:1]])),
        ):
            other = tmp_path / f"{what}-{number}"
            shutil.copytree(tmp_path / "t", other)
            change_tensors(
                other / "copy-1",
                lambda tensors, name=name, change=change: {**tensors, name: change(tensors[name])},
            )
            with pytest.raises(
                CheckFailedError, match=f"tensor {name} differs from the published copy's"
            ) as refused:
                diff(tmp_path / "h", other, tmp_path / "x", DeltaFormat("float32", SHARD))
            assert refused.value.hint and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "IA3"}, "LORA only"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"invented_switch": 1}, "invented_switch"),
        ({"r": 5}, "rank"),
        ({"r": 0}, "rank"),
        ({"r": True}, "rank"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(handed, tmp_path, values, words):
    """Unknown switches that are on, other kinds of adapter, and numbers that are none."""
    shutil.copytree(handed / "t", tmp_path / "t")
    change_config(tmp_path / "t/copy-2", **values)
    with pytest.raises(BadModelError, match=words):
        diff(handed / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))


def test_an_adapter_saved_as_a_pickle_or_beside_a_model_is_refused(handed, tmp_path):
    """Pickles are never read; a model and an adapter together say two things."""
    shutil.copytree(handed / "t", tmp_path / "t")
    shutil.copy(handed / "h/copy-1/model.safetensors", tmp_path / "t/copy-1")
    with pytest.raises(BadModelError, match=r"a model .* and an adapter"):
        diff(handed / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    (tmp_path / "t/copy-1/model.safetensors").unlink()
    (tmp_path / "t/copy-1/adapter_model.safetensors").rename(
        tmp_path / "t/copy-1/adapter_model.bin"
    )
    with pytest.raises(BadModelError, match="no adapter_model"):
        diff(handed / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))


def test_dropout_and_inexact_targets_are_warned_of_once(handed, tmp_path):
    """lora_dropout is warned of, and adapters on o and down, whose A differs by copy."""
    warned = []
    train_all_with_peft(
        handed / "h",
        tmp_path / "t",
        steps=1,
        targets=("q_proj", "o_proj", "down_proj"),
        lora_dropout=0.1,
    )
    diff(
        handed / "h",
        tmp_path / "t",
        tmp_path / "u",
        DeltaFormat("float32", SHARD),
        warn=warned.append,
    )
    assert sum("lora_dropout 0.1" in text for text in warned) == 2
    assert sum("down_proj, o_proj" in text for text in warned) == 1


def test_dropout_in_a_trained_config_is_warned_of(handed, tmp_path):
    """A full model whose config.json sets dropout is warned of: it may have been on in training."""
    shutil.copytree(handed / "h", tmp_path / "t", ignore=shutil.ignore_patterns("mpu.yaml"))
    config = json.loads((tmp_path / "t/copy-1/config.json").read_text())
    (tmp_path / "t/copy-1/config.json").write_text(
        json.dumps({**config, "attention_dropout": 0.1, "classifier_dropout": 0.2})
    )
    warned = []
    diff(
        handed / "h",
        tmp_path / "t",
        tmp_path / "u",
        DeltaFormat("float32", SHARD),
        warn=warned.append,
    )
    assert (
        len(warned) == 1 and "attention_dropout 0.1" in warned[0] and "classifier" not in warned[0]
    )


HOSTILE_CONFIGS = [
    {"use_dora": True},
    {"modules_to_save": ["lm_head"]},
    {"rank_pattern": {"q_proj": 2}},
    {"base_model_name_or_path": "/home/alice"},
    {"peft_version": "0.21.2"},
    {"auto_mapping": {"base_model_class": "os", "parent_library": "os"}},
    {"bias": "all"},
    {"peft_type": "IA3"},
    {"inference_mode": 1},
    {"task_type": ...},
    {"r": 0},
    {"r": 513},
    {"r": 4.0},
    {"lora_alpha": float("inf")},
    {"lora_alpha": -1},
    {"lora_alpha": 8.0},
    {"target_modules": "all-linear"},
    {"target_modules": []},
    {"target_modules": ["q_proj"]},
    {"fan_in_fan_out": 0},
]


@pytest.mark.parametrize("values", HOSTILE_CONFIGS, ids=str)
def test_a_hostile_configuration_is_refused(handed, tmp_path, values):
    """Verify refuses a foreign key in adapter_config.json although the manifest is right."""
    shutil.copytree(handed / "u", tmp_path / "u")
    change_config(tmp_path / "u/copy-1", **values)
    manifest = listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(BadBundleError):
        check_update_tensors(tmp_path / "u", manifest)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"[" * 100_000, '{"r": "é"}'.encode(), b'{"r": 4, "r": 4}']
)
def test_a_configuration_that_is_no_json_is_refused(handed, tmp_path, data):
    """Nothing but our own error, also for a nesting that breaks parsers."""
    shutil.copytree(handed / "u", tmp_path / "u")
    (tmp_path / "u/copy-1/adapter_config.json").write_bytes(data)
    with pytest.raises(BadBundleError):
        check_update_tensors(tmp_path / "u", listed_again(tmp_path / "u", handed / "h"))


def test_a_form_of_its_own_is_refused(handed, tmp_path):
    """Another order, white space or a duplicate key could carry a message, and is refused."""
    file = tmp_path / "u/copy-1/adapter_config.json"
    shutil.copytree(handed / "u", tmp_path / "u")
    text = file.read_text()
    for other in (
        text + " ",
        text.replace('"r": 4,', '"r":  4,'),
        text.replace('"r": 4,', '"r": 4,\n  "r": 4,'),
    ):
        file.write_text(other)
        with pytest.raises(BadBundleError, match="form"):
            check_update_tensors(tmp_path / "u", listed_again(tmp_path / "u", handed / "h"))


UNREADABLE = {
    "a configuration of more than 16 MiB": (
        lambda copy: (copy / "adapter_config.json").write_bytes(b" " * ((16 << 20) + 1)),
        "adapter_config.json: larger than 16 MiB, the limit for this file",
    ),
    "a configuration of another rank": (
        lambda copy: change_config(copy, r=8),
        "adapter_model.safetensors: the adapter of model.layers.0.mlp.gate_proj has rank 4, but"
        " adapter_config.json says 8",
    ),
    "weights that are no safetensors": (
        lambda copy: (copy / "adapter_model.safetensors").write_bytes(b"x" * 99),
        "adapter_model.safetensors: not a valid safetensors file",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_adapter_that_cannot_be_read_is_named(handed, tmp_path, kind):
    """The manifest is right, so only the two files themselves can be refused."""
    spoil, words = UNREADABLE[kind]
    shutil.copytree(handed / "u", tmp_path / "u")
    spoil(tmp_path / "u/copy-1")
    manifest = listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(BadBundleError) as refused:
        check_update_tensors(tmp_path / "u", manifest)
    assert refused.value.message.startswith(f"{tmp_path}/u/copy-1/{words}")


def test_an_adapter_without_its_configuration_is_refused(handed, tmp_path):
    """A manifest may list the weights alone, and then nobody knows alpha."""
    shutil.copytree(handed / "u", tmp_path / "u")
    (tmp_path / "u/copy-1/adapter_config.json").unlink()
    whole = decode((tmp_path / "u/mpu.yaml").read_bytes(), "mpu.yaml")
    first = whole.copies[0]
    weights = {"adapter_model.safetensors": first.files["adapter_model.safetensors"]}
    copies = (replace(first, files=weights), *whole.copies[1:])
    (tmp_path / "u/mpu.yaml").write_bytes(encode(replace(whole, copies=copies)))
    manifest = read_update(tmp_path / "u")  # every listed file is there
    with pytest.raises(BadBundleError) as refused:
        check_update_tensors(tmp_path / "u", manifest)
    name = f"{tmp_path}/u/copy-1/adapter_config.json"
    assert refused.value.message == f"{name}: no such file or directory"


def _drop(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def _put(name, tensor):
    return lambda tensors: {**tensors, name: tensor}


Q_A, Q_B = NAME.format("q_proj", "A"), NAME.format("q_proj", "B")
HOSTILE_TENSORS = {
    "nothing": (lambda tensors: {}, "adapter_model.safetensors: holds no adapter"),
    "half a pair": (_drop(Q_A), "has no A"),
    "foreign tensor": (_put("model.layers.0.mlp.bias", torch.zeros(3)), "not an A or B"),
    "a magnitude": (
        _put(Q_A.replace("lora_A", "lora_magnitude_vector"), torch.zeros(3)),
        "not an A or B",
    ),
    "a vector": (_put(Q_A, torch.zeros(32)), "shapes"),
    "other rank": (_put(Q_A, torch.zeros(3, 32)), "shapes"),
    "half precision": (_put(Q_A, torch.zeros(4, 32).half()), "expected float32"),
    "integers": (_put(Q_A, torch.zeros(4, 32).int()), "expected float32"),
    "NaN": (_put(Q_A, torch.full((4, 32), torch.nan)), "NaN"),
    "infinity": (_put(Q_B, torch.full((32, 4), torch.inf)), "NaN"),
    "NaN in bfloat16": (
        lambda t: {**t, Q_A: torch.full((4, 32), torch.nan).bfloat16(), Q_B: t[Q_B].bfloat16()},
        "NaN",
    ),
    "finite, their product not": (
        lambda t: {**t, Q_A: torch.full((4, 32), 1e30), Q_B: torch.full((32, 4), 1e30)},
        "NaN",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(handed, tmp_path, kind):
    """By verify already: pairs of one rank, of a dtype that an update has, and numbers only."""
    change, words = HOSTILE_TENSORS[kind]
    shutil.copytree(handed / "u", tmp_path / "u")
    change_tensors(tmp_path / "u/copy-1", change)
    manifest = listed_again(tmp_path / "u", handed / "h")
    with pytest.raises((BadBundleError, GateError), match=words):
        check_update_tensors(tmp_path / "u", manifest)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("model.embed_tokens", "freezes"),
        ("lm_head", "freezes"),
        ("model.layers.7.self_attn.q_proj", "does not exist"),
        ("model.layers.0.self_attn.rotary", "does not exist"),
        ("model.norm", "shape"),
        ("model.layers.0.mlp.down_proj", "shape"),
    ],
)
def test_the_server_refuses_adapters_where_none_may_be(handed, tiny_pair, tmp_path, module, words):
    """Frozen tensors, tensors that do not exist, tensors of another shape."""
    old = "model.layers.0.self_attn.q_proj"
    shutil.copytree(handed / "u", tmp_path / "u")
    config = json.loads((tmp_path / "u/copy-1/adapter_config.json").read_text())
    change_config(
        tmp_path / "u/copy-1",
        target_modules=sorted(module if one == old else one for one in config["target_modules"]),
    )

    def renamed(tensors):
        found = {key.replace(old, module): value for key, value in tensors.items()}
        if module in {"model.embed_tokens", "lm_head"}:
            found[f"base_model.model.{module}.lora_B.weight"] = torch.zeros(64, 4)
        return found

    change_tensors(tmp_path / "u/copy-1", renamed)
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(GateError, match=words):
        take(handed, tmp_path / "u", tmp_path, tiny_pair("llama"))


def _only(directory, module, a, b, **values):
    """Make an adapter of one module of the first copy's."""
    change_config(directory, target_modules=[module], **values)
    halves = {
        f"base_model.model.{module}.lora_{half}.weight": t for half, t in (("A", a), ("B", b))
    }
    change_tensors(directory, lambda tensors: halves)


def test_an_adapter_of_embeddings_is_refused_although_they_may_be_trained(
    tiny_pair, tmp_path, entropy
):
    """The server expands adapters of projections only; the hint says how to send the change."""
    pair = tiny_pair("llama", num_hidden_layers=1)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s"),
        PerturbSettings(check="none", copies=1, kappa=0.1, train_embeddings=True),
        entropy=entropy(7),
    )
    train_all_with_peft(tmp_path / "h", tmp_path / "t", steps=1)
    diff(tmp_path / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    _only(tmp_path / "u/copy-1", "model.embed_tokens", torch.ones(4, 32), torch.zeros(64, 4))
    listed_again(tmp_path / "u", tmp_path / "h")
    with pytest.raises(GateError) as refused:
        take(tmp_path, tmp_path / "u", tmp_path / "again", pair)
    assert refused.value.message == (
        f"{tmp_path}/u/copy-1: holds an adapter of model.embed_tokens.weight, which is not an"
        " attention or feed-forward projection"
    )
    assert "mpu diff" in refused.value.hint


def test_a_square_adapter_of_the_other_orientation_is_refused(handed, tiny_pair, tmp_path):
    """Its shape fits either way, so only `fan_in_fan_out` can tell."""
    shutil.copytree(handed / "u", tmp_path / "u")
    module = "model.layers.0.self_attn.q_proj"
    halves = torch.ones(4, 32), torch.ones(32, 4)
    _only(tmp_path / "u/copy-1", module, *halves, fan_in_fan_out=True)
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(GateError) as refused:
        take(handed, tmp_path / "u", tmp_path, tiny_pair("llama"))
    assert refused.value.message == (
        f"{tmp_path}/u/copy-1: fan_in_fan_out is true, but {module}.weight is stored the other way"
        " round"
    )


def test_files_of_the_other_payload_are_refused(handed, tmp_path):
    """A lora manifest lists peft's two files, a delta manifest lists deltas, nothing else."""
    shutil.copytree(handed / "u", tmp_path / "u")
    (tmp_path / "u/copy-1/delta.safetensors").write_bytes(b"x")
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(BadBundleError, match="cannot hold"):
        read_update(tmp_path / "u")
    (tmp_path / "u/copy-1/delta.safetensors").unlink()
    (tmp_path / "u/copy-1/adapter_config.json").unlink()
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(BadBundleError, match="cannot hold"):
        read_update(tmp_path / "u")


def test_one_flipped_bit_is_refused(handed, tmp_path):
    """In either file, at either end of it."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        for place in (0, -1):
            shutil.rmtree(tmp_path / "u", ignore_errors=True)
            shutil.copytree(handed / "u", tmp_path / "u")
            data = bytearray((tmp_path / "u/copy-1" / name).read_bytes())
            data[place] ^= 1
            (tmp_path / "u/copy-1" / name).write_bytes(data)
            with pytest.raises(BadBundleError, match="do not match"):
                read_update(tmp_path / "u")


def test_metadata_of_the_tensors_says_nothing(handed, tmp_path):
    """A safetensors header may hold texts; an update's adapter holds none but peft's."""
    from safetensors.torch import save_file

    shutil.copytree(handed / "u", tmp_path / "u")
    file = tmp_path / "u/copy-1/adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "note": "from alice"})
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(BadBundleError, match="metadata"):
        check_update_tensors(tmp_path / "u", decode((tmp_path / "u/mpu.yaml").read_bytes(), "x"))


def test_one_adapter_alone_is_enough_for_a_split_hand_back(handed, tiny_pair, tmp_path):
    """One of two copies, knowingly reweighted, also as an adapter."""
    shutil.copytree(handed / "u", tmp_path / "u")
    shutil.rmtree(tmp_path / "u/copy-2")
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(GateError, match="1 of the 2"):
        take(handed, tmp_path / "u", tmp_path, tiny_pair("llama"))
    take(handed, tmp_path / "u", tmp_path, tiny_pair("llama"), missing="reweight")


def test_swapped_adapters_do_not_agree(handed, tiny_pair, tmp_path):
    """The cosine detects one copy's adapter in the place of another's, as with deltas."""
    shutil.copytree(handed / "u", tmp_path / "u")
    (tmp_path / "u/copy-1").rename(tmp_path / "u/x")
    (tmp_path / "u/copy-2").rename(tmp_path / "u/copy-1")
    (tmp_path / "u/x").rename(tmp_path / "u/copy-2")
    listed_again(tmp_path / "u", handed / "h")
    with pytest.raises(GateError, match="do not agree"):
        take(handed, tmp_path / "u", tmp_path, tiny_pair("llama"))


def test_an_adapter_is_small(tiny_pair, tmp_path, entropy):
    """Rank 8 on q, k, v, gate and up of a small model's layer is at most 3 % of the full update."""
    pair = tiny_pair(
        "llama",
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=1,
    )
    settings = PerturbSettings(check="none", copies=1, kappa=0.1)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s"),
        settings,
        entropy=entropy(7),
    )
    train_with_peft(tmp_path / "h/copy-1", tmp_path / "t/copy-1", steps=1, r=8)
    diff(tmp_path / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    model = load(tmp_path / "h/copy-1")
    with torch.no_grad():
        for layer in model.model.layers:
            for parameter in layer.parameters():
                parameter.mul_(1.01)
    model.save_pretrained(tmp_path / "f/copy-1")
    diff(tmp_path / "h", tmp_path / "f", tmp_path / "v", DeltaFormat("float32", SHARD))
    size = {
        name: sum(file.stat().st_size for file in (tmp_path / name / "copy-1").iterdir())
        for name in "uv"
    }
    assert size["u"] <= 0.03 * size["v"]
