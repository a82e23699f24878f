"""`mpu audit trace`: the right copy among twenty handoffs, whatever was done to it, or none."""

from __future__ import annotations

import json
import shutil

import pytest
from leaks import drifted, leak, mixed, quantised, tensors_of
from safetensors.torch import save_file
from two_parties import moved, publish, steps_of, train

PLAIN = ("1 plain", "copy-2")


def aligned(town, name, number, like=None):
    """A copy with T undone, or lined up with another copy (name, number): what a leaker can do."""
    steps = steps_of(town.secret, town.handoffs[name][1], town.model)[f"copy-{number}"]
    tensors = moved(steps, town.model, tensors_of(town.copy(name, number)), back=True)
    if like is None:
        return tensors
    steps = steps_of(town.secret, town.handoffs[like[0]][1], town.model)[f"copy-{like[1]}"]
    return moved(steps, town.model, tensors)


def finetuned(town, out):
    """Fifty steps of training of a published copy."""
    return train(town.copy("1 plain", 2), out, "adamw", steps=50, rate=1e-3)


MADE = {
    "rounded to bfloat16": lambda town: {
        name: tensor.bfloat16() for name, tensor in tensors_of(town.copy("1 plain", 2)).items()
    },
    "int8": lambda town: quantised(tensors_of(town.copy("1 plain", 2)), 8),
    "4 bits": lambda town: quantised(tensors_of(town.copy("1 plain", 2)), 4),
    "its T undone": lambda town: aligned(town, "1 plain", 2),
}


@pytest.mark.parametrize("what", MADE)
def test_the_copy_is_named_whatever_was_done_to_it(town, tmp_path, what):
    """One name, among 36 copies of 20 handoffs, with nearly the whole share."""
    path = leak(MADE[what](town), town.copy("1 plain", 2), tmp_path / "found")
    result = town.trace(path)
    assert result.suspects == 36
    assert town.named(result) == {PLAIN: pytest.approx(1, abs=0.2)}
    undone = result.named[0].undone
    assert undone is None if what == "its T undone" else undone == result.named[0].suspect


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1 plain", 1),
        ("1 plain-2", 1),
        ("1 split-3", 1),
        ("1 line", 1),
        ("1 single", 1),
        ("1 unmoved", 3),
        ("1 turned", 2),
        ("2 split-4", 1),
    ],
)
def test_a_copy_of_every_kind_is_named(town, name, number):
    """Any denoising, reparameterization, split and round, with its client, round and date."""
    result = town.trace(town.copy(name, number))
    assert town.named(result) == {(name, f"copy-{number}"): pytest.approx(1, abs=0.15)}
    suspect = result.named[0].suspect
    assert suspect.client.startswith(f"client of {name[2:].partition('-')[0]}")
    assert suspect.round == int(name[0])
    assert suspect.date.startswith("20")


def test_a_finetuned_copy(town, tmp_path):
    """Fifty steps of AdamW leave the noise in it."""
    result = town.trace(finetuned(town, tmp_path / "found"))
    assert town.named(result) == {PLAIN: pytest.approx(1, abs=0.2)}


@pytest.mark.parametrize("like", [None, ("1 plain", 1), ("1 plain", 2)])
def test_an_average_of_two_copies_names_both(town, tmp_path, like):
    """Lined up with θ or with one of the two, although their noise is correlated by −1/2."""
    parts = [(0.5, aligned(town, "1 plain", number, like)) for number in (1, 2)]
    result = town.trace(leak(mixed(*parts), town.copy("1 plain"), tmp_path / "found"))
    assert town.named(result) == {
        ("1 plain", "copy-1"): pytest.approx(0.5, abs=0.15),
        ("1 plain", "copy-2"): pytest.approx(0.5, abs=0.15),
    }


def test_an_average_over_two_clients_names_both(town, tmp_path):
    """Of two draws, in the frame of one of them, with unequal shares."""
    other = ("2 single", 1)
    parts = [
        (0.4, aligned(town, "1 plain", 2, other)),
        (0.6, tensors_of(town.copy(*other))),
    ]
    result = town.trace(leak(mixed(*parts), town.copy("1 plain"), tmp_path / "found"))
    assert town.named(result) == {
        PLAIN: pytest.approx(0.4, abs=0.15),
        ("2 single", "copy-1"): pytest.approx(0.6, abs=0.15),
    }


@pytest.mark.parametrize("undone", [False, True])
def test_a_merge_with_the_base(town, tmp_path, undone):
    """Half of the base, with T undone or not: half of the share."""
    copy = aligned(town, "1 plain", 2) if undone else tensors_of(town.copy("1 plain", 2))
    merged = mixed((0.5, copy), (0.5, tensors_of(town.base)))
    result = town.trace(leak(merged, town.copy("1 plain"), tmp_path / "found"))
    assert town.named(result) == {PLAIN: pytest.approx(0.5, abs=0.1)}


def test_some_layers_in_one_file(town, tmp_path):
    """A shard alone, with a model of the lineage that says how it is laid out."""
    tensors = tensors_of(town.copy("1 plain", 2))
    part = {name: tensor for name, tensor in tensors.items() if ".layers.1." in name}
    file = tmp_path / "model-00002-of-00002.safetensors"
    save_file(part, file)
    result = town.trace(file, model=town.model)
    assert town.named(result) == {PLAIN: pytest.approx(1, abs=0.1)}


def test_fewer_layers_and_other_shards(town, tmp_path):
    """A model that was cut to one layer and stored in two shards with an index."""
    tensors = tensors_of(town.copy("1 plain", 2))
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    path = tmp_path / "found"
    shutil.copytree(town.copy("1 plain", 2), path, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    names = sorted(kept)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, listed in shards.items():
        save_file({name: kept[name] for name in listed}, path / shard)
    weight_map = {name: shard for shard, listed in shards.items() for name in listed}
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    result = town.trace(path, model=town.model)
    assert town.named(result) == {PLAIN: pytest.approx(1, abs=0.1)}


def test_what_is_not_named(town, tmp_path):
    """Noise of the same size from elsewhere; another lineage's copy; a copy moved by another T."""
    model = tensors_of(town.model)
    flipped = {
        name: 2 * model[name] - tensor if ".layers." in name else tensor
        for name, tensor in aligned(town, "1 single", 1).items()
    }  # the noise of a copy with all signs turned round
    foreign = tmp_path / "foreign"
    publish(town.model, town.base, foreign, tmp_path / "elsewhere", copies=1)
    other = steps_of(town.secret, town.handoffs["2 plain"][1], town.model)["copy-1"]
    again = moved(other, town.model, tensors_of(town.copy("1 plain", 2)))
    places = [
        leak(drifted(model, 0.015, 7), town.model, tmp_path / "drifted"),
        leak(flipped, town.model, tmp_path / "flipped"),
        foreign / "copy-1",
        leak(again, town.copy("1 plain", 2), tmp_path / "again"),
    ]
    for place, result in zip(places, town.trace_all(places), strict=True):
        names = town.named(result)
        if place.name == "again":  # norms do not move, so a trace of the copy can stay
            assert names.keys() <= {PLAIN}
        else:
            assert names == {}, place
            assert result.verdict == "none"


def test_copies_on_one_line_are_told_by_their_frame_alone(town, tmp_path):
    """With T undone, a full share of one node is half a share of its double: both are listed."""
    handoff = tmp_path / "handoff"
    secret = tmp_path / "server"
    settings = {"copies": 3, "denoising": "extrapolation", "nodes": (1.0, -1.0, 2.0)}
    [record] = publish(town.model, town.base, handoff, secret, **settings).handoffs
    steps = steps_of(secret, record, town.model)["copy-3"]
    tensors = moved(steps, town.model, tensors_of(handoff / "copy-3"), back=True)
    undone = town.trace(leak(tensors, handoff / "copy-3", tmp_path / "found"), secret=secret)
    assert [
        (item.suspect.copy, [other.copy for other in item.equals]) for item in undone.named
    ] in (
        [("copy-3", ["copy-1"])],
        [("copy-1", ["copy-3"])],
    )
    published = town.trace(handoff / "copy-3", secret=secret)
    assert [item.suspect.copy for item in published.named] == ["copy-3"]


def test_noise_below_the_grid_cannot_be_decided(town, tmp_path):
    """The expected z is computed: too little noise for so few weights is not called innocent."""
    handoff, secret = tmp_path / "handoff", tmp_path / "server"
    publish(town.model, town.base, handoff, secret, kappa=0.0005)
    without = town.trace(handoff / "copy-1", secret=secret)
    assert without.verdict == "undecided"
    assert without.undecided == 3
    assert 0.05 < without.expected[0][0] < 1
    # With the model itself, nothing hides even this noise.
    [named] = town.trace(handoff / "copy-1", secret=secret, model=town.model).named
    assert named.suspect.copy == "copy-1"
    assert named.share == pytest.approx(1, abs=0.1)


def test_the_threshold_follows_the_rate(town):
    """A smaller false-positive rate needs a larger z; the tests are counted."""
    strict, loose = (town.trace(town.base, false_positive_rate=rate) for rate in (1e-9, 1e-2))
    assert strict.threshold > 7 > 5 > loose.threshold > 4
    assert strict.hypotheses == loose.hypotheses == (1 + 30) * 36 * 2
