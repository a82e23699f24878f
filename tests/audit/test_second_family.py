"""What audits find on the demo's Llama they find on a trained toy of another family: Qwen3."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from math import hypot, sqrt
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from rounds import quietly
from toy import SHAPE, altered, trained, write_rows
from two_parties import layout_of, publish

TRAIN = ("--method", "GradAscent", "--optimizer", "adamw", "--learning-rate", "1e-3")
TRAIN += ("--epochs", "6", "--batch-size", "6")


@dataclass
class Toy:
    """The trained toy, its base and the rows that it knows."""

    model: Path
    base: Path
    rows: dict[str, Path]


@pytest.fixture(scope="session")
def toy(tiny_pair, tmp_path_factory):
    """See `Toy`; tests must not change it."""
    folder = tmp_path_factory.mktemp("toy")
    rows = write_rows(folder)
    base = shutil.copytree(tiny_pair("qwen3", **SHAPE).model, folder / "base")
    return Toy(trained(base, folder / "model", rows.values()), base, rows)


@pytest.fixture
def told(toy, tmp_path, entropy, capsys):
    """`told(model=…, base=…, keep_base=True, **settings)`: hand out, audit; the rows by pool."""

    def call(*, model=toy.model, base=toy.base, keep_base=True, **settings):
        own = shutil.copytree(base, tmp_path / "own-base")
        publish(model, own, tmp_path / "h", tmp_path / "s", entropy(5), kappa=0.1, **settings)
        if not keep_base:
            shutil.rmtree(own)
        words = ("audit", "handoff", tmp_path / "h", "--secret", tmp_path / "s", "--model", model)
        capsys.readouterr()
        code = quietly((*words, "--layers", "all", "--no-behaviour", "--json"))
        found = json.loads(capsys.readouterr().out)
        assert code == 0, found
        return {row["pool"]: row for row in found["rows"]}

    return call


def left(noise):
    """What a best linear estimate leaves of a task vector of size 1."""
    return noise / hypot(1, noise)


def single(rows):
    """The rows of single copies, by what is stated of them."""
    return sorted(
        (row for row in rows.values() if len(row["copies"]) == 1), key=itemgetter("stated")
    )


def errors(row, attack):
    """Errors by the label of an attack's estimate."""
    return {it["label"]: it["error"] for it in row["attempts"] if it["attack"] == attack}


def test_one_copy_leaves_what_its_noise_says_and_all_leave_nothing(toy, told):
    """S/√(1 + s²) ± 5 % by linear attacks, never less than .95 of what is stated; all: 1e-4."""
    rows = told()
    for row, noise in zip(single(rows), (0.1, 0.15, 0.2), strict=True):
        assert errors(row, "one copy") and row["measured"] >= 0.95 * row["stated"]
        linear = min(errors(row, "one copy").values())
        assert linear == pytest.approx(left(noise), rel=0.05)
    pooled = rows["h"]
    assert pooled["stated"] == 0 and pooled["measured"] < 1e-4 and pooled["exact"] > 0.5
    entries = sum(
        load_file(toy.model / "model.safetensors")[name].numel()
        for name in layout_of(toy.model).layer_of()
    )
    unknown = errors(pooled, "pooling")["least squares"]
    assert unknown < 3 * sqrt(2 / entries)  # secret α: √((m − 1)/N), up to chance


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"keep_base": False}, 1e-4),
        ({"denoising": "extrapolation"}, 1e-4),
        ({"denoising": "extrapolation", "copies": 2, "nodes": (1.0, -1.3)}, 0.02),
        ({"copies": 3, "alphas": (1.0, 1.1, 1.9)}, 1e-3),
    ],
)
def test_all_copies_of_other_draws_leave_as_little(told, settings, limit):
    """Without the base; extrapolation with known and with secret nodes; secret α."""
    assert told(**settings)["h"]["measured"] < limit


def test_a_low_rank_task_vector_lies_below_the_linear_bound(toy, told, tmp_path):
    """Rank 8 in each matrix: singular values reach what is stated."""
    generator = torch.Generator().manual_seed(1)
    noised = set(layout_of(toy.base).layer_of())

    def merged(name, tensor):
        if name not in noised or tensor.ndim < 2:
            return tensor
        thin = [torch.randn(size, 8, generator=generator) for size in tensor.shape]
        return tensor + 0.1 * tensor.std() * (thin[0] @ thin[1].T) / sqrt(8)

    (row,) = single(told(model=altered(toy.base, tmp_path / "merged", merged), copies=1))
    assert row["nearest"].startswith("singular values")
    assert 0.95 * row["stated"] < row["measured"] < 1.15 * row["stated"] < 0.8 * left(0.1)


def test_noise_below_the_grid_of_a_bfloat16_model_hides_nothing(toy, told, tmp_path):
    """κ = .1 of a small change is less than half a step of most entries."""
    base = altered(toy.base, tmp_path / "b", lambda _, it: it.bfloat16(), "bfloat16")
    before, after = (load_file(it / "model.safetensors") for it in (toy.base, toy.model))

    def lightly(name, tensor):
        return (before[name] + 0.01 * (after[name] - before[name])).bfloat16()

    model = altered(toy.base, tmp_path / "m", lightly, "bfloat16")
    (row,) = single(told(model=model, base=base, copies=1, dtype="float32"))
    assert row["nearest"].startswith("grid: rounded to bfloat16")
    assert 0.9 * row["stated"] < row["measured"] < 0.7 * left(0.1)
    assert row["exact"] > 0.5


@pytest.mark.parametrize("embeddings", [(), ("--train-embeddings",)])
def test_what_an_update_tells(toy, tmp_path, capsys, embeddings):
    """Membership with its interval, the control near .5; tokens only of trained embeddings."""
    handoff, update = tmp_path / "h", tmp_path / "u"
    perturb = ("perturb", toy.model, "--base", toy.base, "--secret", tmp_path / "s", "-m", 1)
    perturb += ("--handoff", handoff, "--check", "none", *embeddings)
    assert quietly(("--quiet", *perturb)) == 0
    unlearn = ("unlearn", handoff, "--forget", toy.rows["forget"], "--out", update, *embeddings)
    assert quietly(("--quiet", *unlearn, *TRAIN)) == 0
    sets = [word for name, file in toy.rows.items() for word in (f"--{name}", file)]
    capsys.readouterr()
    assert quietly(("audit", "update", update, handoff, *sets, "--json")) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    for attack in ("loss_change", "gradient_cosine"):
        content = found[f"forget_decoys:{attack}"]
        auc, control = content["auc"], content["control_auc"]
        assert auc["value"] > 0.8 and 0.5 < auc["low"] <= auc["value"] <= auc["high"]
        assert control["low"] < 0.5 < control["high"]
    if embeddings:
        tokens = found["token_rows:model.embed_tokens.weight"]
        assert tokens["precision"] == 1 and tokens["recall"] > 0.9
    else:
        assert found["token_rows"]["measured"] == "none moved: frozen"
