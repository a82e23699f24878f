"""Where an attack must fail, it fails: none of them can win by peeking at the truth."""

import shutil
from dataclasses import replace
from math import hypot, sqrt

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpu_cli.audit.handoff.aligned import AlignedLayer, Aligner
from mpu_cli.audit.handoff.attacks import all_attacks
from mpu_cli.audit.handoff.attacks._attack import CopyPool
from mpu_cli.audit.handoff.audit import audit_handoff
from mpu_cli.audit.handoff.holding import open_holding
from mpu_cli.audit.handoff.inputs import match_records, read_lineage
from mpu_cli.audit.handoff.truth import Truth
from mpu_cli.checkpoint.model import open_checkpoint


def left(noise):
    """What a best linear estimate leaves of a task vector of size 1."""
    return noise / hypot(1, noise)


def test_unrelated_noise_does_not_cancel(owner):
    """Three rounds of one copy: independent noise of .3 leaves .3/√3, by any weights."""
    handoffs = [owner.perturb(kappa=0.3, copies=1)[0] for _ in range(3)]
    row = owner.rows(*handoffs, options=("--layers", "2"))["all 3 handoffs"]
    assert 0.9 * left(0.3 / sqrt(3)) < row["stated"] <= 1.001 * left(0.3 / sqrt(3))
    assert 0.95 * row["stated"] < row["measured"] < 1.05 * left(0.3 / sqrt(3))


def test_noise_with_random_signs_does_not_cancel():
    """With its signs drawn anew, zero-sum noise is worth no more than any other noise."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(300, 300, generator=generator)  # noqa: E731
    base, task, noise = draw(), draw(), torch.stack([draw() for _ in range(3)])
    noise = 0.3 * sqrt(1.5) * (noise - noise.mean(dim=0))
    signs = torch.stack([draw() for _ in range(3)]).sign()
    errors = {}
    for name, drawn in (("zero-sum", noise), ("random signs", noise * signs)):
        copies = [base + task + alpha * it for alpha, it in zip((1, 1.5, 2), drawn, strict=True)]
        table = torch.stack([(copy - base).double().ravel() for copy in copies])
        layer = AlignedLayer(
            0, tuple({"w": copy} for copy in copies), {"w": base}, (table @ table.T).numpy()
        )
        attacker = all_attacks()["pooling"].start(CopyPool((0, 0, 0), has_base=True))
        attacker.observe(layer)
        errors[name] = min(
            float((it.tensors["w"] - base - task).norm() / task.norm())
            for it in attacker.estimates(layer)
        )
    assert errors["zero-sum"] < 1e-5
    # Independent noise of sizes 1, 1.5 and 2: their precisions add.
    assert errors["random signs"] == pytest.approx(0.3 / sqrt(1 + 1 / 1.5**2 + 1 / 4), rel=0.05)


def test_a_wrong_reparameterization_leaves_everything_unknown(owner):
    """Scored with the T of other copies, every estimate is farther from θ than the base is."""
    (handoff,) = owner.perturb(kappa=0.1, copies=2)
    lineage, base = read_lineage(owner.secret), open_checkpoint(owner.base)
    aligner = Aligner(open_holding([handoff], base))
    (record,) = match_records(aligner.holding, lineage)
    swapped = replace(
        record,
        copies=tuple(replace(copy, position=1 - copy.position) for copy in record.copies),
    )
    models = {record.model: open_checkpoint(owner.model)}
    errors = {}
    for name, drawn in (("right", record), ("wrong", swapped)):
        truth = Truth(aligner, lineage, [drawn], models, owner.secret)
        result = audit_handoff(aligner, ["h"], truth, [record], [record], layers=1)
        errors[name] = min(row.nearest.error for row in result.rows)
    assert errors["right"] < 1e-4 and errors["wrong"] > 0.9


def test_an_unrelated_base_is_reported(owner, tmp_path):
    """The library, with random weights for a base: no copy is aligned with it."""
    (handoff,) = owner.perturb(kappa=0.1, copies=1)
    generator = torch.Generator().manual_seed(5)
    fresh = {
        name: torch.randn(tensor.shape, generator=generator) * tensor.std().nan_to_num(1)
        for name, tensor in load_file(owner.base / "model.safetensors").items()
    }
    (tmp_path / "fresh").mkdir()
    shutil.copy(owner.base / "config.json", tmp_path / "fresh")
    save_file(fresh, tmp_path / "fresh" / "model.safetensors", {"format": "pt"})
    aligner = Aligner(open_holding([handoff], open_checkpoint(tmp_path / "fresh")))
    aligner.layer(1)
    assert aligner.failed() == [0] and aligner.cosine(0) < 0.5


@pytest.mark.slow
def test_an_offset_stays_over_ten_rounds_and_three_colluding_holders(owner):
    """Ten rounds of one client and a split over three: at least .9 of c/√(1 + c²) each time."""
    rounds = [owner.perturb(kappa=0.3, offset=0.3, copies=1)[0]]
    rounds += [owner.perturb(kappa=0.3, copies=1)[0] for _ in range(9)]
    split = owner.perturb(kappa=0.3, split=True, client="other")
    rows = owner.rows(*rounds, *split, options=("--layers", "2"))
    everything = rows["all 13 handoffs"]
    assert 0.9 * left(0.3) < everything["stated"] <= 1.001 * left(0.3)
    assert everything["measured"] >= 0.9 * left(0.3)
    assert all(row["measured"] >= 0.95 * row["stated"] for row in rows.values())
