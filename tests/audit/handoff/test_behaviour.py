"""How copies behave, on which texts, and what the base's activations add to an attack."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from two_parties import layout_of

from mpu_cli.audit.handoff.behaviour import behaviour
from mpu_cli.audit.handoff.directions import input_directions
from mpu_cli.audit.handoff.texts import written_texts
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.load import load_model


def rows(vocabulary=30):
    """Eight texts of twelve tokens."""
    ids = torch.randint(vocabulary, (8, 12), generator=torch.Generator().manual_seed(1)).tolist()
    return [TokenizedRow(tuple(row), tuple(row)) for row in ids]


def test_a_model_is_no_distance_from_itself(tiny_pair):
    """Θ as a copy: KL 0 and the same tokens; the base as a copy: a share of 1."""
    pair = tiny_pair("llama")
    found = behaviour(pair.model, pair.base, {"same": pair.model, "base": pair.base}, rows())
    assert found.tokens == 8 * 11 and found.nearest == "same"
    assert found.copies["same"].kl == 0 and found.copies["same"].agreement == 1
    assert found.ratio("same") == 0 and found.ratio("base") == 1 and found.base.kl > 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_directions_are_those_of_what_a_matrix_multiplies(built_tiny, name):
    """In them the inputs are uncorrelated; fused experts have none."""
    directory = built_tiny(name)
    model, layout = load_model(directory).model, layout_of(directory)
    found = input_directions(model, layout, [0], rows())[0]
    assert found and set(found) <= set(layout.layers[0].noised)
    assert not [matrix for matrix in found if "experts" in matrix or "norm" in matrix]
    matrix = min(matrix for matrix in found if "attn" in matrix)
    assert found[matrix].inputs_last == (name != "gpt2")
    seen = []
    module = model.get_submodule(matrix.removesuffix(".weight"))
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(input_ids=torch.tensor([row.input_ids for row in rows()]))
    turned = seen[0].detach().reshape(-1, seen[0].shape[-1]) @ found[matrix].vectors
    products = turned.T @ turned
    apart = products - products.diag().diag()
    assert apart.abs().max() < 1e-3 * products.diag().max()
    assert products.diag()[-1] == products.diag().max()


def test_a_copy_writes_the_same_texts_again(tiny_pair):
    """By the seed, each of 64 tokens, all of them counted."""
    model = load_model(tiny_pair("llama").model).model
    (first, written), (again, _), (other, _) = (written_texts(model, seed) for seed in (0, 0, 1))
    assert written and first == again != other
    assert {len(row.input_ids) for row in first} == {64}


def test_the_three_numbers_are_printed_together(owner, tmp_path):
    """Weights, behaviour and exact entries; the base's activations beat one factor for all."""
    (handoff,) = owner.perturb(kappa=0.3, copies=1)
    done = owner.audit(handoff, options=("--layers", "2"), behaviour=True)
    assert done.code == 0, done.out
    (model,) = done.json["behaviour"]["models"]
    copy = model["copies"]["handoff-1/copy-1"]
    assert done.json["behaviour"]["texts"] == "texts that handoff-1/copy-1 wrote"
    assert copy["kl"] < 0.05 * model["base"]["kl"] and 0 < copy["ratio"] < 0.05
    assert copy["agreement"] > model["base"]["agreement"]
    (row,) = done.json["rows"]
    errors = {}
    for tried in row["attempts"]:
        errors[tried["attack"]] = min(tried["error"], errors.get(tried["attack"], 1))
    assert errors["activation Wiener"] < 0.97 * errors["one copy"]

    probe = tmp_path / "probe.jsonl"
    probe.write_text(json.dumps({"question": "Who wrote it?", "answer": "A friend of mine."}))
    texts = owner.audit(
        handoff, options=("--layers", "1", "--probe", probe), behaviour=True, model=owner.model
    ).json["behaviour"]["texts"]
    assert texts == str(probe)
    probe.write_text("[]")
    bad = owner.audit(handoff, options=("--probe", probe), behaviour=True)
    assert bad.code == 3 and "leave --probe out" in bad.json["error"]["hint"]


def test_matrices_whose_inputs_were_not_seen_are_named(owner, built_tiny, tmp_path):
    """Mixtral's experts are fused in memory; its attention is not."""
    owner.model = built_tiny("mixtral")
    owner.base = Path(shutil.copytree(owner.model, tmp_path / "base"))
    weights = load_file(owner.base / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: it + 0.1 * it.std() * torch.randn(it.shape, generator=generator)
        for name, it in weights.items()
    }
    save_file(moved, owner.base / "model.safetensors", {"format": "pt"})
    (handoff,) = owner.perturb(kappa=0.1, copies=1)
    done = owner.audit(handoff, options=("--layers", "1"), behaviour=True)
    (warning,) = [it for it in done.json["warnings"] if it.startswith("activation Wiener")]
    assert "experts" in warning and "fused in memory" in warning
