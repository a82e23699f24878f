"""The study of masked sums adds the updates that it says, and its intervals are Student's."""

import masked_sum_leak as study
import pytest
import torch
from safetensors.torch import load_file, save_file


def test_the_sum_holds_every_members_update(tmp_path, monkeypatch):
    """Each client's change is added once to the model; people are dealt once."""
    deal = study.Deal.of(0, tmp_path, study.PARTS)
    rows = [deal.file(part).read_text().splitlines() for part in study.PARTS]
    assert [len(part) for part in rows] == [40, 40, 40, 80, 200]
    assert len({line for part in rows for line in part}) == 400
    before = load_file(study.MODEL / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"

    def unlearned(self, client, *options, forget):
        folder = tmp_path / client
        folder.mkdir(exist_ok=True)
        moved = dict(before) | {name: before[name] + 2.0 ** -study.CLIENTS.index(forget)}
        save_file(moved, folder / "model.safetensors")
        return folder

    monkeypatch.setattr(study.Deal, "unlearned", unlearned)
    for members, change in ((1, 1.0), (2, 1.5), (3, 1.75)):
        after = load_file(study.summed(deal, members) / "model.safetensors")
        assert torch.allclose(after[name] - before[name], torch.tensor(change), atol=1e-6)
        assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])


def test_the_interval_of_a_mean():
    """Three areas .4, .5, .6: .5 ± .4303/√3; no area lies above 1."""
    assert study.interval([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.25159, 0.74841), abs=1e-4)
    assert study.interval([0.8, 0.9, 1.0])[2] == 1
