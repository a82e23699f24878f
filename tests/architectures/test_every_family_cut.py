"""Cut handoffs (`perturb --upto`) of every family: no test names a family."""

import pytest
import torch
from safetensors.torch import load_file
from two_parties import hand_back, layout_of, publish, take_back, untrained

from mpu_cli.bundle.read import read_handoff
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.modeling.hidden import labelled_hidden
from mpu_cli.modeling.hooks.loading import auto_class
from mpu_cli.modeling.tokenizer import quiet_transformers
from tiny_families import VALID_ERROR, tiny_models

TINY = {tiny.name: tiny for tiny in tiny_models()}


def loaded(directory):
    """A model as another program loads it, in float64."""
    from transformers import AutoConfig

    with quiet_transformers():
        config = AutoConfig.from_pretrained(directory)
        return (
            auto_class(config)
            .from_pretrained(
                directory,
                dtype=torch.float64,
                attn_implementation="eager",
                experts_implementation="eager",
            )
            .eval()
        )


def states(model, layer):
    """Hidden states after a layer on fixed tokens, (N, D), float64."""
    ids = torch.randint(2, 60, (2, 24), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return labelled_hidden(model, rows, layer)


@pytest.mark.parametrize("name", TINY)
def test_a_cut_copy_loads_anywhere_and_has_the_states_of_the_model(
    built_tiny, entropy, tmp_path, name
):
    """κ = 0: the states after the only layer of the cut are θ's, and nothing above it is there."""
    directory = built_tiny(name)
    publish(
        directory, None, tmp_path / "h", tmp_path / "s", entropy(3), kappa=0.0, copies=1, upto=0
    )
    manifest = read_handoff(tmp_path / "h")
    copy = tmp_path / "h" / "copy-1"
    assert (manifest.cut.layers, manifest.cut.of) == (1, 2)
    sent, whole = open_checkpoint(copy).tensors, open_checkpoint(directory).tensors
    layout = layout_of(directory)
    assert not set(sent) & set(layout.layers[1].noised)
    assert not set(sent) & {
        name for name in layout.outside.get("head", ()) if name.endswith("weight")
    }
    assert set(sent) <= set(whole)
    weights = load_file(copy / "model.safetensors")
    for stand_in in manifest.cut.stand_ins:
        assert len(weights[stand_in].unique()) == 1
    with torch.no_grad():
        model = loaded(directory)
        expected, above = states(model, 0), states(model, 1)
        found = states(loaded(copy), 0)
    scale = float(expected.square().mean().sqrt())
    assert float((found - expected).abs().max()) <= VALID_ERROR * scale
    assert float((found - above).abs().max()) > 0.1 * scale


@pytest.mark.parametrize("name", TINY)
def test_an_update_of_a_cut_changes_its_layers_alone(built_tiny, entropy, tmp_path, name):
    """Noise but no training gives θ back bit for bit; training moves no tensor above the cut."""
    directory = built_tiny(name)
    publish(
        directory,
        None,
        tmp_path / "h",
        tmp_path / "s",
        entropy(4),
        kappa=0.05,
        copies=2,
        upto=0,
        noise_relative_to="weights",
    )
    untrained(tmp_path / "h", tmp_path / "nothing")
    take_back(tmp_path / "nothing", tmp_path / "s", directory, tmp_path / "same")
    before = load_file(directory / "model.safetensors")
    same = load_file(tmp_path / "same" / "model.safetensors")
    assert before.keys() == same.keys()
    assert all(torch.equal(before[key], same[key]) for key in before)
    for number in (1, 2):
        train(tmp_path / "h" / f"copy-{number}", tmp_path / "trained" / f"copy-{number}")
    hand_back(tmp_path / "h", tmp_path / "trained", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", directory, tmp_path / "next", **LOOSE)
    after = load_file(tmp_path / "next" / "model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    layout = layout_of(directory)
    above = [*layout.layers[1].noised, *manifest_stand_ins(tmp_path / "h")]
    assert moved & set(layout.layers[0].noised)
    assert not moved & {*above, *layout.outside.get("head", ())}


LOOSE = {"min_agreement": -1.0}


def manifest_stand_ins(handoff):
    """The tensors with a constant."""
    return read_handoff(handoff).cut.stand_ins


def train(source, out):
    """Two steps that pull the states after layer 0 towards zero; embeddings stay."""
    model = loaded(source).float().train()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        states(model, 0).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with quiet_transformers():
        model.save_pretrained(out)
