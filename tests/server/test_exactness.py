"""Nothing trained returns the model bit for bit.

A known change returns θ + change; the error falls as promised.
"""

import json
import shutil
import subprocess
import sys
from math import log
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import save_file
from two_parties import (
    change_all,
    difference,
    digest,
    hand_back,
    norm,
    publish,
    relative,
    small_change,
    take_back,
    train,
    train_all,
    untrained,
    weights,
    write_update,
)

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("denoising", ["harmonic", "extrapolation"])
@pytest.mark.parametrize("kappa", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "publish_as"),
    [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "bfloat16"), ("float16", "float16")],
)
def test_no_training_returns_the_model_bit_for_bit(
    tiny_pair, tmp_path, entropy, dtype, publish_as, kappa, denoising, offset
):
    """Whatever noise, offset, denoising and dtype.

    Copies handed back as they came leave the model as it is.
    """
    pair = tiny_pair("llama", dtype=dtype)
    publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=kappa,
        denoising=denoising,
        offset=offset,
        dtype=publish_as,
    )
    untrained(tmp_path / "h", tmp_path / "u")
    result = take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(pair.model) == result.model.digest
    assert result.unchanged and open_checkpoint(tmp_path / "out").config["dtype"] == dtype


@pytest.mark.parametrize("reparam", ["rotation", "none"])
def test_no_training_returns_the_model_under_any_reparameterization(
    tiny_pair, tmp_path, entropy, reparam
):
    """Also where T itself is not exact, because only differences are taken back."""
    pair = tiny_pair("qwen2")
    publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), reparam=reparam)
    untrained(tmp_path / "h", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(pair.model)


def test_a_model_of_two_dtypes_comes_back_in_both(tiny_pair, tmp_path, entropy):
    """float32 norms in a bfloat16 model.

    Copies are float32, an untrained update returns the model bit for bit.
    """
    pair = tiny_pair("llama", dtype="bfloat16")
    shutil.copytree(pair.model, tmp_path / "mixed")
    mixed = {
        name: value.float() * 1.0001 if "norm" in name else value
        for name, value in weights(pair.model).items()
    }
    save_file(mixed, tmp_path / "mixed" / "model.safetensors", metadata={"format": "pt"})
    record = publish(
        tmp_path / "mixed", pair.base, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.0
    ).handoffs[0]
    assert record.dtype == "float32"
    untrained(tmp_path / "h", tmp_path / "u")
    assert take_back(tmp_path / "u", tmp_path / "s", tmp_path / "mixed", tmp_path / "out").unchanged
    assert digest(tmp_path / "out") == digest(tmp_path / "mixed")


def test_zero_deltas_return_the_model_bit_for_bit(tiny_pair, tmp_path, entropy):
    """Zeros and negative zeros in an update change nothing, and neither do absent tensors."""
    pair = tiny_pair("llama")
    record = publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1)).handoffs[0]
    zeros = {name: -torch.zeros_like(tensor) for name, tensor in small_change(pair.model).items()}
    change_all(tmp_path / "s", record, pair.model, tmp_path / "h", tmp_path / "u", zeros)
    take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out")
    for name, tensor in weights(tmp_path / "out").items():
        assert torch.equal(tensor, weights(pair.model)[name])


@pytest.mark.parametrize("reparam", ["signed-permutation", "rotation"])
@pytest.mark.parametrize(
    ("denoising", "copies"), [("harmonic", 1), ("harmonic", 3), ("extrapolation", 3)]
)
def test_a_known_change_comes_back(tiny_pair, tmp_path, entropy, denoising, copies, reparam):
    """T_k(d) handed back for every copy returns θ + d.

    Each entry within its own rounding (signed permutations).
    """
    pair = tiny_pair("llama-biased")
    record = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(2),
        denoising=denoising,
        copies=copies,
        reparam=reparam,
        offset=0.1,
    ).handoffs[0]
    change = small_change(pair.model)
    change_all(tmp_path / "s", record, pair.model, tmp_path / "h", tmp_path / "u", change)
    result = take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out")
    theta, stored = weights(pair.model), weights(tmp_path / "out")
    for name, tensor in theta.items():
        expected = tensor.double() + change.get(name, torch.zeros(())).double()
        if name not in change:
            assert torch.equal(stored[name], tensor), name
        elif reparam == "signed-permutation":
            # Σ w_k = 1 to 1e-16, which tips a rare tie of the last rounding.
            assert torch.equal(stored[name], expected.float()) or copies > 1, name
            near = (
                torch.nextafter(expected.float(), expected.float() + 1),
                torch.nextafter(expected.float(), expected.float() - 1),
            )
            assert ((stored[name] <= near[0]) & (stored[name] >= near[1])).all(), name
            assert float((stored[name] == expected.float()).float().mean()) > 0.9
        assert float((stored[name].double() - expected).norm()) <= 1e-7 * float(expected.norm())
    assert result.agreement == ((None,) if copies == 1 else (pytest.approx(1, abs=1e-6),))
    assert result.changed.relative_norm == pytest.approx(norm(change) / norm(theta), rel=1e-6)


def test_the_server_learning_rate_scales_the_change(tiny_pair, tmp_path, entropy):
    """--server-lr 0.5 applies half of the aggregated update."""
    pair = tiny_pair("llama")
    record = publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(2)).handoffs[0]
    change = small_change(pair.model)
    change_all(tmp_path / "s", record, pair.model, tmp_path / "h", tmp_path / "u", change)
    take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out", server_lr=0.5)
    half = {name: value / 2 for name, value in change.items()}
    update = difference(tmp_path / "out", pair.model)
    assert relative({name: update[name] for name in half}, half) <= 1e-5


def test_one_tensor_changed_in_one_copy(tiny_pair, tmp_path, entropy):
    """A copy without a tensor adds zero to it; a tensor without any change keeps its bytes."""
    pair = tiny_pair("llama")
    record = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(2),
        copies=2,
        alphas=(1.0, 3.0),
    ).handoffs[0]
    name = "model.norm.weight"
    delta = torch.full_like(weights(pair.model)[name], 0.25)
    write_update(tmp_path / "h", tmp_path / "u", {"copy-1": {name: delta}, "copy-2": {}})
    opened = {"min_agreement": -1.0}  # the gates refuse such an update
    take_back(tmp_path / "u", tmp_path / "s", pair.model, tmp_path / "out", **opened)
    for key, tensor in weights(tmp_path / "out").items():
        expected = weights(pair.model)[key] + (0.75 * 0.25 if key == name else 0)
        assert torch.allclose(tensor, expected, rtol=0, atol=1e-7 if key == name else 0), record.id


def test_dtype_auto_of_the_result(tiny_pair, tmp_path, entropy):
    """A change that bfloat16 can hold keeps the model's bfloat16.

    One below its grid is written as float32, and says so.
    """
    pair = tiny_pair("llama", dtype="bfloat16")
    record = publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(2)).handoffs[0]
    for share, dtype in ((0.1, "bfloat16"), (0.0005, "float32")):
        folder = tmp_path / dtype
        change = small_change(pair.model, share)
        change_all(tmp_path / "s", record, pair.model, tmp_path / "h", folder / "u", change)
        result = take_back(folder / "u", tmp_path / "s", pair.model, folder / "out", dtype="auto")
        assert result.changed.dtype == open_checkpoint(folder / "out").config["dtype"] == dtype
        assert digest(folder / "out") == result.model.digest
        expected = {
            name: weights(pair.model)[name].double() + change.get(name, torch.zeros(())).double()
            for name in weights(pair.model)
        }
        assert relative(weights(folder / "out"), expected) <= (
            3e-3 if dtype == "bfloat16" else 1e-7
        )
        assert result.changed.cosine >= 0.99
    result = take_back(
        tmp_path / "float32" / "u",
        tmp_path / "s",
        pair.model,
        tmp_path / "forced",
        dtype="bfloat16",
        fork=True,
    )
    assert result.changed.dtype == "bfloat16" and result.changed.cosine < 0.99


def test_bfloat16_deltas_cost_little(tiny_pair, tmp_path, entropy):
    """An update in bfloat16 differs from the float32 one by its own rounding, 2⁻⁹."""
    pair = tiny_pair("llama")
    publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(2))
    train_all(tmp_path / "h", tmp_path / "t", "sgd", steps=5)
    for dtype in ("float32", "bfloat16"):
        hand_back(tmp_path / "h", tmp_path / "t", tmp_path / f"u-{dtype}", dtype)
        take_back(tmp_path / f"u-{dtype}", tmp_path / "s", pair.model, tmp_path / f"out-{dtype}")
    exact, rounded = (
        difference(tmp_path / f"out-{dtype}", pair.model) for dtype in ("float32", "bfloat16")
    )
    assert 1e-4 < relative(rounded, exact) < 2**-8


def test_shards_change_nothing(tiny_pair, tmp_path, entropy):
    """A sharded handoff holds the tensors of a single file, and its update gives the same model."""
    pair = tiny_pair("llama")
    digests, results = [], []
    for size in (10**9, 20_000):
        folder = tmp_path / f"{size}"
        record = publish(
            pair.model, pair.base, folder / "h", folder / "s", entropy(3), max_shard_bytes=size
        ).handoffs[0]
        digests.append([digest(folder / "h" / copy.name) for copy in record.copies])
        hand_back(folder / "h", _changed(folder, record, tmp_path / "1000000000"), folder / "u")
        result = take_back(
            folder / "u", folder / "s", pair.model, folder / "out", max_shard_bytes=size
        )
        results.append(open_checkpoint(folder / "out"))
        assert result.model.digest == digest(folder / "out")
    assert digests[0] == digests[1]
    assert (tmp_path / "20000" / "out" / "model.safetensors.index.json").exists()
    assert digest(tmp_path / "20000" / "out") == digest(tmp_path / "1000000000" / "out")
    assert set(results[0].tensors) == set(results[1].tensors)


def _changed(folder, record, single):
    """Trained copies for the sharded handoff: the single-file handoff's copies, one norm moved."""
    for copy in record.copies:
        shutil.copytree(single / "h" / copy.name, folder / "t" / copy.name)
        tensors = weights(folder / "t" / copy.name)
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 0.125
        save_file(
            tensors, folder / "t" / copy.name / "model.safetensors", metadata={"format": "pt"}
        )
    return folder / "t"


# How the error grows with the noise
# ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def error(tiny_pair, tmp_path_factory, entropy):
    """`error(kappa, …)`: the aggregated update's error against plain unlearning, end to end.

    SGD, 0.5 % of the weights.
    """
    pair = tiny_pair("llama")
    folder = tmp_path_factory.mktemp("slopes")
    options = {"steps": 10, "rate": 0.06}
    plain = difference(train(pair.model, folder / "plain", "sgd", **options), pair.model)
    assert norm(plain) >= 0.005 * norm(weights(pair.model))
    count = iter(range(10**6))

    def measured(draw=0, **given):
        root = folder / f"{next(count)}"
        publish(pair.model, pair.base, root / "h", root / "s", entropy(1000 + draw), **given)
        train_all(root / "h", root / "t", "sgd", **options)
        hand_back(root / "h", root / "t", root / "u")
        take_back(root / "u", root / "s", pair.model, root / "out")
        return relative(difference(root / "out", pair.model), plain)

    return measured


def slope(points):
    """Least-squares slope of log error against log κ."""
    x, y = [log(kappa) for kappa, _ in points], [log(value) for _, value in points]
    centre = sum(x) / len(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum(
        (a - centre) ** 2 for a in x
    )


@pytest.mark.parametrize(
    ("denoising", "copies", "least", "most"),
    [
        ("harmonic", 1, 0.9, 1.1),
        ("harmonic", 2, 1.7, 2.2),
        ("harmonic", 3, 1.7, 2.2),
        ("extrapolation", 3, 2.5, 3.5),
    ],
)
def test_the_error_falls_with_the_promised_power_of_the_noise(
    error, denoising, copies, least, most
):
    """The error grows with κ² (harmonic), κ³ (extrapolation) or κ (one copy) from .05 to .2."""
    measured = slope(
        [(kappa, error(denoising=denoising, copies=copies, kappa=kappa)) for kappa in (0.05, 0.2)]
    )
    assert least <= measured <= most


def test_with_an_offset_every_slope_is_one(error):
    """Negative control: an offset as large as the noise leaves an error of first order."""
    for denoising in ("harmonic", "extrapolation"):
        measured = slope(
            [
                (kappa, error(denoising=denoising, copies=3, kappa=kappa, offset=kappa))
                for kappa in (0.03, 0.1)
            ]
        )
        assert 0.85 <= measured <= 1.15
    alone = error(copies=1, kappa=0.0, offset=0.1)
    assert error(copies=3, kappa=0.1, offset=0.1) == pytest.approx(alone, rel=0.25)
    assert error(copies=3, kappa=0.1) < 0.3 * alone


@pytest.mark.slow
def test_slopes_of_the_tiny_model(error):
    """Medians of three draws over κ = .01 … .3 meet the bars with SGD."""
    for denoising, copies, bar, kappas in (
        ("harmonic", 1, 1.0, (0.01, 0.03, 0.1, 0.3)),
        ("harmonic", 2, 1.8, (0.01, 0.03, 0.1, 0.3)),
        ("harmonic", 3, 1.8, (0.01, 0.03, 0.1, 0.3)),
        ("extrapolation", 3, 2.5, (0.03, 0.1, 0.3)),
    ):
        points = [
            (
                kappa,
                median(
                    error(draw, denoising=denoising, copies=copies, kappa=kappa)
                    for draw in range(3)
                ),
            )
            for kappa in kappas
        ]
        assert slope(points) >= bar if copies > 1 else slope(points) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_slopes_of_the_demo_model():
    """`benchmarks/slopes.py` meets the bars on the demo's trained model with Adafactor."""
    script = Path(__file__).parents[2] / "benchmarks" / "slopes.py"
    done = subprocess.run(
        [sys.executable, script, "--json"], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["update"] >= 0.005
    settings = report["settings"]
    assert settings["harmonic m=1"]["slope .01 to .3"] == pytest.approx(1, abs=0.1)
    assert (
        settings["harmonic m=2"]["slope .01 to .3"] >= 1.8
        and settings["harmonic m=3"]["slope .01 to .3"] >= 1.8
    )
    assert settings["extrapolation m=3"]["slope .03 to .3"] >= 2.5


def test_a_result_that_its_dtype_cannot_hold_is_refused(tiny_pair, tmp_path, entropy):
    """`--dtype float16` of a model with a weight above 65504 would write an infinity.

    Refused by name, nothing left.
    """
    loud = tmp_path / "loud"
    shutil.copytree(tiny_pair("llama").model, loud)
    tensors = weights(loud)
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = 7e4
    save_file(tensors, loud / "model.safetensors", {"format": "pt"})
    publish(loud, None, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.0, copies=1)
    untrained(tmp_path / "h", tmp_path / "u")
    with pytest.raises(BadModelError, match=r"down_proj\.weight overflows float16"):
        take_back(tmp_path / "u", tmp_path / "s", loud, tmp_path / "next", dtype="float16")
    assert not (tmp_path / "next").exists()
