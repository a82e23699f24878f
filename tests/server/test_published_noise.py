"""What is in the published files: σ, zero sum, correlations, scope, the frozen offset, dtypes.

All from prepared secrets.

Statistics are over at least 1e5 entries of one layer, judged at five standard errors.
"""

import shutil
from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from two_parties import (
    change_all,
    fingerprint,
    layout_of,
    norm,
    publish,
    small_change,
    take_back,
    undone,
    weights,
)

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import GateError, UsageError
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.noise import NoiseDraw, dealt, zero_sum_basis

WIDE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
}


@pytest.fixture(scope="module")
def wide(tiny_pair):
    """A Llama with one layer of more than 1e5 entries."""
    pair = tiny_pair("llama", **WIDE)
    layer = layout_of(pair.model).layers[0]
    assert sum(weights(pair.model)[name].numel() for name in layer.noised) >= 100_000
    return pair


def noise_of(pair, tmp_path, entropy, **given):
    """Publish; return the record and each copy's noise (published, T undone, − θ) as one vector."""
    result = publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(3), **given)
    record = result.handoffs[0]
    names = [name for layer in layout_of(pair.model).layers for name in layer.noised]
    theta = weights(pair.model)
    copies = undone(tmp_path / "s", record, pair.model, tmp_path / "h")
    return record, {
        copy: torch.cat([(tensors[name] - theta[name].double()).ravel() for name in names])
        for copy, tensors in copies.items()
    }


def task_rms(pair):
    """RMS(θ − base) of the only layer."""
    theta, base = weights(pair.model), weights(pair.base)
    parts = [
        (theta[name].double() - base[name].double()).ravel()
        for name in layout_of(pair.model).layers[0].noised
    ]
    return float(torch.cat(parts).square().mean().sqrt())


@given(size=st.integers(2, 12))
def test_the_zero_sum_basis_is_orthonormal_and_sums_to_zero(size):
    """Helmert's columns are orthonormal and orthogonal to the ones vector."""
    basis = zero_sum_basis(size)
    assert basis.shape == (size, size - 1)
    assert np.allclose(basis.T @ basis, np.eye(size - 1), atol=1e-14)
    assert np.abs(basis.sum(axis=0)).max() < 1e-14
    covariance = size / (size - 1) * basis @ basis.T
    assert np.allclose(np.diag(covariance), 1)
    assert np.allclose(covariance[~np.eye(size, dtype=bool)], -1 / (size - 1))


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_harmonic_copies_have_the_asked_noise(wide, tmp_path, entropy, copies):
    """σ per copy is κ·α_k·RMS(task vector) within max(2 %, 4/√(2N)).

    Copies correlate by −1/(m−1); Σ ε_k = 0 in float32.
    """
    record, noise = noise_of(wide, tmp_path, entropy, copies=copies, kappa=0.1)
    count = len(noise["copy-1"])
    assert record.sigma["layer 0"] == pytest.approx(0.1 * task_rms(wide), rel=1e-6)
    alphas = {copy.name: copy.coefficient for copy in record.copies}
    assert sorted(alphas.values()) == pytest.approx([1 + k / (copies - 1) for k in range(copies)])
    for name, values in noise.items():
        asked = alphas[name] * 0.1 * task_rms(wide)
        assert float(values.square().mean().sqrt()) == pytest.approx(
            asked, rel=max(0.02, 4 / sqrt(2 * count))
        )
        assert float(values.square().mean().sqrt()) == pytest.approx(asked, rel=5 / sqrt(2 * count))
        assert abs(float(values.mean())) < 5 * asked / sqrt(count)
    expected = -1 / (copies - 1)
    for first, second in combinations(noise.values(), 2):
        correlation = float((first * second).sum() / (first.norm() * second.norm()))
        assert abs(correlation - expected) < 5 * (1 - expected**2) / sqrt(count) + 1e-5
    rest = sum(values / alphas[name] for name, values in noise.items())
    theta = norm(
        {name: weights(wide.model)[name] for name in layout_of(wide.model).layers[0].noised}
    )
    assert float(rest.norm()) <= 1e-7 * theta
    assert record.realised["noise"] == pytest.approx(1, abs=5 / sqrt(2 * count))
    assert record.realised["residual"] <= 1e-7
    assert record.realised["changed"] > 0.999 and record.realised["recoverable"] < 0.001


def test_zero_sum_holds_on_the_plain_files(wide, tmp_path, entropy):
    """With `--reparam none` the weighted mean of the published files is θ to 1e-7 of its norm."""
    result = publish(
        wide.model, wide.base, tmp_path / "h", tmp_path / "s", entropy(4), reparam="none", kappa=0.1
    )
    inverse = {copy.name: 1 / copy.coefficient for copy in result.handoffs[0].copies}
    copies = {name: weights(tmp_path / "h" / name) for name in inverse}
    theta = weights(wide.model)
    mean = {
        name: (
            sum(inverse[copy] * copies[copy][name].double() for copy in copies)
            / sum(inverse.values())
            - theta[name].double()
        )
        for name in theta
    }
    assert 0 < norm(mean) <= 1e-7 * norm(theta)
    # In σ's own words: Σ ε_k, weighted as published.
    total = {
        name: sum(
            inverse[copy] * (copies[copy][name].double() - theta[name].double()) for copy in copies
        )
        for name in theta
    }
    assert norm(total) <= 1e-7 * norm(theta) * sum(inverse.values())


def test_extrapolation_copies_lie_on_one_line(wide, tmp_path, entropy):
    """Each copy's noise is its node times one direction of standard deviation σ."""
    record, noise = noise_of(
        wide, tmp_path, entropy, copies=4, denoising="extrapolation", kappa=0.1
    )
    nodes = {copy.name: copy.coefficient for copy in record.copies}
    assert sorted(nodes.values()) == [-1.5, -1.0, 1.0, 1.5]
    count = len(noise["copy-1"])
    direction = noise["copy-1"] / nodes["copy-1"]
    assert float(direction.square().mean().sqrt()) == pytest.approx(
        0.1 * task_rms(wide), rel=5 / sqrt(2 * count)
    )
    for name, values in noise.items():
        assert float((values - nodes[name] * direction).norm()) <= 1e-5 * float(values.norm())


def test_one_copy_has_plain_noise(wide, tmp_path, entropy):
    """M = 1: ε is drawn as it is, α = 1."""
    record, noise = noise_of(wide, tmp_path, entropy, copies=1, kappa=0.2)
    values = noise["copy-1"]
    assert record.copies[0].coefficient == 1.0
    assert float(values.square().mean().sqrt()) == pytest.approx(
        0.2 * task_rms(wide), rel=5 / sqrt(2 * len(values))
    )
    kurtosis = float((values**4).mean() / values.square().mean() ** 2)
    assert abs(kurtosis - 3) < 5 * sqrt(24 / len(values))


def test_given_coefficients_keep_their_order_and_defaults_are_dealt(wide, tmp_path, entropy):
    """--alphas and --nodes are in copy order.

    The defaults' order is secret, and not always the same.
    """
    given_ = publish(
        wide.model, wide.base, tmp_path / "a", tmp_path / "sa", entropy(5), alphas=(2.5, 1.25, 1.0)
    )
    assert [copy.coefficient for copy in given_.handoffs[0].copies] == [2.5, 1.25, 1.0]
    nodes = publish(
        wide.model,
        wide.base,
        tmp_path / "b",
        tmp_path / "sb",
        entropy(5),
        copies=2,
        denoising="extrapolation",
        nodes=(-3.0, 0.5),
    )
    assert [copy.coefficient for copy in nodes.handoffs[0].copies] == [-3.0, 0.5]
    orders = {dealt(bytes(range(32)), f"{number}", (1.0, 1.5, 2.0)) for number in range(60)}
    assert len(orders) == 6


def test_noise_relative_to_the_weights(wide, tmp_path, entropy):
    """Without a base σ is κ·RMS of the layer's matrices, also for norms, with a warning."""
    result = publish(wide.model, None, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.1)
    noised = [weights(wide.model)[name].double() for name in layout_of(wide.model).layers[0].noised]
    theta = torch.cat([tensor.ravel() for tensor in noised if tensor.dim() > 1])
    assert result.relative_to == "weights"
    assert result.handoffs[0].sigma["layer 0"] == pytest.approx(
        0.1 * float(theta.square().mean().sqrt()), rel=1e-6
    )
    assert any("ruins a real model" in line for line in result.warnings)
    quiet = publish(wide.model, None, tmp_path / "h2", tmp_path / "s2", entropy(1), kappa=0.01)
    assert not any("ruins" in line for line in quiet.warnings)


def test_entries_outside_the_scope_are_the_same_bytes(tiny_pair, tmp_path, entropy):
    """Scope `layers` leaves embedding, final norm and head byte for byte, negative zeros too.

    Every layer entry moves.
    """
    pair = tiny_pair("llama")
    publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), offset=0.1)
    layout = layout_of(pair.model)
    original = open_checkpoint(pair.model)
    for copy in ("copy-1", "copy-2", "copy-3"):
        published = open_checkpoint(tmp_path / "h" / copy)
        for name in (name for names in layout.outside.values() for name in names):
            assert _bytes(published.tensors[name]) == _bytes(original.tensors[name])
        for layer in layout.layers:
            for name in layer.noised:
                assert _bytes(published.tensors[name]) != _bytes(original.tensors[name])


def _bytes(info):
    with info.file.open("rb") as file:
        file.seek(info.start)
        return file.read(info.nbytes)


def test_scope_all_noises_everything_that_differs_from_the_base(tiny_pair, tmp_path, entropy):
    """Scope `all` gives each outside tensor a σ of its own.

    Those that equal the base are left as they are and named.
    """
    pair = tiny_pair("llama")
    result = publish(
        pair.model, None, tmp_path / "h", tmp_path / "s", entropy(1), scope="all", kappa=0.01
    )
    record = result.handoffs[0]
    assert {"embedding", "final norm", "head"} <= set(record.sigma)
    theta = weights(pair.model)
    for name, tensor in weights(tmp_path / "h" / "copy-1").items():
        assert not torch.equal(tensor, theta[name]), name
    sigma = 0.01 * float(theta["lm_head.weight"].double().square().mean().sqrt())
    assert record.sigma["head"] == pytest.approx(sigma, rel=1e-6)
    same = publish(pair.model, pair.base, tmp_path / "h2", tmp_path / "s2", entropy(1), scope="all")
    assert any("embedding, final norm, head" in line for line in same.warnings)
    assert torch.equal(
        weights(tmp_path / "h2" / "copy-1")["lm_head.weight"], theta["lm_head.weight"]
    )


# The frozen offset
# ------------------------------------------------------------------------------------------


def test_the_offset_is_the_same_in_every_copy_round_and_holder(wide, tmp_path, entropy):
    """ξ has standard deviation c·RMS(task vector) and is the same in two rounds, one split."""
    source = entropy(7)
    first = publish(
        wide.model,
        wide.base,
        tmp_path / "h1",
        tmp_path / "s",
        source,
        kappa=0.0,
        offset=0.2,
        copies=2,
    )
    second = publish(
        wide.model,
        wide.base,
        tmp_path / "h2",
        tmp_path / "s",
        source,
        kappa=0.3,
        copies=2,
        split=True,
    )
    theta = weights(wide.model)
    names = layout_of(wide.model).layers[0].noised
    offsets = []
    for copy in undone(tmp_path / "s", first.handoffs[0], wide.model, tmp_path / "h1").values():
        offsets.append(torch.cat([(copy[name] - theta[name].double()).ravel() for name in names]))
    assert torch.equal(offsets[0], offsets[1])
    count = len(offsets[0])
    assert float(offsets[0].square().mean().sqrt()) == pytest.approx(
        0.2 * task_rms(wide), rel=5 / sqrt(2 * count)
    )
    total, inverse = torch.zeros(count, dtype=torch.float64), 0.0
    for number, record in enumerate(second.handoffs, 1):
        (copy,) = undone(
            tmp_path / "s", record, wide.model, tmp_path / "h2" / f"holder-{number}"
        ).values()
        alpha = record.copies[0].coefficient
        total += torch.cat([(copy[name] - theta[name].double()).ravel() for name in names]) / alpha
        inverse += 1 / alpha
    assert float((total / inverse - offsets[0]).norm()) <= 1e-5 * float(offsets[0].norm())
    assert [record.holder for record in second.handoffs] == ["client-1", "client-2"]


def test_a_changed_offset_is_refused(tiny_pair, tmp_path, entropy):
    """Another --offset in one lineage is refused: two scales of one direction reveal θ."""
    pair = tiny_pair("llama")
    source = entropy(1)
    publish(pair.model, pair.base, tmp_path / "h1", tmp_path / "s", source, offset=0.1)
    before = fingerprint(tmp_path / "s")
    for changed in (0.2, 0.0):
        with pytest.raises(GateError, match=r"froze its offset at 0\.1"):
            publish(pair.model, pair.base, tmp_path / "h2", tmp_path / "s", source, offset=changed)
    assert fingerprint(tmp_path / "s") == before and not (tmp_path / "h2").exists()
    second = publish(pair.model, pair.base, tmp_path / "h2", tmp_path / "s", source)
    assert second.handoffs[0].offset == 0.1
    publish(pair.model, pair.base, tmp_path / "h3", tmp_path / "s", source, offset=0.1)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize(("scope", "other"), [("layers", "all"), ("all", "layers")])
def test_a_lineage_keeps_its_unit_and_its_scope(tiny_pair, tmp_path, entropy, offset, scope, other):
    """A later round refuses another unit of κ or another scope, with and without an offset."""
    pair, source = tiny_pair("llama"), entropy(1)
    publish(
        pair.model, pair.base, tmp_path / "h1", tmp_path / "s", source, offset=offset, scope=scope
    )
    with pytest.raises(GateError, match="measures its noise by the task-vector"):
        publish(
            pair.model,
            pair.base,
            tmp_path / "h2",
            tmp_path / "s",
            source,
            noise_relative_to="weights",
            scope=scope,
        )
    with pytest.raises(UsageError, match="needs --base"):
        publish(pair.model, None, tmp_path / "h2", tmp_path / "s", source, scope=scope)
    with pytest.raises(GateError, match=f"began with --scope {scope}") as caught:
        publish(pair.model, pair.base, tmp_path / "h2", tmp_path / "s", source, scope=other)
    assert caught.value.hint is not None and caught.value.hint.startswith(f"give --scope {scope}: ")
    assert not (tmp_path / "h2").exists() and len(Lineage.read(tmp_path / "s").handoffs) == 1


def test_two_rounds_pooled_leave_the_offset(wide, tmp_path, entropy):
    """The best combination of both rounds' denoised copies leaves 0.9 c of θ unknown."""
    c, source, secret = 0.1, entropy(8), tmp_path / "s"
    first = publish(
        wide.model, wide.base, tmp_path / "h1", secret, source, kappa=0.1, offset=c, reparam="none"
    ).handoffs[0]
    change = small_change(wide.model)
    change_all(secret, first, wide.model, tmp_path / "h1", tmp_path / "u", change)
    take_back(tmp_path / "u", secret, wide.model, tmp_path / "next")
    second = publish(
        tmp_path / "next",
        wide.base,
        tmp_path / "h2",
        secret,
        source,
        kappa=0.3,
        reparam="none",
        denoising="extrapolation",
    ).handoffs[0]
    names = layout_of(wide.model).layers[0].noised

    def vector(tensors):
        return torch.cat([tensors[name].double().ravel() for name in names])

    theta, base = vector(weights(wide.model)), vector(weights(wide.base))
    task = theta - base
    pieces = [vector(weights(tmp_path / "h1" / copy.name)) - base for copy in first.copies]
    # The client knows what it changed.
    pieces += [
        vector(weights(tmp_path / "h2" / copy.name)) - vector(change) - base
        for copy in second.copies
    ]
    # An oracle that even knows θ picks the best linear combination of all six copies: no real
    # attack does better.
    matrix = torch.stack(pieces, dim=1)
    best = torch.linalg.lstsq(matrix, task[:, None]).solution
    left = float((matrix @ best - task[:, None]).norm() / task.norm())
    assert left >= 0.9 * c
    assert left <= 1.05 * c  # and pooling does get down to the offset
    # Control: were the offset drawn anew in the second round, pooling would average it out.
    generator = torch.Generator().manual_seed(0)
    fresh = [
        task
        + c
        * float(task.square().mean().sqrt())
        * torch.randn(len(task), generator=generator, dtype=torch.float64)
        for _ in "12"
    ]
    mean = (fresh[0] + fresh[1]) / 2
    assert float((mean - task).norm() / task.norm()) < 0.8 * c


def test_draws_of_one_lineage_are_independent(wide, tmp_path, entropy):
    """Two handoffs of one model carry uncorrelated noise, and other ids."""
    source = entropy(9)
    first = publish(
        wide.model, wide.base, tmp_path / "h1", tmp_path / "s", source, reparam="none", copies=1
    ).handoffs[0]
    second = publish(
        wide.model, wide.base, tmp_path / "h2", tmp_path / "s", source, reparam="none", copies=1
    ).handoffs[0]
    assert first.draw != second.draw and first.id != second.id
    theta = weights(wide.model)
    name = "model.layers.0.mlp.up_proj.weight"
    noises = [
        (weights(tmp_path / folder / "copy-1")[name] - theta[name]).double().ravel()
        for folder in ("h1", "h2")
    ]
    cosine = float((noises[0] * noises[1]).sum() / (noises[0].norm() * noises[1].norm()))
    assert abs(cosine) < 5 / sqrt(len(noises[0]))


@given(
    start=st.integers(0, 3000),
    length=st.integers(1, 3000),
    denoising=st.sampled_from(["harmonic", "extrapolation"]),
    size=st.integers(2, 4),
)
@settings(deadline=None, max_examples=20)
def test_noise_is_addressed_by_entry(start, length, denoising, size):
    """Any span of a tensor reads the same noise and offset as the whole."""
    draw = NoiseDraw(
        bytes(32),
        "ab",
        denoising,
        [1.0, -1.0, 2.0, 3.0][:size]
        if denoising == "extrapolation"
        else [1.0, 1.5, 2.0, 3.0][:size],
        {"g": 0.5},
        {"g": 0.25},
    )
    stop = start + length
    offset = 64_000  # near the end of the first block of normals, so that some spans lie in two
    values = torch.linspace(-1, 1, offset + 6000)
    whole = [torch.empty_like(values) for _ in range(size)]
    centre = draw.of("g", "t").add_to(values, 0, whole)
    start, stop = offset + start, offset + stop
    part = [torch.empty(length) for _ in range(size)]
    part_centre = draw.of("g", "t").add_to(values[start:stop], start, part)
    assert torch.equal(centre[start:stop], part_centre)
    for full, piece in zip(whole, part, strict=True):
        assert torch.equal(full[start:stop], piece)
    assert draw.of("other", "t") is None


# dtypes
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "given_", "published"),
    [
        ("bfloat16", {"kappa": 0.1}, "float32"),  # rounding is far more than a tenth of this noise
        ("bfloat16", {"kappa": 3.0, "copies": 1}, "bfloat16"),
        ("bfloat16", {"kappa": 0.0}, "bfloat16"),  # no noise at all: nothing is lost
        ("bfloat16", {"kappa": 0.0, "offset": 3.0}, "bfloat16"),
        ("bfloat16", {"kappa": 0.0, "offset": 0.01}, "float32"),
        (
            "bfloat16",
            {"kappa": 0.0, "reparam": "rotation"},
            "float32",
        ),  # a rotated weight is no longer on the grid
        ("float16", {"kappa": 0.1}, "float16"),
        ("float32", {"kappa": 0.001}, "float32"),
    ],
)
def test_dtype_auto_keeps_a_narrow_dtype_only_under_much_noise(
    tiny_pair, tmp_path, entropy, dtype, given_, published
):
    """Copies keep the model's dtype only if rounding is less than a tenth of the noise."""
    pair = tiny_pair("llama", dtype=dtype)
    record = publish(
        pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), **given_
    ).handoffs[0]
    assert record.dtype == published
    copy = open_checkpoint(tmp_path / "h" / "copy-1")
    assert copy.config["dtype"] == published
    assert {info.dtype for info in copy.tensors.values()} == {
        {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[published]
    }


def test_a_dtype_that_rounds_the_noise_away_is_warned_of(tiny_pair, tmp_path, entropy):
    """--dtype bfloat16 at κ = 0.01 warns of noise rounded away and of exact recovery."""
    pair = tiny_pair("llama", dtype="bfloat16")
    result = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=0.01,
        dtype="bfloat16",
    )
    assert any("rounds away" in line for line in result.warnings)
    record = result.handoffs[0]
    assert record.realised["changed"] < 0.9 and record.realised["residual"] > 1e-5
    light = publish(
        pair.model, pair.base, tmp_path / "h2", tmp_path / "s2", entropy(1), kappa=0.001, copies=1
    )
    assert any("can be recovered exactly" in line for line in light.warnings)
    assert light.handoffs[0].realised["recoverable"] > 0.5
    quiet = publish(pair.model, pair.base, tmp_path / "h3", tmp_path / "s3", entropy(1), kappa=0.5)
    assert not any("rounds away" in line or "recovered" in line for line in quiet.warnings)


@pytest.mark.parametrize(
    ("copies", "dtype", "warned"),
    [
        (2, "bfloat16", True),
        (3, "bfloat16", True),
        (5, "bfloat16", True),
        (1, "bfloat16", False),
        (3, "float16", False),
        (3, "float32", False),
    ],
)
def test_noise_that_does_not_cancel_is_warned_of(wide, tmp_path, entropy, copies, dtype, warned):
    """Copies whose dtype leaves a share of the weights' size, with its number.

    A single copy has nothing to cancel.
    """
    result = publish(
        wide.model,
        wide.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=1.0,
        dtype=dtype,
        copies=copies,
    )
    lines = [line for line in result.warnings if "cancels only to" in line]
    assert len(lines) == warned
    if warned:
        assert (
            f"cancels only to {result.handoffs[0].realised['residual']:.1e} of the weights"
            in lines[0]
            and "--dtype float32" in lines[0]
        )


def test_realised_noise_is_what_is_in_the_files(tiny_pair, tmp_path, entropy):
    """The recorded shares of changed and recoverable entries agree with the published files."""
    pair = tiny_pair("llama", dtype="bfloat16")
    record = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=0.01,
        dtype="bfloat16",
        reparam="none",
        copies=2,
    ).handoffs[0]
    theta = weights(pair.model)
    names = [name for layer in layout_of(pair.model).layers for name in layer.noised]
    copies = [weights(tmp_path / "h" / copy.name) for copy in record.copies]
    changed = sum(int((copy[name] != theta[name]).sum()) for copy in copies for name in names)
    assert record.realised["changed"] == pytest.approx(
        changed / sum(2 * theta[name].numel() for name in names), abs=1e-12
    )


def test_no_noise_publishes_the_model_itself(tiny_pair, tmp_path, entropy):
    """κ = 0, no offset, no reparameterization.

    The copy is the model, bit for bit, in its own dtype.
    """
    pair = tiny_pair("llama", dtype="bfloat16")
    publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=0.0,
        reparam="none",
        copies=1,
    )
    assert (
        fingerprint(tmp_path / "h" / "copy-1")["model.safetensors"]
        == fingerprint(pair.model)["model.safetensors"]
    )


def test_the_secret_of_a_test_says_so(tiny_pair, tmp_path, entropy):
    """A prepared secret is marked `test`; the operating system's are `system` and differ."""
    pair = tiny_pair("llama")
    assert publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1)).test_secret
    for folder in ("a", "b"):
        assert not publish(
            pair.model, pair.base, tmp_path / f"h{folder}", tmp_path / folder
        ).test_secret
    first, second = (Lineage.read(tmp_path / folder).secret for folder in ("a", "b"))
    assert (
        first.origin == "system"
        and first.master != second.master
        and first.lineage != second.lineage
    )


def test_large_norms_do_not_set_the_unit(tiny_pair, tmp_path, entropy):
    """Without a base σ is κ of the layer's matrices.

    Norms a thousand times larger stay nearly exact, which is said.
    """
    pair = tiny_pair("llama")
    loud = tmp_path / "loud"
    shutil.copytree(pair.model, loud)
    tensors = weights(loud)
    for name, tensor in tensors.items():
        if "layernorm" in name:
            tensors[name] = tensor * 1000
    save_file(tensors, loud / "model.safetensors", {"format": "pt"})
    quiet = publish(pair.model, None, tmp_path / "h", tmp_path / "s", entropy(1), kappa=0.01)
    result = publish(loud, None, tmp_path / "h2", tmp_path / "s2", entropy(1), kappa=0.01)
    assert result.handoffs[0].sigma == quiet.handoffs[0].sigma
    matrices = [
        tensor.double()
        for name, tensor in tensors.items()
        if ".layers.0." in name and tensor.dim() > 1
    ]
    rms = (sum(float(m.square().sum()) for m in matrices) / sum(m.numel() for m in matrices)) ** 0.5
    assert result.handoffs[0].sigma["layer 0"] == pytest.approx(0.01 * rms, rel=1e-6)
    said = [line for line in result.warnings if "nearly exact" in line]
    assert len(said) == 1 and "layer 0, layer 1" in said[0]
    assert not [line for line in quiet.warnings if "nearly exact" in line]
