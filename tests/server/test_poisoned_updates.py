"""What a client may try to hide in an update: which gate refuses it, and what none can see.

The attacker here knows T, as a client who holds all copies can work it out: what he adds is the
same change of θ in every copy, unless the attack says otherwise.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from two_parties import moved, small_change, steps_of, weights, write_update

from mpu_cli.checkpoint.change import Changed
from mpu_cli.errors import GateError
from mpu_cli.server.aggregation.copy_statistics import (
    DrawStatistics,
    TensorStatistics,
    largest_ratio,
)
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.aggregation.update_gates import Copies, check_update

UP = "model.layers.1.mlp.up_proj.weight"


class Attack:
    """An honest update of two copies, in θ's own coordinates, that an attack may change."""

    def __init__(self, server):
        self.server, self.model = server, weights(server.pair.model)
        self.handoff, self.record = server.perturb(copies=2)
        self.common = small_change(server.pair.model)
        # Copies trained on different noise agree in part: here their cosine is about .67.
        self.copies = [
            {name: change + 0.7 * own[name] for name, change in self.common.items()}
            for own in (small_change(server.pair.model, number=number) for number in (1, 2))
        ]

    def random(self, name, size, seed=9):
        """A change of one tensor with a norm of `size` times the tensor's."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.model[name].shape, generator=generator)
        return noise * (size * self.model[name].norm() / noise.norm())

    def add(self, name, change, copies=(0, 1)):
        """Add to one tensor of some copies."""
        for copy in copies:
            self.copies[copy][name] = self.copies[copy][name] + change

    def scale(self, factor, copies=(0, 1)):
        """Scale all of some copies."""
        for copy in copies:
            self.copies[copy] = {n: factor * c for n, c in self.copies[copy].items()}

    def only(self, names, size):
        """Random changes of some tensors, different in every copy, and nothing else."""
        self.copies = [
            {name: self.random(name, size, 99 * copy + n) for n, name in enumerate(names)}
            for copy in (0, 1)
        ]

    def send(self):
        """The update."""
        steps = steps_of(self.server.secret, self.record, self.server.pair.model)
        deltas = {
            name: moved(steps[name], self.server.pair.model, change)
            for name, change in zip(sorted(steps), self.copies, strict=True)
        }
        write_update(self.handoff, self.server.root / "u", deltas)
        return self.server.root / "u"


def _rows(attack, size):
    change = torch.zeros_like(attack.model[UP])
    mean = attack.model[UP].norm() / attack.model[UP].shape[0] ** 0.5
    change[5], change[7] = (
        size * mean * row / row.norm() for row in attack.random(UP, 1.0)[[5, 7]]
    )
    attack.add(UP, change)


REFUSED = {
    "huge norm": (lambda a: a.scale(100.0), "of the model's norm", "--max-relative-norm", None),
    "huge norm of one tensor": (
        lambda a: a.add(UP, a.random(UP, 1.0)),
        "of the tensor's norm",
        "--max-tensor-norm",
        UP,
    ),
    "a few rows": (lambda a: _rows(a, 2.0), "changes row", "--max-row-norm", UP),
    "scaled copy": (lambda a: a.scale(5.0, (1,)), "times that of", "--max-copy-ratio", None),
    "one tensor of one copy scaled": (
        lambda a: a.add(UP, 4.0 * a.copies[0][UP], (0,)),
        "times as much",
        "--max-copy-ratio",
        UP,
    ),
    "one tensor left out of one copy": (
        lambda a: a.copies[1].pop(UP),
        "times as much",
        "--max-copy-ratio",
        UP,
    ),
    "sign-flipped copy": (lambda a: a.scale(-1.0, (1,)), "do not agree", "--min-agreement", None),
    "one tensor of one copy sign-flipped": (
        lambda a: a.add(UP, -2.0 * a.copies[1][UP], (1,)),
        "do not agree on tensor",
        "--max-agreement-drop",
        UP,
    ),
    "one tensor, another in each copy": (
        lambda a: [a.add(UP, a.random(UP, 0.05, copy), (copy,)) for copy in (0, 1)],
        "do not agree on tensor",
        "--max-agreement-drop",
        UP,
    ),
    "norms only, another in each copy": (
        lambda a: a.only([name for name in a.common if "norm" in name], 0.1),
        "do not agree",
        "--min-agreement",
        None,
    ),
}
PASS = {
    "honest": lambda _: None,
    # Below every limit, and the same in all copies: only an evaluation of the model can tell.
    "all copies sign-flipped": lambda a: a.scale(-1.0),
    "a copy scaled by two": lambda a: a.scale(2.0, (1,)),
    "one tensor by four tenths": lambda a: a.add(UP, a.random(UP, 0.4)),
    "two rows by half": lambda a: _rows(a, 0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_poisoned_update_is_refused(server, name):
    """The message names the update, the tensor, the number and the limit; nothing is written."""
    poison, message, flag, tensor = REFUSED[name]
    attack = Attack(server)
    poison(attack)
    update = attack.send()
    with pytest.raises(GateError, match=message) as caught:
        server.aggregate(update)
    assert flag in caught.value.hint
    assert tensor is None or tensor in caught.value.message
    assert not (server.root / "next").exists() and len(server.lineage.models) == 1


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("reparam", ["signed-permutation", "none"])
def test_copies_are_compared_on_tensors_that_nothing_moves(server, reparam, honest):
    """Of one norm that T does not move, and of every tensor without T."""
    handoff, record = server.perturb(copies=2, reparam=reparam)
    steps = steps_of(server.secret, record, server.pair.model)
    change = [
        {"model.norm.weight": small_change(server.pair.model, 0.1, number)["model.norm.weight"]}
        for number in (1, 1 if honest else 2)
    ]
    write_update(
        handoff,
        server.root / "u",
        {
            name: moved(steps[name], server.pair.model, own)
            for name, own in zip(sorted(steps), change, strict=True)
        },
    )
    if honest:
        assert server.aggregate(server.root / "u").agreement[0] > 0.999
    else:
        with pytest.raises(GateError, match="do not agree"):
            server.aggregate(server.root / "u")


@pytest.mark.parametrize("name", PASS)
def test_what_the_gates_do_not_see(server, name):
    """The negative control, and what docs/trust.md says about the limits of the gates."""
    attack = Attack(server)
    PASS[name](attack)
    result = server.aggregate(attack.send())
    assert {item.gate for item in result.measured} == {
        "agreement",
        "relative norm",
        "ratio of copies",
        "ratio of a tensor",
        "tensor norm",
        "row norm",
        "agreement of a tensor",
    }
    assert all(item.passes for item in result.measured)


def test_of_one_copy_only_norms_can_be_checked(server):
    """A scaled or sign-flipped single copy looks like any other; its norms do not."""
    attack = Attack(server)
    handoff, record = server.perturb(copies=1)
    steps = steps_of(server.secret, record, server.pair.model)["copy-1"]
    for number, (factor, passes) in enumerate([(-5.0, True), (100.0, False)]):
        change = {name: factor * value for name, value in attack.common.items()}
        update = server.root / f"single-{number}"
        write_update(handoff, update, {"copy-1": moved(steps, server.pair.model, change)})
        if passes:
            result = server.aggregate(update, out="single")
            assert {item.gate for item in result.measured} == {
                "relative norm",
                "tensor norm",
                "row norm",
            }
        else:
            with pytest.raises(GateError, match="of the model's norm"):
                server.aggregate(update, out="double")


def _check(tensors, squares, elements, step):
    """Test the gates on changes of single tensors, given as rows of copies."""
    count = max(len(changes) for changes in tensors.values())
    found = {}
    for name, changes in tensors.items():
        found[name] = TensorStatistics.empty(count, changes.shape[1], 1, moved=False)
        found[name].add(0, 1, dict(enumerate(changes)))
    statistics = DrawStatistics(count, found)
    names = tuple(f"copy-{number + 1}" for number in range(count))
    copies = Copies(
        Path("update"),
        names,
        (1.0 / count,) * count,
        0.1,
        step,
        statistics,
        statistics.total(),
    )
    changed = Changed("", "float32", 1.0, 0.01, float(elements), squares)
    return check_update([copies], changed, elements, AggregateSettings())


def test_a_tensor_of_zeros_has_the_models_scale():
    """A bias that is still zero may begin to move; it may not become a thousand times a weight."""

    def check(value):
        return _check({"bias": torch.full((1, 8), value)}, {"bias": 0.0}, 100, 1e-7)

    assert check(0.1)
    with pytest.raises(GateError, match="tensor bias is 1e"):
        check(1000.0)


BFLOAT16 = torch.finfo(torch.bfloat16).eps


def _steps(counts, entries):
    """One step of bfloat16 up in as many entries of each copy."""
    return torch.stack([BFLOAT16 * (torch.arange(entries) < count) for count in counts]).float()


@pytest.mark.parametrize("counts", [(13, 1), (20, 0), (25, 1)])
def test_few_steps_of_the_dtype_are_chance(counts):
    """Trained in bfloat16, an entry moves by a whole step or stays: few steps say little."""
    matrix = torch.ones(2, 1000) * 0.01
    tensors = {"norm": _steps(counts, 32), "matrix": matrix}
    assert _check(tensors, {"norm": 32.0, "matrix": 1000.0}, 1032, BFLOAT16)
    with pytest.raises(GateError, match="tensor norm"):  # in float32 nothing of this is rounding
        _check(tensors, {"norm": 32.0, "matrix": 1000.0}, 1032, torch.finfo(torch.float32).eps)


def test_many_steps_of_the_dtype_are_compared():
    """What rounding allows does not grow with the tensor."""
    matrix = torch.ones(2, 1000) * 0.01
    with pytest.raises(GateError, match=r"changes tensor wide 3\.78"):
        _check(
            {"wide": _steps((8000, 500), 10_000), "matrix": matrix},
            {"wide": 10_000.0, "matrix": 1000.0},
            11_000,
            BFLOAT16,
        )


def test_honest_steps_are_seldom_refused():
    """Of 2,000 pairs that move an entry with the same probability: none."""
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(2000):
        share = 0.5 * torch.rand(1, generator=generator)
        moved = (torch.rand(2, 32, generator=generator) < share) * BFLOAT16
        gram = (moved @ moved.T).tolist()
        found = largest_ratio(gram, [0, 1], 5 * BFLOAT16)
        refused += found is not None and found[0] > 3
    assert refused == 0
