"""Published copies compute what θ computes, and wrong descriptions of a family are found."""

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from two_parties import layout_of, publish, take_back, untrained, weights

from mpu_cli.architectures.family import FAMILIES, families, family_of, parse_family
from mpu_cli.architectures.layout import rope_planes
from mpu_cli.architectures.read import read_layout
from mpu_cli.architectures.sizes import Sizes
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError, FunctionChangedError, GateError, MpuWarning
from mpu_cli.server.publishing.function_check import check_layer, layers_to_check, require_passed
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.transforms.choice import chosen, statuses
from mpu_cli.server.transforms.draw import draw_layer
from tiny_families import tiny_models

MASTER = bytes(range(32))
ROTATES = {"llama", "llama-tied", "llama-biased", "mistral", "qwen2"}
SIGNED = ("head_permutation", "qk_quarter_turns", "vo_signed_permutation", "ffn_signed_permutation")


def logits(directory):
    """A model's logits on fixed tokens, in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    ids = torch.randint(
        0, model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        return model(input_ids=ids).logits


def rms(values):
    """Root mean square."""
    return float(values.double().square().mean().sqrt())


def text_of(name):
    """A family's data file."""
    return (
        resources.files("mpu_cli.architectures")
        .joinpath(f"families/{name}.yaml")
        .read_text(encoding="utf-8")
    )


def checked(directory, names, family=None, change=None, copies=2):
    """The check of every layer, as perturb does it; `change` alters each layer's layout first."""
    model = open_checkpoint(directory)
    layout = read_layout(model.config, shapes(model.tensors), directory, family)
    results = []
    for layer in layout.layers:
        described = change(layer) if change else layer
        steps = [draw_layer(names, described, MASTER, "d", position) for position in range(copies)]
        results += check_layer(model, layout, described, steps)
    return results


@pytest.mark.parametrize("reparameterization", ["signed-permutation", "rotation"])
def test_copies_without_noise_compute_what_the_model_computes(
    family_pair, entropy, tmp_path, reparameterization
):
    """κ = 0: copies have other weights than θ; logits differ by at most 1e-5 of their RMS."""
    if reparameterization == "rotation" and family_pair.family not in ROTATES:
        pytest.skip("q/k-norms forbid it")
    result = publish(
        family_pair.model,
        family_pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=0.0,
        copies=2,
        reparam=reparameterization,
        check="all",
    )
    expected = logits(family_pair.model)
    published = [tmp_path / "h" / f"copy-{k}" for k in (1, 2)]
    # The two copies' transforms differ, so an error common to both cannot hide.
    assert not torch.equal(
        *[weights(path)["model.layers.0.self_attn.q_proj.weight"] for path in published]
    )
    for path in published:
        found = logits(path)
        assert float((found - expected).abs().max()) <= 1e-5 * rms(expected)
        # 1e-12 would mean that the rotation's float32 storage went missing: signed permutations
        # reach it.
        assert rms(found - expected) <= (
            1e-12 if reparameterization == "signed-permutation" else 1e-6
        ) * rms(expected)
    assert len(result.checks) == 4 and all(check.passed for check in result.checks)


def test_every_family_passes_its_own_check(family_pair):
    """Each layer's difference is far below twenty times its own rounding."""
    names = (
        SIGNED
        if family_pair.family != "qwen3"
        else tuple(n.replace("quarter", "half") for n in SIGNED)
    )
    results = checked(family_pair.model, names)
    require_passed(results)
    assert len(results) == 4 and max(check.difference / check.rounding for check in results) < 5


@pytest.mark.parametrize(
    "names", [SIGNED, ("plane_rotation", "ffn_signed_permutation")], ids=["signed", "rotation"]
)
def test_a_forgotten_bias_is_caught(tiny_pair, names):
    """Negative control: a Qwen2 whose v bias does not move with v is refused by the check."""

    def without_bias(layer):
        return replace(
            layer,
            slots={
                role: slots[:1] if role == "v" else slots for role, slots in layer.slots.items()
            },
        )

    results = checked(tiny_pair("qwen2").model, names, change=without_bias)
    with pytest.raises(FunctionChangedError, match="compute something else"):
        require_passed(results)
    assert min(check.difference / check.rounding for check in results) > 1000


def test_a_layer_that_overflows_proves_nothing(tiny_pair, tmp_path):
    """Finite weights, but no finite output in float32.

    Its rounding would be infinite, and any difference smaller.
    """
    directory = tmp_path / "model"
    shutil.copytree(tiny_pair("llama").model, directory)
    tensors = load_file(directory / "model.safetensors")
    for name in ("up_proj", "down_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"] *= 1e25
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    results = checked(directory, SIGNED)
    with pytest.raises(
        FunctionChangedError, match="layer 1: its output is not a finite number in float32"
    ):
        require_passed(results)
    assert [check.passed for check in results] == [check.layer == 0 for check in results]


def test_a_rotated_plane_with_norms_is_caught(tiny_pair):
    """Negative control: rotations and quarter turns of Qwen3's planes do not pass the check."""
    for names in (("plane_rotation", "ffn_signed_permutation"), ("qk_quarter_turns",)):
        with pytest.raises(FunctionChangedError, match="compute something else"):
            require_passed(checked(tiny_pair("qwen3").model, names))


@pytest.mark.parametrize("name", ["plane_rotation", "qk_quarter_turns", "qk_half_turns"])
def test_a_wrong_rope_layout_is_caught(tiny_pair, name):
    """Negative control: interleaved planes in a half-split family do not pass the check."""
    wrong = parse_family("wrong", text_of("llama") + "attention: {rope: interleaved}")
    with pytest.raises(FunctionChangedError):
        require_passed(checked(tiny_pair("llama").model, (name,), wrong))
    require_passed(checked(tiny_pair("llama").model, (name,)))


def test_wrong_head_groups_are_caught(tiny_pair):
    """Negative control: query heads with the wrong key-value head do not pass the check."""

    def regrouped(layer):
        slot, *others = layer.slots["query_heads"]
        wrong = replace(slot, index=slot.index.transpose(1, 0, 2).copy())
        return replace(layer, slots={**layer.slots, "query_heads": (wrong, *others)})

    with pytest.raises(FunctionChangedError):
        require_passed(checked(tiny_pair("llama").model, ("head_permutation",), change=regrouped))


def test_the_check_sees_small_faults(tiny_pair):
    """Negative control: weights that are off by 1e-4 after T are more than rounding."""

    class Off:
        def target(self, name):
            return name

        def apply(self, name, tensor):
            return tensor * (1 + 1e-4) if "down_proj" in name else tensor

    model = open_checkpoint(tiny_pair("llama").model)
    layout = layout_of(tiny_pair("llama").model)
    with pytest.raises(FunctionChangedError):
        require_passed(check_layer(model, layout, layout.layers[0], [Off()]))


@pytest.mark.parametrize("existing", [False, True], ids=["new lineage", "old lineage"])
def test_a_failed_check_leaves_nothing_behind(tiny_pair, entropy, tmp_path, monkeypatch, existing):
    """A function that changed stops perturb before anything is written.

    No handoff, no new secret, no record.
    """
    pair = tiny_pair("llama")
    source = entropy(1)
    if existing:
        publish(pair.model, pair.base, tmp_path / "first", tmp_path / "s", source)
    before = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    wrong = parse_family("wrong", text_of("llama") + "attention: {rope: interleaved}")
    monkeypatch.setattr(
        "mpu_cli.server.publishing.perturb.read_layout", lambda c, s, w: read_layout(c, s, w, wrong)
    )
    with pytest.raises(FunctionChangedError, match="compute something else"):
        perturb(
            Located(pair.model, None),
            Located(pair.base, None),
            Target(tmp_path / "deep" / "er" / "h", tmp_path / "s"),
            PerturbSettings(check="all"),
            entropy=source,
        )
    after = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert after == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["first", "s"] if existing else [])


def test_layers_to_check(tiny_pair):
    """`sample` checks the first, a middle and the last layer, `all` every one, `none` none."""
    layout = layout_of(
        tiny_pair("llama", num_hidden_layers=7, hidden_size=16, intermediate_size=8).model
    )
    assert [
        [layer.index for layer in layers_to_check(layout, extent)]
        for extent in ("sample", "all", "none")
    ] == [
        [0, 3, 6],
        list(range(7)),
        [],
    ]


# Layouts
# -------------------------------------------------------------------------------------------------


def test_every_tensor_is_described_once(family_pair):
    """The noised tensors of all layers and the tensors outside are those on disk, each once."""
    layout = layout_of(family_pair.model)
    described = [name for layer in layout.layers for name in layer.noised]
    described += [name for names in layout.outside.values() for name in names]
    assert sorted(described) == sorted(weights(family_pair.model))
    everything = [name for names in layout.groups("all").values() for name in names]
    assert sorted(everything) == sorted(described)
    assert "model.norm.weight" not in [
        name for names in layout.groups("layers").values() for name in names
    ]


def test_slots_have_the_shapes_of_their_roles(tiny_pair):
    """Q and o are (KV, G, d), k and v (KV, d), also where H·d differs from D.

    Biases follow their rows.
    """
    layer = layout_of(tiny_pair("qwen3").model).layers[1]
    assert layer.slots["q"][0].index.shape == layer.slots["o"][0].index.shape == (2, 2, 16)
    assert layer.slots["k"][0].index.shape == layer.slots["v"][0].index.shape == (2, 16)
    assert layer.slots["o"][0].axis == 1 and layer.slots["o"][0].size == 64
    assert layer.planes.tolist() == [[i, i + 8] for i in range(8)]
    biased = layout_of(tiny_pair("llama-biased").model).layers[0]
    assert [len(biased.slots[role]) for role in ("q", "k", "v", "o")] == [2, 2, 2, 1]
    assert [{role: len(slots) for role, slots in ffn.items()} for ffn in biased.ffns] == [
        {"gate": 2, "up": 2, "down": 1}
    ]


def test_rope_planes_are_disjoint_pairs():
    """Both layouts cover every rotary position once; interleaved planes are neighbours."""
    for layout in ("half", "interleaved"):
        assert sorted(rope_planes(layout, 12).ravel().tolist()) == list(range(12))
    assert np.array_equal(rope_planes("interleaved", 4), [[0, 1], [2, 3]])


def test_tied_models_freeze_the_embedding(tiny_pair):
    """A tied head is absent on disk and in the layout.

    An untied one is frozen beside the embedding.
    """
    assert layout_of(tiny_pair("llama-tied").model).frozen == ("model.embed_tokens.weight",)
    assert layout_of(tiny_pair("llama").model).frozen == (
        "model.embed_tokens.weight",
        "lm_head.weight",
    )


def test_misfits_are_named(tiny_pair):
    """A tensor that is missing, unknown or misshapen is named, and so is an impossible size."""
    model = open_checkpoint(tiny_pair("llama").model)
    good = shapes(model.tensors)
    q = "model.layers.0.self_attn.q_proj.weight"
    cases = [
        ({name: shape for name, shape in good.items() if name != q}, {}, f"{q} is missing"),
        (
            {**good, "model.layers.0.adapter.weight": (3,)},
            {},
            "model.layers.0.adapter.weight is not part of",
        ),
        ({**good, q: (31, 32)}, {}, rf"{q} has shape \[31, 32\]"),
        (good, {"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.weight is missing"),
        (good, {"num_hidden_layers": 1}, "model.layers.1.*is not part of"),
        (good, {"num_attention_heads": 3}, "3 attention heads do not divide"),
        ({**good, "model.layers.0.mlp.up_proj.weight": (47, 32)}, {}, "up_proj.weight has shape"),
        (good, {"num_attention_heads": True}, "num_attention_heads is True"),
        (good, {"num_key_value_heads": 4}, "k_proj.weight has shape"),
        (
            {name: shape for name, shape in good.items() if name != "lm_head.weight"},
            {},
            "lm_head.weight is missing",
        ),
    ]
    for given, config, message in cases:
        with pytest.raises(BadModelError, match=message):
            read_layout({**model.config, **config}, given, tiny_pair("llama").model)


def test_unknown_families_are_refused_with_the_known_ones():
    """An unknown model_type names those that there are."""
    assert {"llama", "mistral", "qwen2", "qwen3", "mixtral", "gpt2", "deepseek_v3"} <= set(
        families()
    )
    with pytest.raises(BadModelError, match="gpt9") as caught:
        family_of({"model_type": "gpt9"}, "config.json")
    assert "llama, mistral, mistral3, mixtral" in caught.value.hint
    with pytest.raises(BadModelError):
        family_of({}, "config.json")


def test_a_familys_file_is_read_strictly():
    """An unknown key is named with the nearest known one, others by what is wrong with them."""
    good = text_of("llama")
    for text, message in [
        (good + "norm: []", "unknown key 'norm', did you mean norms"),
        (good.replace("[llama]", "[lama]", 1), "unknown key 'lama', did you mean llama"),
        (good + "attention: {rope: quarter}", "rope must be half, interleaved or none"),
        (good + "attention: {alibi: slope}", "alibi must be none or slopes"),
        (good + "attention: {q: null}", "either q, k and v, or qkv"),
        (good + "attention: {qk_nrom: full}", "unknown key 'qk_nrom', did you mean qk_norm"),
        (good + "attention: null", "one of attention and latent_attention is needed"),
        (
            text_of("deepseek-v2") + "attention: {qkv: qkv, o: o, rope: half}",
            "one of attention and latent_attention is needed",
        ),
        ("model_types: [x]\nlayers: x\nnorms: []\noutside: {embedding: e}\ntiny: {}", "key 'ffn'"),
        (good + "ffn: {dense: {dawn: d}}", "ffn, dense: unknown key 'dawn', did you mean down"),
        (good + "ffn: {dense: {down: null}}", "ffn, dense: key 'down' is missing"),
        (good + "attention: {q_norm: q_norm}", "q_norm and qk_norm must be given together"),
        (good + "outside: {inside: x}", "unknown key 'inside'"),
        (good + "storage: out", "storage must be out_in or in_out"),
        ("- llama", "expected a map"),
        ("extends: [llama]", "key 'model_types' is missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_family("x", text)


def test_undeclared_means_not_used(tiny_pair):
    """A transform is not used if a fact is not stated or if the family excludes it by name."""
    model = open_checkpoint(tiny_pair("llama").model)

    def read(text):
        family = parse_family("x", text_of("llama") + text)
        return statuses(read_layout(model.config, shapes(model.tensors), model.path, family))

    silent = read(
        "attention: {alibi: null, clip: null, qk_norm: null, v_norm: null}\n"
        "ffn: {dense: {activation: null, up_branch: null}}"
    )
    assert {name for name, status in silent.items() if status.kind != "invalid"} == {
        "expert_permutation",
        "qk_signed_permutation",
    }
    assert silent["head_permutation"].reason == "alibi is not stated"
    excluded = read("excluded: {head_permutation: heads are counted}")["head_permutation"]
    assert (excluded.kind, excluded.reason) == ("invalid", "heads are counted")


def test_a_half_written_file_hinders_no_other_family(tmp_path, monkeypatch):
    """It is named with its mistake, and so is a second file for a known model_type."""
    folder = shutil.copytree(FAMILIES, tmp_path / "families")
    (folder / "half.yaml").write_text("extends: [llama\nmodel_types: [half]\n", encoding="utf-8")
    (folder / "twin.yaml").write_text(text_of("llama"), encoding="utf-8")
    monkeypatch.setattr("mpu_cli.architectures.family.FAMILIES", folder)
    with pytest.warns(MpuWarning) as warned:
        found = families.__wrapped__()
    assert found.keys() == families().keys()
    assert [family.name for family in found["llama"]] == ["llama"]
    said = [str(warning.message) for warning in warned]
    assert len(said) == 2 and "half.yaml: line 2" in said[0] and "this family is skipped" in said[0]
    assert said[1].startswith("twin.yaml and llama.yaml both describe llama")


def test_a_config_that_no_file_describes_is_refused(tmp_path):
    """A known model_type in a variant that no condition matches names the keys that decide."""
    config = {
        "model_type": "falcon",
        "alibi": True,
        "new_decoder_architecture": False,
        "multi_query": False,
    }
    with pytest.raises(
        BadModelError, match=r"a falcon model with .*alibi = True.* is not described"
    ):
        family_of(config, "config.json")


def test_a_checkpoint_of_the_bare_model_gets_a_hint(tmp_path):
    """GPT-2's published files lack the prefix `transformer.`.

    Trained copies would come back with it.
    """
    directory = next(tiny_models(("gpt2",))).build(tmp_path / "model")
    model = open_checkpoint(directory)
    bare = {name.removeprefix("transformer."): info.shape for name, info in model.tensors.items()}
    with pytest.raises(BadModelError, match=r"transformer\.wte\.weight is missing") as caught:
        read_layout(model.config, bare, directory)
    assert "stores it as wte.weight: load the model in transformers" in caught.value.hint


def test_the_how_to_shows_the_file_that_is_there():
    """docs/how-to/add-an-architecture.md walks through a real data file."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "add-an-architecture.md").read_text(
        encoding="utf-8"
    )
    assert text_of("olmo3").rstrip() in page


def test_experts_stay_inside_their_routing_groups(tmp_path):
    """Negative control: DeepSeek-V3's experts permuted across its routing groups."""
    tiny = next(tiny_models(("deepseek-v3",)))
    directory = tiny.build(tmp_path / "model")

    def ungrouped(layer):
        if layer.experts is None:
            return layer
        slots = tuple(
            replace(slot, index=slot.index.reshape(1, -1)) for slot in layer.experts.slots
        )
        return replace(layer, experts=replace(layer.experts, slots=slots, groups=1))

    require_passed(checked(directory, ("expert_permutation",)))
    assert [
        experts.groups for layer in layout_of(directory).layers if (experts := layer.experts)
    ] == [2]
    with pytest.raises(FunctionChangedError):
        require_passed(checked(directory, ("expert_permutation",), change=ungrouped, copies=8))


def test_a_partly_rotated_head_is_not_turned_as_a_whole(tmp_path):
    """Negative control: Phi's planes over the whole head instead of the half that RoPE turns."""
    directory = next(tiny_models(("phi",))).build(tmp_path / "model")
    wrong = parse_family("wrong", text_of("phi").replace("rotary: 0.5", "rotary: 1.0"))
    model = open_checkpoint(directory)
    bare = {**model.config, "rope_parameters": None, "partial_rotary_factor": None}
    layout = read_layout(bare, shapes(model.tensors), directory, wrong)
    assert len(layout.layers[0].planes) == 4 and len(layout_of(directory).layers[0].planes) == 2
    layout = replace(layout, config=model.config)
    steps = draw_layer(("qk_quarter_turns",), layout.layers[0], MASTER, "d", 0)
    with pytest.raises(FunctionChangedError):
        require_passed(check_layer(model, layout, layout.layers[0], [steps]))


def test_experts_without_their_router_are_caught(tmp_path):
    """Negative control: experts that change places while the router's rows stay."""
    directory = next(tiny_models(("mixtral",))).build(tmp_path / "model")
    require_passed(checked(directory, ("expert_permutation",)))
    with pytest.raises(FunctionChangedError):
        require_passed(
            checked(
                directory,
                ("expert_permutation",),
                change=lambda layer: replace(layer, experts=replace(layer.experts, slots=())),
            )
        )


def test_defaults_are_those_of_transformers():
    """A config.json that is silent about sizes means what transformers takes.

    Head counts and sizes, groups, tying, RoPE-less layers.
    """
    from transformers import AutoConfig

    checked_keys = set()
    for model_type, group in families().items():
        for family in group:
            whole = AutoConfig.for_model(model_type).to_dict()
            theirs = family.language(whole)
            silent = family.language({})
            counts = {"heads": theirs.get(family.sizes.get("heads", "num_attention_heads"))}
            for name, key in (("kv_heads", "num_key_value_heads"), ("head_dim", "head_dim")):
                key = family.sizes.get(name, key)
                if (
                    isinstance(key, int)
                    or theirs.get(key) is None
                    or family.latent_attention is not None
                ):
                    continue
                if name == "kv_heads":
                    assert silent.get(key, counts["heads"]) == theirs[key], (family.name, key)
                else:
                    hidden = theirs[family.sizes.get("hidden", "hidden_size")]
                    assert silent.get(key, hidden // counts["heads"]) == theirs[key], (
                        family.name,
                        key,
                    )
                checked_keys.add(key)
            for key in ("n_group", "no_rope_layer_interval", "sliding_window_pattern"):
                if key in silent or key in [block.groups for block in family.ffn]:
                    assert silent.get(key, 1) == (theirs[key] or 1), (family.name, key)
                    checked_keys.add(key)
            assert family.tied({}) == bool(
                whole.get("tie_word_embeddings", theirs.get("tie_word_embeddings"))
            ), family.name
    assert checked_keys >= {
        "num_key_value_heads",
        "head_dim",
        "n_group",
        "no_rope_layer_interval",
        "sliding_window_pattern",
    }


@pytest.mark.parametrize("name", ["smollm3", "cohere2", "gemma3-multimodal"])
def test_silent_configurations_are_understood(tmp_path, name):
    """What transformers makes up where config.json has no list or size.

    The layout and every layer's check agree with it.
    """
    silent = {
        "smollm3": {"no_rope_layers": None, "layer_types": None, "no_rope_layer_interval": 2},
        "cohere2": {"layer_types": None, "sliding_window_pattern": 2},
        "gemma3-multimodal": {
            "text_config": {
                "num_attention_heads": None,
                "num_key_value_heads": None,
                "head_dim": None,
            }
        },
    }[name]
    directory = next(tiny_models((name,))).build(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    if name == "gemma3-multimodal":  # its heads are those that transformers takes by default
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim"):
            config["text_config"].pop(key)
        layer_sizes = read_layout_sizes(config, name)
        assert (layer_sizes.heads, layer_sizes.kv_heads, layer_sizes.head_dim) == (8, 4, 256)
        return
    for key, value in silent.items():
        config[key] = value
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    layout = layout_of(directory)
    assert ["q" in layer.slots for layer in layout.layers] == [True, False]
    names = chosen("signed-permutation", layout)
    require_passed(checked(directory, names))


def read_layout_sizes(config, name):
    """The sizes that a family's file reads from a config."""
    family = next(tiny_models((name,))).family
    return Sizes.from_config(family.language(config), family, "config.json")


def test_experts_that_do_not_divide_into_groups_are_refused(tmp_path):
    """A routing group count that does not fit is a wrong config, not one group."""
    directory = next(tiny_models(("deepseek-v3",))).build(tmp_path / "model")
    model = open_checkpoint(directory)
    with pytest.raises(BadModelError, match="4 experts do not divide into n_group = 3 groups"):
        read_layout({**model.config, "n_group": 3}, shapes(model.tensors), directory)


def test_buffers_of_old_checkpoints_and_redundant_heads_are_dropped(tmp_path):
    """Causal masks, RoPE frequencies and a second tied head are not published and get no noise."""
    for name, extra in (
        (
            "gpt-neox",
            {
                "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
                "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
                "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(4),
            },
        ),
        ("mistral", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
        ("falcon-7b", {"lm_head.weight": "transformer.word_embeddings.weight"}),
        (
            "gemma3-multimodal",
            {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"},
        ),
        ("gemma2", {"lm_head.weight": "model.embed_tokens.weight"}),
    ):
        directory = next(tiny_models((name,))).build(tmp_path / name)
        tensors = load_file(directory / "model.safetensors")
        before = set(tensors)
        tensors |= {
            key: tensors[value].clone() if isinstance(value, str) else value
            for key, value in extra.items()
        }
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        config.pop("tie_word_embeddings", None)  # the architecture's own default decides
        (directory / "config.json").write_text(json.dumps(config))
        assert set(open_checkpoint(directory).tensors) == before, name
        layout_of(directory)


def test_another_layout_than_the_copies_were_made_from_is_refused(tmp_path, entropy):
    """T_k is drawn anew when an update comes back.

    An edited config.json would undo another T, which no digest of weights shows.
    """
    directory = next(tiny_models(("llama",))).build(tmp_path / "model")
    publish(directory, None, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.0, copies=1)
    untrained(tmp_path / "h", tmp_path / "u")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4})
    )
    with pytest.raises(GateError, match="the layout has changed since handoff"):
        take_back(tmp_path / "u", tmp_path / "s", directory, tmp_path / "next")
    (directory / "config.json").write_text(json.dumps(config))
    take_back(tmp_path / "u", tmp_path / "s", directory, tmp_path / "next")
