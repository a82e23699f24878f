"""What perturb states, beside attacks on the published files that know nothing of its formulas."""

import shutil
from math import sqrt

import pytest
import torch
from safetensors.torch import save_file
from two_parties import layout_of, publish, weights

from mpu_cli.bundle.schema import FieldReader
from mpu_cli.errors import BadSecretError
from mpu_cli.server.lineage.curve import SIZES, Curve, lowest
from mpu_cli.server.lineage.exposure import exposure_of, left
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord

KAPPA = OFFSET = 0.1


def fine_tuned(pair, directory, change, dtype=torch.float32):
    """The pair's base with `change(matrix, generator)` added to every matrix of its layers.

    Norms stay float32, as in many checkpoints.
    """
    base = {
        name: value.to(dtype) if value.dim() == 2 else value
        for name, value in weights(pair.base).items()
    }
    model, generator = dict(base), torch.Generator().manual_seed(3)
    for layer in layout_of(pair.model).layers:
        for name in layer.noised:
            if base[name].dim() == 2:
                added = change(base[name].float(), generator)
                model[name] = (base[name].float() + added).to(dtype)
    for name, tensors in (("base", base), ("model", model)):
        shutil.copytree(pair.model, directory / name)
        save_file(tensors, directory / name / "model.safetensors", metadata={"format": "pt"})
        config = directory / name / "config.json"
        config.write_text(config.read_text().replace("float32", str(dtype).removeprefix("torch.")))
    return directory / "model", directory / "base"


def full_rank(matrix, generator):
    """A change without structure."""
    return 0.01 * torch.randn(matrix.shape, generator=generator)


def rank_four(matrix, generator):
    """A merged LoRA of rank 4."""
    thin = [torch.randn(size, 4, generator=generator) for size in matrix.shape]
    return 0.01 * thin[0] @ thin[1].T


def light(matrix, generator):
    """A change about as small as the steps of bfloat16."""
    return 0.004 * matrix.square().mean().sqrt() * torch.randn(matrix.shape, generator=generator)


def linear(seen, base, noise):
    """The base plus the best share of copy − base for noise of this size, weight units."""
    change = seen - base
    signal = max(float(change.square().mean()) - noise**2, 0.0)
    return base + signal / (signal + noise**2) * change


def shrunk(seen, base, noise):
    """Optimal shrinkage of the singular values of copy − base (Gavish and Donoho 2017)."""
    if seen.dim() < 2:
        return linear(seen, base, noise)
    rows, columns = sorted(seen.shape)
    u, values, v = torch.linalg.svd(seen - base, full_matrices=False)
    y, ratio = values / (noise * sqrt(columns)), rows / columns
    kept = ((y**2 - ratio - 1) ** 2 - 4 * ratio).clamp(min=0).sqrt() / y
    kept[y <= 1 + sqrt(ratio)] = 0
    return base + u @ torch.diag(kept * noise * sqrt(columns)) @ v


def rounded(seen, base, noise):
    """The copy's own entries, as bfloat16 holds them; norms are float32."""
    return linear(seen, base, noise) if seen.dim() < 2 else seen.float().bfloat16().double()


def attacked(attack, directory, handoff, share):
    """Error of the attack on one copy and on the copies' harmonic mean, of the task vector.

    Args:
        attack: estimates a tensor from the copy's, the base's, and the size of the noise.
        directory: of model and base.
        handoff: of two copies with α 1 and 2.
        share: noise of one copy and of the mean, of the task vector.
    """
    theta, base = (
        {name: value.double() for name, value in weights(directory / name_).items()}
        for name_ in ("model", "base")
    )
    copies = [weights(handoff / f"copy-{number}") for number in (1, 2)]
    errors, total = [0.0, 0.0], 0.0
    for layer in layout_of(directory / "model").layers:
        task = sum(float((theta[name] - base[name]).square().sum()) for name in layer.noised)
        unit = sqrt(task / sum(theta[name].numel() for name in layer.noised))
        total += task
        for name in layer.noised:
            first, second = (copy[name].double() for copy in copies)
            for number, seen in enumerate((first, 2 / 3 * first + 1 / 3 * second)):
                guess = attack(seen, base[name], share[number] * unit)
                errors[number] += float((guess - theta[name]).square().sum())
    return [sqrt(error / total) for error in errors]


CASES = {
    "full rank": (full_rank, torch.float32, linear, "linear"),
    "rank four": (rank_four, torch.float32, shrunk, "singular values"),
    "light bfloat16": (light, torch.bfloat16, rounded, "number grid"),
}


@pytest.mark.parametrize("case", CASES)
def test_stated_is_within_a_tenth_of_what_the_best_attack_leaves(
    tiny_pair, tmp_path, entropy, case
):
    """For one copy and for all, and no other attack leaves less than nine tenths of it."""
    change, dtype, attack, bound = CASES[case]
    pair = tiny_pair("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    model, base = fine_tuned(pair, tmp_path, change, dtype)
    result = publish(
        model,
        base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(2),
        copies=2,
        alphas=(1.0, 2.0),
        kappa=KAPPA,
        offset=OFFSET,
        reparam="none",
        dtype="float32",
    )
    shares = (sqrt(KAPPA**2 + OFFSET**2), OFFSET)
    measured = {
        name: attacked(other, tmp_path, tmp_path / "h", shares)
        for name, (*_, other, _) in CASES.items()
    }
    stated = (result.exposure.one_copy, result.exposure.all_copies)
    assert attacked(attack, tmp_path, tmp_path / "h", shares) == pytest.approx(stated, rel=0.1)
    for numbers in measured.values():
        assert all(number >= 0.9 * said for number, said in zip(numbers, stated, strict=True))
    assert dict(result.exposure.bounds) == {"one_copy": bound, "all_copies": bound}
    assert result.ledger.bounds == {"client": bound, "all together": bound}
    if bound == "linear":
        assert stated == pytest.approx([left(share) for share in shares], rel=0.05)
    else:
        assert stated[0] < 0.7 * left(shares[0])


def test_experts_of_a_stack_are_measured_one_by_one(built_tiny, tmp_path, entropy):
    """Only the middle expert of each stack has full rank: the others come back almost whole."""
    generator = torch.Generator().manual_seed(4)
    for name in ("model", "base"):
        shutil.copytree(built_tiny("gpt-oss"), tmp_path / name)
    model = weights(tmp_path / "base")
    for name in (it for layer in layout_of(tmp_path / "base").layers for it in layer.noised):
        stack = model[name].reshape(-1, *model[name].shape[-2:]) if model[name].dim() > 2 else ()
        for place in range(len(stack)):
            full = place == len(stack) // 2
            rank = min(stack.shape[1:]) if full else 1
            thin = [torch.randn(size, rank, generator=generator) for size in stack.shape[1:]]
            stack[place] += 0.05 * thin[0] @ thin[1].T / sqrt(rank)
    save_file(model, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    settings = {"copies": 2, "alphas": (1.0, 2.0), "kappa": KAPPA, "offset": OFFSET}
    place = (tmp_path / "model", tmp_path / "base", tmp_path / "h", tmp_path / "s")
    result = publish(*place, entropy(2), **settings, reparam="none")
    shares = (sqrt(KAPPA**2 + OFFSET**2), OFFSET)

    def each(seen, base, noise):
        if seen.dim() < 3:
            return shrunk(seen, base, noise)
        return torch.stack([shrunk(*pair, noise) for pair in zip(seen, base, strict=True)])

    stated = (result.exposure.one_copy, result.exposure.all_copies)
    assert attacked(each, tmp_path, tmp_path / "h", shares) == pytest.approx(stated, rel=0.1)
    assert stated[0] < 0.8 * left(shares[0])


def test_the_record_keeps_what_was_measured_and_an_earlier_one_does_without(
    tiny_pair, tmp_path, entropy
):
    """The curve in the record gives the same numbers; a record without it gives the linear one."""
    pair = tiny_pair("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    model, base = fine_tuned(pair, tmp_path, rank_four)
    result = publish(model, base, tmp_path / "h", tmp_path / "s", entropy(2), copies=1, kappa=KAPPA)
    (record,) = Lineage.read(tmp_path / "s").handoffs.values()
    assert record.structure and not record.grid
    assert exposure_of([record]) == result.exposure
    earlier = {
        name: getattr(record, name)
        for name in HandoffRecord.__dataclass_fields__
        if name not in {"structure", "grid"}
    }
    assert exposure_of([HandoffRecord(**earlier)]).one_copy == pytest.approx(left(KAPPA))
    for wrong in ({"0.1": 1.5}, {"0": 0.5}, {"one": 0.5}):
        content = {**record.content(), "structure": wrong}
        del content["kind"], content["format"]
        with pytest.raises(BadSecretError, match="structure"):
            HandoffRecord.read(FieldReader(content, "record", BadSecretError))
    # A later model of the lineage has no less structure than is known already.
    both = exposure_of([HandoffRecord(**earlier), record])
    assert both.one_copy <= result.exposure.one_copy


def test_curves_are_read_between_their_points():
    """Straight in log–log, level outside; a curve that gains nothing has no points."""
    curve = Curve.of([0.25 if size < 1 else 1.5 for size in SIZES], worth=0.95)
    assert curve.at(1e-9) == 0.25 and curve.at(1e9) == 1.0
    assert 0.25 < curve.at(0.8) < 1.0
    assert Curve.read(curve.content()) == curve
    assert Curve.of([0.97] * len(SIZES), worth=0.95).points == ()
    flat = Curve(((0.1, 0.5),))
    assert lowest([curve, flat]).at(0.01) == 0.25 and lowest([curve, flat]).at(10.0) == 0.5
    assert lowest([]) == Curve()
