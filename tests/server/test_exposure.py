"""Exposure compared with the best linear estimate of simulated task vectors."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import hypot, inf, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from two_parties import layout_of, publish, weights

from mpu_cli.errors import GateError
from mpu_cli.server.lineage.exposure import (
    draw_noise,
    exposure,
    exposure_of,
    ledger,
    left,
    noise_of,
    pooled,
    prior,
)
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import CopyRecord, HandoffRecord
from mpu_cli.server.publishing.advice import advice, equal_alphas, meaning, who_pool
from mpu_cli.server.publishing.exposure_gate import require_unknown

A, B = "a" * 32, "b" * 32


def record(
    draw="0" * 32,
    copies=((0, 1.0), (1, 1.5), (2, 2.0)),
    size=3,
    kappa=0.1,
    offset=0.0,
    denoising="harmonic",
    holder="client",
):
    """A handoff record as far as exposure looks at it."""
    return HandoffRecord(
        id=draw,
        digest="0" * 64,
        sequence=1,
        state="issued",
        target="",
        holder=holder,
        model="0" * 64,
        draw=draw,
        size=size,
        copies=tuple(CopyRecord(f"copy-{k + 1}", "0" * 64, k, value) for k, value in copies),
        denoising=denoising,
        kappa=kappa,
        offset=offset,
        relative_to="task-vector",
        sigma={},
        transforms=(),
        layout="9a" * 32,
        scope="layers",
        dtype="float32",
        source_dtype="F32",
        shard_bytes=1,
        realised={},
        exposure={},
    )


# The attack: nothing below knows the formulas
# ------------------------------------------------------------------------------------------


def sources(records):
    """(copies, sources): every copy minus the base as a mixture of independent standard normals.

    First the task vector, then ξ.

    Harmonic noise as the paper draws it: m vectors minus their mean, scaled; extrapolation: one
    vector for all.
    """
    columns = {}

    def column(*key):
        return columns.setdefault(key, len(columns) + 2)

    rows = []
    for handoff in records:
        for copy in handoff.copies:
            row = Counter({0: 1.0, 1: handoff.offset})
            size = handoff.kappa * copy.coefficient
            if handoff.denoising == "extrapolation" or handoff.size == 1:
                row[column(handoff.draw, 0)] += size
            else:
                for k in range(handoff.size):
                    part = (k == copy.position) - 1 / handoff.size
                    row[column(handoff.draw, k)] += (
                        size * sqrt(handoff.size / (handoff.size - 1)) * part
                    )
            rows.append(row)
    matrix = np.zeros((len(rows), len(columns) + 2))
    for number, row in enumerate(rows):
        for key, value in row.items():
            matrix[number, key] = value
    return matrix


def best_linear(records):
    """Relative error of the best linear estimate of the task vector.

    Its distance from what the copies span, exactly.
    """
    mixture = sources(records)
    task = np.eye(mixture.shape[1])[0]
    if not len(mixture):
        return 1.0
    return float(
        np.linalg.norm(task - mixture.T @ np.linalg.lstsq(mixture.T, task, rcond=1e-13)[0])
    )


def simulated(records, generator, count):
    """The same on vectors that are really drawn: least squares of the task vector on the copies."""
    mixture = sources(records)
    drawn = generator.standard_normal((count, mixture.shape[1]))
    copies, task = drawn @ mixture.T, drawn[:, 0]
    estimate = copies @ np.linalg.lstsq(copies, task, rcond=1e-13)[0]
    return float(np.linalg.norm(estimate - task) / np.linalg.norm(task))


kappas = st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0])
offsets = st.sampled_from([0.0, 0.05, 0.3, 1.0, 4.0])
equal_or_not = st.one_of(
    st.just([1.0] * 5),
    st.lists(st.integers(1, 30).map(lambda value: value / 10), min_size=5, max_size=5),
)
nodes = st.lists(
    st.sampled_from([-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0]),
    min_size=5,
    max_size=5,
    unique=True,
)


@st.composite
def lineages(draw):
    """Handoffs of one lineage.

    Rounds of any denoising, number of copies, noise and order, split or to one of three holders.
    """
    offset, records = draw(offsets), []
    for number in range(draw(st.integers(1, 3))):
        denoising = draw(st.sampled_from(["harmonic", "extrapolation"]))
        size = draw(st.integers(1 if denoising == "harmonic" else 2, 5))
        coefficients = draw(equal_or_not if denoising == "harmonic" else nodes)[:size]
        settings_ = {
            "draw": f"{number:032x}",
            "size": size,
            "kappa": draw(kappas),
            "offset": offset,
            "denoising": denoising,
        }
        if size > 1 and draw(st.booleans()):
            present = draw(
                st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True)
            )
            records += [
                record(copies=((k, coefficients[k]),), holder=f"client-{k + 1}", **settings_)
                for k in present
            ]
        else:
            records.append(
                record(
                    copies=tuple(enumerate(coefficients)),
                    holder=f"client-{draw(st.integers(1, 3))}",
                    **settings_,
                )
            )
    return records


@given(lineages())
@settings(deadline=None, max_examples=150)
def test_the_stated_exposure_is_what_the_best_linear_estimate_leaves(records):
    """For every holder, coalition and all together.

    Never above the best linear estimate's error, nor below it, nor above 1.
    """
    computed = ledger(records)
    held = {name: [item for item in records if item.holder == name] for name in computed.by_holder}
    expected = {name: best_linear(holding) for name, holding in held.items()}
    assert computed.by_holder == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert computed.all_together == pytest.approx(best_linear(records), rel=1e-6, abs=1e-8)
    for size, stated in computed.coalitions:
        groups = [
            [item for holding in group for item in holding]
            for group in combinations(held.values(), size)
        ]
        assert stated == pytest.approx(min(map(best_linear, groups)), rel=1e-6, abs=1e-8)
    assert len(computed.coalitions) == (len(held) if len(held) > 1 else 0)
    assert all(0 <= stated <= 1 for stated in (*computed.by_holder.values(), computed.all_together))
    for draw in {item.draw for item in records}:
        holding = [item for item in records if item.draw == draw]
        shown = exposure_of(holding)
        alone = [
            best_linear([replace(item, copies=(copy,))]) for item in holding for copy in item.copies
        ]
        assert (shown.no_copy, shown.one_copy) == (
            1.0,
            pytest.approx(min(alone), rel=1e-6, abs=1e-8),
        )
        if len(alone) == holding[0].size:
            assert shown.all_copies == pytest.approx(best_linear(holding), rel=1e-6, abs=1e-8)


def check_simulated(records, seed, count):
    """The stated number fits drawn vectors within five standard errors.

    Fitting d scalars to N entries gains d/N.
    """
    measured = simulated(records, np.random.default_rng(seed), count)
    slack = 1 + 5 / sqrt(count) + len(sources(records)) / count
    assert measured / slack - 1e-8 <= ledger(records).all_together <= measured * slack + 1e-8


@given(lineages(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_the_stated_exposure_on_drawn_vectors(records, seed):
    """The stated number fits Gaussian task vectors, offsets and noise of 4,000 entries."""
    check_simulated(records, seed, 4000)


@pytest.mark.slow
@given(lineages(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=400)
def test_the_stated_exposure_on_long_drawn_vectors(records, seed):
    """400 settings with vectors of 40,000 entries.

    Within 2.5 per cent of what least squares measures.
    """
    check_simulated(records, seed, 40_000)


PUBLISHED = {
    "offset 1, no noise": {"copies": 1, "kappa": 0.0, "offset": 1.0},
    "noise 1 and offset 1": {"copies": 1, "kappa": 1.0, "offset": 1.0},
    "three copies of noise 1": {"kappa": 1.0},
    "split": {"kappa": 0.5, "offset": 0.3, "split": True},
    "extrapolation": {"kappa": 2.0, "offset": 0.3, "denoising": "extrapolation"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stated_exposure_on_published_copies(tiny_pair, tmp_path, entropy, name):
    """Least squares of the task vector on the files that were published.

    Neither one copy nor all of them leave less.
    """
    pair = tiny_pair("llama", hidden_size=64, num_hidden_layers=1)
    result = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(3),
        reparam="none",
        **PUBLISHED[name],
    )
    names = layout_of(pair.model).layers[0].noised

    def vector(path):
        tensors = weights(path)
        return torch.cat([tensors[key].double().ravel() for key in names])

    base = vector(pair.base)
    task = vector(pair.model) - base
    copies = [
        vector(path.parent) - base for path in sorted((tmp_path / "h").glob("**/model.safetensors"))
    ]
    slack = 5 / sqrt(len(task))

    def measured(chosen):
        matrix = torch.stack(chosen, dim=1)
        return float(
            (matrix @ torch.linalg.lstsq(matrix, task[:, None]).solution - task[:, None]).norm()
            / task.norm()
        )

    assert result.exposure.one_copy == pytest.approx(
        min(measured([copy]) for copy in copies), rel=slack
    )
    assert result.exposure.all_copies == pytest.approx(measured(copies), rel=slack, abs=1e-6)
    assert result.handoffs[0].exposure["all_copies"] == result.exposure.all_copies


# The numbers
# ------------------------------------------------------------------------------------------


def test_the_prior_bounds_every_number():
    """Noise of size s leaves s/√(1 + s²) of the task vector.

    .707 at 1, .816 at κ = c = 1, never more than 1, and 1 unseen.
    """
    assert left(1.0) == pytest.approx(sqrt(0.5))
    assert exposure("harmonic", 1.0, (1.0,), 1.0).one_copy == pytest.approx(sqrt(2 / 3))
    assert [left(inf), left(0.0), left(1e300), left(1e-200)] == [1.0, 0.0, 1.0, 1e-200]
    assert left(0.1, 0.2) == pytest.approx(0.02 / sqrt(0.05)) and left(inf, 0.2) == 0.2
    assert exposure("harmonic", 1000.0, (1e-308, 1e300), 0.0).one_copy == pytest.approx(1e-305)
    assert draw_noise("harmonic", 1.0, (1e-200, 1e200), 3) == pytest.approx(1e-200)


def test_the_exposure_of_a_draw():
    """The best-known copy leaves κ·min|α| ⊕ c before the prior, all copies c.

    A draw of one copy is all copies.
    """
    computed = exposure("harmonic", 0.1, (1.5, 1.0, 2.0), 0.0)
    assert (computed.no_copy, computed.one_copy, computed.all_copies, computed.order) == (
        1.0,
        pytest.approx(left(0.1)),
        0.0,
        2,
    )
    computed = exposure("extrapolation", 0.1, (-1.0, 2.0, 1.0), 0.2)
    assert (computed.one_copy, computed.all_copies, computed.order) == (
        pytest.approx(left(hypot(0.1, 0.2))),
        pytest.approx(left(0.2)),
        1,
    )
    computed = exposure("harmonic", 0.1, (2.0,), 0.1)
    assert computed.one_copy == computed.all_copies == pytest.approx(left(hypot(0.2, 0.1)))
    assert computed.content() == {
        "no_copy": 1.0,
        "one_copy": computed.one_copy,
        "all_copies": computed.all_copies,
        "order": 1.0,
    }


def test_the_order_of_a_draw_is_that_of_its_denoising():
    """From the coefficients, and from the records of a handoff."""
    orders = {
        ("harmonic", (2.0,)): 1,
        ("harmonic", (1.0, 1.5, 2.0)): 2,
        ("extrapolation", (1.0, -1.0, 2.0)): 3,
    }
    for (denoising, values), order in orders.items():
        assert exposure(denoising, 0.1, values, 0.0).order == order
        copies = tuple(enumerate(values))
        records = [record(copies=copies, size=len(values), denoising=denoising)]
        assert exposure_of(records).order == order


def test_independent_estimates_pool_as_precisions():
    """Four of equal noise have half of it.

    One without noise is all that is needed; none is no knowledge.
    """
    assert pooled([0.2] * 4) == pytest.approx(0.1)
    assert pooled([0.2, 0.0]) == 0.0
    assert pooled([]) == noise_of([]) == inf
    assert ledger([]).all_together == 1.0 and ledger([]).by_holder == {}


def test_holders_and_coalitions_are_told_apart():
    """Each holder of a split is left its own copies' noise, two of them less, three nothing.

    A second round adds up.
    """
    split = [record(A, ((k, 1 + k / 2),), holder=f"client-{k + 1}") for k in range(3)]
    computed = ledger(split)
    assert computed.by_holder == pytest.approx(
        {f"client-{k + 1}": left(0.1 + k * 0.05) for k in range(3)}
    )
    assert [size for size, _ in computed.coalitions] == [1, 2, 3]
    assert (
        0
        == computed.coalitions[2][1]
        < computed.coalitions[1][1]
        < computed.coalitions[0][1]
        == computed.by_holder["client-1"]
    )
    assert computed.content()["coalitions"] == {
        str(size): left_ for size, left_ in computed.coalitions
    }
    twice = [*split, replace(split[0], draw=B, id=B)]
    assert ledger(twice).by_holder["client-1"] == pytest.approx(left(0.1 / sqrt(2)))
    assert ledger(twice, {"client-1"}).by_holder.keys() == {"client-1"}
    assert (
        ledger(twice, {"client-1"}).handoffs == 2
        and ledger(twice, {"client-1"}).all_together == 0.0
    )


def test_many_holders_take_bounded_time():
    """Of 40 holders those coalitions are stated that can all be tried.

    They fall with the number of holders.
    """
    split = [record(A, ((k, 1 + k / 39),), size=40, holder=f"client-{k}") for k in range(40)]
    computed = ledger(split).coalitions
    assert [size for size, _ in computed] == [1, 2, 38, 39, 40]
    assert [left_ for _, left_ in computed] == sorted(
        (left_ for _, left_ in computed), reverse=True
    )


def test_coalitions_of_the_limit_are_tried(monkeypatch):
    """Three groups where three are allowed; with two allowed only all three holders together."""
    split = [record(A, ((k, 1 + k / 2),), holder=f"client-{k + 1}") for k in range(3)]
    for most, sizes in ((3, [1, 2, 3]), (2, [3])):
        monkeypatch.setattr("mpu_cli.server.lineage.exposure._MOST_COALITIONS", most)
        assert [size for size, _ in ledger(split).coalitions] == sizes


def test_interrupted_handoffs_count():
    """A prepared handoff may have left: it counts like an issued one, and is said to."""
    known = ledger([record(A), record("c" * 32), replace(record(B, kappa=0.0), state="prepared")])
    assert known.all_together == 0.0 and known.prepared == 1 and known.content()["prepared"] == 1


def test_a_round_with_a_bare_layer_counts_without_the_offset():
    """Offsets of 0.3 and 0 in two rounds.

    The smaller one holds for what is pooled, whatever the order.
    """
    rounds = [record(A, offset=0.3), record(B, offset=0.0)]
    assert ledger(rounds).all_together == ledger(rounds[::-1]).all_together == 0.0


def test_the_weights_as_unit_start_from_the_base():
    """A known base is the prior of all records of the lineage.

    Without one the prior is the weights, in words.
    """
    with_base = replace(
        record(A, ((0, 1.0),), 1), exposure={"no_copy": 0.05}, relative_to="weights"
    )
    without = replace(with_base, id=B, draw=B, exposure={}, holder="other")
    assert prior([with_base, without]).size == pytest.approx(0.05)
    assert ledger([with_base, without]).by_holder == pytest.approx(
        dict.fromkeys(("client", "other"), left(0.1, 0.05))
    )
    assert "the base alone leaves 0.05" in meaning("weights", 0.05)
    assert "if a base exists, name it with --base" in meaning("weights")
    assert (
        "at most" in meaning("task-vector")
        and "base" in meaning("task-vector")
        and "behaves" in meaning("task-vector")
    )


# The commands' side
# ------------------------------------------------------------------------------------------


def test_perturb_counts_what_a_holder_has_already(tiny_pair, tmp_path, entropy):
    """A second round to the same client states what both rounds leave.

    Another client's is counted in `all_together`.
    """
    pair, source = tiny_pair("llama"), entropy(5)

    def one_more(number, client):
        return publish(
            pair.model,
            pair.base,
            tmp_path / f"h{number}",
            tmp_path / "s",
            source,
            copies=1,
            kappa=1.0,
            client=client,
            check="none",
        )

    first = one_more(1, "anna")
    assert (
        first.ledger.by_holder == pytest.approx({"anna": sqrt(0.5)}) and first.ledger.handoffs == 1
    )
    second = one_more(2, "anna")
    assert second.exposure.all_copies == pytest.approx(sqrt(0.5))
    assert (
        second.ledger.by_holder == pytest.approx({"anna": left(sqrt(0.5))})
        and second.ledger.handoffs == 2
    )
    third = one_more(3, "ben")
    assert third.ledger.by_holder == pytest.approx({"ben": sqrt(0.5)})
    assert third.ledger.all_together == pytest.approx(left(sqrt(1 / 3)))


def test_the_weights_as_unit_with_a_base(tiny_pair, tmp_path, entropy):
    """With a base the task vector is what noise relative to the weights hides.

    Never more is stated; and it is recorded.
    """
    pair = tiny_pair("llama", num_hidden_layers=1)
    result = publish(
        pair.model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        kappa=1.0,
        noise_relative_to="weights",
    )
    assert 0 < result.exposure.no_copy < 0.5 and result.exposure.one_copy < result.exposure.no_copy
    assert prior(Lineage.read(tmp_path / "s").handoffs.values()).size == result.exposure.no_copy
    later = publish(pair.model, None, tmp_path / "h2", tmp_path / "s", entropy(2), kappa=1.0)
    assert later.exposure.no_copy == result.exposure.no_copy
    alone = publish(
        pair.model,
        None,
        tmp_path / "elsewhere" / "h",
        tmp_path / "elsewhere" / "s",
        entropy(3),
        kappa=1.0,
    )
    assert alone.exposure.no_copy == 1.0


def test_a_second_lineage_of_a_model_is_warned_of(tiny_pair, tmp_path, entropy):
    """Independent offsets average: √½ of the noise is left by two lineages.

    A place elsewhere, or another model, says nothing.
    """
    pair, other = tiny_pair("llama"), tiny_pair("llama", num_hidden_layers=1)
    options = {"copies": 1, "kappa": 0.0, "offset": 1.0, "check": "none"}

    def warned(number, pair, secret):
        (tmp_path / "out").mkdir(exist_ok=True)
        result = publish(
            pair.model,
            pair.base,
            tmp_path / "out" / f"h{number}",
            secret,
            entropy(number),
            **options,
        )
        return [line for line in result.warnings if "another lineage" in line]

    (tmp_path / "link").symlink_to(tmp_path / "first", target_is_directory=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "models").write_text("no folder")
    assert warned(1, pair, tmp_path / "first") == []
    (line,) = warned(2, pair, tmp_path / "second")
    assert (
        f"{left(sqrt(0.5)):.3g} unknown" in line
        and f"{left(1.0):.3g}" in line
        and str(tmp_path / "first") in line
    )
    assert "link" not in line
    assert warned(3, other, tmp_path / "third") == []
    assert warned(4, pair, tmp_path / "first") == []  # another handoff of the same lineage
    record_file = next((tmp_path / "second" / "handoffs").iterdir())
    record_file.write_bytes(record_file.read_bytes().replace(b'"kappa"', b'"kippa"'))
    (line,) = warned(5, pair, tmp_path / "fifth")
    assert "is unknown" in line and str(tmp_path / "second") in line


@pytest.mark.parametrize("kappa", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("both", [False, True])
def test_the_weights_as_unit_are_stated_layer_by_layer(tiny_pair, tmp_path, entropy, both, kappa):
    """One of two layers, or both, fine-tuned.

    Never more than the best estimate of each layer by itself leaves of the published copy.
    """
    pair = tiny_pair("llama", hidden_size=64, num_hidden_layers=2)
    before, base = weights(pair.model), weights(pair.base)
    groups = {layer.index: layer.noised for layer in layout_of(pair.model).layers}
    model = Path(shutil.copytree(pair.model, tmp_path / "model"))
    generator = torch.Generator().manual_seed(1)
    for index, names in groups.items():
        for name in names:
            change = (
                0.1
                * torch.randn(base[name].shape, generator=generator)
                * base[name].square().mean().sqrt()
            )
            before[name] = base[name] + (change if index == 0 or both else 0)
    save_file(before, model / "model.safetensors")
    result = publish(
        model,
        pair.base,
        tmp_path / "h",
        tmp_path / "s",
        entropy(1),
        copies=1,
        kappa=kappa,
        noise_relative_to="weights",
        reparam="none",
    )
    copy = weights(tmp_path / "h" / "copy-1")
    lost = unit = 0.0
    for names in groups.values():
        for name in names:  # of different sizes, so each tensor gets its own estimate
            task, seen = (
                (tensors[name] - base[name]).double().ravel() for tensors in (before, copy)
            )
            lost += float((seen * (seen @ task / (seen @ seen)) - task).square().sum())
        matrices = torch.cat(
            [before[name].double().ravel() for name in names if before[name].dim() > 1]
        )
        unit += sum(before[name].numel() for name in names) * float(matrices.square().mean())
    assert result.exposure.all_copies == pytest.approx(sqrt(lost / unit), rel=0.05)
    computed = ledger(Lineage.read(tmp_path / "s").handoffs.values())
    assert computed.all_together == computed.by_holder["client"] == result.exposure.all_copies


def test_one_prior_for_all_groups_would_state_too_much():
    """Half of the weights differ by .02, seen through noise of .02.

    .01 is left, not the mean's .0115 as in a record without groups.
    """
    parts = replace(
        record(A, ((0, 1.0),), 1, kappa=0.02),
        relative_to="weights",
        exposure={"no_copy": 0.02 / sqrt(2)},
        prior_shares={"layer 0": 0.5, "layer 1": 0.5},
        prior_sizes={"layer 0": 0.02, "layer 1": 0.0},
    )
    assert exposure_of([parts]).all_copies == ledger([parts]).all_together == pytest.approx(0.01)
    assert exposure_of([parts]).no_copy == pytest.approx(0.02 / sqrt(2))
    old = replace(parts, prior_shares={}, prior_sizes={})
    assert ledger([old]).all_together == pytest.approx(0.02 / sqrt(3))
    assert prior([old, parts]) == prior([parts, old]) == prior([parts])


def test_rounds_of_different_scopes_leave_nothing_that_is_stated():
    """An earlier mpu allowed another scope.

    Noise in one round, none in the other, in whatever order; one scope alone is as before.
    """
    rounds = [record(A, ((0, 1.0),), 1), replace(record(B, ((0, 1.0),), 1, kappa=1.0), scope="all")]
    assert ledger(rounds).all_together == ledger(rounds[::-1]).by_holder["client"] == 0.0
    assert ledger(rounds[:1]).all_together == left(0.1) and ledger(rounds[1:]).all_together == left(
        1.0
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            {"noise_relative_to": "weights", "kappa": 1e-4},
            {"kappa": 1.0},
            "of the weights in the layers",
        ),
        ({"kappa": 1.0, "scope": "all"}, {"kappa": 1.0}, "0.707 of the task vector in all tensors"),
        (
            {"kappa": 1.0},
            {"kappa": 1e-4, "noise_relative_to": "weights"},
            "0.707 of the task vector in the layers",
        ),
    ],
)
def test_a_second_lineage_in_another_unit_gets_no_number_in_one(
    tiny_pair, tmp_path, entropy, first, second, said
):
    """Noise measured by another unit, or in other tensors.

    What each leaves alone is said, and that together they leave less.
    """
    pair = tiny_pair("llama", num_hidden_layers=1)
    for number, given_ in enumerate((first, second)):
        result = publish(
            pair.model,
            pair.base,
            tmp_path / f"h{number}",
            tmp_path / f"s{number}",
            entropy(number),
            copies=1,
            **given_,
        )
    (line,) = [line for line in result.warnings if "another lineage" in line]
    assert (
        "there is no common number: together they leave less unknown than any of them" in line
        and said in line
    )
    assert "all their copies together leave" not in line


@pytest.mark.parametrize("kind", ["hidden", "link", "link from elsewhere", "staging", "set aside"])
def test_a_lineage_is_found_behind_a_hidden_name_or_a_link(tiny_pair, tmp_path, entropy, kind):
    """--secret .server, then .sever: refused, as for any mistyped name.

    What a killed run has left is no lineage.
    """
    pair = tiny_pair("llama", num_hidden_layers=1)
    name = {
        "hidden": ".server",
        "staging": ".server.mpu-partial",
        "set aside": ".server.mpu-replaced",
    }.get(kind, "server")
    secret = tmp_path / "place" / name
    secret.parent.mkdir()
    options = {"copies": 1, "kappa": 0.0, "offset": 1.0}
    if kind.startswith("link"):
        kept_at = tmp_path / "deep" / "deeper" / "options"
        publish(pair.model, pair.base, tmp_path / "h1", kept_at, entropy(1), **options)
        secret.symlink_to(kept_at if kind == "link" else "../deep/deeper/options")
    else:
        publish(pair.model, pair.base, tmp_path / "h1", secret, entropy(1), **options)
    mistyped = tmp_path / "place" / ".sever"

    def again():
        return publish(
            pair.model,
            pair.base,
            tmp_path / "h2",
            mistyped,
            entropy(2),
            new_lineage=False,
            **options,
        )

    if kind in {"staging", "set aside"}:
        assert again().new_lineage
    else:
        with pytest.raises(GateError, match=f"is in the lineage of {secret.resolve()}"):
            again()
        assert not mistyped.exists() and not (tmp_path / "h2").exists()


def test_old_records_are_shown_with_numbers_of_today():
    """What a record of an earlier version stored is not believed.

    The exposure comes from its settings.
    """
    old = replace(
        record(copies=((0, 1.0),), size=1, kappa=0.0, offset=1.0),
        exposure={"one_copy": 1.0, "all_copies": 1.0, "order": 1.0},
    )
    assert exposure_of([old]).one_copy == ledger([old]).all_together == pytest.approx(sqrt(0.5))


def test_advice_says_what_beats_a_setting():
    """One holder of all copies is told so.

    An offset with many copies is told what costs less; equal alphas only where asked for.
    """
    together = advice("harmonic", 0.1, (1.0, 1.5, 2.0), 0.0, split=False)
    assert any(
        "reveal the model" in line and "--split" in line and "--offset" in line and "0.707" in line
        for line in together
    )
    assert not any(
        "reveal the model" in line
        for line in advice("harmonic", 0.1, (1.0, 1.5, 2.0), 0.0, split=True)
    )
    assert any(
        "--copies 1 --kappa 0 --offset 0.1" in line
        for line in advice("harmonic", 0.1, (1.0, 2.0), 0.1, split=False)
    )
    assert any(
        "no noise cancels" in line for line in advice("harmonic", 0.1, (1.0,), 0.0, split=False)
    )
    assert any(
        "any two" in line for line in advice("extrapolation", 0.1, (1.0, -1.0), 0.0, split=True)
    )
    assert any(
        "no noise and no offset" in line
        for line in advice("harmonic", 0.0, (1.0,), 0.0, split=False)
    )
    assert not any(
        "equal alphas" in line for line in advice("harmonic", 0.1, (1.0, 2.0), 0.0, split=True)
    )
    assert "--alphas 1,1)" in equal_alphas("harmonic", 0.1, (1.0, 2.0), split=False)[0]
    assert "who pool" in equal_alphas("harmonic", 0.1, (1.0, 2.0), split=True)[0]
    assert (
        equal_alphas("harmonic", 0.1, (1.0, 1.0), split=False)
        == equal_alphas("extrapolation", 0.1, (1.0, -1.0), split=False)
        == ()
    )
    assert [who_pool(size, 3) for size in (1, 2, 3)] == [
        "to the best-informed of 3 holders",
        "to the best-informed 2 of 3 holders together",
        "to all 3 holders together",
    ]


SHARES = {"layer 0": 0.2, "layer 1": 0.3, "layer 2": 0.5}


def cut_record(layers, **settings):
    """A record of the lowest layers of three, without noise unless asked for."""
    made = record(**{"copies": ((0, 1.0),), "size": 1, "kappa": 0.0, **settings})
    groups = list(SHARES)[: layers or 3]
    return replace(
        made,
        sigma=dict.fromkeys(groups, made.kappa),
        prior_shares=SHARES,
        prior_sizes=dict.fromkeys(SHARES, 1.0),
        layers=layers,
        all_layers=3 if layers else 0,
    )


def test_what_a_cut_withholds_stays_unknown():
    """Layers that were sent exactly are known, the others are not, in the record and the ledger."""
    one = cut_record(1)
    assert one.withheld == pytest.approx(0.8)
    assert exposure_of([one]).all_copies == pytest.approx(sqrt(0.8))
    told = ledger([one, cut_record(2, draw=A)])
    assert told.all_together == pytest.approx(sqrt(0.5))  # the deeper one decides


def test_a_whole_handoff_beside_a_cut_one():
    """Each layer is as unknown as the handoffs that sent it leave it, by simulation."""
    noisy = cut_record(0, draw=A, kappa=0.5, holder="other")
    cut = cut_record(1, holder="one")
    told = ledger([cut, noisy])
    through = left(0.5)
    assert told.by_holder["one"] == pytest.approx(sqrt(0.8))
    assert told.by_holder["other"] == pytest.approx(through)
    assert told.all_together == pytest.approx(sqrt(0.8) * through)
    deeper = ledger([cut_record(2, kappa=0.5, draw=B, holder="one"), noisy])
    both = left(0.5 / sqrt(2))
    assert deeper.all_together == pytest.approx(hypot(sqrt(0.5) * both, sqrt(0.5) * through))


def test_the_limit_counts_what_was_not_sent():
    """--max-exposure refuses by the share of the whole task vector."""
    require_unknown(0.3, [cut_record(1)], (), prior([cut_record(1)]))
    with pytest.raises(GateError, match=r"would know 0.293"):
        require_unknown(0.2, [cut_record(2)], (), prior([cut_record(2)]))
