"""A merged LoRA of rank 8: an offset of .1 leaves a third of what its size says."""

import shutil

import torch
from safetensors.torch import load_file, save_file
from two_parties import layout_of


def merged(base, folder, rank):
    """Base + a product of this rank on every matrix of every layer."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name in layout_of(base).layer_of():
        if (tensor := weights[name]).ndim == 2:
            left, right = (
                torch.randn(shape, generator=generator)
                for shape in ((tensor.shape[0], rank), (rank, tensor.shape[1]))
            )
            weights[name] = tensor + 0.1 * tensor.std() * (left @ right) / rank**0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_offset_is_no_floor_for_a_merged_lora(owner, tmp_path):
    """Singular values leave about c·√(8(n + p)/(np)), .035 here, with no secret known."""
    owner.model = merged(owner.base, tmp_path / "merged", 8)
    (handoff,) = owner.perturb(kappa=0, offset=0.1, copies=1)
    (row,) = owner.audit(handoff, options=("--layers", "2")).json["rows"]
    assert row["nearest"].startswith("singular values: noise read from the median")
    assert 0.02 < row["measured"] < 0.045
