"""T⁻¹T is the identity, and what each transform declares about itself is true."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_parties import (
    difference,
    hand_back,
    layout_of,
    moved,
    publish,
    relative,
    steps_of,
    take_back,
    train,
    train_all,
    untrained,
    weights,
)

from mpu_cli.architectures.layout import Experts, LayerLayout, Slot, rope_planes
from mpu_cli.errors import MpuWarning, UsageError
from mpu_cli.server import transforms
from mpu_cli.server.transforms import REPARAMETERIZATIONS, kinds, load
from mpu_cli.server.transforms.choice import chosen
from mpu_cli.server.transforms.draw import draw_layer
from mpu_cli.training import optimizers
from mpu_cli.training.optimizers._blocks import Blocks

MASTER = bytes(range(32))
ROOT = Path(__file__).parents[2]
NAMES = transforms.names()
EXACT_NAMES = [name for name in NAMES if load(name).EXACT]
DTYPES = {"float32": torch.int32, "bfloat16": torch.int16, "float16": torch.int16}
shapes_of_layers = st.fixed_dictionaries(
    {
        "kv": st.integers(1, 4),
        "group": st.integers(1, 4),
        "half": st.integers(1, 6),
        "ffn": st.integers(1, 40),
        "free": st.integers(0, 3),
        "experts": st.sampled_from([(1, 1), (1, 4), (2, 3)]),
    }
)


def layer_of(kv, group, half, ffn, free=0, experts=(1, 2), index=0, hidden=5):
    """A layer of any shape, with biases and stacked experts, and its tensors' shapes."""
    size, count = 2 * half + free, experts[0] * experts[1]
    query = np.arange(kv * group * size).reshape(kv, group, size)
    key = np.arange(kv * size).reshape(kv, size)
    units = np.arange(ffn)
    slots, shapes = {}, {}
    for role, positions in (("q", query), ("k", key), ("v", key), ("gate", units), ("up", units)):
        slots[role] = (
            Slot(f"{role}.weight", 0, positions.size, positions),
            Slot(f"{role}.bias", 0, positions.size, positions),
        )
        shapes |= {f"{role}.weight": (positions.size, hidden), f"{role}.bias": (positions.size,)}
    for role, positions in (("o", query), ("down", units)):
        slots[role] = (Slot(f"{role}.weight", 1, positions.size, positions),)
        shapes[f"{role}.weight"] = (hidden, positions.size)
    dense = {role: slots.pop(role) for role in ("gate", "up", "down")}
    slots |= {
        "query_heads": (*slots["q"], *slots["o"]),
        "key_value_heads": (*slots["k"], *slots["v"]),
    }
    if free:
        for role in ("q", "k"):
            slots[f"{role}_free"] = tuple(
                Slot(slot.tensor, slot.axis, slot.size, slot.index[..., 2 * half :])
                for slot in slots[role]
            )
    stacked = {
        "gate": (Slot("experts.gate_up", 2, 2 * ffn, 2 * units),),
        "up": (Slot("experts.gate_up", 2, 2 * ffn, 2 * units + 1),),
        "down": (Slot("experts.down", 1, ffn, units),),
    }
    shapes |= {
        "experts.gate_up": (count, hidden, 2 * ffn),
        "experts.down": (count, ffn, hidden),
        "router": (count, hidden),
    }
    places = np.arange(count).reshape(experts)
    moving = tuple(
        Slot(name, 0, count, places) for name in ("router", "experts.gate_up", "experts.down")
    )
    layer = LayerLayout(
        index,
        slots,
        rope_planes("half", 2 * half),
        (dense, stacked),
        tuple(shapes),
        (),
        Experts(moving, (), *experts[:1], count),
    )
    return layer, shapes


def tensors_of(shapes, dtype, number):
    """Random bit patterns: every finite value, denormals and both zeros among them."""
    generator = torch.Generator().manual_seed(number)
    result = {}
    for name, shape in shapes.items():
        bits = torch.randint(-(2**31), 2**31, shape, generator=generator).to(DTYPES[dtype])
        values = bits.view(getattr(torch, dtype))
        result[name] = torch.where(values.isfinite(), values, -torch.zeros_like(values))
    return result


def same_bits(first, second):
    """Equal as bits, so that −0.0 and 0.0 differ."""
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(shape=shapes_of_layers, number=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_signed_permutations_return_the_same_bits(dtype, shape, number):
    """T⁻¹T of signed permutations is the identity, bit by bit, for any shape and dtype."""
    layer, shapes = layer_of(**shape)
    tensors = tensors_of(shapes, dtype, number)
    for names in (EXACT_NAMES, REAL["signed-permutation"]):
        step = draw_layer(tuple(names), layer, MASTER, str(number), 0)
        assert step.exact
        for name, tensor in tensors.items():
            published = step.apply(name, tensor)
            assert published.dtype == tensor.dtype and same_bits(
                step.invert(name, published), tensor
            )
            assert same_bits(step.apply(name, step.invert(name, tensor)), tensor)


@given(shape=shapes_of_layers, number=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_rotations_return_to_rounding(shape, number):
    """T⁻¹T of a rotation differs by at most 1e-7 of the weights in float32; T keeps their norm."""
    layer, shapes = layer_of(**shape)
    step = draw_layer(
        ("plane_rotation", "ffn_signed_permutation", "expert_permutation"),
        layer,
        MASTER,
        str(number),
        0,
    )
    generator = torch.Generator().manual_seed(number)
    for name, shape_ in shapes.items():
        tensor = torch.randn(shape_, generator=generator)
        published = step.apply(name, tensor)
        assert float((step.invert(name, published) - tensor).norm()) <= 1e-7 * float(tensor.norm())
        assert float(published.norm()) == pytest.approx(float(tensor.norm()), rel=1e-6)
    assert not step.exact


@given(shape=shapes_of_layers, number=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_transforms_commute_with_rounding_and_are_linear(shape, number):
    """T of a rounded signed-permuted tensor is the rounded T, and T(a + b) = T(a) + T(b).

    What aggregation relies on.
    """
    layer, shapes = layer_of(**shape)
    step = draw_layer(REAL["signed-permutation"], layer, MASTER, str(number), 1)
    generator = torch.Generator().manual_seed(number)
    for name, size in shapes.items():
        first, second = (
            torch.randn(size, generator=generator),
            torch.randn(size, generator=generator),
        )
        assert torch.equal(step.apply(name, first).bfloat16(), step.apply(name, first.bfloat16()))
        assert torch.equal(
            step.apply(name, first + second), step.apply(name, first) + step.apply(name, second)
        )


REAL = {
    "signed-permutation": (
        "head_permutation",
        "qk_quarter_turns",
        "qk_signed_permutation",
        "vo_signed_permutation",
        "ffn_signed_permutation",
        "expert_permutation",
    ),
    "rotation": ("plane_rotation", "ffn_signed_permutation", "expert_permutation"),
    "paper-rotation": ("plane_rotation", "ffn_unit_permutation", "expert_permutation"),
}


@pytest.mark.parametrize("reparameterization", sorted(REAL))
def test_every_slot_is_moved_and_copies_differ(tiny_pair, reparameterization):
    """T moves every q, k, v, o, gate, up and down, and differs by copy, layer and draw."""
    pair = tiny_pair("llama-biased")
    layers = layout_of(pair.model).layers
    tensors = weights(pair.model)
    names = REAL[reparameterization]
    first = draw_layer(names, layers[0], MASTER, "a", 0)
    again = draw_layer(names, layers[0], MASTER, "a", 0)
    for role, slots in [*layers[0].slots.items(), *layers[0].ffns[0].items()]:
        for slot in slots:
            tensor = tensors[slot.tensor]
            published = first.apply(slot.tensor, tensor)
            assert not torch.equal(published, tensor), role
            assert torch.equal(published, again.apply(slot.tensor, tensor))
            for other in (
                draw_layer(names, layers[0], MASTER, "a", 1),
                draw_layer(names, layers[0], MASTER, "b", 0),
            ):
                assert not torch.equal(published, other.apply(slot.tensor, tensor)), role
    for name in layers[0].noised:
        if "norm" in name or name.endswith(("o_proj.bias", "down_proj.bias")):
            assert first.apply(name, tensors[name]) is tensors[name]


def test_a_layers_transform_is_hardly_ever_the_identity():
    """Of 200 draws for a small layer (2 heads of size 4, 8 units) none leaves v or up unchanged."""
    layer, shapes = layer_of(kv=2, group=1, half=2, ffn=8)
    tensors = {
        name: torch.randn(size, generator=torch.Generator().manual_seed(1))
        for name, size in shapes.items()
    }
    for number in range(200):
        step = draw_layer(REAL["signed-permutation"], layer, MASTER, f"{number}", 0)
        still = [
            name
            for name in ("q.weight", "v.weight", "up.weight")
            if torch.equal(step.apply(name, tensors[name]), tensors[name])
        ]
        assert len(still) < 2 and "v.weight" not in still and "up.weight" not in still


def test_a_reparameterization_is_refused_where_it_changes_the_function(tiny_pair):
    """Qwen3's norms on q and k forbid rotation and quarter turns; it gets half turns."""
    qwen3, llama = layout_of(tiny_pair("qwen3").model), layout_of(tiny_pair("llama").model)
    assert "qk_half_turns" in chosen("signed-permutation", qwen3)
    assert "qk_quarter_turns" in chosen("signed-permutation", llama)
    assert chosen("none", qwen3) == ()
    with pytest.raises(
        UsageError,
        match="plane_rotation changes the function of the qwen3 family: qk_norm is per_dim",
    ):
        chosen("rotation", qwen3)
    with pytest.raises(
        UsageError,
        match="--reparam paper-rotation: plane_rotation changes the function of the qwen3 family",
    ):
        chosen("paper-rotation", qwen3)
    assert chosen("paper-rotation", llama) == (
        "plane_rotation",
        "ffn_unit_permutation",
    )


def test_the_how_to_adds_a_transform_with_one_file(tiny_pair, entropy, tmp_path, monkeypatch):
    """The file of docs/how-to/add-a-transform.md is found, chosen, drawn, published and undone.

    A second file that is half written is named and skipped.
    """
    page = (ROOT / "docs" / "how-to" / "add-a-transform.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    folder = shutil.copytree(kinds.__path__[0], tmp_path / "kinds")
    (folder / "unit_shift.py").write_text(code, encoding="utf-8")
    (folder / "half_written.py").write_text("EXACT = True\n", encoding="utf-8")
    monkeypatch.setattr(transforms.REGISTRY, "directory", folder)
    monkeypatch.setattr(kinds, "__path__", [str(folder)])
    pair = tiny_pair("llama")
    with pytest.warns(MpuWarning, match=r"half_written\.py: declares no USES; this transform"):
        names = chosen("signed-permutation", layout_of(pair.model))
    assert names[-2:] == ("ffn_signed_permutation", "unit_shift")
    forced(monkeypatch, ["unit_shift"])
    result = publish(
        pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.0, check="all"
    )
    assert result.handoffs[0].transforms == ("unit_shift",)
    published = weights(tmp_path / "h" / "copy-1")
    moved_tensors = {n for n, t in weights(pair.model).items() if not torch.equal(published[n], t)}
    assert moved_tensors == {n for n in published if ".mlp." in n}
    untrained(tmp_path / "h", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "next")
    after = weights(tmp_path / "next")
    assert all(torch.equal(after[n], tensor) for n, tensor in weights(pair.model).items())


# Training equivariance
# ------------------------------------------------------------------------------------------

STEPS = 20
MATRIX_STEPS = 6
"""For the table of all transforms and optimizers, where each run is one of thirty."""
BARS = {True: 5e-5, False: 1e-3}
"""Largest error of the aggregated update, by `EXACT`."""
VISIBLE = 5e-2


def forced(monkeypatch, names):
    """Let perturb publish with exactly these transforms."""
    monkeypatch.setattr("mpu_cli.server.publishing.perturb.chosen", lambda *_: tuple(names))


@pytest.fixture(scope="module")
def plain(tiny_pair, tmp_path_factory):
    """Plain unlearning by each optimizer, made once: (directory, update)."""
    made = {}
    pair = tiny_pair("llama")

    def make(optimizer, steps=STEPS):
        if (optimizer, steps) not in made:
            out = tmp_path_factory.mktemp(f"plain-{optimizer}")
            train(pair.model, out, optimizer, steps=steps)
            made[optimizer, steps] = out, difference(out, pair.model)
        return made[optimizer, steps]

    return make


def aggregated(pair, root, entropy, optimizer, steps=STEPS, **settings):
    """The protocol end to end at κ = 0; returns the aggregated update."""
    publish(pair.model, pair.base, root / "h", root / "s", entropy(1), kappa=0.0, **settings)
    train_all(root / "h", root / "t", optimizer, steps=steps)
    hand_back(root / "h", root / "t", root / "u")
    take_back(root / "u", root / "s", pair.model, root / "out")
    return difference(root / "out", pair.model)


def test_every_transform_declares_itself():
    """Each file says where it is used and whether it is exact."""
    assert list(NAMES) == list(transforms.transforms()), "a broken file would be skipped"
    used = {user for name in NAMES for user in load(name).USES}
    assert {*used, "none"} == set(REPARAMETERIZATIONS)
    assert all(isinstance(load(name).EXACT, bool) for name in NAMES)
    assert not load("plane_rotation").EXACT


@pytest.mark.parametrize("optimizer", optimizers.names())
@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"expert_permutation", "qk_signed_permutation"})
)  # Llama has neither
def test_declared_equivariance_is_true(
    tiny_pair, entropy, plain, tmp_path, monkeypatch, name, optimizer
):
    """One transform, no noise: the aggregated update is the plain one exactly if declared.

    All optimizers commute with exact transforms, and some declare that they commute with rotations.
    """
    transform = load(name)
    forced(monkeypatch, [name])
    found = aggregated(tiny_pair("llama"), tmp_path, entropy, optimizer, MATRIX_STEPS, copies=1)
    error = relative(found, plain(optimizer, MATRIX_STEPS)[1])
    if transform.EXACT or optimizers.get(optimizer).commutes_with_rotations:
        assert error <= BARS[transform.EXACT]
    else:
        assert error > VISIBLE


@pytest.mark.parametrize(
    ("optimizer", "family"),
    [
        *((name, "llama") for name in optimizers.names()),
        ("adamw", "qwen3"),
        ("adamw", "llama-biased"),
        ("adafactor", "qwen2"),
        ("adam-mini", "llama-biased"),
        ("muon", "qwen3"),
    ],
)
def test_signed_permutation_returns_the_plain_update(
    tiny_pair, entropy, tmp_path, optimizer, family
):
    """κ = 0, ξ = 0, three copies, 20 steps in float32.

    The aggregated update is the plain one to 5e-5.
    """
    pair = tiny_pair(family)
    train(pair.model, tmp_path / "plain", optimizer, steps=STEPS)
    found = aggregated(pair, tmp_path, entropy, optimizer, copies=3)
    assert relative(found, difference(tmp_path / "plain", pair.model)) <= 5e-5


@pytest.mark.parametrize("optimizer", ["sgd", "adam-mini", "muon"])
def test_rotation_returns_the_plain_update(tiny_pair, entropy, plain, tmp_path, optimizer):
    """The rotation is exact to 1e-3 under optimizers that treat the entries of a head alike."""
    found = aggregated(
        tiny_pair("llama"), tmp_path, entropy, optimizer, copies=2, reparam="rotation"
    )
    assert relative(found, plain(optimizer)[1]) <= 1e-3


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_rotation_moves_the_update_of_the_others(tiny_pair, entropy, plain, tmp_path, optimizer):
    """Negative control: normalised by entry or by row, the update is visibly another one."""
    found = aggregated(
        tiny_pair("llama"), tmp_path, entropy, optimizer, copies=2, reparam="rotation"
    )
    assert relative(found, plain(optimizer)[1]) > VISIBLE


def test_adam_mini_needs_the_heads(tiny_pair, entropy, tmp_path, monkeypatch):
    """Negative control: with a second moment per row the rotation moves adam-mini's update."""
    monkeypatch.setattr(Blocks, "_runs", lambda *_: [])
    pair = tiny_pair("llama")
    train(pair.model, tmp_path / "plain", "adam-mini", steps=STEPS)
    found = aggregated(pair, tmp_path, entropy, "adam-mini", copies=2, reparam="rotation")
    assert relative(found, difference(tmp_path / "plain", pair.model)) > 1e-2


def test_half_turns_train_bit_for_bit(tiny_pair, entropy, plain, tmp_path, monkeypatch):
    """Half turns change signs only: the trained copy, inverted, is the plainly trained model."""
    pair = tiny_pair("llama")
    forced(monkeypatch, ["qk_half_turns"])
    result = publish(
        pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.0, copies=1
    )
    train_all(tmp_path / "h", tmp_path / "t", "adamw", steps=STEPS)
    steps = steps_of(tmp_path / "s", result.handoffs[0], pair.model)["copy-1"]
    published = weights(tmp_path / "h" / "copy-1")
    assert any(
        not torch.equal(published[name], tensor) for name, tensor in weights(pair.model).items()
    )
    back = moved(steps, pair.model, weights(tmp_path / "t" / "copy-1"), back=True)
    for name, tensor in weights(plain("adamw")[0]).items():
        assert torch.equal(back[name], tensor), name


def test_no_reparameterization_returns_the_plain_update_to_rounding(
    tiny_pair, entropy, plain, tmp_path
):
    """`none`, one copy, κ = 0.

    What is left is the rounding of the float32 difference, at most 1e-7.
    """
    found = aggregated(tiny_pair("llama"), tmp_path, entropy, "adamw", copies=1, reparam="none")
    assert relative(found, plain("adamw")[1]) <= 1e-7
